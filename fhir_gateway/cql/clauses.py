"""What each definition and each clause of its text was worth for one member.

A clause is a piece of CQL with a ``localId``. In the frame of the member it has one value; inside a query (or in the
body of a function) it has one for each row it was evaluated for, and is true when it was true for any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from fhir_gateway.cql.elm import Elm, Library
from fhir_gateway.cql.explain import ExplainingEvaluation, Reading, Record, Recorded, resources_of, truth_of
from fhir_gateway.cql.places import Place, place

Outcome = Literal["true", "false", "null", "uncovered"]


@dataclass(frozen=True)
class Clause:
    """A clause: ``value`` is plain JSON; with ``rows`` it is a list, one value for each row it was evaluated for.

    ``uncovered`` means that no row reached it: an untaken branch, a condition on an empty list, an unused definition.
    """

    local_id: str
    kind: str
    locator: str | None
    outcome: Outcome
    value: Any = None
    rows: int | None = None


@dataclass(frozen=True)
class Statement:
    """A definition or function of a library: its value (functions have none) and its clauses by localId.

    ``resources`` are the resources (``Type/id``) it looked at, through the definitions it refers to as well.
    """

    library: str
    name: str
    kind: Literal["definition", "function"]
    outcome: Outcome
    value: Any
    resources: tuple[str, ...]
    clauses: Mapping[str, Clause] = field(repr=False)
    elm: Elm = field(repr=False, compare=False)


def statements(evaluation: ExplainingEvaluation, library: Library) -> tuple[Statement, ...]:
    """All statements of ``library`` in the order of its text, as far as the evaluation needed them."""
    calls = _calls(evaluation)
    compiler = evaluation.compiled.compiler
    found = []
    for elm in library.elm.get("statements", {}).get("def", []):
        if "expression" not in elm or (elm["expression"].get("type") == "SingletonFrom" and not elm.get("annotation")):
            continue  # an external function; the context definition (Patient), which has no text
        at = place(compiler, library, elm["expression"])
        function = elm.get("type") == "FunctionDef"
        if function:
            records = calls.get(id(at.node), [])
        else:
            root = evaluation.body(library, elm["name"])
            records = [] if root is None else [root]
        clauses: dict[str, Clause] = {}
        _resolve(at, records, clauses, top=True)
        outcome, value, _ = worth(readings_of(records))
        if "localId" in elm:
            clauses[str(elm["localId"])] = Clause(str(elm["localId"]), "", elm.get("locator"), outcome, value)
        resources = set().union(*(_all_resources(evaluation, record) for record in records))
        found.append(
            Statement(
                library.label,
                elm["name"],
                "function" if function else "definition",
                outcome,
                None if function else value,
                tuple(sorted(resources)),
                clauses,
                elm,
            )
        )
    return tuple(found)


def plain(value: Any) -> Any:
    """A value of the engine as JSON: decimals as numbers, everything unknown as text."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _calls(evaluation: ExplainingEvaluation) -> dict[int, list[Record]]:
    """Records of function bodies by their node, over all calls."""
    found: dict[int, list[Record]] = {}
    seen: set[int] = set()
    for root in list(evaluation.roots.values()):
        for record in root.walk(seen):
            if record.node is not None and record.node.elm.get("type") == "FunctionRef":
                for child in record.children:
                    if child.node is not None and all(child is not known for known in found.get(id(child.node), [])):
                        found.setdefault(id(child.node), []).append(child)
    return found


def _all_resources(evaluation: ExplainingEvaluation, record: Record, seen: set[int] | None = None) -> set[str]:
    seen = set() if seen is None else seen
    if id(record) in seen:
        return set()
    seen.add(id(record))
    found = resources_of(record)
    for one in record.walk():
        if one.node is not None and one.node.elm.get("type") == "ExpressionRef":
            target = evaluation.referenced(one.node)
            if target is not None:
                found |= _all_resources(evaluation, target, seen)
    return found


def _resolve(at: Place, records: Sequence[Recorded], out: dict[str, Clause], top: bool = False) -> None:
    """Fill ``out`` with the clauses at and below ``at``; ``records`` are those of the nearest expression above."""
    here = list(records) if top else below(records, at)
    known = out.get(at.local_id or "")
    if at.local_id is not None and (known is None or known.outcome == "uncovered"):
        readings = readings_of(here) if at.node is not None else _part_readings(at, here)
        if at.node is not None or readings:  # else (a type, a direction) it says what the clause around it says
            outcome, value, rows = worth(readings)
            if at.kind in ("With", "Without"):
                outcome = _related(at, readings)
            out[at.local_id] = Clause(at.local_id, at.kind, at.elm.get("locator"), outcome, value, rows)
    for child in at.children:
        _resolve(child, here, out)


def below(records: Sequence[Recorded], at: Place) -> list[Recorded]:
    """Records of a place, given those of the place above it (a part without a node has those of its whole)."""
    if at.node is None:
        return list(records)
    return [found for record in records if (found := record.child(at.node)) is not None]


def readings_of(records: Iterable[Recorded]) -> list[Reading]:
    """All readings of the records."""
    return [reading for record in records for reading in record.readings]


def _part_readings(at: Place, records: Sequence[Recorded]) -> list[Reading]:
    """Part of a query: what its expression was worth (``such that`` of a relationship)."""
    inner = at.child(at.elm.get("suchThat") or at.elm.get("expression"))
    if inner is None or (inner.node is None and not inner.children):
        return []
    return readings_of(below(records, inner)) if inner.node is not None else []


def related(reading: Reading, without: bool) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Rows of the query that a ``with`` (``without``) keeps, given its ``such that``."""
    frame = reading.frame
    if frame.parent is None or frame.index is None:
        return np.zeros(0, dtype=bool)
    kept = np.zeros(frame.parent.n, dtype=bool)
    kept[frame.index[truth_of(reading.vec).true]] = True
    return ~kept if without else kept


def _related(at: Place, readings: Sequence[Reading]) -> Outcome:
    kept = [related(reading, at.kind == "Without") for reading in readings]
    if not any(len(k) for k in kept):
        return "uncovered"
    return "true" if any(k.any() for k in kept) else "false"


def worth(readings: Sequence[Reading]) -> tuple[Outcome, Any, int | None]:
    """Outcome, value, and number of rows (None for a single value of the member)."""
    if not readings:
        return "uncovered", None, None
    truths = [truth_of(reading.vec) for reading in readings]
    if not any(len(t.true) for t in truths):
        return "uncovered", None, 0
    outcome: Outcome = "null"
    if any(t.true.any() for t in truths):
        outcome = "true"
    elif any(t.false.any() for t in truths):
        outcome = "false"
    values = [plain(value) for reading in readings for value in reading.vec.pylist()]
    # what depends on no row is the same in all of them
    single = not readings[0].free or all(reading.frame.parent is None for reading in readings)
    return (outcome, values[0], None) if single else (outcome, values, len(values))
