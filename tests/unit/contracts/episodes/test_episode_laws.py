"""Laws of payments by episode: sub-ledgers add up, order does not matter, monotone in cost and quality, symmetric."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pyarrow as pa
from arrangement_parts import D, inputs, paid, terms
from episode_oracle import episodes_of
from episode_parts import definition, found, line, stay
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_gateway.contracts.arrangements.episode_terms import EpisodeTerms
from fhir_gateway.contracts.episodes import GMLOS_SCHEMA, CostTables
from fhir_gateway.contracts.episodes.reconciliation import Limits, QualityAdjustment

#: Each example builds a database, so there are few.
few = settings(max_examples=5, deadline=None)

amounts = st.decimals(0, 60_000, places=2)
days = st.integers(0, 150)


@st.composite
def claims(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Claims of a few members: stays that trigger and others, nursing, visits, all over the year."""
    rows = []
    for number in range(draw(st.integers(1, 12))):
        member = draw(st.sampled_from(["a", "b", "c", "d"]))
        start = draw(days)
        opened = str(_day(start))
        closed = str(_day(start + draw(st.integers(0, 40))))
        kind = draw(st.sampled_from(["trigger", "trigger", "other", "snf", "visit"]))
        cost = draw(amounts)
        name = f"c{number}"
        if kind == "trigger":
            hospital = draw(st.sampled_from(["Organization/a", "Organization/b"]))
            rows.append(stay(member, name, opened, closed, cost, "470", organization=hospital))
        elif kind == "other":
            rows.append(stay(member, name, opened, closed, cost, draw(st.sampled_from(["871", "862"]))))
        elif kind == "snf":
            rows.append(line(member, name, opened, cost, thru=closed, claim_type="inpatient", bill_type="211"))
        else:
            rows.append(line(member, name, opened, cost))
    return rows


def _day(number: int) -> date:
    return date(2026, 1, 1) + timedelta(days=number)


def linear(**changes: Any) -> EpisodeTerms:
    """A bundle without anything that looks at more than an episode."""
    return terms("bundle_retrospective", **changes)


@settings(max_examples=25, deadline=None)
@given(claims(), st.sampled_from(["cancel", "readmission", "replace"]))
def test_as_by_hand(rows: list[dict[str, Any]], on_retrigger: str) -> None:
    """Against the same rules written member by member: which stand, why others do not, what counts of each claim."""
    days = {"470": 4, "871": 5, "862": 3}
    schema = pa.schema([field.with_nullable(True) for field in GMLOS_SCHEMA])
    given_ = pa.Table.from_pylist([{"drg": drg, "gmlos": D(length)} for drg, length in days.items()], schema=schema)
    triggers = [{"family": "LEJR", "match": {"claim_type": ["inpatient"], "drg": ["470"]}}]
    found_ = found(*rows, triggers=triggers, on_retrigger=on_retrigger, tables=CostTables(gmlos=given_))
    expected = episodes_of(rows, on_retrigger, 30, days)
    within = {key: one for key, one in expected.items() if one["end"].year == 2026}
    assert {(row["member"], row["anchor"]): row["reason"] for row in found_} == {
        key: one["reason"] for key, one in within.items()
    }
    for row in found_:
        one = within[row["member"], row["anchor"]]
        if row["reason"] is None:
            assert ((row["window_start"], row["window_end"]), dict(row["costs"])) == (one["window"], one["costs"])


