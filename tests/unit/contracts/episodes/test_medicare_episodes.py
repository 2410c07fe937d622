"""TEAM, CJR and BPCI Advanced: the worked examples, tracks, scales, limits."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from arrangement_parts import D, inputs, paid, prices, settle, terms
from contract_parts import measure
from episode_parts import line, stay
from pydantic import ValidationError

from fhir_gateway.contracts import MeasureScore
from fhir_gateway.contracts.arrangements.cjr import CompositeQuality, discount_of
from fhir_gateway.contracts.episodes import standing
from fhir_gateway.contracts.terms import MeasureTerms
from fhir_gateway.errors import ContractError

LEJR = prices(g470=28000)


def joints(total: int, count: int = 40, drg: str = "470", **more: Any) -> list[dict[str, Any]]:
    """So many joint replacements that cost so much together."""
    return [stay(f"m{n:02}", f"c{n}", "03-01", "03-03", Decimal(total) / count, drg, **more) for n in range(count)]


def team(track: int, **changes: Any) -> Any:
    year = {1: 1, 2: 2, 3: 1}[track]
    return terms("team", **({"track": track, "performance_year": year, "quality_score": 60} | changes))


@pytest.mark.parametrize(
    ("track", "actual", "owed"),
    [
        (3, 1_020_000, "96000.00"),  # 100,000 x (1 - 10 % x 40 %)
        (3, 1_400_000, "-224000.00"),  # -263,200, at most 20 % of 1,120,000
        (2, 1_400_000, "-56000.00"),  # -254,800, at most 5 %
        (1, 1_400_000, "0.00"),  # no losses
        (1, 920_000, "112000.00"),  # 192,000, at most 10 %
    ],
)
def test_team_worked_examples(track: int, actual: int, owed: str) -> None:
    made = team(track)
    assert paid(made, inputs(made, joints(actual))) == D(owed)


def test_team_lines_explain_the_settlement() -> None:
    made = team(3)
    lines = settle(made, inputs(made, joints(1_400_000)))
    assert {name: lines[name].value for name in ("episodes", "LEJR.470.target", "LEJR.470.difference")} == {
        "episodes": 40,
        "LEJR.470.target": 1_120_000,
        "LEJR.470.difference": -280_000,
    }
    assert lines["adjusted"].value == D("-263200")
    assert lines["adjusted"].formula == "difference x (1 - 10% x score / 100)"
    assert lines["limited"].formula == "at most 20% of targets"
    assert len(lines["episodes"].evidence["episodes"]) == 64
    assert (lines["target"].metric, lines["payable"].metric) == ("cost-target", "shared-saving-deficit")


def test_team_discount_of_prices_that_are_not_discounted() -> None:
    made = team(3, price={"kind": "given", "table": "prices"})
    rows = [*joints(0 + 40, 40), stay("x", "x", "03-01", "03-05", 1, "235")]
    lines = settle(made, inputs(made, rows, {"prices": prices(g470=1000, g235=1000)}))
    assert lines["LEJR.470.target"].value == 40 * 980
    assert lines["CABG.235.target"].value == 985


def test_team_quality_is_the_composite_of_the_measures() -> None:
    made = team(3, quality_score=None)
    assert made.uses_quality()
    chosen = (MeasureTerms.model_validate(measure("q", "1")),)
    stated = inputs(made, joints(1_020_000), outcomes={"q": MeasureScore(None, 100, D("0.6"))})
    assert settle(made, stated, chosen)["payable"].amount == 96000
    nobody = inputs(made, joints(1_020_000), outcomes={"q": MeasureScore(None, 0, None)})
    assert settle(made, nobody, chosen)["payable"].amount == 90000


def test_team_outpatient_procedures_have_the_price_of_their_group() -> None:
    made = team(3)
    rows = [line("a", "1", "03-01", 9000, claim_type="outpatient", procedure="27130")]
    assert settle(made, inputs(made, rows))["LEJR.470.target"].value == 28000


def test_tracks_have_their_years() -> None:
    with pytest.raises(ContractError, match="track 1 exists in performance years 1 to 3 only"):
        team(1, performance_year=4)
    with pytest.raises(ValidationError):
        team(3, performance_year=6)


def test_episode_without_a_price_is_an_error() -> None:
    made = team(3)
    with pytest.raises(ContractError, match="prices: there is none for the episodes of price group 469"):
        paid(made, inputs(made, joints(100, drg="469")))


def test_low_volume_family() -> None:
    tables = {"prices": [{"price_group": "470", "price": D(28000), "baseline_episodes": 30}]}
    rows = joints(1_400_000)
    for policy, owed in (("none", "-224000"), ("no_downside", "0"), ("excluded", "0")):
        made = team(3, low_volume={"policy": policy})
        assert paid(made, inputs(made, rows, tables)) == D(owed), policy
    enough = {"prices": [{"price_group": "470", "price": D(28000), "baseline_episodes": 31}]}
    made = team(3, low_volume={"policy": "no_downside"})
    assert paid(made, inputs(made, rows, enough)) == -224000


def test_risk_multipliers_and_their_normalisation() -> None:
    risks = [{"member": f"m{n:02}", "multiplier": D("1.25")} for n in range(40)]
    made = team(3, multipliers="risks")
    assert settle(made, inputs(made, joints(1_120_000), {"risks": risks}))["target"].value == 1_400_000
    # the mean is 1.25, so 0.8 is needed, and 5 % around 0.9 are what counts
    made = team(3, multipliers="risks", normalisation={"prospective": D("0.9"), "cap": D("0.05")})
    lines = settle(made, inputs(made, joints(1_120_000), {"risks": risks}))
    assert (lines["multiplier"].value, lines["normalisation"].value) == (D("1.25"), D("0.855"))
    assert lines["target"].value == D("1197000")
    made = team(
        3, multipliers="risks", normalisation={"cap": D("0.5")}, trend={"retrospective": D("1.04"), "cap": D("0.03")}
    )
    lines = settle(made, inputs(made, joints(1_120_000), {"risks": risks}))
    assert lines["target"].value == D("1120000") * D("1.03")


def test_social_risk_multiplies_prices() -> None:
    """Dual, low income or an ADI percentile of 80 and more: 1.10 times the price; the others' stays."""
    rows = [stay(f"m{n}", f"c{n}", "03-01", "03-03", 20_000, "470") for n in range(4)]
    at_risk = [{"member": "m0", "adi": 80}, {"member": "m1", "adi": 79}, {"member": "m2", "dual": True}]
    made = terms("team", performance_year=1, track=1, quality_score=100, social={"factor": D("1.10")})
    found = made.episodes(inputs(made, rows, {"social_risk": at_risk})).to_pylist()
    assert [row["multiplier"] for row in found] == [D("1.10"), 1, D("1.10"), 1]
    assert [row["target"] for row in found] == [30_800, 28_000, 30_800, 28_000]
    both = terms("team", performance_year=1, track=1, quality_score=100, social={"factor": D("1.10")}, multipliers="m")
    known = {"social_risk": at_risk, "m": [{"member": "m0", "multiplier": D("1.2")}]}
    assert both.episodes(inputs(both, rows, known)).to_pylist()[0]["multiplier"] == D("1.32")


