"""Commercial and human-services bundles: retrospective, prospective, milestones; gainsharing of a settlement."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from arrangement_parts import D, inputs, paid, prices, settle, terms
from contract_parts import measure
from episode_parts import definition, line, stay

from fhir_gateway.contracts import MeasureScore
from fhir_gateway.contracts.terms import MeasureTerms
from fhir_gateway.errors import ContractError
from fhir_gateway.r4.spec import arrow_type, column_structure

WHOLE = [{"id": "all", "match": {}}]


def stays(*costs: int, **more: Any) -> list[dict[str, Any]]:
    return [stay(f"m{n}", f"c{n}", "03-01", "03-03", cost, "470", **more) for n, cost in enumerate(costs)]


def retrospective(**changes: Any) -> Any:
    return terms("bundle_retrospective", **changes)


def test_difference_is_owed() -> None:
    made = retrospective()
    lines = settle(made, inputs(made, stays(20000, 30000)))
    assert lines["payable"].amount == 6000
    assert lines["LEJR.470.counted"].because == ("b.LEJR.470.actual", "b.LEJR.470.outside")
    assert lines["LEJR.470.outside"].value == 0
    assert lines["LEJR.470.target"].because == ("b.LEJR.470.prices",)


def test_who_is_covered_by_coverage() -> None:
    """Part A and B from the anchor to the window's end, and no plan of its own in between."""
    parts = {"A": ["A"], "B": ["B"]}
    made = retrospective(episode=definition(covered={"exclude_types": ["MA"], "parts": parts}).model_dump())
    spans = {
        "m0": [("A", "2026-01-01", None), ("B", "2026-02-01", None)],
        "m1": [("A", "2026-01-01", None), ("B", "2026-03-02", None)],
        "m2": [("A", "2026-01-01", None), ("B", "2026-01-01", None), ("MA", "2026-03-15", "2026-03-31")],
    }
    schema = pa.schema(
        [("_member", pa.string()), ("_source", pa.string()), ("id", pa.string())]
        + [(name, arrow_type(column_structure("Coverage")[name])) for name in ("status", "type", "period")]
    )
    coverage = [
        {
            "_member": member, "_source": "payer", "id": f"{member}-{kind}", "status": "active",
            "type": {"coding": [{"code": kind}]}, "period": {"start": start, "end": end},
        }
        for member, stated in spans.items() for kind, start, end in stated
    ]  # fmt: skip
    known = inputs(made, stays(100, 100, 100, 100))
    with pytest.raises(ContractError, match="Coverage is needed"):
        made.episodes(known)
    assert known.facts is not None
    covered = replace(known, facts=replace(known.facts, coverage=pa.Table.from_pylist(coverage, schema)))
    found = {row["member"]: row["reason"] for row in made.episodes(covered).to_pylist()}
    assert found == {"m0": None, "m1": "not-eligible", "m2": "not-eligible", "m3": "not-eligible"}
    with pytest.raises(ContractError, match="the episode's terms say who is covered"):
        retrospective(episode=definition(covered={}).model_dump(), eligibility="eligibility")


def test_discount_and_shares() -> None:
    made = retrospective(
        discounts={"LEJR": D("0.03")},
        price={"kind": "given", "table": "prices"},
        gain_share=D("0.5"),
        loss_share=D("0.25"),
    )
    assert paid(made, inputs(made, stays(20000, 30000))) == (2 * 27160 - 50000) / D(2)
    assert paid(made, inputs(made, stays(30000, 30000))) == (2 * 27160 - 60000) / D(4)


@pytest.mark.parametrize(
    ("cost", "first_dollar", "owed"),
    [(27500, True, 0), (28500, True, 0), (20000, True, 8000), (20000, False, 7160), (36000, False, -7160)],
)
def test_corridor(cost: int, first_dollar: bool, owed: int) -> None:
    made = retrospective(corridor=D("0.03"), first_dollar=first_dollar)
    assert paid(made, inputs(made, stays(cost))) == owed


def test_minimum_volume() -> None:
    made = retrospective(min_volume=3)
    assert paid(made, inputs(made, stays(20000, 20000))) == 0
    assert paid(made, inputs(made, stays(20000, 20000, 20000))) == 24000


def test_stop_loss_of_an_episode() -> None:
    made = retrospective(episode_stop_loss=D(50000))
    lines = settle(made, inputs(made, stays(28000, 500_000)))
    assert (lines["LEJR.470.actual"].value, lines["LEJR.470.counted"].value) == (528_000, 28_000 + 78_000)
    assert lines["payable"].amount == -50000


