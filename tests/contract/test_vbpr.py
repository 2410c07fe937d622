"""Contracts and settlements as VBPR resources follow VBPR, and the checker sees when they do not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from vbpr_rules import check_contract, check_performance_report, extensions

from fhir_gateway.contracts import Contract, Exposure, MeasureScore, Settlement, SettlementInputs, settle, vbpr
from fhir_gateway.errors import ContractError

D = Decimal
DEMO = Path(__file__).parents[2] / "fhir_gateway" / "demo" / "contracts"
ISSUED = datetime(2026, 4, 15, 12, tzinfo=UTC)
NAMES = sorted(path.stem for path in DEMO.glob("*.toml"))


@pytest.fixture(scope="module", params=NAMES)
def settled(request: pytest.FixtureRequest) -> tuple[Contract, Settlement]:
    contract = Contract.load(DEMO / f"{request.param}.toml")
    cost = D("1659816.59")
    exposure = Exposure(940, D(10772), cost * D("1.005"), cost, cost, 0)
    rates = {"1": D("0.3"), "/(10*3.a)": D("231.5")}
    outcomes = {m.id: MeasureScore(30, 100, rates[m.unit]) for m in contract.measures}
    return contract, settle(contract, SettlementInputs(exposure, outcomes))


@pytest.fixture(scope="module")
def resources(settled: tuple[Contract, Settlement]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Contract Measure, performance report, quality reports by reference."""
    contract, settlement = settled
    quality = {
        f"MeasureReport/{m.id}": vbpr.quality_report(
            {
                "resourceType": "MeasureReport",
                "type": "summary",
                "measure": m.canonical,
                "period": {"start": "2025-01-01", "end": "2025-12-31"},
            },
            settlement,
            m.id,
        )
        for m in contract.measures
    }
    report = vbpr.performance_report(
        settlement,
        contract,
        report_id="r1",
        issued=ISSUED,
        quality_reports={m.id: f"MeasureReport/{m.id}" for m in contract.measures},
        organizations={contract.payer.identifier.value: "Organization/payer"},
    )
    return vbpr.measure(contract), report, quality


