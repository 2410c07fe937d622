"""Numbers come out with the digits that they came in with."""

from __future__ import annotations

import copy
import json
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.r4.exact import dumps, loads, parsed

NUMBERS = ("0", "-7", "1.5", "1.50", "100.0", "100.00", "0.00001", "-0.0", "1e3", "1.5E-7", "12345678.12345678901")
LONG = ("123456789012345678", "1234567890123456789012", "0.1000000000000000055511151231257827")


@pytest.mark.parametrize("number", [*NUMBERS, *LONG])
@pytest.mark.parametrize("form", ['{"a":%s}', '{"a": [1,%s ]}', "[%s,2]", '{"a":{"b":%s}}'])
def test_numbers_keep_their_digits(number: str, form: str) -> None:
    text = form % number
    assert orjson.dumps(parsed(text)).decode() == text.replace(" ", "")


@given(st.recursive(
    st.none() | st.booleans() | st.text() | st.decimals(allow_nan=False, allow_infinity=False).map(lambda n: (n,)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
))  # fmt: skip
def test_any_document_comes_out_as_it_went_in(document: object) -> None:
    """Numbers in JSON's own spelling; texts that look like numbers are texts."""

    def spelled(value: object) -> object:
        if isinstance(value, tuple):
            return orjson.Fragment(f"{value[0]:f}")
        if isinstance(value, list):
            return [spelled(one) for one in value]
        if isinstance(value, dict):
            return {name: spelled(one) for name, one in value.items()}
        return value

    text = orjson.dumps(spelled(document)).decode()
    assert orjson.dumps(parsed(text)).decode() == text


@pytest.mark.parametrize("text", ["", "{", '{"a": 1.50', "[1.50,]"])
def test_what_is_no_json_raises(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        parsed(text)


@pytest.mark.parametrize("number", [*NUMBERS, *LONG])
def test_what_is_looked_at_is_written_as_it_came(number: str) -> None:
    text = f'{{"a":[{number},1.50],"b":"1.50"}}'.encode()
    value = loads(text)
    assert dumps(value) == text
    assert dumps(copy.deepcopy(value)) == text
    assert value["a"][0] == pytest.approx(float(number))
    assert loads(text) == value


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(orjson.JSONEncodeError):
        dumps({"a": Decimal("1.50")})