def test_limits_quality_and_bonus() -> None:
    made = retrospective(
        quality={"positive": D("0.5"), "negative": D("0.2")},
        quality_score=D(80),
        limit={"gain": D("0.1"), "loss": D("0.05")},
        steerage_bonus=D(250),
    )
    assert paid(made, inputs(made, stays(26000))) == D("2000") * D("0.9") + 250
    assert paid(made, inputs(made, stays(20000))) == 2800 + 250
    assert paid(made, inputs(made, stays(50000))) == -1400 + 250


def test_quality_of_the_measures() -> None:
    made = retrospective(quality={"positive": D(1)})
    chosen = (MeasureTerms.model_validate(measure("q", "1")),)
    stated = inputs(made, stays(20000), outcomes={"q": MeasureScore(None, 100, D("0.75"))})
    assert settle(made, stated, chosen)["payable"].amount == 6000


def test_severity_tiers_have_their_prices() -> None:
    made = retrospective(tiers="severity")
    tables = {
        "prices": [{"price_group": f"470-{tier}", "price": D(price)} for tier, price in ((1, 20000), (2, 30000))],
        "severity": [{"member": "m0", "tier": "1"}, {"member": "m1", "tier": "2"}],
    }
    lines = settle(made, inputs(made, stays(20000, 20000), tables))
    assert (lines["LEJR.470-1.target"].value, lines["LEJR.470-2.target"].value) == (20000, 30000)


def test_implants_pass_through() -> None:
    carved = [{"id": "implants", "match": {"revenue_code": ["0278"]}, "anchor": True}]
    made = retrospective(episode=definition(exclusions=carved).model_dump())
    rows = [*stays(20000), stay("m0", "c0", "03-01", "03-03", 6000, "470", revenue_code="0278")]
    assert paid(made, inputs(made, rows)) == 8000


def baseline(count: int, cost: int, avoidable: int = 0, year: int = 2025, **more: Any) -> list[dict[str, Any]]:
    """Episodes of an earlier year, part of whose cost is a readmission that could have been avoided."""
    rows = []
    for n in range(count):
        who = f"{year}-{n}"
        rows.append(stay(who, who, f"{year}-03-01", f"{year}-03-03", cost - avoidable, "470", **more))
        if avoidable:
            rows.append(stay(who, f"{who}r", f"{year}-03-10", f"{year}-03-12", avoidable, "862", **more))
    return rows


def years(*stated: tuple[int, str, str]) -> list[dict[str, Any]]:
    return [
        {"start": date(year, 1, 1), "end": date(year, 12, 31), "weight": D(weight), "trend": D(trend)}
        for year, weight, trend in stated
    ]


def test_price_of_weighted_and_trended_years() -> None:
    stated = years((2023, "17", "1.1"), (2024, "33", "1.05"), (2025, "50", "1"))
    made = retrospective(price={"kind": "baseline", "years": stated})
    rows = [*baseline(3, 20000, year=2023), *baseline(2, 22000, year=2024), *baseline(4, 24000), *stays(20000)]
    lines = settle(made, inputs(made, rows))
    price = (17 * D("1.1") * 20000 + 33 * D("1.05") * 22000 + 50 * D(24000)) / 100
    assert lines["470.price"].value == price
    assert lines["payable"].amount == price - 20000
    # a year without episodes has no weight
    lines = settle(made, inputs(made, [*baseline(4, 24000), *stays(20000)]))
    assert lines["470.price"].value == 24000


def test_baseline_is_of_all_members_the_period_of_the_list() -> None:
    made = retrospective(price={"kind": "baseline", "years": years((2025, "1", "1"))}, population="attributed")
    rows = [*baseline(4, 24000), *stays(20000, 20000)]
    lines = settle(made, inputs(made, rows, people=[{"member": "m1"}]))
    assert (lines["470.price"].value, lines["episodes"].value) == (24000, 1)
    assert made.episodes(inputs(made, rows, people=[{"member": "m1"}]))["member"].to_pylist() == ["m1"]


def test_price_allows_for_part_of_the_complications() -> None:
    """PROMETHEUS: typical costs and half of what could have been avoided."""
    avoidable = definition(complications=[{"drg": ["862"]}], services=WHOLE).model_dump()
    price = {"kind": "baseline", "years": years((2025, "1", "1")), "complications": D("0.5")}
    made = retrospective(episode=avoidable, price=price)
    rows = [*baseline(4, 25000, avoidable=5000), *stays(20000), stay("m0", "r", "03-10", "03-12", 5000, "862")]
    lines = settle(made, inputs(made, rows))
    assert lines["470.price"].value == 22500
    assert lines["complication-rate"].value == D("0.2")
    assert lines["payable"].amount == -2500


