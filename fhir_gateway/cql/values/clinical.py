"""Quantities, ratios, codes, concepts and value sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fhir_gateway.cql.values.base import AnyArray, BoolArray, IntArray, NullVec, Vec, gather, gather_valid
from fhir_gateway.cql.values.element import ElementVec
from fhir_gateway.cql.values.scalars import DecVec, StrVec
from fhir_gateway.cql.values.structured import ListVec, TupleVec, concat


class QuantityVec(Vec):
    """System.Quantity: exact decimals with a UCUM or calendar unit (null unit means ``1``)."""

    kind = "Quantity"
    __slots__ = ("unit", "value")

    def __init__(self, value: DecVec, unit: StrVec) -> None:
        self.value, self.unit = value, unit

    def __len__(self) -> int:
        """Rows of the frame."""
        return len(self.value)

    @property
    def valid(self) -> BoolArray:
        """True where there is a value."""
        return self.value.valid

    def take(self, index: IntArray) -> QuantityVec:
        """Rows at ``index``; -1 gives null."""
        return QuantityVec(self.value.take(index), self.unit.take(index))

    @classmethod
    def concat(cls, parts: Sequence[QuantityVec]) -> QuantityVec:
        """Rows of all parts."""
        value = DecVec.concat([p.value for p in parts])
        assert isinstance(value, DecVec)  # noqa: S101 - narrows the type
        return cls(value, StrVec.concat([p.unit for p in parts]))

    def key_columns(self) -> tuple[AnyArray, ...]:
        """Value and unit (units that convert into each other stay different keys)."""
        return (*self.value.key_columns(), *self.unit.key_columns())

    def pylist(self) -> list[Any]:
        """Dicts with value and unit."""
        return [
            {"value": v, "unit": u} if v is not None else None
            for v, u in zip(self.value.pylist(), self.unit.pylist(), strict=True)
        ]


class Fields(Mapping[str, Vec]):
    """Fields of a tuple that are made when they are asked for."""

    def __init__(self, made: Mapping[str, Callable[[], Vec]]) -> None:
        self._made = made
        self._ready: dict[str, Vec] = {}

    def __getitem__(self, name: str) -> Vec:
        """The field."""
        if name not in self._ready:
            self._ready[name] = self._made[name]()
        return self._ready[name]

    def __iter__(self) -> Iterator[str]:
        """Names, in order."""
        return iter(self._made)

    def __len__(self) -> int:
        """How many."""
        return len(self._made)


class CodeVec(TupleVec):
    """System.Code: a tuple of code, system, version and display.

    ``element`` are the FHIR Codings it was converted from, if it was: moving them moves no texts.
    """

    kind = "Code"
    __slots__ = ("element",)

    def __init__(
        self, fields: Any, valid: BoolArray, type_name: str = "Code", element: ElementVec | None = None
    ) -> None:
        super().__init__(fields, valid, type_name)
        self.element = element

    @classmethod
    def of(cls, coding: ElementVec) -> CodeVec:
        """FHIR Coding to System.Code."""
        made = {name: partial(_primitive, coding, name) for name in ("code", "system", "version", "display")}
        return cls(Fields(made), coding.valid, element=coding)

    @property
    def code(self) -> StrVec:
        """The code text."""
        return _text(self.fields.get("code"), len(self))

    @property
    def system(self) -> StrVec:
        """The code system's URI."""
        return _text(self.fields.get("system"), len(self))

    def take(self, index: IntArray) -> CodeVec:
        """Rows at ``index``; -1 gives null."""
        if self.element is not None:
            return CodeVec.of(self.element.take(index))
        return CodeVec({n: v.take(index) for n, v in self.fields.items()}, gather_valid(self._valid, index))

    @classmethod
    def concat(cls, parts: Sequence[Any]) -> TupleVec:
        """Rows of all parts."""
        joined = _joined(parts)
        return cls.of(joined) if joined is not None else super().concat(parts)


class ConceptVec(TupleVec):
    """System.Concept: a tuple of codes (a list of Code) and display; ``element`` as in :class:`CodeVec`."""

    kind = "Concept"
    __slots__ = ("element",)

    def __init__(
        self, fields: Any, valid: BoolArray, type_name: str = "Concept", element: ElementVec | None = None
    ) -> None:
        super().__init__(fields, valid, type_name)
        self.element = element

    @classmethod
    def of(cls, concept: ElementVec) -> ConceptVec:
        """FHIR CodeableConcept to System.Concept."""
        made: dict[str, Callable[[], Vec]] = {
            "codes": partial(_codes_of, concept),
            "display": partial(_primitive, concept, "text"),
        }
        return cls(Fields(made), concept.valid, element=concept)

    @property
    def codes(self) -> ListVec:
        """The codes of each concept."""
        codes = self.fields.get("codes")
        if isinstance(codes, ListVec):
            return codes
        return ListVec(
            np.zeros(len(self) + 1, dtype=np.int64), code_vec(None, None, 0), np.zeros(len(self), dtype=bool)
        )

    def take(self, index: IntArray) -> ConceptVec:
        """Rows at ``index``; -1 gives null."""
        if self.element is not None:
            return ConceptVec.of(self.element.take(index))
        return ConceptVec({n: v.take(index) for n, v in self.fields.items()}, gather_valid(self._valid, index))

    @classmethod
    def concat(cls, parts: Sequence[Any]) -> TupleVec:
        """Rows of all parts."""
        joined = _joined(parts)
        return cls.of(joined) if joined is not None else super().concat(parts)


