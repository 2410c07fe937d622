"""What goes into a settlement: cost, truncation, run-out, baseline, measure scores of the attributed members."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from contract_parts import measure, shared_savings

from fhir_gateway.attribution import Attribution, attribute
from fhir_gateway.contracts import Contract, MeasureScore, collect, measure_scores, settle
from fhir_gateway.errors import ContractError
from fhir_gateway.lake.claims import LINE_SCHEMA
from fhir_gateway.measures.model import GroupResult, MeasureResult, PopulationResult
from fhir_gateway.r4.spec import arrow_type, column_structure

D = Decimal


def line(member: str, paid: str, **changes: Any) -> dict[str, Any]:
    """A line of an office visit at the provider's TIN."""
    base = dict.fromkeys(LINE_SCHEMA.names) | {
        "_member": member,
        "source": "payer",
        "counts": True,
        "denied": False,
        "service_from": date(2024, 5, 5),
        "claim_type": "professional",
        "tin": "100000001",
        "npi": "1",
        "specialty": "08",
        "procedure": "99213",
        "place_of_service": "11",
        "allowed": D(paid),
        "paid": D(paid),
        "payment_date": date(2024, 6, 1),
    }
    row = base | changes
    return row | {"claim_from": row["service_from"], "claim_thru": row["service_from"]} | changes


def lines(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=LINE_SCHEMA)


def coverage(*members: str, start: str = "2023-01-01") -> pa.Table:
    structure = column_structure("Coverage")
    schema = pa.schema(
        [("_member", pa.string()), ("_source", pa.string()), ("id", pa.string())]
        + [(name, arrow_type(structure[name])) for name in ("status", "type", "period")]
    )
    return pa.Table.from_pylist(
        [
            {"_member": m, "_source": "payer", "id": m, "status": "active", "type": None, "period": {"start": start}}
            for m in members
        ],
        schema=schema,
    )


def attributed(contract: Contract, table: pa.Table, covered: pa.Table) -> Attribution:
    assert contract.attribution_terms is not None
    return attribute(table, covered, contract.attribution_terms, contract.dates, contract.participants)


def test_which_lines_are_cost(load: Callable[..., Contract]) -> None:
    claims = {"paid_through": date(2025, 3, 31), "types": ["professional", "inpatient"]}
    contract = load(claims=claims, attribution={"terms": "commercial-primary-care"})
    table = lines(
        line("a", "100"),
        line("a", "10", tin="999999999", procedure="71046"),  # elsewhere, but of an attributed member
        line("a", "1000", service_from=date(2023, 12, 31)),  # before the period
        line("a", "1000", payment_date=date(2025, 4, 1)),  # paid after the run-out
        line("a", "1000", counts=False),  # a version that does not count
        line("a", "1000", claim_type="pharmacy"),  # carved out
        line("a", "-30", version_status="adjustment"),
        line("b", "500", tin="200000001"),  # somebody else's patient
    )
    covered = coverage("a", "b", "c")
    inputs = collect(contract, attributed(contract, table, covered), table, {})
    assert (inputs.exposure.members, inputs.exposure.member_months) == (1, 12)
    assert inputs.exposure.cost == 80


def test_cost_without_a_claim_type_is_not_lost_silently(load: Callable[..., Contract]) -> None:
    contract = load(attribution={"terms": "commercial-primary-care"})
    covered = coverage("a")
    without = lines(line("a", "100"), line("a", "10", claim_type=None))
    with pytest.raises(ContractError, match="1 claim lines have no type"):
        collect(contract, attributed(contract, without, covered), without, {})
    elsewhere = lines(line("a", "100"), line("b", "10", claim_type=None, tin="200000001"))
    inputs = collect(contract, attributed(contract, elsewhere, covered), elsewhere, {})
    assert inputs.exposure.cost == 100


@pytest.mark.parametrize(("basis", "cost"), [("line", 7), ("claim_from", 0), ("claim_thru", 7)])
def test_the_day_that_decides_is_a_term(basis: str, cost: int, load: Callable[..., Contract]) -> None:
    claims = {"paid_through": date(2025, 3, 31), "service_date": basis}
    contract = load(claims=claims, attribution={"terms": "commercial-primary-care"})
    stay = line("a", "7", claim_from=date(2023, 12, 30), claim_thru=date(2024, 1, 3), service_from=date(2024, 1, 2))
    table = lines(stay, line("a", "0"))
    inputs = collect(contract, attributed(contract, table, coverage("a")), table, {})
    assert inputs.exposure.cost == cost


def test_truncation_and_completion(load: Callable[..., Contract]) -> None:
    claims = {"paid_through": date(2025, 3, 31), "truncation": 1000, "completion_factor": D("1.01")}
    contract = load(claims=claims, attribution={"terms": "commercial-primary-care"})
    table = lines(line("a", "600"), line("a", "600.50"), line("b", "300"))
    inputs = collect(contract, attributed(contract, table, coverage("a", "b")), table, {})
    found = inputs.exposure
    assert (found.cost_before_truncation, found.cost_before_completion) == (D("1500.50"), 1300)
    assert (found.cost, found.truncated_members) == (1313, 1)