def test_cap_of_the_baseline_bounds_the_period() -> None:
    price = {"kind": "baseline", "years": years((2025, "1", "1"))}
    made = retrospective(price=price, cap={"kind": "percentile", "high": D("0.9"), "basis": "baseline"})
    rows = [*baseline(10, 20000), *stays(90000)]
    assert settle(made, inputs(made, rows))["counted"].value == 20000


def test_baseline_is_before_the_period() -> None:
    made = retrospective(price={"kind": "baseline", "years": years((2026, "1", "1"))})
    with pytest.raises(ContractError, match="the baseline and the period have days in common"):
        paid(made, inputs(made, stays(1)))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"price": {"kind": "given"}}, "b.price.table: is needed for given prices"),
        ({"price": {"kind": "baseline"}}, "b.price.years: is needed for prices out of a baseline"),
        ({"discounts": {"hip": D("0.1")}}, "b.discounts: there is no family 'hip'"),
        ({"discounts": {"LEJR": D("0.1")}}, "b.discounts: the prices are discounted already"),
        ({"quality_score": 5}, "b.quality_score: quality plays no part"),
        ({"post_episode": {}}, "b.post_episode.limit: either it or deviations is stated"),
        ({"gmlos": None}, "b.gmlos: is needed, stays are prorated by it"),
        ({"normalisation": {}}, "b.normalisation: there are no multipliers"),
        ({"initiators": [{"name": "x"}]}, "b.initiators.x: no number says who that is"),
        (
            {"initiators": [{"name": "x", "ccns": ["1"]}]},
            "b.initiators.x.ccns: claims have none; they need a table of anchors",
        ),
        ({"anchors": "a"}, "b.anchors: there are no initiators to be found"),
        ({"episode": None}, "b.episode: is needed"),
        ({"cap": {"kind": "deviations"}}, "b.cap.deviations: is needed for deviations"),
        ({"cap": {"kind": "percentile", "high": D("0.9"), "basis": "baseline"}}, "b.cap.basis: there is no baseline"),
    ],
)
def test_contradictions(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ContractError, match=f"arrangements.{problem}"):
        retrospective(**changes)


# -- prospective


def prospective(**changes: Any) -> Any:
    return terms("bundle_prospective", **changes)


def test_price_less_what_was_paid_and_warranty() -> None:
    covered = definition(complications=[{"drg": ["862"]}]).model_dump()
    made = prospective(episode=covered, warranty_days=60)
    rows = [
        *stays(20000),
        line("m0", "p", "03-10", 300),
        stay("m0", "w", "05-01", "05-03", 4000, "862"),  # within 60 days of 2 April
        stay("m0", "o", "05-10", "05-12", 7000, "291"),
        stay("m0", "l", "07-01", "07-03", 5000, "862"),
    ]
    lines = settle(made, inputs(made, rows))
    assert (lines["prices"].value, lines["claims"].value, lines["warranty"].value) == (28000, 20300, 4000)
    assert lines["payable"].amount == 3700


def test_price_alone() -> None:
    made = prospective(net_of_claims=False)
    assert paid(made, inputs(made, stays(20000, 20000))) == 56000


def test_allocation_sums_to_the_prices() -> None:
    parts = {"hospital": D("0.6"), "surgeon": D("0.25"), "anesthesia": D("0.15")}
    made = prospective(allocation={"by": "parts", "parts": parts}, net_of_claims=False)
    lines = settle(made, inputs(made, stays(1), {"prices": prices(g470="1000.01")}))
    found = {name: line_.value for name, line_ in lines.items() if name.startswith("allocated.")}
    assert found == {
        "allocated.hospital": D("600.01"),
        "allocated.surgeon": D("250.00"),
        "allocated.anesthesia": D("150.00"),
    }
    made = prospective(allocation={"by": "claims"}, net_of_claims=False)
    lines = settle(made, inputs(made, [*stays(30000), line("m0", "p", "03-10", 10000)]))
    assert (lines["allocated.anchor"].value, lines["allocated.other"].value) == (21000, 7000)


def test_prospective_contradictions() -> None:
    with pytest.raises(ContractError, match=r"allocation\.parts: sum to 0.6, not 1"):
        prospective(allocation={"by": "parts", "parts": {"a": D("0.6")}})
    with pytest.raises(ContractError, match=r"warranty_days: episode\.complications does not say what it covers"):
        prospective(warranty_days=10)


# -- milestones: 90 days of substance use treatment


