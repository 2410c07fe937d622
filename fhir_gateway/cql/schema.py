"""The ELM r1 schema: which nodes there are, which fields they have, and whether a document keeps to it.

Everything that is compiled is checked here first, so that the compilers may take the shape of a node for granted.
Source: ``elm_schema.json``, generated from the published schema by :mod:`fhir_gateway.cql.schema_generate`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a node: the type of its values, and whether it is a list and required."""

    type: str
    is_list: bool
    required: bool


#: Values of the scalar types of the schema in JSON; numbers may be written as texts.
_SCALARS: Mapping[str, tuple[type, ...]] = {
    "String": (str,),
    "QName": (str,),
    "Boolean": (bool,),
    "BigDecimal": (str, int, float),
    "Object": (object,),
}
#: Parts of a node that say nothing about its value; translators write them in several ways.
SILENT = frozenset({"annotation", "localId", "locator", "resultTypeName", "resultTypeSpecifier"})
#: Fields without which a node means nothing, although the schema does not require them.
_NEEDED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        "AliasRef CodeRef CodeSystemRef ConceptRef ExpressionRef FunctionRef IdentifierRef OperandDef OperandRef "
        "ParameterRef QueryLetRef ValueSetRef ExpressionDef FunctionDef ParameterDef CodeSystemDef ValueSetDef CodeDef "
        "ConceptDef".split(),
        ("name",),
    ),
    "ByColumn": ("path",),
    "Quantity": ("value",),
}
#: Nodes that name a type, by name or by specifier.
_TYPED = {"As": "asType", "Is": "isType", "Convert": "toType", "CanConvert": "toType", "OperandDef": "operandType"}
_OPERANDS = {"UnaryExpression": 1, "BinaryExpression": 2, "TernaryExpression": 3}


@cache
def _schema() -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = json.loads(files(__package__).joinpath("elm_schema.json").read_text(encoding="utf-8"))
    return loaded


@cache
def ancestry(name: str) -> tuple[str, ...]:
    """A type of the schema and what it extends, nearest first; empty for a type that ELM does not have."""
    types = _schema()["types"]
    found: list[str] = []
    while name in types:
        found.append(name)
        name = types[name]["extends"]
    return tuple(found)


@cache
def fields(name: str) -> Mapping[str, Field]:
    """Fields of a type, with those it inherits."""
    types = _schema()["types"]
    return {k: Field(*row) for base in reversed(ancestry(name)) for k, row in types[base]["fields"].items()}


@cache
def nodes() -> frozenset[str]:
    """Names of all nodes that are expressions."""
    types = _schema()["types"]
    return frozenset(n for n, row in types.items() if not row["abstract"] and "Expression" in ancestry(n))


def problem(elm: Any, expected: str = "Expression") -> str | None:
    """What is wrong with the shape of a node, if anything; the expressions below it are looked at one step deep."""
    return next(_problems(elm, expected), None)


def _problems(elm: Any, expected: str) -> Iterator[str]:
    if not isinstance(elm, dict):
        yield f"{_kind(elm)} where a node is needed"
        return
    name = _name(elm, expected)
    if name is None:
        yield f"no node of kind {expected} (type {elm.get('type')!r})"
        return
    known = fields(name)
    for key, value in elm.items():
        if key in SILENT or key == "type":
            continue
        if key not in known:
            yield f"{name} has no field {key!r} in ELM r1"
        else:
            yield from _values(f"{name}.{key}", known[key], value)
    needed = [key for key, field in known.items() if field.required]
    for key in (*needed, *_NEEDED.get(name, ())):
        if elm.get(key) is None:
            yield f"{name} without {key}"
    if name == "Property" and (elm.get("source") is None) == (elm.get("scope") is None):
        yield "Property needs either a source or a scope"
    typed = _TYPED.get(name)
    if typed and elm.get(typed) is None and elm.get(f"{typed}Specifier") is None:
        yield f"{name} without {typed}"
    count = next((_OPERANDS[base] for base in ancestry(name) if base in _OPERANDS), None)
    if count and len(_listed(elm["operand"])) != count:
        yield f"{name} with {len(_listed(elm['operand']))} operands instead of {count}"


def _name(elm: Mapping[str, Any], expected: str) -> str | None:
    """The type of a node where ``expected`` may stand; its ``type`` may be left out where there is only one."""
    given = elm.get("type")
    if given is None or (expected == "TupleElementDefinition" and isinstance(given, dict)):
        given = expected
    if not isinstance(given, str):
        return "ChoiceTypeSpecifier" if expected == "TypeSpecifier" else None
    row = _schema()["types"].get(given)
    return given if row and not row["abstract"] and expected in ancestry(given) else None


def _values(place: str, field: Field, value: Any) -> Iterator[str]:
    if isinstance(value, list) and not field.is_list:
        yield f"{place} is a list"
        return
    for one in _listed(value):
        if field.type in _SCALARS:
            if not isinstance(one, _SCALARS[field.type]) or (field.type == "BigDecimal" and isinstance(one, bool)):
                yield f"{place} is {_kind(one)}"
        elif field.type in _schema()["enums"]:
            if one not in _schema()["enums"][field.type]:
                yield f"{place} is none of {', '.join(_schema()['enums'][field.type])}"
        elif field.type == "Expression":
            if not isinstance(one, dict):
                yield f"{place} is {_kind(one)}"
        else:
            yield from _problems(one, field.type)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", bool: "a Boolean", type(None): "null"}.get(
        type(value), "a number"
    )
