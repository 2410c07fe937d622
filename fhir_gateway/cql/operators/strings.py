"""String operators, computed once for each distinct text or pair of texts (CQL 1.5 appendix B, 17)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.cql.folding import open_list
from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.values import BoolVec, IntVec, ListVec, NullVec, StrVec, Vec
from fhir_gateway.cql.values.base import IntArray, dense, is_single, offsets_of
from fhir_gateway.errors import MeasureError


def combos(*operands: Vec) -> tuple[IntArray, list[tuple[Any, ...]]]:
    """Number of each row's distinct combination of operand values, and the combinations."""
    keys = []
    for operand in operands:
        ok = operand.valid
        keys += [ok.astype(np.int64), *(np.where(ok, k, 0) for k in operand.key_columns())]
    number = dense(*keys)
    _, first = np.unique(number, return_index=True)
    columns = [o.take(first.astype(np.int64)).pylist() for o in operands]
    return number, list(zip(*columns, strict=True))


def texts(call: Call, function: Callable[..., str | None], *operands: Vec) -> StrVec:
    """A text for each row."""
    number, rows = combos(*operands)
    results = [function(*row) if None not in row else None for row in rows]
    array = pa.array(results, pa.string())
    codes = np.where(np.asarray(array.is_valid())[number], number, -1) if len(rows) else number
    return StrVec(codes, array.fill_null(""))


def integers(call: Call, function: Callable[..., int | None], *operands: Vec) -> IntVec:
    """An integer for each row."""
    number, rows = combos(*operands)
    results = [function(*row) if None not in row else None for row in rows]
    values = np.array([r if r is not None else 0 for r in results], dtype=np.int64)
    known = np.array([r is not None for r in results], dtype=bool)
    return IntVec(values[number], known[number])


def booleans(call: Call, function: Callable[..., bool], *operands: Vec) -> BoolVec:
    """A Boolean for each row."""
    vec = integers(call, lambda *row: int(function(*row)), *operands)
    return BoolVec(vec.values.astype(bool), vec.valid)


@operator("Concatenate", "17.2")
def concatenate(call: Call, *operands: Vec) -> Vec:
    """Texts joined."""
    return texts(call, lambda *parts: "".join(parts), *operands)


@operator("Combine", "17.1", fields=("source", "separator"))
def combine(call: Call, source: Vec, separator: Vec | None = None) -> Vec:
    """The texts of a list joined by a separator; nulls are skipped, no text gives null."""
    items = open_list(source)
    words = items.flat.pylist()
    glue = separator.pylist() if separator is not None else [""] * call.n
    offsets = items.offsets.tolist()
    joined = []
    for row in range(call.n):
        present = [w for w in words[offsets[row] : offsets[row + 1]] if w is not None]
        joined.append((glue[row] or "").join(present) if present else None)
    return StrVec.of_arrow(pa.array(joined, pa.string()))


@operator("Split", "17.16", nulls="handled", fields=("stringToSplit", "separator"))
def split(call: Call, text: Vec, separator: Vec) -> Vec:
    """Parts of a text between separators; the whole text without one."""
    if isinstance(text, StrVec) and isinstance(separator, StrVec) and is_single(separator.codes) and len(text):
        mark = separator.take(np.zeros(1, dtype=np.int64)).pylist()[0]
        if mark:
            return _split_by(text, mark)
    return _parts(call, text, separator, lambda t, s: t.split(s) if s else [t])


def _split_by(text: StrVec, mark: str) -> ListVec:
    """Each distinct text split once."""
    present, number = np.unique(text.codes, return_inverse=True)
    if present[0] < 0:  # null is split like an empty text, and masked
        present, number = present[1:], np.maximum(number - 1, 0)
    if len(present) == 0:
        return ListVec(np.zeros(len(text) + 1, dtype=np.int64), StrVec.constant(None, 0), text.valid)
    parts = pc.split_pattern(text.dictionary.take(pa.array(present)), mark)
    distinct = ListVec(np.asarray(parts.offsets).astype(np.int64), StrVec.of_arrow(parts.values))
    taken = distinct.take(np.where(text.valid, number, -1).astype(np.int64))
    return ListVec(taken.offsets, taken.flat, text.valid)


