"""Choices, lists and tuples: joining vectors of different types, and telling values apart."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.cql.folding import distinct_rows
from fhir_gateway.cql.values import (
    BoolVec,
    ChoiceVec,
    DecVec,
    IntVec,
    ListVec,
    NullVec,
    StrVec,
    TupleVec,
    concat,
    select,
)
from fhir_gateway.cql.values.base import dense, offsets_of
from fhir_gateway.cql.values.scalars import divide_half_up, narrow


def integers(*values: int | None) -> IntVec:
    return IntVec(np.array([v or 0 for v in values]), np.array([v is not None for v in values], dtype=bool))


def strings(*values: str | None) -> StrVec:
    return StrVec.of_arrow(pa.array(values, pa.string()))


def lists(*rows: list[int | None] | None) -> ListVec:
    flat = [value for row in rows for value in row or []]
    lengths = np.array([len(row or []) for row in rows], dtype=np.int64)
    return ListVec(offsets_of(lengths), integers(*flat), np.array([row is not None for row in rows]))


def test_vectors_of_different_types_become_options_of_a_choice() -> None:
    joined = concat([integers(1, None), strings("a"), NullVec(1), integers(2)])
    assert isinstance(joined, ChoiceVec)
    assert len(joined.options) == 2
    assert joined.pylist() == [1, None, "a", None, 2]
    assert joined.take(np.array([4, 2, -1])).pylist() == [2, "a", None]


def test_joining_choices_keeps_one_option_for_each_type() -> None:
    one, other = concat([integers(1), strings("a")]), concat([strings("b"), BoolVec(np.array([True]))])
    joined = concat([one, other])
    assert isinstance(joined, ChoiceVec)
    assert len(joined.options) == 3
    assert joined.pylist() == [1, "a", "b", True]


def test_select_leaves_rows_of_no_branch_null_and_empty_branches_out() -> None:
    chosen = select(4, [(np.array([2]), integers(7)), (np.array([], dtype=np.int64), strings())])
    assert isinstance(chosen, IntVec)
    assert chosen.pylist() == [None, None, 7, None]


def test_lists_are_the_same_when_their_elements_are_in_order() -> None:
    vec = lists([1, 2], [2, 1], [1, 2], [], [None], [1, 2, None], None)
    (keys,) = vec.key_columns()
    assert keys[0] == keys[2]
    assert len(set(keys[:6].tolist())) == 5


@given(st.lists(st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=4), max_size=12))
def test_list_keys_are_equal_exactly_when_the_lists_are(rows: list[list[int | None]]) -> None:
    keys = lists(*rows).key_columns()[0].tolist()
    assert [[a == b for b in keys] for a in keys] == [[a == b for b in rows] for a in rows]


def test_distinct_keeps_the_first_of_each_parent() -> None:
    items = TupleVec(
        {"a": integers(1, 1, None, None, 1), "b": strings("x", "x", "y", "y", "x")}, np.ones(5, dtype=bool)
    )
    assert distinct_rows(np.array([0, 0, 0, 0, 1]), items).tolist() == [0, 2, 4]


def test_keys_number_densely() -> None:
    assert dense(np.array([3, 3, 1]), np.array([0, 1, 0])).tolist() == [1, 2, 0]


@given(st.lists(st.tuples(st.integers(-(10**27), 10**27), st.integers(1, 10**12)), min_size=1))
def test_decimal_division_rounds_half_away_from_zero(pairs: list[tuple[int, int]]) -> None:
    top, bottom = (np.array(column, dtype=object) for column in zip(*pairs, strict=True))
    expected = [
        int((Decimal(a) / Decimal(b)).to_integral_value("ROUND_HALF_UP")) if abs(a) < 10**15 else None for a, b in pairs
    ]
    for got, want in zip(divide_half_up(top, bottom).tolist(), expected, strict=True):
        assert want is None or got == want


def test_wide_decimals_stay_exact() -> None:
    wide = DecVec(np.array([10**30 + 1], dtype=object))
    assert wide.pylist() == [Decimal("10000000000000000000000.00000001")]
    assert narrow(np.array([5, -7], dtype=object)).dtype == np.int64
