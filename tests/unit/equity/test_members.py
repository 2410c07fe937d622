"""Who the members are: every dimension out of FHIR resources as US Core, Gravity and payers write them."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.equity.dimensions import MemberDimensions
from fhir_gateway.equity.members import dimensions_of
from fhir_gateway.equity.tables import ReferenceTables
from fhir_gateway.equity.underserved import social_risk, underserved
from fhir_gateway.errors import InputError
from fhir_gateway.measures.population import MemoryPopulation

CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
ON = date(2025, 12, 31)


def question(kind: str, *codes: str, text: str = "as said", detailed: tuple[str, ...] = ()) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"url": "ombCategory", "valueCoding": {"code": one}} for one in codes]
    parts += [{"url": "detailed", "valueCoding": {"code": one}} for one in detailed]
    return {"url": CORE + kind, "extension": [*parts, {"url": "text", "valueString": text}]}


def patient(name: str, *extensions: dict[str, Any], **more: Any) -> dict[str, Any]:
    found = {"resourceType": "Patient", "id": name, "gender": "female", "birthDate": "1950-06-15"} | more
    return found | ({"extension": list(extensions)} if extensions else {})


def dimensions(resources: list[dict[str, Any]], folder: Path, *tables: tuple[str, str]) -> MemberDimensions:
    kept = ReferenceTables(folder / "tables")
    for number, (kind, text) in enumerate(tables):
        path = folder / f"{number}.csv"
        path.write_text(text, encoding="utf-8")
        now = datetime(2026, 1, 1, tzinfo=UTC)
        kept.add(kind, path, name=kind, version="1", source="made up", now=now)  # type: ignore[arg-type]
    population = MemoryPopulation.from_resources(resources)
    return dimensions_of(lambda kind, columns, _: population.read(kind, columns), kept, ON)


def of(found: MemberDimensions, name: str) -> dict[str, str]:
    column = found.columns[name]
    return dict(zip(found.members.to_pylist(), [column.strata[code] for code in column.codes.tolist()], strict=True))


HISPANIC, NOT_HISPANIC = question("ethnicity", "2135-2"), question("ethnicity", "2186-5")


def test_race_and_ethnicity_by_two_questions_and_by_one(tmp_path: Path) -> None:
    found = dimensions(
        [
            patient("white", question("race", "2106-3"), NOT_HISPANIC),
            patient("hispanic", question("race", "2106-3"), HISPANIC),
            patient("detailed", question("race", detailed=("2034-7",)), NOT_HISPANIC),
            patient("mena", question("race", "2106-3", detailed=("2120-4",)), NOT_HISPANIC),
            patient("two", question("race", "2028-9", "2054-5"), NOT_HISPANIC),
            patient("asked", question("race", "ASKU"), question("ethnicity", "ASKU")),
            patient(
                "declined", question("race", "UNK", text="Patient declined"), question("ethnicity", text="Refused")
            ),
            patient("unknown", question("race", "UNK", text="Unknown")),
            patient("nothing"),
        ],
        tmp_path,
    )
    assert of(found, "race") == {
        "white": "white",
        "hispanic": "white",
        "detailed": "asian",
        "mena": "white",
        "two": "multiple",
        "asked": "asked-unknown",
        "declined": "declined",
        "unknown": "unknown",
        "nothing": "unknown",
    }
    assert of(found, "race-ethnicity") == {
        "white": "white",
        "hispanic": "hispanic",
        "detailed": "asian",
        "mena": "mena",
        "two": "multiple",
        "asked": "asked-unknown",
        "declined": "declined",
        "unknown": "unknown",
        "nothing": "unknown",
    }
    assert of(found, "ethnicity")["hispanic"] == "hispanic"
    assert of(found, "ethnicity")["declined"] == "declined"
    assert of(found, "ethnicity")["nothing"] == "unknown"


def test_sex_language_and_age_at_the_day(tmp_path: Path) -> None:
    spoken = [
        {"language": {"coding": [{"code": "en-US"}]}},
        {"language": {"coding": [{"code": "es"}]}, "preferred": True},
    ]
    found = dimensions(
        [
            patient("a", {"url": CORE + "birthsex", "valueCode": "M"}, birthDate="1960-12-31", communication=spoken),
            patient("b", birthDate="1961-01-01", communication=spoken[:1]),
            patient("c", {"url": CORE + "birthsex", "valueCode": "ASKU"}, gender="unknown", birthDate="2010"),
            patient("d", {"url": CORE + "sex", "valueCode": "248153007"}),
        ],
        tmp_path,
    )
    assert of(found, "sex") == {"a": "male", "b": "female", "c": "asked-unknown", "d": "male"}
    assert of(found, "language") == {"a": "es", "b": "en", "c": "unknown", "d": "unknown"}
    assert of(found, "age") == {"a": "65-74", "b": "45-64", "c": "0-17", "d": "75-84"}


def coverage(member: str, code: str, system: str = "https://nahdo.org/sopt", **more: Any) -> dict[str, Any]:
    found = {"resourceType": "Coverage", "id": f"{member}{code}", "status": "active"} | more
    kind = {"coding": [{"system": system, "code": code}]}
    return found | {"beneficiary": {"reference": f"Patient/{member}"}, "type": kind}


def test_payer_dual_status_and_eligibility_that_was_imported(tmp_path: Path) -> None:
    monthly = {"url": "https://bluebutton.cms.gov/resources/variables/dual_12", "valueCoding": {"code": "03"}}
    found = dimensions(
        [
            *(patient(name) for name in ("both", "commercial", "monthly", "ended", "imported", "nothing")),
            coverage("both", "1"),
            coverage("both", "2"),
            coverage("commercial", "5"),
            coverage("monthly", "11", extension=[monthly]),
            coverage("ended", "1", period={"end": "2025-11-30"}),
            coverage("imported", "1"),
        ],
        tmp_path,
        (
            "eligibility",
            "member,since,until,dual_status,lis,disabled,adi_national\nimported,2025-01-01,,02,true,true,93\n",
        ),
    )
    assert of(found, "payer") == {
        "both": "dual",
        "commercial": "commercial",
        "monthly": "medicare",
        "ended": "unknown",
        "imported": "medicare",
        "nothing": "unknown",
    }
    assert of(found, "dual") == {
        "both": "full",
        "commercial": "no",
        "monthly": "partial",
        "ended": "unknown",
        "imported": "full",
        "nothing": "unknown",
    }
    assert (of(found, "lis")["imported"], of(found, "disability")["imported"]) == ("yes", "yes")
    assert (of(found, "adi-decile")["imported"], of(found, "adi-quintile")["imported"]) == ("10", "5")


TRACT = {"url": "http://hl7.org/fhir/StructureDefinition/iso21090-ADXP-censusTract", "valueString": "25025010104"}


def test_deprivation_and_rurality_of_the_finest_geography(tmp_path: Path) -> None:
    def living(name: str, zip_code: str, **more: Any) -> dict[str, Any]:
        return patient(name, address=[{"postalCode": zip_code} | more])

    found = dimensions(
        [
            living("tract", "02115", extension=[TRACT]),
            living("plus4", "02115-1234"),
            living("zip", "02115"),
            living("other", "99999"),
            living("quarters", "02116"),
            patient("moved", address=[{"use": "old", "postalCode": "02115"}, {"use": "home", "postalCode": "01001"}]),
        ],
        tmp_path,
        (
            "adi",
            "GISJOIN,FIPS,ADI_NATRANK,ADI_STATERNK\n1,25025010104,1,1\n2,021151234,20,2\n3,02115,21,3\n4,01001,100,10\n"
            "5,02116,GQ,GQ\n",
        ),
        ("ruca", "ZIP_CODE,RUCA1\n'02115',1\n01001,10\n99999,99\n"),
    )
    assert of(found, "adi-decile") == {
        "moved": "10",
        "other": "unknown",
        "plus4": "2",
        "quarters": "unknown",
        "tract": "1",
        "zip": "3",
    }
    assert of(found, "adi-quintile")["plus4"] == "1"
    assert of(found, "rurality") == {
        "moved": "rural",
        "other": "unknown",
        "plus4": "metropolitan",
        "quarters": "unknown",
        "tract": "metropolitan",
        "zip": "metropolitan",
    }


def test_social_needs_by_condition_category_and_answer(tmp_path: Path) -> None:
    def about(kind: str, member: str, code: str, **more: Any) -> dict[str, Any]:
        found = {"resourceType": kind, "id": f"{member}-{code}", "subject": {"reference": f"Patient/{member}"}}
        return found | {"code": {"coding": [{"code": code}]}} | more

    def answer(member: str, code: str, value: str, when: str = "2025-03-01") -> dict[str, Any]:
        said = {"valueCodeableConcept": {"coding": [{"code": value}]}}
        return about("Observation", member, code, status="final", effectiveDateTime=when, **said)

    gone = {"coding": [{"code": "resolved"}]}
    found = dimensions(
        [
            *(patient(name) for name in ("z", "gone", "asked", "fine", "late", "gravity", "nothing")),
            about("Condition", "z", "Z59.02"),
            about("Condition", "gone", "Z59.02", clinicalStatus=gone),
            about("Condition", "gravity", "1", category=[{"coding": [{"code": "food-insecurity"}]}]),
            answer("asked", "88122-7", "LA28397-0"),
            answer("fine", "88122-7", "LA28398-8"),
            answer("late", "88122-7", "LA28397-0", "2021-03-01"),
            answer("fine", "69858-9", "LA33-6"),
        ],
        tmp_path,
    )
    assert of(found, "social-need") == {
        "z": "need",
        "gone": "unknown",
        "asked": "need",
        "fine": "no-need",
        "late": "unknown",
        "gravity": "need",
        "nothing": "unknown",
    }
    assert (of(found, "need-housing")["z"], of(found, "need-food-insecurity")["asked"]) == ("need", "need")
    assert (of(found, "disability")["fine"], of(found, "disability")["z"]) == ("yes", "unknown")


@pytest.mark.parametrize(
    ("kind", "text", "rule"),
    [
        ("adi", "fips,adi_natrank\n02115,101\n", "percentile from 1 to 100"),
        ("adi", "fips,adi_natrank\n02115,high\n", "whole number"),
        ("adi", "fips,adi_natrank\n0211,5\n", "digits"),
        ("adi", "adi_natrank\n5\n", "lacks the columns geography"),
        ("ruca", "zip,ruca1\n02115,1\n02115,2\n", "another row has"),
        ("eligibility", "member,since\n,2025-01-01\n", "is empty"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, kind: str, text: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        dimensions([], tmp_path, (kind, text))


def test_a_table_keeps_where_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "adi.csv"
    path.write_text("fips,adi_natrank\n02115,50\n", encoding="utf-8")
    tables = ReferenceTables(tmp_path / "tables")
    first = tables.add("adi", path, name="ADI", version="2020", source="atlas", now=datetime(2026, 1, 1, tzinfo=UTC))
    path.write_text("fips,adi_natrank\n02115,60\n", encoding="utf-8")
    second = tables.add("adi", path, name="ADI", version="2021", source="atlas", now=datetime(2026, 1, 2, tzinfo=UTC))
    assert tables.in_force("adi") == second
    assert tables.versions() == (first, second)
    old = tables.table("adi", first.sha256)
    assert old is not None
    assert old["national"].to_pylist() == [50]


def test_shares_of_the_underserved_weigh_months() -> None:
    table = pa.table(
        {
            "member": ["a", "b", "c", "d"],
            "adi_national": pa.array([85, 84, None, 100], pa.int64()),
            "adi_state": pa.array([None] * 4, pa.int64()),
            "dual": [True, None, False, False],
            "lis": [False, True, None, False],
            "rural": pa.array([None] * 4, pa.bool_()),
        }
    )
    everybody = underserved(table)
    assert (everybody.adi, everybody.dual_or_lis, everybody.known_adi) == (
        Decimal("0.5"),
        Decimal("0.5"),
        Decimal("0.75"),
    )
    weighed = underserved(table, pa.array([12, 6, 3, 3]))
    assert (weighed.adi, weighed.dual_or_lis, weighed.share) == (Decimal("0.625"), Decimal("0.75"), Decimal("0.75"))
    with pytest.raises(InputError, match="no months"):
        underserved(table.slice(0, 0))


def test_social_risk_is_of_everybody(tmp_path: Path) -> None:
    table = social_risk(dimensions([patient("b"), patient("a")], tmp_path))
    assert table["member"].to_pylist() == ["a", "b"]
    assert table["adi_national"].null_count == 2