def test_spending_afterwards_is_owed_back() -> None:
    late = [line(f"m{n:02}", f"l{n}", "04-20", 500) for n in range(40)]
    made = team(3, post_episode={"days": 30, "limit": 400})
    lines = settle(made, inputs(made, [*joints(1_020_000), *late]))
    assert lines["payable"].amount == 96000 - 40 * 100
    # of one provider alone, the mean is never above the mean and deviations
    made = team(3, post_episode={"days": 30, "deviations": 3})
    assert paid(made, inputs(made, [*joints(1_020_000), *late])) == 96000


def test_true_up_is_the_difference() -> None:
    made = team(3, paid_before=D("90000"))
    lines = settle(made, inputs(made, joints(1_020_000)))
    assert (lines["true-up"].value, lines["payable"].amount) == (6000, 6000)


def test_episodes_are_evidence() -> None:
    made = team(3)
    table = made.episodes(inputs(made, joints(1_020_000)))
    assert table.num_rows == standing(table).num_rows == 40
    row = table.to_pylist()[0]
    assert (row["target"], row["capped"], row["difference"]) == (28000, 25500, 2500)
    assert dict(row["costs"]) == {"anchor": 25500}


# -- CJR


def test_composite_of_a_hospital() -> None:
    # 010023: complications at the 86th percentile, HCAHPS at the 47th, no outcomes data
    quality = CompositeQuality(complications=D(86), hcahps=D(47))
    assert quality.points()["complications"] == D("9.25")
    assert quality.points()["hcahps"] == D("5.00")
    assert quality.composite() == D("14.25")
    assert discount_of(quality.composite(), 4) == (D("0.02"), "good")


