"""Typed columns of a few resources by Python are those that DuckDB gives; what is odd is left to it."""

from __future__ import annotations

from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_gateway.measures import few
from fhir_gateway.measures.population import _transformed
from fhir_gateway.r4 import spec

STRUCTURE: dict[str, Any] = {
    "status": "VARCHAR",
    "active": "BOOLEAN",
    "count": "BIGINT",
    "value": "DECIMAL(28,8)",
    "code": {"text": "VARCHAR", "coding": [{"system": "VARCHAR", "code": "VARCHAR"}]},
    "note": ["VARCHAR"],
}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 62), 1 << 62),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(-10000, 10000, places=4).map(float),
    st.text(max_size=5),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["text", "coding", "system", "code"]), inner, max_size=3)
    ),
    max_leaves=5,
)
LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "status": st.text("abc é", max_size=4),
        "active": st.booleans(),
        "count": st.integers(-(1 << 62), 1 << 62),
        "value": st.decimals(-100000, 100000, places=6).map(float) | st.integers(-1000, 1000),
        "code": st.fixed_dictionaries(
            {},
            optional={
                "text": st.text("xy", max_size=2),
                "coding": st.lists(st.none() | st.fixed_dictionaries({"code": st.text("cd", max_size=2)}), max_size=3),
            },
        ),
        "note": st.lists(st.none() | st.text("n", max_size=2), max_size=3),
        "other": ANYTHING,
    },
)


def by_duckdb(texts: list[str]) -> pa.Array:
    return _transformed(pa.table({"_raw": texts}), STRUCTURE).cast(spec.arrow_type(STRUCTURE))


@settings(max_examples=60)
@given(st.lists(LIKELY, min_size=1, max_size=4))
def test_resources_are_typed_as_by_duckdb(resources: list[dict[str, Any]]) -> None:
    texts = [orjson.dumps(resource).decode() for resource in resources]
    found = few.typed(texts, STRUCTURE)
    assert found is not None
    assert found.to_pylist() == by_duckdb(texts).to_pylist()


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(sorted(STRUCTURE)), ANYTHING, max_size=3))
def test_whatever_is_typed_here_is_typed_alike(resource: dict[str, Any]) -> None:
    texts = [orjson.dumps(resource).decode()]
    found = few.typed(texts, STRUCTURE)
    assert found is None or found.to_pylist() == by_duckdb(texts).to_pylist()


@pytest.mark.parametrize(
    "resource",
    [{"status": 1}, {"active": "true"}, {"count": 1.5}, {"value": "2"}, {"value": 1e-9}, {"code": []}, {"note": {}}],
)
def test_odd_values_are_left_to_duckdb(resource: dict[str, Any]) -> None:
    assert few.typed([orjson.dumps(resource).decode()], STRUCTURE) is None
