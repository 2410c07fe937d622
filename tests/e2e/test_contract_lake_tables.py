"""Tables of a contract made of the lake: enrolment types and dual share of an MSSP benchmark, HCCs of episodes."""

from __future__ import annotations

from datetime import date
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from fhir_gateway.contracts import Contract
from fhir_gateway.errors import ContractError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.lake_tables import lake_tables
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.jobs.settle import settle
from fhir_gateway.jobs.settlement_runs import recompute
from tests.support.risk_lake import claim, coverage, lake_of, patient, person
from tests.support.unordered import shuffled

MONTHS = [f"{month:02}" for month in range(1, 13)]
MEDICAID: dict[str, Any] = {
    "resourceType": "Coverage",
    "id": "medicaid-c",
    "status": "active",
    "type": {"text": "Medicaid"},
    "beneficiary": {"reference": "Patient/c"},
    "payor": [{"display": "State"}],
    "period": {"start": "2025-04-01", "end": "2025-09"},
}
VISITS: dict[str, Any] = {
    "id": "visits",
    "metric": "office-visits-per-1000",
    "name": "Office visits",
    "direction": "increase",
    "weight": 1,
    "scoring": {"kind": "threshold", "target": 0},
}


def of_year(name: str, year: int, **variables: str) -> dict[str, Any]:
    """Coverage of a year, as Medicare sends it."""
    found = coverage(name, f"{year}-01-01", rfrnc_yr=str(year), **variables)
    return found | {"id": f"coverage-{name}-{year}", "period": {"start": f"{year}-01-01", "end": f"{year}-12-31"}}


def dual(code: str, months: list[str] = MONTHS) -> dict[str, str]:
    return {f"dual_{month}": code for month in months}


def stay(name: str, who: str, admitted: str, discharged: str, drg: str) -> dict[str, Any]:
    """A stay that cost 20,000."""
    made = claim(name, who, admitted, [], None, "institutional", "111")
    made["billablePeriod"] = {"start": admitted, "end": discharged}
    made["diagnosis"] = [{"sequence": 1, "diagnosisCodeableConcept": {"coding": [{"code": "M16.11", "system":
        "http://hl7.org/fhir/sid/icd-10-cm"}]}, "packageCode": {"coding": [{"code": drg, "system":
        "https://bluebutton.cms.gov/resources/variables/clm_drg_cd"}]}}]  # fmt: skip
    made["item"][0]["adjudication"] = [
        {"category": {"coding": [{"code": "benefit"}]}, "amount": {"value": 20000, "currency": "USD"}}
    ]
    made["payment"] = {"date": discharged, "amount": {"value": 20000, "currency": "USD"}}
    return made


#: "a" is aged; dual for three months of 2025. "b" is disabled by age. "c" is in Medicaid by Coverage for six months.
#: "d" has ESRD, said once without a year. "e" turns 65 in June of 2025. "f" was in the base
#: years only, and dual for a month.
RESOURCES = [
    patient("a", "1950-01-01"),
    *(of_year("a", year, ms_cd="10", **dual("NA")) for year in (2022, 2023, 2024)),
    of_year("a", 2025, ms_cd="10", **dual("NA", MONTHS[3:]), **dual("02", MONTHS[:3])),
    patient("b", "1980-01-15", "female"),
    coverage("b", crec="0"),
    patient("c", "1955-05-05", "female"),
    coverage("c", crec="0"),
    MEDICAID,
    patient("d", "1950-05-05"),
    coverage("d", ms_cd="11"),
    patient("e", "1960-06-01"),
    coverage("e", crec="0"),
    patient("f", "1940-06-01", deceasedDateTime="2024-12-20"),
    coverage("f", crec="0"),
    of_year("f", 2024, **dual("04", MONTHS[:1])),
    *(claim(f"{who}{year}", who, f"{year}-02-01", ["I10"]) for who in "abcdef" for year in (2022, 2023, 2024)),
    *(claim(f"{who}2025", who, "2025-02-01", ["I10"]) for who in "abcde"),
    claim("a-hf", "a", "2025-02-10", ["I50.22"]),
    claim("a-dm", "a", "2025-02-11", ["E11.9", "E11.22"]),
    stay("a-hip", "a", "2025-03-03", "2025-03-05", "470"),
    stay("c-hip", "c", "2025-03-03", "2025-03-05", "470"),
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    return lake_of(tmp_path_factory.mktemp("lake-tables"), RESOURCES)


def contract(folder: Path, name: str, arrangement: dict[str, Any], tables: dict[str, Any]) -> Path:
    """A contract of 2025 with everybody whose general practitioner it is."""
    stated = {
        "id": name, "url": f"https://example.org/Measure/{name}", "version": "1", "title": name,
        "identifier": {"system": "https://example.org/contracts", "value": name},
        "line_of_business": "medicare", "hcp_lan": "3B",
        "payer": {"name": "Payer", "identifier": {"system": "urn:payer", "value": "1"}},
        "provider": {"name": "Provider", "entity": "practice", "npis": ["1234567893"],
                     "identifier": {"system": "http://hl7.org/fhir/sid/us-npi", "value": "1234567893"}},
        "period": {"start": "2025-01-01", "end": "2025-12-31"},
        "attribution": {"terms": "commercial-primary-care", "selections_from": ["generalPractitioner"]},
        "claims": {"paid_through": "2026-03-31"}, "tables": tables, "arrangements": [arrangement],
    }  # fmt: skip
    if arrangement["kind"] == "mssp":
        stated["measures"] = [VISITS]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(stated))
    return path


