"""The compiled formats never take what the regular expressions refuse, and take what is usual."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fhir_gateway.lake.kernel import tables
from fhir_gateway.lake.kernel.formats import fits
from fhir_gateway.lake.primitives import pattern
from fhir_gateway.lake.scan import padded

_FORMATS = {
    "id": tables.ID,
    "date": tables.DATE,
    "dateTime": tables.DATETIME,
    "instant": tables.INSTANT,
    "time": tables.TIME,
    "code": tables.CODE,
    "uri": tables.URI,
    "oid": tables.OID,
    "uuid": tables.UUID,
    "base64Binary": tables.BASE64,
}
_YEARS, _TWO = st.integers(0, 9999).map("{:04}".format), st.integers(0, 62).map("{:02}".format)
_DATES = st.tuples(_YEARS, st.integers(0, 13).map("{:02}".format), st.integers(0, 32).map("{:02}".format)).map("-".join)
_TIMES = st.tuples(_TWO, _TWO, _TWO).map(":".join)
_ZONES = st.sampled_from(["Z", "+00:00", "-14:00", "+14:01", "", "z", "+0100", ".5Z", ".Z", ".123456789+01:00"])
_MOMENTS = st.tuples(_DATES, st.just("T"), _TIMES, _ZONES).map("".join)
_ANY = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), min_size=1, max_size=70)
_ALMOST = st.tuples(_DATES | _MOMENTS | _TIMES | _ANY, st.integers(0, 69), st.sampled_from("0:-T./@[`{ aZ")).map(
    lambda changed: changed[0][: changed[1]] + changed[2] + changed[0][changed[1] + 1 :]
)


def _fits(text: str, form: int) -> bool:
    # what follows in memory is as misleading as can be
    return bool(fits(padded(b'"' + text.encode() + b"0" * 64), 1, 1 + len(text), form, " " in text))


@given(_DATES | _MOMENTS | _TIMES | _ANY | _ALMOST)
@example("0000-01-01")
@example("2023-02-29")
@example("2024-02-29T23:59:60Z")
@example("2024-02-30T00:00:00Z")
@example("2024-01-01T24:00:00Z")
@example("a" * 64)
@example("a" * 65)
def test_what_fits_is_what_the_expressions_take(text: str) -> None:
    for fhir_type, form in _FORMATS.items():
        expression = pattern(fhir_type)
        assert expression is not None
        if _fits(text, form):
            assert expression.fullmatch(text), fhir_type
        elif fhir_type in ("id", "date", "dateTime", "instant", "time"):
            assert not expression.fullmatch(text), fhir_type


@pytest.mark.parametrize("char", [chr(code) for code in range(32, 127)])
def test_ids_take_each_character_or_not(char: str) -> None:
    expression = pattern("id")
    assert expression is not None
    for text in (char, "a" * 31 + char, "a" * 32 + char, "a" * 63 + char, char + "a" * 40):
        assert _fits(text, tables.ID) == bool(expression.fullmatch(text))