def rows_of(made: EpisodeTerms, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    plain = made.episodes(inputs(made, rows)).drop_columns(["episode", "first"]).to_pylist()
    return sorted(plain, key=lambda row: (row["member"], row["anchor_start"], row["anchor"]))


@few
@given(claims(), st.sampled_from(["cancel", "readmission", "replace"]))
def test_members_apart_add_up(rows: list[dict[str, Any]], on_retrigger: str) -> None:
    made = linear(episode=definition(on_retrigger=on_retrigger).model_dump())
    parts = [[row for row in rows if (row["_member"] < "c") is first] for first in (True, False)]
    together = rows_of(made, rows)
    assert together == [row for part in parts for row in rows_of(made, part)]
    assert paid(made, inputs(made, rows)) == sum(paid(made, inputs(made, part)) for part in parts)
    windows = [(row["member"], row["window_start"], row["window_end"]) for row in together if row["reason"] is None]
    for (member, _, end), (next_member, start, _) in pairwise(windows):
        assert member != next_member or start > end  # so no claim line counts twice


@few
@given(claims(), st.randoms(use_true_random=False))
def test_order_of_lines_does_not_matter(rows: list[dict[str, Any]], random: Any) -> None:
    made = linear(cap={"kind": "percentile", "low": D("0.2"), "high": D("0.8")})
    shuffled = rows.copy()
    random.shuffle(shuffled)
    assert made.episodes(inputs(made, rows)) == made.episodes(inputs(made, shuffled))
    assert paid(made, inputs(made, rows)) == paid(made, inputs(made, shuffled))


two_sided = st.fixed_dictionaries(
    {
        "corridor": st.sampled_from([D(0), D("0.05")]),
        "first_dollar": st.booleans(),
        "gain_share": st.sampled_from([D(1), D("0.5")]),
        "loss_share": st.sampled_from([D(1), D("0.25")]),
        "limit": st.sampled_from([{}, {"gain": D("0.2"), "loss": D("0.1")}]),
        "quality": st.sampled_from([None, {"positive": D("0.5"), "negative": D("0.3")}]),
        "episode_stop_loss": st.sampled_from([None, D(5000)]),
        "cap": st.sampled_from([None, {"kind": "amount", "high_amount": D(40_000)}]),
    }
)


@few
@given(two_sided, amounts, amounts, st.decimals(0, 100, places=1), st.decimals(0, 100, places=1))
def test_monotone_in_cost_and_quality(
    stated: dict[str, Any], cost: Decimal, other: Decimal, score: Decimal, better: Decimal
) -> None:
    def owed(amount: Decimal, quality: Decimal) -> Decimal:
        changes = stated | ({"quality_score": quality} if stated["quality"] else {})
        made = linear(**changes)
        return paid(made, inputs(made, [stay("a", "c", "03-01", "03-03", amount + 1, "470")]))

    low, high = sorted((cost, other))
    assert owed(low, score) >= owed(high, score)
    worse, best = sorted((score, better))
    assert owed(cost, worse) <= owed(cost, best)


@given(
    st.decimals(-1_000_000, 1_000_000, places=2),
    st.decimals(0, 1, places=2),
    st.decimals(0, 100, places=1),
    st.decimals(0, 1, places=2),
    st.decimals(1, 5_000_000, places=2),
)
def test_symmetric_terms_are_symmetric(
    difference: Decimal, part: Decimal, score: Decimal, limit: Decimal, targets: Decimal
) -> None:
    adjustment = QualityAdjustment(positive=part, negative=part)
    limits = Limits(gain=limit, loss=limit)
    # what quality 100 - s takes from a gain, quality s forgives of a loss
    gain = abs(difference) * adjustment.share(abs(difference) or D(1), 100 - score)
    loss = -abs(difference) * adjustment.share(-(abs(difference) or D(1)), score)
    assert limits.within(gain, targets) == -limits.within(loss, targets)


@few
@given(st.integers(0, 20_000))
def test_symmetric_corridor(distance: int) -> None:
    made = linear(corridor=D("0.1"), limit={"gain": D("0.5"), "loss": D("0.5")})
    owed = [
        paid(made, inputs(made, [stay("a", "c", "03-01", "03-03", 28000 + sign * distance, "470")])) for sign in (1, -1)
    ]
    assert owed[0] == -owed[1]


@few
@given(claims())
def test_a_cancelled_anchor_takes_its_episode_away(rows: list[dict[str, Any]]) -> None:
    made = linear()
    before = made.episodes(inputs(made, rows)).to_pylist()
    for one in [row for row in before if row["reason"] is None][:2]:
        # its claim and those of the same stay are void, so no lines of them count
        chain = [
            row["claim_group"]
            for row in rows
            if row["_member"] == one["member"]
            and row["claim_type"] == "inpatient"
            and row["drg"]
            and one["anchor_start"] <= row["claim_from"] <= one["anchor_end"]
        ]
        left = [row for row in rows if row["claim_group"] not in chain]
        after = made.episodes(inputs(made, left)).to_pylist() if left else []
        assert one["anchor"] not in [row["anchor"] for row in after]
