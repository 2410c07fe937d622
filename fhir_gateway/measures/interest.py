"""Data of interest: the resources that a measure's retrieves find for each member, and which criteria look for them.

This is what a report names as evaluated resources, and what ``$collect-data`` hands on. It is found by the engine's own
retrieves over whole batches, so that it is exactly what an evaluation of the same batch reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa

from fhir_gateway.cql import Batch
from fhir_gateway.cql.compile import Node
from fhir_gateway.cql.elm import nodes_of
from fhir_gateway.cql.frame import Env
from fhir_gateway.cql.typespec import local_name
from fhir_gateway.cql.values import ElementVec, ListVec, Vec
from fhir_gateway.measures.elm_references import references
from fhir_gateway.measures.evaluate import Evaluator, nobody, put_together
from fhir_gateway.measures.model import MeasureResult, PartResult
from fhir_gateway.measures.population import Population
from fhir_gateway.measures.sharing import SharedBatch

#: ``measure`` numbers the evaluators; ``criteria`` are the numbers of what :func:`criteria` lists.
INTEREST = pa.schema(
    [
        ("measure", pa.int32()),
        ("member", pa.string()),
        ("type", pa.string()),
        ("source", pa.string()),
        ("id", pa.string()),
        ("criteria", pa.list_(pa.int32())),
    ]
)

_Retrieve = tuple[str, Node, tuple[int, ...]]
_KNOWN: WeakKeyDictionary[Evaluator, tuple[_Retrieve, ...]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Criterion:
    """A population or supplemental data element: its id, its linkId (the id where it has none), and its expression."""

    id: str
    link_id: str
    expression: str


def criteria(evaluator: Evaluator) -> tuple[Criterion, ...]:
    """What resources are looked at for, in Measure order."""
    groups = evaluator.package.definition.groups
    populations = [Criterion(p.id, p.link_id or p.id, p.expression) for group in groups for p in group.populations]
    supplemental = [Criterion(one.id, one.id, one.expression) for one in evaluator.supplemental]
    return (*populations, *supplemental)


def evaluate_with_interest(
    evaluators: Sequence[Evaluator], population: Population, period: tuple[date, date], now: datetime
) -> tuple[list[MeasureResult], pa.Table]:
    """Several measures over one population as :func:`evaluate.evaluate_together` does, and their data of interest."""
    parts: list[list[PartResult]] = [[] for _ in evaluators]
    tables = [INTEREST.empty_table()]
    for batch in population.batches():
        shared = SharedBatch(batch, [evaluator.compiled for evaluator in evaluators])
        for number, evaluator in enumerate(evaluators):
            parts[number].append(evaluator.evaluate_batch(shared, period, now))
            tables.append(_interest(evaluator, number, shared, period, now))
    if not all(parts):
        parts = [[evaluator.evaluate_batch(nobody(), period, now)] for evaluator in evaluators]
    pairs = zip(evaluators, parts, strict=True)
    results = [put_together(evaluator, found, population, period, now) for evaluator, found in pairs]
    return results, pa.concat_tables(tables)


def data_of_interest(
    evaluators: Sequence[Evaluator], population: Population, period: tuple[date, date], now: datetime
) -> pa.Table:
    """The data alone, without evaluating anything but retrieves."""
    found = (interest_of(evaluators, batch, period, now) for batch in population.batches())
    return pa.concat_tables([INTEREST.empty_table(), *found])


def interest_of(evaluators: Sequence[Evaluator], batch: Batch, period: tuple[date, date], now: datetime) -> pa.Table:
    """The data of interest of the members of one batch."""
    shared = SharedBatch(batch, [evaluator.compiled for evaluator in evaluators])
    return pa.concat_tables(
        [_interest(evaluator, number, shared, period, now) for number, evaluator in enumerate(evaluators)]
    )


def _interest(evaluator: Evaluator, number: int, batch: Batch, period: tuple[date, date], now: datetime) -> pa.Table:
    evaluation = evaluator.compiled.evaluate(batch, evaluator.parameters(period, now), now)
    found: dict[str, list[pa.Table]] = {}
    for resource_type, node, wanted in _retrieves(evaluator):
        vec: Vec
        if node.free:  # its filters depend on what it stands in: all it could find there
            vec = evaluator.compiled.compiler.retrieved[id(node)](evaluation)
        else:
            vec = evaluation.value(node, evaluation.root, Env())
        if not isinstance(vec, ListVec) or not isinstance(vec.flat, ElementVec):
            continue  # nothing of the kind is there
        there = vec.flat.valid
        rows = pa.table({"member": vec.parents[there].astype(np.int64), "row": vec.flat.rows[there].astype(np.int64)})
        found.setdefault(resource_type, []).extend(
            rows.append_column("criterion", pa.array(np.full(rows.num_rows, criterion, np.int32)))
            for criterion in wanted
        )
    tables = [INTEREST.empty_table()]
    for resource_type, parts in sorted(found.items()):
        table = evaluation.table(resource_type)
        grouped = (
            pa.concat_tables(parts)
            .group_by(["member", "row"])
            .aggregate([("criterion", "distinct")])
            .sort_by([("member", "ascending"), ("row", "ascending")])
        )
        sources, ids = table.keys(np.asarray(grouped["row"]))
        count = grouped.num_rows
        columns = [
            pa.array(np.full(count, number, np.int32)),
            pa.array(batch.members).take(grouped["member"].combine_chunks()),
            pa.array([resource_type] * count, pa.string()),
            sources,
            ids,
            grouped["criterion_distinct"].combine_chunks(),
        ]
        tables.append(pa.Table.from_arrays(columns, schema=INTEREST))
    return pa.concat_tables(tables)


def _retrieves(evaluator: Evaluator) -> tuple[_Retrieve, ...]:
    """The retrieves of a measure, looked for once."""
    if evaluator not in _KNOWN:
        _KNOWN[evaluator] = tuple(_reached(evaluator))
    return _KNOWN[evaluator]


def _reached(evaluator: Evaluator) -> Iterator[_Retrieve]:
    """Type and node of each retrieve that was compiled, with the numbers of the criteria that reach it."""
    package, compiler = evaluator.package, evaluator.compiled.compiler
    versions = {elm["identifier"]["id"]: elm["identifier"].get("version") for elm in reversed(package.libraries)}
    found: dict[int, tuple[str, Node, set[int]]] = {}
    for number, criterion in enumerate(criteria(evaluator)):
        reached = references(package.libraries, package.primary, [criterion.expression]).definitions
        for name, definition in sorted(reached):
            library = compiler.libraries.find(name, versions[name])
            bodies = [library.definitions.get(definition), *library.functions.get(definition, ())]
            for elm in nodes_of([body.get("expression") for body in bodies if body], "Retrieve"):
                node = compiler.find(library, elm)
                if node is not None:  # else nothing that was compiled needs it
                    kept = found.setdefault(id(node), (local_name(elm["dataType"]), node, set()))
                    kept[2].add(number)
    return ((kind, node, tuple(sorted(numbers))) for kind, node, numbers in found.values())