def test_baseline_is_last_year_of_the_same_members(load: Callable[..., Contract]) -> None:
    target = {"kind": "prior_year", "trend": D("0.1")}
    contract = load(arrangements=[shared_savings(target=target)], attribution={"terms": "commercial-primary-care"})
    table = lines(
        line("a", "100"),
        line("a", "60", service_from=date(2023, 2, 2)),
        line("b", "900", service_from=date(2023, 2, 2), tin="200000001"),
    )
    covered = coverage("a", "b", start="2023-07-01")
    found = attributed(contract, table, covered)
    inputs = collect(contract, found, table, {}, covered)
    assert inputs.baseline is not None
    assert (inputs.baseline.cost, inputs.baseline.member_months) == (60, 6)
    assert settle(contract, inputs).line("ss.target").value == 132  # 10 x 1.1 x 12
    with pytest.raises(ContractError, match="Coverage is needed"):
        collect(contract, found, table, {})


def test_members_in_any_order_settle_alike(load: Callable[..., Contract]) -> None:
    contract = load(
        rounding="cent",
        claims={"paid_through": date(2025, 3, 31), "truncation": 900},
        attribution={"terms": "commercial-primary-care"},
    )
    chance = random.Random(11)  # noqa: S311 no secret
    rows = [
        line(f"m{chance.randrange(50)}", f"{chance.randrange(1, 60_000) / 100}", tin=chance.choice(["100000001", "2"]))
        for _ in range(400)
    ]
    covered = coverage(*(f"m{n}" for n in range(50)))
    settled = []
    for _ in range(2):
        table = lines(*rows)
        settled.append(settle(contract, collect(contract, attributed(contract, table, covered), table, {})).to_dict())
        chance.shuffle(rows)
    assert settled[0] == settled[1]


def test_attribution_of_other_terms_is_refused(load: Callable[..., Contract]) -> None:
    contract = load(attribution={"terms": "commercial-primary-care"})
    found = attributed(contract, lines(), coverage("a"))
    with pytest.raises(ContractError, match=r"attribution\.terms"):
        collect(load(), found, lines(), {})
    other = load(
        attribution={"terms": "commercial-primary-care"}, period={"start": date(2024, 1, 1), "end": date(2024, 6, 30)}
    )
    with pytest.raises(ContractError, match="another period"):
        collect(other, found, lines(), {})


def result(*groups: GroupResult) -> MeasureResult:
    from dataclasses import MISSING, fields

    known: dict[str, Any] = {
        "url": "https://example.org/Measure/q",
        "version": "2",
        "members": pa.array(["a", "b", "c", "d"]),
        "groups": groups,
        "failed": {},
    }
    needed = [f.name for f in fields(MeasureResult) if f.default is MISSING and f.default_factory is MISSING]
    return MeasureResult(**{name: known.get(name) for name in needed})  # type: ignore[arg-type]


def group(name: str) -> GroupResult:
    populations = tuple(
        PopulationResult(code, code, np.array(counts), np.array(counts))
        for code, counts in {
            "initial-population": [1, 1, 1, 1],
            "denominator": [1, 1, 1, 1],
            "denominator-exclusion": [0, 1, 0, 0],
            "numerator": [1, 0, 0, 1],
        }.items()
    )
    return GroupResult(name, None, "proportion", "increase", "boolean", populations)


def test_measures_count_attributed_members_only() -> None:
    scores = measure_scores([result(group("main"))], pa.array(["a", "b", "c", "x"]))
    expected = MeasureScore(1, 2, D("0.5"))
    assert scores == {"https://example.org/Measure/q|2": expected, "https://example.org/Measure/q|2#main": expected}
    several = measure_scores([result(group("one"), group("two"))], pa.array(["a"]))
    assert set(several) == {"https://example.org/Measure/q|2#one", "https://example.org/Measure/q|2#two"}


@pytest.mark.parametrize(
    ("terms", "found"),
    [
        ({"canonical": "https://example.org/Measure/q|2"}, True),
        ({"canonical": "https://example.org/Measure/q"}, True),
        ({"canonical": "https://example.org/Measure/q", "group": "main"}, True),
        ({"canonical": "https://example.org/Measure/q|1"}, False),
        ({"canonical": "https://example.org/Measure/q|2", "group": "other"}, False),
    ],
)
def test_a_measure_is_found_by_canonical_and_group(
    terms: dict[str, str], found: bool, load: Callable[..., Contract]
) -> None:
    contract = load(
        measures=[measure("q", "1", **terms)],
        arrangements=[shared_savings(quality={"mode": "multiplicative"})],
        attribution={"terms": "commercial-primary-care"},
    )
    scores = measure_scores([result(group("main"))], pa.array(["a"]))
    inputs = collect(contract, attributed(contract, lines(), coverage("a")), lines(), scores)
    assert ("q" in inputs.outcomes) is found
