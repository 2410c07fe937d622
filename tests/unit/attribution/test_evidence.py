"""What an attribution can show: each line's part in it, differences explained, near misses, churn, leakage, overlap."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fhir_gateway.attribution import AttributionTerms, Participant, attribute
from fhir_gateway.attribution.differences import DIFFERENCES, explained
from fhir_gateway.attribution.evidence import line_evidence
from fhir_gateway.attribution.models import ATTRIBUTION_SCHEMA
from fhir_gateway.attribution.overlap import Precedence, claimants
from fhir_gateway.attribution.reconciliation import ROSTER_SCHEMA, reconcile
from fhir_gateway.attribution.services import LINE_REASONS
from fhir_gateway.attribution.stability import churn, leakage, near_misses

PERIOD = (date(2025, 1, 1), date(2025, 12, 31))
ACO = Participant("aco", tins=("100000001", "100000002"))
X = "200000001"


def line(tin: str | None, allowed: str, day: date = date(2025, 5, 5), **more: Any) -> dict[str, Any]:
    return {"tin": tin, "npi": tin and f"{tin}1", "specialty": "08", "allowed": allowed, "service_from": day} | more


@pytest.fixture(scope="module")
def terms() -> AttributionTerms:
    return AttributionTerms.load("mssp-primary-care-2024")


def test_every_line_says_why_it_did_not_count(terms: AttributionTerms, make_lines: Any) -> None:
    cases = {
        None: line("100000001", "1"),
        "superseded": line("100000001", "1", counts=False),
        "denied": line("100000001", "1", denied=True),
        "outside-window": line("100000001", "1", date(2023, 1, 1)),
        "no-provider": line(None, "1"),
        "facility-claim": line("100000001", "1", bill_type="131", claim_type="outpatient"),
        "code-list": line("100000001", "1", procedure="71046"),
        "place": line("100000001", "1", procedure="99309", place_of_service="31"),
        "add-on": line("100000001", "1", date(2022, 6, 1), procedure="99354"),
        "two-entities": line("100000002", "1"),
        "specialty": line("100000001", "1", specialty="30"),
    }
    assert set(cases) - {None} == set(LINE_REASONS)
    both = [ACO, Participant("other", tins=("100000002",))]
    for reason, row in cases.items():
        period = (date(2022, 1, 1), date(2022, 12, 31)) if reason == "add-on" else PERIOD
        (found,) = line_evidence(make_lines([row]), terms, period, both).to_pylist()
        assert found["reason"] == reason
    stay = line("3", "9000", date(2025, 5, 1), bill_type="211", claim_type="inpatient", service_thru=date(2025, 5, 9))
    visit = line("100000001", "1", procedure="99309", place_of_service="32")
    found = line_evidence(make_lines([stay, visit]), terms, PERIOD, both).to_pylist()
    assert [one["reason"] for one in found] == ["facility-claim", "place"]


def test_what_counted_adds_up_to_the_winners_amount(
    terms: AttributionTerms, make_lines: Any, make_coverage: Any
) -> None:
    rows = [
        line("100000001", "10"),
        line("100000002", "5.50"),
        line(X, "7"),
        line("100000001", "99", procedure="71046"),
    ]
    lines = make_lines(rows)
    whole = attribute(lines, make_coverage(("p1", "2022-01-01", None, "AB", "active")), terms, PERIOD, [ACO])
    evidence = line_evidence(lines, terms, PERIOD, [ACO], pa.array(["p1"]))
    mine = evidence.filter(pc.and_(pc.is_null(evidence["reason"]), pc.equal(evidence["competitor"], "aco")))
    assert pc.sum(mine["allowed"]).as_py() == whole.table["amount"][0].as_py() == Decimal("15.5")
    assert line_evidence(lines, terms, PERIOD, [ACO], pa.array(["p2"])).num_rows == 0


# Members of the payer's roster and ours, and why they differ
MEMBERS: dict[str, tuple[list[dict[str, Any]], str | None]] = {
    "both": ([line("100000001", "10")], None),
    "lost": ([line("100000001", "100"), line(X, "900")], "plurality"),
    "close": ([line("100000001", "100"), line(X, "140")], "near-miss"),
    "even": ([line("100000001", "100"), line(X, "100", date(2025, 9, 9))], "tie"),
    "coded": ([line("100000001", "100"), line("100000001", "900", procedure="71046"), line(X, "400")], "code-list"),
    "special": ([line("100000001", "100"), line("100000001", "900", specialty="30"), line(X, "400")], "specialty"),
    "denied": ([line("100000001", "100"), line("100000001", "900", denied=True), line(X, "400")], "other-lines"),
    "planned": ([line("100000001", "100")], "eligibility"),
    "absent": ([line(X, "400")], "no-claims"),
    "wrong": ([line(X, "400")], "tin-roster"),
}


def test_differences_have_reasons(terms: AttributionTerms, make_lines: Any, make_coverage: Any) -> None:
    rows = [row | {"_member": name} for name, (rows, _) in MEMBERS.items() for row in rows]
    rows += [line("100000001", "10", _member="ours"), line("100000001", "101", _member="hair")]
    rows += [line(X, "100", _member="hair")]
    lines = make_lines(rows)
    everybody = [*MEMBERS, "ours", "hair"]
    coverage = make_coverage(
        *((name, "2022-01-01", None, "MA" if name == "planned" else "AB", "active") for name in everybody)
    )
    result = attribute(lines, coverage, terms, PERIOD, [ACO])
    theirs: list[dict[str, str | None]] = [
        {"named": n, "member": n, "tin": "999" if n == "wrong" else "100000001"} for n in MEMBERS
    ]
    theirs.append({"named": "number", "member": None, "tin": "100000001"})
    ours = [{"named": n, "member": n, "tin": "100000001"} for n in result.members_of("aco").to_pylist()]
    found = reconcile(pa.Table.from_pylist(theirs, ROSTER_SCHEMA), pa.Table.from_pylist(ours, ROSTER_SCHEMA))
    evidence = line_evidence(lines, terms, PERIOD, [ACO])
    said = {one["named"]: one for one in explained(found, result, "aco", evidence).to_pylist()}
    reasons = {name: reason for name, (_, reason) in MEMBERS.items() if reason}
    reasons |= {"ours": "plurality", "hair": "near-miss", "number": "unknown-member"}
    assert {name: one["reason"] for name, one in said.items()} == reasons
    assert set(reasons.values()) <= set(DIFFERENCES)
    assert said["close"]["near_miss"]
    assert said["planned"]["detail"] == "excluded-coverage"
    assert (said["lost"]["own_amount"], said["lost"]["lead_amount"]) == (100, 900)
    without = explained(found, result, "aco").to_pylist()
    assert {one["reason"] for one in without if one["named"] == "coded"} == {"plurality"}


@pytest.mark.parametrize(
    ("ours", "theirs", "near"),
    [("90", "100", True), ("1000", "1051", True), ("1000", "1200", False), ("10", "61", False)],
)
def test_near_misses(
    ours: str, theirs: str, near: bool, terms: AttributionTerms, make_lines: Any, make_coverage: Any
) -> None:
    coverage = make_coverage(("p1", "2022-01-01", None, "AB", "active"))
    rows = [line("100000001", ours), line(X, theirs)]
    result = attribute(make_lines(rows), coverage, terms, PERIOD, [ACO])
    found = near_misses(result, "aco").to_pylist()
    assert bool(found) == near
    if near:
        assert found[0]["gap"] == Decimal(theirs) - Decimal(ours)
        assert found[0]["winner"] == f"tin:{X}"


def test_leakage_is_the_share_of_primary_care_elsewhere(
    terms: AttributionTerms, make_lines: Any, make_coverage: Any
) -> None:
    rows = [
        line("100000001", "60"), line(X, "40"), line(X, "500", specialty="06"), line(X, "9", date(2024, 12, 31)),
        line(X, "70", _member="p2"),
    ]  # fmt: skip
    coverage = make_coverage(*((name, "2022-01-01", None, "AB", "active") for name in ("p1", "p2")))
    lines = make_lines(rows)
    found = leakage(attribute(lines, coverage, terms, PERIOD, [ACO]), lines, "aco")
    assert (found.inside, found.outside, found.share) == (Decimal(60), Decimal(40), Decimal("0.4"))
    assert found.providers.to_pylist() == [{"competitor": f"tin:{X}", "members": 1, "allowed": 40, "services": 1}]
    assert found.members["member"].to_pylist() == ["p1"]


def table(**members: tuple[str | None, str | None]) -> pa.Table:
    rows = [
        {"member": name, "entity": entity, "method": "plurality", "step": what if entity else None,
         "reason": None if entity else what}
        for name, (entity, what) in members.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, ATTRIBUTION_SCHEMA)


def test_churn_and_retention_by_step() -> None:
    before = table(a=("aco", "1"), b=("aco", "1"), c=("aco", "2"), d=("x", "1"), e=("aco", "1"))
    now = table(a=("aco", "2"), b=("x", "1"), c=(None, "no-services"), d=("aco", "1"), f=("aco", "1"))
    found = churn(before, now, "aco")
    assert (found.before, found.now, found.stayed, found.churn) == (4, 3, 1, Decimal("0.75"))
    assert [(one["step"], one["members"], one["retained"]) for one in found.retention.to_pylist()] == [
        ("1", 3, 1),
        ("2", 1, 0),
    ]
    assert {(one["member"], one["change"]): one["reason"] for one in found.changes.to_pylist()} == {
        ("b", "left"): "entity:x",
        ("c", "left"): "no-services",
        ("e", "left"): "no longer known",
        ("d", "came"): "entity:x",
        ("f", "came"): "not known before",
    }
    assert churn(now.slice(0, 0), now, "aco").churn is None
    assert churn(now, now, "aco").churn == 0


def test_of_an_exclusive_group_one_contract_keeps_a_member() -> None:
    claims = {
        "mssp": (table(a=("aco", "1"), b=("aco", "1")), "aco"),
        "reach": (table(a=("dce", "1"), b=("x", "1")), "dce"),
        "bundle": (table(a=("hospital", "1")), "hospital"),
    }
    precedence = {"mssp": Precedence(2, "medicare"), "reach": Precedence(1, "medicare")}
    found = claimants(claims, precedence).to_pylist()
    assert [(one["member"], one["contract"], one["kept"], one["lost_to"]) for one in found] == [
        ("a", "reach", True, None),
        ("a", "mssp", False, "reach"),
        ("a", "bundle", True, None),
        ("b", "mssp", True, None),
    ]
    assert claimants({}, {}).num_rows == 0
