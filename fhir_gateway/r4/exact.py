"""JSON whose decimals keep the digits that they were written with.

FHIR R4, datatypes, decimal: "the precision of the decimal value has significance": ``1.50`` is not ``1.5``. A resource
that is parsed, changed and written again must say what its author said, so numbers that a float would not write back
are carried as text. Only for what is written again: such a number cannot be calculated with.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

_INEXACT = re.compile(
    r"[:\[,]\s*-?(?:"
    r"\d+\.\d+0\s*[,\]}]"  # zeros at the end
    r"|\d+(?:\.\d+)?[eE]"
    r"|0\.0000"  # a float writes these with an exponent
    r"|(?:\d\.?){16})"  # more digits than a float has
)
_MOST_INTEGER = 18


def parsed(text: str) -> Any:
    """A JSON text, parsed; numbers that would come out otherwise are `orjson.Fragment`, which orjson writes as it is.

    Texts without such numbers are parsed by orjson alone, several times faster. Raises `json.JSONDecodeError`.
    """
    if _INEXACT.search(text) is None:
        return orjson.loads(text)
    return json.loads(text, parse_float=orjson.Fragment, parse_int=_integer)


class Written(float):
    """A number that can be calculated with and remembers how it was written."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Written:
        """The number that ``text`` is."""
        number = super().__new__(cls, text)
        number.text = str(text)
        return number


def loads(body: bytes) -> Any:
    """A JSON text, parsed to be looked at and written again by :func:`dumps`: decimals are :class:`Written`.

    Raises `orjson.JSONDecodeError`.
    """
    value = orjson.loads(body)
    if _INEXACT.search(body.decode()) is None:
        return value
    try:
        return json.loads(body, parse_float=Written, parse_int=_whole)
    except RecursionError:  # orjson goes deeper; whoever asks refuses what is deep
        return value


def dumps(value: Any, option: int | None = None) -> bytes:
    """The JSON text of a value, :class:`Written` numbers as they were written."""
    return orjson.dumps(value, default=_fragment, option=option)


def _fragment(value: Any) -> orjson.Fragment:
    if isinstance(value, Written):
        return orjson.Fragment(value.text)
    raise TypeError


def _whole(digits: str) -> int | Written:
    return int(digits) if len(digits) <= _MOST_INTEGER else Written(digits)


def _integer(digits: str) -> int | orjson.Fragment:
    return int(digits) if len(digits) <= _MOST_INTEGER else orjson.Fragment(digits)