MILESTONES = [
    {"id": "intake", "match": {"procedure": ["H0001"]}, "last": 0, "share": D("0.2")},
    {"id": "induction", "match": {"procedure": ["H0033"]}, "last": 14, "share": D("0.2")},
    {"id": "retained-30", "match": {"procedure": ["H0004"]}, "first": 25, "last": 35, "share": D("0.2")},
    {"id": "retained-60", "match": {"procedure": ["H0004"]}, "first": 55, "last": 65, "share": D("0.2")},
    {"id": "retained-90", "match": {"procedure": ["H0004"]}, "first": 85, "last": 90, "share": D("0.2")},
]


def treatment(**changes: Any) -> Any:
    stated = definition(
        triggers=[{"family": "SUD", "price": "SUD", "match": {"procedure": ["H0001"], "diagnosis": ["F11*"]}}],
        window={"days": 90},
        services=[{"id": "treatment", "match": {"diagnosis": ["F11*"]}}],
        milestones=MILESTONES,
        amount="allowed",
    )
    return terms(
        "bundle_milestones", **({"episode": stated.model_dump(), "min_services": 3, "case_rate": 150} | changes)
    )


def visits(member: str, *stated: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        line(member, f"{member}{n}", when, 60, procedure=code, diagnosis="F11.20")
        for n, (when, code) in enumerate(stated)
    ]


def test_milestones_and_the_case_rate() -> None:
    made = treatment()
    rows = [
        *visits(
            "a", ("03-01", "H0001"), ("03-05", "H0033"), ("03-30", "H0004"), ("04-28", "H0004"), ("05-28", "H0004")
        ),
        *visits("b", ("03-01", "H0001"), ("03-30", "H0004"), ("04-15", "H0004")),
        *visits("c", ("03-01", "H0001"), ("03-05", "H0033")),  # too few: the case rate
    ]
    lines = settle(made, inputs(made, rows, {"prices": [{"price_group": "SUD", "price": D(3000)}]}))
    assert [lines[f"{one['id']}.reached"].value for one in MILESTONES] == [2, 1, 2, 1, 1]
    assert lines["payable"].amount == 3000 + 2 * 600 + 150
    net = treatment(net_of_claims=True)
    stated = inputs(net, rows, {"prices": [{"price_group": "SUD", "price": D(3000)}]})
    assert paid(net, stated) == 3000 + 2 * 600 + 150 - 600


def test_milestone_contradictions() -> None:
    with pytest.raises(ContractError, match="case_rate: is never paid"):
        treatment(min_services=0)
    with pytest.raises(ContractError, match=r"episode\.milestones: there are none"):
        terms("bundle_milestones")


# -- gainsharing of a settlement


def test_settlement_is_shared_with_collaborators() -> None:
    made = retrospective(
        gainsharing={"table": "with", "quality_gate": D(50), "weight": "episodes", "cap_of_fees": D("0.5")}
    )
    rows = [
        row | {"npi": npi} for row, npi in zip(stays(18000, 18000, 18000, 18000), ["1", "1", "1", "2"], strict=True)
    ]
    table = [
        {"name": "surgeon-1", "npi": "1", "quality": D(60), "fees": D(20000)},
        {"name": "surgeon-2", "npi": "2", "quality": D(60), "fees": D(20000)},
        {"name": "surgeon-3", "npi": "3", "quality": D(40), "fees": D(20000)},
    ]
    lines = settle(made, inputs(made, rows, {"with": table}))
    assert lines["payable"].amount == 40000
    found = {name: one.value for name, one in lines.items() if name.startswith("gainsharing.")}
    assert found == {
        "gainsharing.surgeon-1": 10000,  # 30,000 by episodes, at most half of the fees
        "gainsharing.surgeon-2": 10000,
        "gainsharing.surgeon-3": 0,
        "gainsharing.hospital": 20000,
    }
    assert sum(value for value in found.values() if value is not None) == Decimal(40000)


@pytest.mark.parametrize("kind", ["bundle_retrospective", "bundle_prospective", "team", "cjr", "bpci_advanced"])
def test_without_any_claims_nothing_is_owed(kind: str) -> None:
    changes: dict[str, Any] = {
        "team": {"performance_year": 1, "track": 3, "quality_score": 60},
        "cjr": {"performance_year": 4, "composite": {}},
        "bpci_advanced": {"model_year": 1, "quality_score": 60},
    }.get(kind, {})
    made = terms(kind, **changes, initiators=[{"name": "a", "tins": ["1"]}, {"name": "b", "tins": ["2"]}])
    assert paid(made, inputs(made, [])) == 0
    assert made.services(inputs(made, [])).num_rows == 0