COMPLICATIONS = ["10.00", "9.25", "8.50", "7.75", "7.00", "6.25", "5.50", "0"]
HCAHPS = ["8.00", "7.40", "6.80", "6.20", "5.60", "5.00", "4.40", "0"]


@pytest.mark.parametrize("step", range(8))
def test_scales_of_the_composite(step: int) -> None:
    lowest = [90, 80, 70, 60, 50, 40, 30, 0][step]
    highest = [100, 89, 79, 69, 59, 49, 39, 29][step]
    for percentile in (lowest, highest):
        points = CompositeQuality(complications=D(percentile), hcahps=D(percentile)).points()
        assert (points["complications"], points["hcahps"]) == (D(COMPLICATIONS[step]), D(HCAHPS[step]))


def test_composite_of_few_cases_and_improvement() -> None:
    quality = CompositeQuality(complications_improved=2, hcahps_improved=1, outcomes_data=True)
    assert list(quality.points().values()) == [7, D("5.6"), 1, 0, 2]
    best = CompositeQuality(
        complications=D(99), hcahps=D(99), complications_improved=3, hcahps_improved=3, outcomes_data=True
    )
    assert best.composite() == 20


@pytest.mark.parametrize(
    ("composite", "year", "discount", "category"),
    [
        ("4.99", 3, "0.03", "below acceptable"),
        ("5", 3, "0.03", "acceptable"),
        ("6.9", 3, "0.02", "good"),
        ("15.0", 3, "0.02", "good"),
        ("15.01", 3, "0.015", "excellent"),
        ("6.9", 6, "0.015", "good"),
        ("15.01", 8, "0", "excellent"),
    ],
)
def test_discounts_by_quality(composite: str, year: int, discount: str, category: str) -> None:
    assert discount_of(D(composite), year) == (D(discount), category)


def cjr(year: int, **changes: Any) -> Any:
    stated: dict[str, Any] = {
        "performance_year": year,
        "composite": {"complications": 86, "hcahps": 47},
        "price": {"kind": "given", "table": "prices"},
    }
    return terms("cjr", **(stated | changes))


@pytest.mark.parametrize(
    ("year", "protected", "actual", "owed"),
    [
        (4, False, 900_000, "197600"),  # 1,097,600 of target: 28,000 x 40 x 98 %
        (4, False, 800_000, "219520"),  # at most 20 %
        (4, False, 1_400_000, "-219520"),
        (4, True, 1_400_000, "-54880"),
        (3, False, 1_400_000, "-109760"),
        (2, False, 1_400_000, "-54880"),
        (2, True, 1_400_000, "-32928"),
        (1, False, 1_400_000, "0"),
        (1, False, 1_000_000, "54880"),
    ],
)
def test_cjr_limits_by_year(year: int, protected: bool, actual: int, owed: str) -> None:
    made = cjr(year, protected=protected)
    assert paid(made, inputs(made, joints(actual))) == D(owed)


def test_cjr_below_acceptable_pays_nothing_but_owes() -> None:
    made = cjr(4, composite={"complications": 10, "hcahps": 10})
    assert paid(made, inputs(made, joints(900_000))) == 0
    assert paid(made, inputs(made, joints(1_100_000))) == D(28000 * 40 * D("0.97") - 1_100_000)


def test_cjr_has_four_prices() -> None:
    table = [
        *prices(g470=1, g469=2),
        {"price_group": "470-fracture", "price": D(4)},
        {"price_group": "469-fracture", "price": D(8)},
    ]
    made = cjr(4)
    rows = [
        stay("a", "1", "03-01", "03-03", 9, "470"),
        stay("b", "2", "03-01", "03-03", 9, "470", diagnosis="S72.001A"),
        stay("c", "3", "03-01", "03-03", 9, "522"),
        stay("d", "4", "03-01", "03-03", 9, "521"),
        line("e", "5", "03-01", 9, claim_type="outpatient", procedure="27447"),
    ]
    groups = {
        row["member"]: row["price_group"] for row in made.episodes(inputs(made, rows, {"prices": table})).to_pylist()
    }
    assert groups == {"a": "470", "b": "470-fracture", "c": "470-fracture", "d": "469-fracture"}
    later = cjr(6)
    table_ = later.episodes(inputs(later, rows, {"prices": table})).to_pylist()
    assert {row["member"]: row["price_group"] for row in table_}["e"] == "470"


