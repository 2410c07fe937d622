"""Every stratifier on a lake in US Core: sums, intervals, what is missing, disparity; and answers that overlap."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.config import Settings
from fhir_gateway.equity.disparity import disparity
from fhir_gateway.equity.stratify import Breakdown, Strata
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.equity import Question, reference_tables, stratified
from fhir_gateway.jobs.equity_answers import FEW_MEMBERS, OTHER_RESULTS
from fhir_gateway.jobs.pull import pull_files
from tests.support.results import proportion

CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
PERIOD = (date(2025, 1, 1), date(2025, 12, 31))
SIZE = 240
#: Of each stratifier the stratum that members are in by number: None is of whom nothing is said.
STRATA: dict[str, tuple[str | None, ...]] = {
    "race": ("white", "black", "asian", None),
    "ethnicity": ("hispanic", "not-hispanic", "not-hispanic", None),
    "sex": ("female", "male"),
    "age": ("45-64", "65-74", "75-84"),
    "language": ("en", "es", None),
    "payer": ("medicare", "dual", "commercial", None),
    "dual": ("no", "full", "no", None),  # of who has a payer that is known
    "adi-quintile": ("1", "3", "5", None),
    "social-need": ("need", "no-need", None),
}


def said(name: str, number: int) -> str | None:
    """The stratum of a member."""
    place = {"dual": "payer", "ethnicity": "race"}.get(name, name)
    turn = number // (1 + list(STRATA).index(place))  # members are in other combinations, not always the same
    return STRATA[name][turn % len(STRATA[name])]


def question(kind: str, code: str) -> dict[str, Any]:
    parts = [{"url": "ombCategory", "valueCoding": {"system": "urn:oid:2.16.840.1.113883.6.238", "code": code}}]
    return {"url": CORE + kind, "extension": [*parts, {"url": "text", "valueString": code}]}  # type: ignore[list-item]


def resources(number: int) -> list[dict[str, Any]]:
    """A Patient and what else says who that is."""
    name = f"m{number}"
    of = {one: said(one, number) for one in STRATA}
    race = {"white": "2106-3", "black": "2054-5", "asian": "2028-9"}
    ethnicity = {"hispanic": "2135-2", "not-hispanic": "2186-5"}
    extensions = [question("race", race[of["race"]])] if of["race"] else []
    extensions += [question("ethnicity", ethnicity[of["ethnicity"]])] if of["ethnicity"] else []
    extensions += [{"url": CORE + "birthsex", "valueCode": "F" if of["sex"] == "female" else "M"}]
    patient: dict[str, Any] = {"resourceType": "Patient", "id": name, "extension": extensions, "gender": of["sex"]}
    patient["birthDate"] = {"45-64": "1970-04-04", "65-74": "1955-04-04", "75-84": "1945-04-04"}[of["age"] or ""]
    if of["language"]:
        patient["communication"] = [{"language": {"coding": [{"system": "urn:ietf:bcp:47", "code": of["language"]}]}}]
    if of["adi-quintile"]:
        patient["address"] = [{"use": "home", "postalCode": f"0000{of['adi-quintile']}"}]
    found = [patient]
    for code in {"medicare": ("1",), "dual": ("1", "2"), "commercial": ("5",), None: ()}[of["payer"]]:
        kind = {"coding": [{"system": "https://nahdo.org/sopt", "code": code}]}
        about = {"status": "active", "type": kind, "payor": [{"display": "payer"}]}
        found.append(
            {"resourceType": "Coverage", "id": f"c{number}-{code}", "beneficiary": {"reference": f"Patient/{name}"}}
            | about
        )
    if of["social-need"]:
        answer = "LA28397-0" if of["social-need"] == "need" else "LA28398-8"
        found.append(
            {
                "resourceType": "Observation",
                "id": f"o{number}",
                "status": "final",
                "category": [{"coding": [{"code": "social-history"}]}, {"coding": [{"code": "sdoh"}]}],
                "code": {"coding": [{"system": "http://loinc.org", "code": "88122-7"}]},
                "subject": {"reference": f"Patient/{name}"},
                "effectiveDateTime": "2025-03-01",
                "valueCodeableConcept": {"coding": [{"system": "http://loinc.org", "code": answer}]},
            }
        )
    return found


def met(number: int) -> bool:
    """Whether a member met the measure: those of one race less often."""
    return number % 10 < (4 if said("race", number) == "black" else 7)


def send(gateway: Gateway, folder: Path, numbers: range) -> None:
    file = folder / f"from-{numbers.start}.ndjson"
    file.write_text("\n".join(json.dumps(one) for number in numbers for one in resources(number)), encoding="utf-8")
    assert pull_files(gateway, [file], "ehr").quarantined == 0


def numbers_of(gateway: Gateway) -> dict[str, int]:
    rows = gateway.lake.read("Patient", ["id"]).to_pylist()
    return {row["_member"]: int(row["id"][1:]) for row in rows}


def keep(gateway: Gateway, day: int = 1) -> None:
    """A result of a proportion over everybody in the lake."""
    members = gateway.lake.members().to_pylist()
    known = numbers_of(gateway)
    numerator = [met(known[one]) for one in members]
    at, version = datetime(2026, 1, day, tzinfo=UTC), gateway.lake.version
    gateway.results.save(proportion(members, numerator, period=PERIOD, evaluated_at=at, lake_version=version))


def made(folder: Path) -> Gateway:
    gateway = Gateway(Settings(data_dir=folder / "data", lake_buckets=1))
    send(gateway, folder, range(SIZE))
    table = folder / "adi.csv"
    rows = "".join(f"0000{quintile},{quintile * 20 - 5}\n" for quintile in range(1, 6))
    table.write_text(f"fips,adi_natrank\n{rows}", encoding="utf-8")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    reference_tables(gateway).add("adi", table, name="ADI", version="1", source="made up", now=now)
    keep(gateway)
    return gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    return made(tmp_path_factory.mktemp("strata"))


@pytest.fixture(scope="module")
def strata(gateway: Gateway) -> Strata:
    return stratified(gateway, PERIOD, Question(dimensions=tuple(STRATA)))


def breakdown(strata: Strata, name: str) -> Breakdown:
    return strata.of("One", name)


def counted(name: str) -> dict[str, tuple[int, int]]:
    """Denominator and numerator by stratum, counted one by one."""
    found: dict[str, tuple[int, int]] = {}
    for number in range(SIZE):
        stratum = said(name, number) or "unknown"
        former = found.get(stratum, (0, 0))
        found[stratum] = (former[0] + 1, former[1] + met(number))
    return found


def wilson(numerator: int, denominator: int) -> tuple[float, float]:
    z, rate = 1.959963984540054, numerator / denominator
    middle, width = (
        rate + z * z / (2 * denominator),
        z * sqrt(rate * (1 - rate) / denominator + z * z / (4 * denominator**2)),
    )
    return (middle - width) / (1 + z * z / denominator), (middle + width) / (1 + z * z / denominator)


@pytest.mark.parametrize("name", STRATA)
def test_each_stratum_has_its_rate_and_interval_and_all_add_up(strata: Strata, name: str) -> None:
    found, expected = breakdown(strata, name), counted(name)
    assert len(expected) > 1
    cells = {str(one.stratum): one for one in found.cells if one.denominator}
    assert {code: (one.denominator, one.numerator) for code, one in cells.items()} == expected
    for code, one in cells.items():
        size, number = expected[code]
        assert one.rate == pytest.approx(number / size)
        assert (one.low, one.high) == pytest.approx(wilson(number, size))
        assert not one.suppressed
    assert (found.total.denominator, found.total.numerator) == (SIZE, sum(map(met, range(SIZE))))
    assert sum(one.denominator or 0 for one in cells.values()) == SIZE


@pytest.mark.parametrize("name", STRATA)
def test_the_share_without_data_and_the_index_of_disparity(strata: Strata, name: str) -> None:
    found, expected = breakdown(strata, name), counted(name)
    assert found.missing_share == pytest.approx(expected.get("unknown", (0, 0))[0] / SIZE)
    known = {code: number / size for code, (size, number) in expected.items() if code != "unknown"}
    unequal = disparity(strata, found)
    assert unequal is not None
    assert unequal.index is not None
    reference = known[str(unequal.reference)]
    others = [abs(rate - reference) for code, rate in known.items() if code != unequal.reference]
    assert unequal.index == pytest.approx(sum(others) / len(others) / reference)


def test_answers_whose_members_differ_by_few_say_so(tmp_path: Path) -> None:
    gateway = made(tmp_path)
    everybody = sorted(numbers_of(gateway))
    few, many = FEW_MEMBERS.format(11), 11

    def notes(members: list[str] | None) -> tuple[str, ...]:
        found = stratified(gateway, PERIOD, Question(dimensions=("race",), members=members)).notes
        return tuple(one for one in found if "give out" in one)

    assert notes(everybody[:200]) == ()
    assert notes(everybody[:200]) == ()  # the same again is no other answer
    assert notes(everybody[: 200 - many]) == ()
    assert notes(everybody[:197]) == (few,)  # three of the first answer's are not there, and eight of the second's
    assert notes(everybody[3:200]) == (few,)
    assert notes(everybody[40:]) == ()
    # a pull that brings few
    assert notes(None) == ()
    send(gateway, tmp_path, range(SIZE, SIZE + 2))
    keep(gateway, 2)
    assert notes(None) == (few,)
    # the same members by another evaluation
    assert notes(everybody[:200]) == (few, OTHER_RESULTS)
    gateway.engine.dispose()
