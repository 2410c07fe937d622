"""Explaining a measure for one person: populations, definitions, clauses, gaps, by the engine that counts them.

The person is evaluated as a batch of one, by the same compiled library and the same population algebra as everybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.cql import Batch
from fhir_gateway.cql.clauses import Statement, statements
from fhir_gateway.cql.explain import ExplainingEvaluation
from fhir_gateway.cql.highlight import clause_texts
from fhir_gateway.errors import NotFoundError
from fhir_gateway.measures.evaluate import Evaluator
from fhir_gateway.measures.gap import Gap, find_gap
from fhir_gateway.measures.merge import merge_groups
from fhir_gateway.measures.model import GroupResult
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.population import Population


@dataclass(frozen=True)
class Explanation:
    """A measure for one person.

    ``libraries`` are the statements of each library by its label, the primary first; ``reachable`` are the
    definitions (library name, name) that the populations need. ``failure`` is why the person could not be evaluated.
    """

    package: MeasurePackage
    member: str
    period: tuple[date, date]
    evaluated_at: datetime
    groups: tuple[GroupResult, ...]
    gaps: tuple[Gap, ...]
    libraries: Mapping[str, tuple[Statement, ...]]
    reachable: frozenset[tuple[str, str]]
    failure: str | None = None

    @property
    def definitions(self) -> tuple[Statement, ...]:
        """The definitions that the populations need, in the order of the libraries' texts."""
        return tuple(s for s in self._reached if s.kind == "definition")

    @property
    def functions(self) -> tuple[Statement, ...]:
        """The functions that the populations need; their clauses have a value for each row of each call."""
        return tuple(s for s in self._reached if s.kind == "function")

    @property
    def _reached(self) -> Iterator[Statement]:
        for label, all_of_it in self.libraries.items():
            yield from (s for s in all_of_it if (label.partition("|")[0], s.name) in self.reachable)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: populations, gaps, and the value of each definition that is needed and of each clause."""
        return {
            "measure": f"{self.package.url}|{self.package.version}",
            "title": self.package.title,
            "person": self.member,
            "period": {"start": self.period[0].isoformat(), "end": self.period[1].isoformat()},
            "evaluatedAt": self.evaluated_at.isoformat(),
            "packageHash": self.package.package_hash,
            "terminologyHash": self.package.terminology_hash,
            "failure": self.failure,
            "groups": [
                {
                    "id": group.id,
                    "scoring": group.scoring,
                    "populations": [
                        {"id": p.id, "code": p.code, "count": int(p.counts[0]), "criterion": int(p.raw[0])}
                        for p in group.populations
                    ],
                }
                for group in self.groups
            ],
            "gaps": [asdict(gap) for gap in self.gaps],
            "definitions": [_statement(statement) for statement in self.definitions],
            "functions": [_statement(statement) for statement in self.functions if statement.outcome != "uncovered"],
        }


def explain(
    evaluator: Evaluator | MeasurePackage, population: Population, member: str, period: tuple[date, date], now: datetime
) -> Explanation:
    """Explain the measure for ``member`` of ``population``; NotFoundError when nobody there has that id."""
    evaluator = Evaluator(evaluator) if isinstance(evaluator, MeasurePackage) else evaluator
    batch = _only(population, member)
    evaluation = ExplainingEvaluation(evaluator.compiled, batch, evaluator.parameters(period, now), now)
    groups = merge_groups([evaluator.groups(evaluation)], [1])
    failure = evaluation.failures.get(0)
    package = evaluator.package
    gaps: list[Gap] = []
    if failure is None:
        for definition, group in zip(package.definition.groups, groups, strict=True):
            gap = find_gap(evaluation, definition, group, period, now)
            gaps += [] if gap is None else [gap]
    libraries = evaluation.compiled.compiler.libraries
    found = [libraries.find(elm["identifier"]["id"], elm["identifier"].get("version")) for elm in package.libraries]
    return Explanation(
        package=package,
        member=member,
        period=period,
        evaluated_at=now,
        groups=groups,
        gaps=tuple(gaps),
        libraries={library.label: statements(evaluation, library) for library in found},
        reachable=package.references().definitions,
        failure=None if failure is None else f"{failure.definition} ({failure.locator}): {failure.reason}",
    )


def _only(population: Population, member: str) -> Batch:
    """A batch of that member alone."""
    for batch in population.batches():
        if pc.is_in(pa.scalar(member), value_set=batch.members).as_py():
            return Batch(pa.array([member], pa.string()), batch.read)
    raise NotFoundError("nobody with that id is in the population")


def _statement(statement: Statement) -> dict[str, Any]:
    texts = clause_texts(statement.elm)
    return {
        "library": statement.library,
        "name": statement.name,
        "outcome": statement.outcome,
        "value": statement.value,
        "resources": list(statement.resources),
        "clauses": [
            {
                "localId": clause.local_id,
                "type": clause.kind,
                "locator": clause.locator,
                "text": texts.get(clause.local_id),
                "outcome": clause.outcome,
                "value": clause.value,
                "rows": clause.rows,
            }
            for clause in statement.clauses.values()
        ],
    }