def test_cjr_cancels_on_death_and_on_another_replacement() -> None:
    made = cjr(4)
    rows = [
        stay("a", "1", "03-01", "03-03", 9, "470"),
        stay("a", "2", "04-01", "04-03", 9, "470"),
        stay("b", "3", "03-01", "03-03", 9, "470"),
    ]
    people = [{"member": "b", "died": date(2026, 4, 1)}]
    found = made.episodes(inputs(made, rows, people=people)).to_pylist()
    assert [row["reason"] for row in found] == ["retriggered", None, "died"]


def test_cjr_blend_is_that_of_the_year() -> None:
    baseline = {
        "kind": "baseline",
        "years": [{"start": date(2025, 1, 1), "end": date(2025, 12, 31)}],
        "own": 2,
        "region": 1,
        "min_episodes": 20,
    }
    cjr(2, price=baseline)
    with pytest.raises(ContractError, match="own and region are 0 : 1 in year 4, min_episodes is 20"):
        cjr(4, price=baseline)


def before(count: int, cost: int, tin: str, drg: str = "470") -> list[dict[str, Any]]:
    """Episodes of the year before."""
    return [
        stay(f"{tin}-{n}", f"{tin}-{n}", "2025-03-01", "2025-03-03", cost, drg, tin=tin, organization=tin)
        for n in range(count)
    ]


@pytest.mark.parametrize(("own", "price"), [(20, "21666.66666667"), (19, "24743.58974359")])
def test_cjr_price_of_a_baseline(own: int, price: str) -> None:
    """2 : 1 of 20,000 and of the region's mean (20 x 20,000 and 20 x 30,000: 25,000); with fewer, the region alone."""
    made = cjr(
        2,
        initiators=[{"name": "mine", "tins": ["100000001"]}],
        price={
            "kind": "baseline",
            "years": [{"start": date(2025, 1, 1), "end": date(2025, 12, 31)}],
            "own": 2,
            "region": 1,
            "min_episodes": 20,
        },
        cap={"kind": "amount", "high_amount": 1_000_000},
    )
    rows = [*before(own, 20000, "100000001"), *before(20, 30000, "9"), stay("now", "n", "03-01", "03-03", 20000, "470")]
    expected = D(price) if own == 20 else (D(20000 * 19 + 30000 * 20) / 39).quantize(D("1e-8"))
    lines = settle(made, inputs(made, rows))
    assert lines["470.price"].value == expected
    assert lines["LEJR.470.target"].value == (expected * D("0.98")).quantize(D("1e-8"))


def test_cjr_caps_two_deviations_above_the_mean() -> None:
    made = cjr(4)
    rows = [*joints(900, 9), stay("x", "x", "03-01", "03-03", 1100, "470")]
    assert settle(made, inputs(made, rows))["counted"].value == 900 + 800


# -- BPCI Advanced


def bpci(**changes: Any) -> Any:
    stated: dict[str, Any] = {"model_year": 6, "quality_score": 80, "price": {"kind": "given", "table": "prices"}}
    return terms("bpci_advanced", **(stated | changes))


@pytest.mark.parametrize(("year", "drg", "discount"), [(5, "291", "0.97"), (6, "291", "0.98"), (6, "470", "0.97")])
def test_bpci_discounts(year: int, drg: str, discount: str) -> None:
    made = bpci(model_year=year)
    rows = joints(40_000, 40, drg)
    target = settle(made, inputs(made, rows, {"prices": prices(**{f"g{drg}": 1000})}))["target"].value
    assert target == 40_000 * D(discount)


def test_bpci_quality_then_limits_per_initiator_then_net() -> None:
    made = bpci(
        initiators=[{"name": "one", "tins": ["1"]}, {"name": "two", "tins": ["2"]}],
        price={"kind": "given", "table": "prices", "discounted": True},
    )
    rows = joints(900, 10, tin="1") + [
        row | {"_member": f"x{n}", "claim_group": f"x{n}"} for n, row in enumerate(joints(1500, 10, tin="2"))
    ]
    lines = settle(made, inputs(made, rows, {"prices": prices(g470=100)}))
    assert lines["one.adjusted"].value == 100 * D("0.98")
    assert lines["two.adjusted"].value == -500 * D("0.92")
    assert lines["two.limited"].value == -200
    assert lines["payable"].amount == -102
    assert (lines["target"].value, lines["difference"].value) == (2000, -400)