class RatioVec(TupleVec):
    """System.Ratio: a tuple of two quantities."""

    kind = "Ratio"
    __slots__ = ()

    def __init__(self, fields: Any, valid: BoolArray, type_name: str = "Ratio") -> None:
        super().__init__(fields, valid, type_name)

    def take(self, index: IntArray) -> RatioVec:
        """Rows at ``index``; -1 gives null."""
        return RatioVec({n: v.take(index) for n, v in self.fields.items()}, gather_valid(self._valid, index))


class ValueSetVec(Vec):
    """A reference to a value set, the same in every row: url and version."""

    kind = "ValueSet"
    __slots__ = ("_n", "url", "version")

    def __init__(self, url: str, version: str | None, n: int) -> None:
        self.url, self.version, self._n = url, version, n

    def __len__(self) -> int:
        """Rows of the frame."""
        return self._n

    @property
    def valid(self) -> BoolArray:
        """Always there."""
        return np.ones(self._n, dtype=bool)

    def take(self, index: IntArray) -> ValueSetVec:
        """The same value set in as many rows as asked for."""
        return ValueSetVec(self.url, self.version, len(index))

    def key_columns(self) -> tuple[AnyArray, ...]:
        """All rows alike."""
        return (np.zeros(self._n, dtype=np.int64),)

    def pylist(self) -> list[Any]:
        """The url for each row."""
        return [{"id": self.url, "version": self.version}] * self._n


class CodeSystemVec(ValueSetVec):
    """A reference to a code system, the same in every row: url and version."""

    kind = "CodeSystem"
    __slots__ = ()

    def take(self, index: IntArray) -> CodeSystemVec:
        """The same code system in as many rows as asked for."""
        return CodeSystemVec(self.url, self.version, len(index))


def _primitive(element: ElementVec, name: str) -> Vec:
    vec = element.property(name)
    return vec.primitive() if isinstance(vec, ElementVec) else vec


def _codes_of(concept: ElementVec) -> ListVec:
    coding = concept.property("coding")
    if isinstance(coding, ListVec) and isinstance(coding.flat, ElementVec):
        return ListVec(coding.offsets, CodeVec.of(coding.flat), coding.valid)
    return ListVec(np.zeros(len(concept) + 1, dtype=np.int64), NullVec(0), np.zeros(len(concept), dtype=bool))


def _joined(parts: Sequence[Any]) -> ElementVec | None:
    """The elements of all parts, where they come from one column."""
    elements: list[ElementVec] = [part.element for part in parts if part.element is not None]
    if len(elements) < len(parts) or any(e.source is not elements[0].source for e in elements):
        return None
    return ElementVec.concat(elements)


def _text(vec: Vec | None, n: int) -> StrVec:
    return vec if isinstance(vec, StrVec) else StrVec.constant(None, n)


def code_vec(code: StrVec | None, system: StrVec | None, n: int) -> CodeVec:
    """Codes from their texts; null where there is no code text."""
    code = code if code is not None else StrVec.constant(None, n)
    system = system if system is not None else StrVec.constant(None, n)
    return CodeVec({"code": code, "system": system}, code.valid)


def concept_of(codes: CodeVec) -> ConceptVec:
    """Concepts of one code each."""
    ok = codes.valid
    lists = ListVec(np.concatenate([[0], np.cumsum(ok)]).astype(np.int64), codes.take(np.flatnonzero(ok)), ok)
    return ConceptVec({"codes": lists}, ok)


def distinct_pairs(codes: CodeVec) -> tuple[list[tuple[str, str] | None], IntArray]:
    """The distinct pairs of system and code, and the number of each row's pair; None where either is missing."""
    if len(codes) == 0:
        return [], np.zeros(0, dtype=np.int64)
    code, system = codes.code, codes.system
    (code_key,), (system_key,) = code.key_columns(), system.key_columns()
    pair = np.where(
        codes.valid & (code_key >= 0) & (system_key >= 0), system_key * (len(code.dictionary) + 1) + code_key, -1
    )
    unique, inverse = np.unique(pair, return_inverse=True)
    code_texts, system_texts = code.dictionary, system.dictionary
    width = len(code_texts) + 1
    pairs = [
        (str(system_texts[int(p) // width]), str(code_texts[int(p) % width])) if p >= 0 else None
        for p in unique.tolist()
    ]
    return pairs, inverse.astype(np.int64)


def member_of(codes: CodeVec, wanted: frozenset[tuple[str, str]]) -> BoolArray:
    """True where (system, code) is in ``wanted``; one dictionary lookup for each distinct pair."""
    pairs, number = distinct_pairs(codes)
    return gather(np.array([pair in wanted for pair in pairs], dtype=bool), number)


__all__ = [
    "CodeSystemVec",
    "CodeVec",
    "ConceptVec",
    "QuantityVec",
    "RatioVec",
    "ValueSetVec",
    "code_vec",
    "concat",
    "concept_of",
    "member_of",
]