def _parts(call: Call, text: Vec, separator: Vec, divide: Callable[[str, str], list[str]]) -> Vec:
    if isinstance(text, NullVec):
        return NullVec(call.n)
    number, rows = combos(text, separator)
    parts = [[] if t is None else [t] if s is None else divide(t, s) for t, s in rows]
    lengths = np.array([len(p) for p in parts], dtype=np.int64)
    flat = StrVec.of_arrow(pa.array([w for p in parts for w in p], pa.string()))
    distinct = ListVec(offsets_of(lengths), flat)
    taken = distinct.take(number)
    return ListVec(taken.offsets, taken.flat, text.valid)


@operator("SplitOnMatches", "17.16", nulls="handled", fields=("stringToSplit", "separatorPattern"))
def split_on_matches(call: Call, text: Vec, pattern: Vec) -> Vec:
    """Parts of a text between matches of a regular expression."""
    return _parts(call, text, pattern, lambda t, p: re.split(p, t) if p else [t])


@operator("Length", "17.8/20.12", nulls="handled", lift=False)
def length(call: Call, operand: Vec) -> Vec:
    """Characters of a text, elements of a list."""
    if isinstance(operand, ListVec):
        return IntVec(operand.lengths)  # a null list has no elements
    if isinstance(operand, NullVec):
        listed = any(s.get("type") == "ListTypeSpecifier" for s in call.node.elm.get("signature", ()))
        return IntVec(np.zeros(call.n, dtype=np.int64)) if listed else NullVec(call.n)
    return integers(call, len, operand)


@operator("Upper", "17.18")
def upper(call: Call, operand: Vec) -> Vec:
    """Upper case."""
    return texts(call, str.upper, operand)


@operator("Lower", "17.9")
def lower(call: Call, operand: Vec) -> Vec:
    """Lower case."""
    return texts(call, str.lower, operand)


@operator("StartsWith", "17.15")
def starts_with(call: Call, text: Vec, prefix: Vec) -> Vec:
    """Whether a text begins with another."""
    return booleans(call, str.startswith, text, prefix)


@operator("EndsWith", "17.5")
def ends_with(call: Call, text: Vec, suffix: Vec) -> Vec:
    """Whether a text ends with another."""
    return booleans(call, str.endswith, text, suffix)


@operator("Matches", "17.10")
def matches(call: Call, text: Vec, pattern: Vec) -> Vec:
    """Whether the whole text matches a regular expression."""
    return booleans(call, lambda t, p: re.fullmatch(p, t) is not None, text, pattern)


@operator("ReplaceMatches", "17.14")
def replace_matches(call: Call, text: Vec, pattern: Vec, substitution: Vec) -> Vec:
    """Matches of a regular expression replaced (``$1`` names a group)."""
    return texts(call, lambda t, p, s: re.sub(p, _replacement(s), t), text, pattern, substitution)


def _replacement(substitution: str) -> Callable[[re.Match[str]], str]:
    """What a substitution text stands for: ``$1`` is a group, a backslash takes the next character as it is."""
    parts = re.findall(r"\\(.)|\$(\d)|(.)", substitution, re.DOTALL)

    def replace(match: re.Match[str]) -> str:
        return "".join(match.group(int(group)) or "" if group else escaped or plain for escaped, group, plain in parts)

    return replace


@operator("PositionOf", "17.12", fields=("pattern", "string"))
def position_of(call: Call, pattern: Vec, text: Vec) -> Vec:
    """Zero-based position of the first occurrence, -1 without one."""
    return integers(call, lambda p, t: t.find(p), pattern, text)


@operator("LastPositionOf", "17.7", fields=("pattern", "string"))
def last_position_of(call: Call, pattern: Vec, text: Vec) -> Vec:
    """Zero-based position of the last occurrence, -1 without one."""
    return integers(call, lambda p, t: t.rfind(p), pattern, text)


@operator("Substring", "17.17", fields=("stringToSub", "startIndex", "length"))
def substring(call: Call, text: Vec, start: Vec, size: Vec | None = None) -> Vec:
    """Part of a text; null when it starts outside."""
    if size is None:
        return texts(call, lambda t, s: t[s:] if 0 <= s < max(len(t), 1) else None, text, start)
    return texts(call, lambda t, s, k: t[s : s + k] if 0 <= s < max(len(t), 1) else None, text, start, size)


def character_at(call: Call, text: Vec, index: Vec) -> Vec:
    """Character at a zero-based index; null outside."""
    if not isinstance(text, StrVec):
        raise MeasureError(f"indexing a {text.kind}")
    return texts(call, lambda t, i: t[i] if 0 <= i < len(t) else None, text, index)


__all__ = ["character_at", "combos", "integers", "texts"]