def test_bpci_initiator_by_hierarchy() -> None:
    rows = [
        *(stay(f"m{n}", f"c{n}", "03-01", "03-03", 100, "470") for n in range(3)),
        line("m0", "p0", "03-02", 0, npi="1111111111", tin="77"),
        line("m1", "p1", "03-02", 0, npi="2222222222", tin="77"),
    ]
    anchors = [
        {"claim_group": "c0", "ccn": "010001", "attending": "1111111111", "operating": "2222222222"},
        {"claim_group": "c1", "ccn": "010001", "attending": "9999999999", "operating": "2222222222"},
        {"claim_group": "c2", "ccn": "010001", "attending": "1111111111"},
    ]
    made = bpci(
        initiators=[{"name": "practice", "tins": ["77"]}, {"name": "hospital", "ccns": ["010001"]}], anchors="anchors"
    )
    found = made.episodes(inputs(made, rows, {"anchors": anchors, "prices": prices(g470=100)})).to_pylist()
    assert [row["entity"] for row in found] == ["practice", "practice", "hospital"]
    assert [row["target"] for row in found] == [97, 97, 97]
    alone = bpci(initiators=[{"name": "practice", "tins": ["77"]}], anchors="anchors")
    table = alone.episodes(inputs(alone, rows, {"anchors": anchors, "prices": prices(g470=100)})).to_pylist()
    assert [row["anchor"] for row in table] == ["c0", "c1"]  # the other is nobody's


def test_bpci_hospital_by_the_number_on_its_claim() -> None:
    rows = [stay("m0", "c0", "03-01", "03-03", 100, "470", tin="55"), stay("m1", "c1", "03-01", "03-03", 100, "470")]
    anchors = [{"claim_group": name, "attending": "1111111111"} for name in ("c0", "c1")]
    made = bpci(initiators=[{"name": "hospital", "tins": ["55"]}], anchors="anchors")
    found = made.episodes(inputs(made, rows, {"anchors": anchors, "prices": prices(g470=100)})).to_pylist()
    assert [(row["anchor"], row["entity"]) for row in found] == [("c0", "hospital")]


def test_bpci_families() -> None:
    assert bpci(families=["LEJR"]).definition().families == ("LEJR",)
    with pytest.raises(ContractError, match="there is no family 'hip'"):
        bpci(families=["hip"])


def test_team_spending_afterwards_above_the_region() -> None:
    """Of 101 hospitals one spends 1,010 after its episode: the mean is 10, the deviation 100, so 310 is the limit."""
    others = [
        stay(f"x{n}", f"x{n}", "03-01", "03-03", 25000, "470", tin=f"{n}", organization=f"{n}") for n in range(100)
    ]
    mine = [stay("me", "me", "03-01", "03-03", 25000, "470", tin="mine"), line("me", "late", "04-20", 1010)]
    made = team(3, initiators=[{"name": "mine", "tins": ["mine"]}], quality_score=100)
    lines = settle(made, inputs(made, [*others, *mine]))
    assert lines["after-limit"].value == 310
    assert lines["payable"].amount == 3000 - 700


@pytest.mark.parametrize("actual", [1_020_000, 1_400_000])
def test_what_a_contract_states_goes_before_the_programme(actual: int) -> None:
    """Track 2 limits of 10 % (as was proposed), no discount, quality of 20 %: all terms, none of them shipped."""
    price = {"kind": "given", "table": "prices"}
    made = team(2, price=price, discounts={"LEJR": 0}, quality={"positive": D("0.2"), "negative": D("0.2")},
                limit={"gain": D("0.1"), "loss": D("0.1")})  # fmt: skip
    found = settle(made, inputs(made, joints(actual)))
    assert found["LEJR.470.target"].value == 1_120_000
    assert found["payable"].amount == (D(92_000) if actual < 1_120_000 else D(-112_000))
    with pytest.raises(ContractError, match=r"discounts\.knee: there is no such family"):
        team(2, price=price, discounts={"knee": 0})
    with pytest.raises(ContractError, match="the prices contain the discount already"):
        team(2, discounts={"LEJR": 0})


def test_quality_of_cjr_is_not_stated_twice() -> None:
    with pytest.raises(ContractError, match="quality changes the discount"):
        terms("cjr", performance_year=5, composite={}, quality={"positive": D("0.1")})
