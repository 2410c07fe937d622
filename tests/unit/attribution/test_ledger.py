"""The member-month ledger: posted once, corrected by differences, never edited."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_gateway.attribution.ledger import ledger_schema, post, state
from fhir_gateway.attribution.ledger_store import MonthLedger
from fhir_gateway.errors import ContractError

CELLS = [pa.field("cell", pa.string())]
STANDING = pa.schema([("member", pa.string()), ("month", pa.date32()), *CELLS, ("months", pa.decimal128(28, 8))])
Standing = dict[tuple[str, int], tuple[str, Decimal]]  # (member, month of 2025) -> cell, months


def table(standing: Standing) -> pa.Table:
    rows = [
        {"member": member, "month": date(2025, month, 1), "cell": cell, "months": months}
        for (member, month), (cell, months) in standing.items()
    ]
    return pa.Table.from_pylist(rows, STANDING)


def months(*when: int, member: str = "a", cell: str = "adult") -> Standing:
    return {(member, month): (cell, Decimal(1)) for month in when}


def rows(found: pa.Table) -> list[tuple[object, ...]]:
    return [
        (one["member"], one["month"].month, one["cell"], int(one["months"]), int(one["outside"]), one["kind"])
        for one in found.to_pylist()
    ]


def cycle(month: int) -> date:
    return date(2025, month, 1)


def test_a_month_is_posted_in_its_turn_and_corrected_under_its_own_month() -> None:
    january = post(None, table(months(1)), cycle(1), 3)
    assert rows(january) == [("a", 1, "adult", 1, 0, "original")]
    february = post(january, table(months(1, 2) | months(1, member="b")), cycle(2), 3)
    assert rows(february) == [("a", 2, "adult", 1, 0, "original"), ("b", 1, "adult", 1, 0, "adjustment")]
    ledger = pa.concat_tables([january, february])
    ended = post(ledger, table(months(1, 2)), cycle(3), 3)
    assert rows(ended) == [("b", 1, "adult", -1, 0, "adjustment")]
    assert post(pa.concat_tables([ledger, ended]), table(months(1, 2)), cycle(3), 3).num_rows == 0


def test_another_cell_is_the_old_one_taken_back() -> None:
    ledger = post(None, table(months(1)), cycle(1), 3)
    found = post(ledger, table(months(1, cell="child")), cycle(2), 3)
    assert rows(found) == [("a", 1, "adult", -1, 0, "adjustment"), ("a", 1, "child", 1, 0, "adjustment")]


def test_outside_the_window_nothing_changes_and_it_is_flagged_once() -> None:
    ledger = post(None, table(months(1)), cycle(1), 3)
    late = post(ledger, table({}), cycle(5), 3)
    assert rows(late) == [("a", 1, "adult", 0, -1, "outside_window")]
    ledger = pa.concat_tables([ledger, late])
    assert post(ledger, table({}), cycle(6), 3).num_rows == 0
    assert rows(post(ledger, table(months(1)), cycle(6), 3)) == [("a", 1, "adult", 0, 1, "outside_window")]
    (stands,) = state(ledger).to_pylist()
    assert (stands["months"], stands["outside"], stands["first_paid_as_of"]) == (1, -1, cycle(1))
    amended = post(ledger, table({}), cycle(6), 12)  # a longer window makes what was flagged
    assert rows(amended) == [("a", 1, "adult", -1, 1, "adjustment")]


def test_the_window_ends_with_its_last_month() -> None:
    ledger = post(None, table(months(1, 2)), cycle(1), 3)
    found = post(ledger, table({}), cycle(5), 3)
    assert rows(found) == [("a", 1, "adult", 0, -1, "outside_window"), ("a", 2, "adult", -1, 0, "adjustment")]


def test_what_the_states_span_does_not_cover_is_left_alone() -> None:
    ledger = post(None, table(months(1, 2)), cycle(1), 12)
    found = post(ledger, table(months(3)), cycle(3), 12, span=(cycle(2), cycle(3)))
    assert rows(found) == [("a", 2, "adult", -1, 0, "adjustment"), ("a", 3, "adult", 1, 0, "original")]


def test_a_year_settled_afterwards_has_its_months_in_their_turn() -> None:
    found = post(None, table(months(1, 12)), date(2026, 4, 1), 12, original_from=cycle(1))
    assert [one[2:] for one in rows(found)] == [("adult", 1, 0, "original")] * 2


people = st.sampled_from("abc")
standings = st.dictionaries(
    st.tuples(people, st.integers(1, 12)),
    st.tuples(st.sampled_from(["adult", "child"]), st.sampled_from([Decimal(1), Decimal("0.5"), Decimal("0.25")])),
    max_size=12,
)


@settings(deadline=None, max_examples=12)
@given(st.lists(standings, min_size=1, max_size=4), st.integers(0, 12))
def test_each_posting_leads_to_what_stands(history: list[Standing], window: int) -> None:
    ledger = ledger_schema(CELLS).empty_table()
    for month, standing in enumerate(history, start=1):
        ledger = pa.concat_tables([ledger, post(ledger, table(standing), cycle(month), window)])
        stands = {
            (one["member"], one["month"], one["cell"]): one["months"] + one["outside"]
            for one in state(ledger).to_pylist()
            if one["months"] + one["outside"]
        }
        assert stands == {(who, cycle(at), cell): many for (who, at), (cell, many) in standing.items()}


@settings(deadline=None, max_examples=12)
@given(standings, standings, st.integers(1, 6), st.integers(0, 6))
def test_a_change_and_its_reversal_leave_zero(before: Standing, change: Standing, month: int, later: int) -> None:
    base = post(None, table(before), cycle(1), 12)
    there = post(base, table(change), cycle(month), 12)
    back = post(pa.concat_tables([base, there]), table(before), cycle(month + later), 12)
    both = state(pa.concat_tables([there, back]))
    assert all(one["months"] == 0 and one["outside"] == 0 for one in both.to_pylist())


@settings(deadline=None, max_examples=12)
@given(standings, standings, st.integers(1, 12), st.integers(0, 12))
def test_parts_post_what_the_whole_posts(before: Standing, after: Standing, month: int, window: int) -> None:
    whole = post(None, table(before), cycle(1), window)
    new = post(whole, table(after), cycle(month), window)
    parts = []
    for name in "abc":
        one = whole.filter(pc.equal(whole["member"], name))
        now = table(after)
        parts.append(post(one, now.filter(pc.equal(now["member"], name)), cycle(month), window))
    assert pa.concat_tables(parts).to_pylist() == new.to_pylist()


@pytest.mark.parametrize(
    ("standing", "message"),
    [
        ([("a", date(2025, 1, 2), "adult", 1)], "first day"),
        ([("a", cycle(1), "adult", -1)], "not negative"),
        ([("a", cycle(1), "adult", 1), ("a", cycle(1), "child", 1)], "at most one month"),
    ],
)
def test_wrong_months_are_refused(standing: list[tuple[str, date, str, int]], message: str) -> None:
    given = [dict(zip(STANDING.names, (*one[:3], Decimal(one[3])), strict=True)) for one in standing]
    with pytest.raises(ContractError, match=message):
        post(None, pa.Table.from_pylist(given, STANDING), cycle(1), 3)


def test_other_cells_than_before_are_refused() -> None:
    ledger = post(None, table(months(1)), cycle(1), 3)
    with pytest.raises(ContractError, match="cells"):
        post(ledger, table(months(1)).drop_columns(["cell"]), cycle(2), 3)


def test_postings_are_kept_and_never_change(tmp_path: Path) -> None:
    kept = MonthLedger(tmp_path / "aco")
    assert kept.rows() is None
    assert kept.post(table(months(1)), cycle(1), 3, stamps={"lake_version": "7"}).num_rows == 1
    first = kept.postings()[0].read_bytes()
    assert kept.post(table(months(1)), cycle(2), 3).num_rows == 0
    assert kept.post(table({}), cycle(2), 3).num_rows == 1
    assert [one.name for one in kept.postings()] == ["000001.parquet", "000002.parquet"]
    assert kept.postings()[0].read_bytes() == first
    ledger = kept.rows()
    assert ledger is not None
    assert [int(one["months"]) for one in ledger.to_pylist()] == [1, -1]
    with pytest.raises(ContractError, match="later one"):
        kept.post(table(months(1)), cycle(1), 3)