def mssp(folder: Path, **changes: Any) -> Path:
    rows = [
        f"{year},{kind},1,10000,10000,,,"
        for year in (2022, 2023, 2024, 2025)
        for kind in ("ESRD", "DIS", "AGDU", "AGND")
    ]
    head = "year,type,risk,national,regional,demographic,truncation,completion"
    (folder / "types.csv").write_text("\n".join([head, *rows]) + "\n")
    tables = {"enrolment": {"lake": "enrolment"}, "benchmark_types": {"path": "types.csv"}}
    benchmark = {"base_years": [2022, 2023, 2024], "year": 2025, "national_weight": "0.25", "regional_time": None}
    arrangement = {
        "kind": "mssp", "id": "aco", "pool": "mssp", "performance_year": 2025, "level": "EN", "standard": "met",
        "election": "0", "benchmark": benchmark | {"dual_table": "social_risk"} | changes,
    }  # fmt: skip
    return contract(folder, "mssp-2025", arrangement, tables | {"social_risk": {"lake": "social-risk"}})


def test_enrolment_types_and_dual_share_come_from_coverage(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mssp(tmp_path)
    attributed = attribute(gateway, str(path))
    made = lake_tables(gateway, attributed)["enrolment"]
    who = {person(gateway, name): name for name in "abcdef"}
    found = {(who[row["member"]], row["month"]): row["type"] for row in made.table.to_pylist()}
    expected = {}
    for year in (2022, 2023, 2024, 2025):
        for month in range(1, 13):
            day = date(year, month, 1)
            expected["a", day] = "AGDU" if year == 2025 and month <= 3 else "AGND"
            expected["b", day] = "DIS"
            expected["c", day] = "AGDU" if year == 2025 and 4 <= month <= 9 else "AGND"
            expected["d", day] = "ESRD"
            expected["e", day] = "AGND" if day >= date(2025, 6, 1) else "DIS"
            if year < 2025:
                expected["f", day] = "AGDU" if day == date(2024, 1, 1) else "AGND"
    assert found == expected
    assert "by Medicare status" in made.source
    assert "in Medicaid by Coverage" in made.source

    settlement = settle(gateway, str(path)).settlement
    years = {kind: settlement.line(f"aco.{kind}.person-years") for kind in ("ESRD", "DIS", "AGDU", "AGND")}
    assert {kind: round((line.value or 0) * 12, 9) for kind, line in years.items()} == {
        "ESRD": 12, "DIS": 12 + 5, "AGDU": 3 + 6, "AGND": 9 + 6 + 7,
    }  # fmt: skip
    assert all("Coverage: " in line.formula and "lake version" in line.formula for line in years.values())
    share = settlement.line("aco.dual-share")
    assert share.value == 0  # on the period's last day nobody is dual any more
    assert "0 of 5 members; Patient, Coverage" in share.formula
    assert settlement.stamps["lake.enrolment"] == made.source
    report = settle(gateway, str(path)).report
    assert recompute(gateway, report).same
    for seed in (1, 2):  # types of enrolment, grouped in any order
        with shuffled(monkeypatch, seed):
            assert recompute(gateway, report).same


def test_what_the_contract_states_is_said_to_be_stated(gateway: Gateway, tmp_path: Path) -> None:
    path = mssp(tmp_path, dual_table=None, dual_share="0.4")
    stated = yaml.safe_load(path.read_text()) | {"id": "stated-2025"}
    rows = [f"{person(gateway, 'a')},{year}-{month}-01,AGND" for year in (2022, 2023, 2024, 2025) for month in MONTHS]
    (tmp_path / "enrolment.csv").write_text("\n".join(["member,month,type", *rows]) + "\n")
    del stated["tables"]["social_risk"]
    stated["tables"]["enrolment"] = {"path": "enrolment.csv"}
    path.write_text(yaml.safe_dump(stated))
    settlement = settle(gateway, str(path)).settlement
    assert settlement.line("aco.AGND.person-years").formula == "12 months / 12; as stated in the table enrolment"
    assert (settlement.line("aco.dual-share").value, settlement.line("aco.dual-share").formula) == (
        D("0.4"),
        "as stated",
    )


def team(folder: Path) -> Path:
    (folder / "prices.csv").write_text("price_group,price\n470,28000\n")
    (folder / "gmlos.csv").write_text("drg,gmlos\n470,2\n")
    arrangement = {
        "kind": "team", "id": "team", "pool": "episodes", "performance_year": 1, "track": 1, "quality_score": "100",
        "price": {"kind": "given", "table": "prices", "discounted": True}, "gmlos": "gmlos",
        "risk": {"year": 2026, "hccs": [{"value": "1"}, {"hccs": 1, "value": "1.2"}, {"hccs": 2, "value": "1.5"}]},
        "social": {"factor": "1.1"},
    }  # fmt: skip
    tables = {"prices": {"path": "prices.csv"}, "gmlos": {"path": "gmlos.csv"}}
    tables |= {"diagnoses": {"lake": "diagnoses"}, "social_risk": {"lake": "social-risk"}}
    return contract(folder, "team-2025", arrangement, tables)


def test_episodes_are_priced_by_the_members_own_diagnoses(gateway: Gateway, tmp_path: Path) -> None:
    report = settle(gateway, str(team(tmp_path)))
    settlement = report.settlement
    assert settlement.line("team.mean-hccs").value == 1  # two of "a": heart failure, diabetes with complications; none
    assert (
        "diagnoses of claims that count for risk adjustment (lake version" in settlement.line("team.mean-hccs").formula
    )
    assert settlement.line("team.multiplier").value == D("1.25")
    assert settlement.line("team.LEJR.470.target").value == 28_000 * D("2.5")
    assert recompute(gateway, report.report).same


def test_later_data_change_what_is_settled_then_and_not_what_was(tmp_path: Path) -> None:
    gateway = lake_of(tmp_path / "lake", RESOURCES)
    path = team(tmp_path)
    before = settle(gateway, str(path))
    more = claim("c-copd", "c", "2025-02-20", ["J44.9"])
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "eob.ndjson").write_bytes(orjson.dumps(more) + b"\n")
    pull_files(gateway, [tmp_path / "more"], "payer")
    after = settle(gateway, str(path))
    assert after.settlement.line("team.multiplier").value == D("1.35")
    assert after.run.posted == after.settlement.total - before.settlement.total
    for one in (before, after):
        made = recompute(gateway, one.report)
        assert made.same, made.differing


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"lake": "diagnoses"}, "tables.enrolment.lake: the table is not of diagnoses"),
        ({"lake": "enrolment", "path": "x.csv"}, "tables.enrolment: needs one of path, risk and lake"),
        ({}, "tables.enrolment: needs one of path, risk and lake"),
        ({"lake": "income"}, "tables.enrolment.lake"),
    ],
)
def test_references_that_cannot_be_meant(reference: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = mssp(tmp_path)
    stated = yaml.safe_load(path.read_text())
    stated["tables"]["enrolment"] = reference
    path.write_text(yaml.safe_dump(stated))
    with pytest.raises(ContractError, match=message):
        Contract.load(path)


def test_a_contract_is_known_by_what_its_tables_are_made_of(tmp_path: Path) -> None:
    path = team(tmp_path)
    one = Contract.load(path)
    assert one.lake_tables() == {"diagnoses": "diagnoses", "social_risk": "social-risk"}
    (tmp_path / "social.csv").write_text("member,adi\n")
    stated = yaml.safe_load(path.read_text())
    stated["tables"]["social_risk"] = {"path": "social.csv"}
    path.write_text(yaml.safe_dump(stated))
    assert Contract.load(path).digest != one.digest
