"""Texts: dictionaries that hold a string twice must not show."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fhir_gateway.cql.values import StrVec
from fhir_gateway.cql.values.clinical import code_vec, member_of
from fhir_gateway.cql.values.scalars import shared_codes


def doubled() -> StrVec:
    """a, a, b, c over a dictionary that holds a twice."""
    return StrVec(np.array([0, 1, 2, 3]), pa.array(["a", "a", "b", "c"]))


def test_keys_are_equal_exactly_when_texts_are() -> None:
    (keys,) = doubled().key_columns()
    assert keys[0] == keys[1]
    assert len(set(keys.tolist())) == 3


def test_membership_looks_up_the_text_of_a_key() -> None:
    system = StrVec.constant("s", 4)
    hits = member_of(code_vec(doubled(), system, 4), frozenset({("s", "a"), ("s", "c")}))
    assert hits.tolist() == [True, True, False, True]


def test_two_dictionaries_share_one_numbering() -> None:
    left, right = shared_codes(doubled(), StrVec.of_arrow(pa.array(["c", "b", "a", None])))
    assert (left == right).tolist() == [False, False, False, False]
    assert left[0] == right[2]
    assert right[3] == -1
