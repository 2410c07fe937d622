"""Reasons and evidence for the gaps of many members: each batch is evaluated and recorded once, then cut by member."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime

from fhir_gateway.cql import Batch
from fhir_gateway.cql.explain import ExplainingEvaluation
from fhir_gateway.cql.members import Members
from fhir_gateway.measures.evaluate import Evaluator
from fhir_gateway.measures.gap import OPEN, Gap, GapStatus, gap_of
from fhir_gateway.measures.model import GroupResult

#: Of a member the status of each group that has gaps, by its id.
Statuses = Mapping[str, GapStatus]


def gap_details(
    evaluator: Evaluator,
    groups: tuple[GroupResult, ...],
    statuses: Mapping[str, Statuses],
    batch: Batch,
    period: tuple[date, date],
    now: datetime,
) -> Iterator[tuple[str, tuple[Gap, ...]]]:
    """The gaps of the members of a batch who have ``statuses``; ``groups`` are those of their result."""
    definitions = [
        (definition, group)
        for definition, group in zip(evaluator.package.definition.groups, groups, strict=True)
        if any(found.get(group.id) in OPEN for found in statuses.values())
    ]
    evaluation = ExplainingEvaluation(evaluator.compiled, batch, evaluator.parameters(period, now), now)
    for definition, _ in definitions:  # the numerators: nothing else is asked about
        evaluation.vector(definition.of("numerator")[0].expression)
    members = Members(evaluation)
    for index, member in enumerate(batch.members.to_pylist()):
        if member in statuses:
            one = members.member(index)
            found = (
                gap_of(one, definition, group, statuses[member][group.id], period)
                for definition, group in definitions
                if group.id in statuses[member]
            )
            yield member, tuple(found)