def test_ours_break_no_rule(resources: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
    measure, report, quality = resources
    assert check_contract(measure) == []
    assert check_performance_report(report, measure, quality) == []
    json.dumps([measure, report, quality])


def test_ours_parse_as_r4(resources: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
    from fhir.resources.R4B.measure import Measure
    from fhir.resources.R4B.measurereport import MeasureReport

    measure, report, _ = resources
    assert Measure.model_validate(measure).version == "1.0.0"
    assert MeasureReport.model_validate(report).type == "summary"


def test_every_quality_report_feeds_a_group(resources: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
    _, report, quality = resources
    assert {e["reference"] for e in report["evaluatedResource"]} == set(quality)
    assert all(extensions(e, "group-reference") for e in report["evaluatedResource"])
    assert all(extensions(q, "score") for q in quality.values())


def test_money_in_the_report_is_the_settlement(
    settled: tuple[Contract, Settlement], resources: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
) -> None:
    contract, settlement = settled
    _, report, _ = resources
    payable = {line.id for line in settlement.payable()}
    amounts = [
        extensions(group["measureScore"], "alternate-measurescore")[0]["valueMoney"]
        for group in report["group"]
        if group["id"] in payable
    ]
    assert sum(D(str(money["value"])) for money in amounts) == settlement.total
    assert {money["currency"] for money in amounts} == {contract.currency}
    for group in report["group"]:
        assert extensions(group, "service-period")[0]["valuePeriod"] == {"start": "2025-01-01", "end": "2025-12-31"}
        assert extensions(group, "paid-through-date")[0]["valueDate"] == "2026-03-31"


def test_metrics_are_vbpr_codes_the_contract_announces(
    resources: tuple[dict[str, Any], dict[str, Any], dict[str, Any]],
) -> None:
    measure, report, _ = resources
    announced = {group["code"]["coding"][0]["code"] for group in measure["group"]}
    assert {group["code"]["coding"][0]["code"] for group in report["group"]} <= announced


def test_parties(resources: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
    _, report, _ = resources
    assert report["reporter"]["reference"] == "Organization/payer"
    subject = extensions(report["subject"], "organization-subject")[0]["valueReference"]
    assert subject["identifier"]["system"] == "urn:oid:2.16.840.1.113883.4.4"


def _unlink(report: dict[str, Any]) -> None:
    report["evaluatedResource"][0]["extension"][0]["valueString"] = "nowhere"


def _plain_money(report: dict[str, Any]) -> None:
    money = next(g for g in report["group"] if "value" not in g.get("measureScore", {"value": 0}))
    money["measureScore"] = {"value": 5}


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "category": (lambda r: r.pop("extension"), "category is not vbp"),
    "type": (lambda r: r.update(type="individual"), "type is not summary"),
    "subject": (lambda r: r["subject"].pop("extension"), "organization-subject"),
    "reporter": (lambda r: r.pop("reporter"), "reporter is missing"),
    "notation": (lambda r: r.update(improvementNotation={}), "improvementNotation"),
    "version": (lambda r: r.update(measure=r["measure"].split("|")[0]), "versioned canonical"),
    "code": (lambda r: r["group"][0].pop("code"), "no code"),
    "twice": (lambda r: r["group"].append(r["group"][0]), "is used 2 times"),
    "link": (_unlink, "group-reference to no group"),
    "money": (_plain_money, "measureScore has no unit"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_checker_sees_faults(name: str, resources: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
    change, message = FAULTS[name]
    measure, report, quality = copy.deepcopy(resources)
    change(report)
    assert any(message in fault for fault in check_performance_report(report, measure, quality))


def test_quality_report_of_another_measure_is_seen(
    resources: tuple[dict[str, Any], dict[str, Any], dict[str, Any]],
) -> None:
    measure, report, quality = copy.deepcopy(resources)
    reference = report["evaluatedResource"][0]["reference"]
    quality[reference]["measure"] = "https://example.org/Measure/other|1"
    assert f"{reference}: measure is no component of the contract" in check_performance_report(report, measure, quality)


def test_settlement_of_other_terms_is_refused(settled: tuple[Contract, Settlement]) -> None:
    contract, settlement = settled
    other = contract.model_copy(update={"title": "amended"})
    with pytest.raises(ContractError, match="other terms"):
        vbpr.performance_report(settlement, other, report_id="r", issued=ISSUED)


@pytest.mark.shared
def test_metric_codes_exist(shared: Path) -> None:
    from fhir_gateway.contracts import ARRANGEMENTS

    path = shared / "data/ig-examples/vbpr/conformance/CodeSystem-vbp-performance-metric.json"

    def codes(concepts: list[dict[str, Any]]) -> set[str]:
        return {c["code"] for c in concepts} | {x for c in concepts for x in codes(c.get("concept", []))}

    known = codes(json.loads(path.read_text(encoding="utf-8"))["concept"])
    assert {metric for terms in ARRANGEMENTS.values() for metric in terms.metrics} <= known


@pytest.mark.shared
def test_official_examples_have_the_known_faults_only(shared: Path) -> None:
    folder = shared / "data/ig-examples/vbpr"

    def read(name: str) -> dict[str, Any]:
        text = (folder / f"{name}.json").read_text(encoding="utf-8")
        loaded: dict[str, Any] = json.loads(text.replace('"$measurereport-category"', f'"{vbpr.CATEGORY}"'))
        return loaded

    assert check_contract(read("Measure-vbp-measure01")) == []
    assert check_contract(read("Measure-vbp-measure02")) == []
    # the fact sheet's list: no version in the canonical; money as a Quantity without unit
    for name in ("101", "102", "103"):
        report = read(f"MeasureReport-vbp-measurereport{name}")
        faults = check_performance_report(report, read("Measure-vbp-measure01"))
        known = ("versioned canonical", "measureScore has no unit", "exclude each other")
        assert all(any(part in fault for part in known) for fault in faults), faults
