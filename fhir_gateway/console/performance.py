"""A contract's performance against its targets, settlement by settlement: what lines and terms say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fhir_gateway.contracts import Contract, Settlement
from fhir_gateway.contracts.runs import Run
from fhir_gateway.contracts.settlement import SettlementLine

#: VBPR metric codes of a result, and of what it is held against in the same arrangement: the first that is there.
_PAIRS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("med-cost-pmpm", ("med-cost-pmpm-target",)),
    ("med-cost", ("cost-target", "med-cost-target", "med-cost-fund")),
    ("med-loss-ratio", ("med-loss-ratio-target",)),
    ("quality-gate-performance-percentage", ("quality-gate-percentage",)),
    ("performance-qip", ("quality-gate-percentage",)),
)
Settled = tuple[Run, Contract, Settlement]


@dataclass(frozen=True, slots=True)
class Point:
    """What one settlement says: the line, its value, and the target of then."""

    run: Run
    line: str
    value: Decimal | None
    target: Decimal | None


@dataclass(slots=True)
class Course:
    """One result over settlements; ``direction`` says which way is better where the contract does."""

    title: str
    unit: str
    against: str
    direction: str = ""
    points: list[Point] = field(default_factory=list)


def courses(settled: Sequence[Settled]) -> list[Course]:
    """Each result that a contract holds against something, over its settlements from the first to the last."""
    found: dict[str, Course] = {}
    for run, contract, settlement in settled:
        for key, course, line, target in (*_amounts(settlement), *_measures(contract, settlement)):
            found.setdefault(key, course).points.append(Point(run, line.id, line.value, target))
    return list(found.values())


def _amounts(settlement: Settlement) -> Iterator[tuple[str, Course, SettlementLine, Decimal | None]]:
    """Costs, ratios and composites with the target, or gate, of the same arrangement."""
    by_metric: dict[tuple[str, str], SettlementLine] = {}
    for line in settlement.lines:
        if line.metric is not None:
            by_metric.setdefault((line.arrangement, line.metric), line)
    for arrangement in dict.fromkeys(line.arrangement for line in settlement.lines):
        for metric, targets in _PAIRS:
            result = by_metric.get((arrangement, metric))
            target = next((by_metric[arrangement, one] for one in targets if (arrangement, one) in by_metric), None)
            if result is not None and target is not None:
                course = Course(f"{result.label} ({arrangement})", result.unit, target.label)
                yield f"{arrangement} {metric}", course, result, target.value


def _measures(
    contract: Contract, settlement: Settlement
) -> Iterator[tuple[str, Course, SettlementLine, Decimal | None]]:
    """Scores of measures with the target, or else the threshold, that the contract of then set."""
    by_id = {line.id: line for line in settlement.lines}
    for measure in contract.measures:
        line = next((by_id[one] for a in contract.arrangements if (one := f"{a.id}.{measure.id}.score") in by_id), None)
        if line is None:
            continue
        scoring = measure.scoring
        against = "threshold" if scoring is None or scoring.target is None else "target"
        target = None if scoring is None else scoring.threshold if scoring.target is None else scoring.target
        if target is None and scoring is not None and scoring.steps:
            best = max(scoring.steps, key=lambda one: one.points)
            target, against = best.at, "best step"
        yield measure.id, Course(measure.name, line.unit, against, measure.direction), line, target


def chart(course: Course) -> dict[str, Any]:
    """The result as a line with points, what it is held against as a dashed one."""

    def drawn(value: Decimal | None) -> float | None:
        return None if value is None else round(float(value), 6)

    return {
        "legend": {"top": 0},
        "xAxis": {"type": "category", "data": [name_of(one.run) for one in course.points]},
        "yAxis": {"type": "value", "scale": True},
        "series": [
            {
                "type": "line",
                "name": "result",
                "symbolSize": 9,
                "itemStyle": {"color": "#1b6ca8"},
                "data": [drawn(one.value) for one in course.points],
            },
            {
                "type": "line",
                "name": course.against,
                "symbol": "diamond",
                "symbolSize": 9,
                "itemStyle": {"color": "#b5651d"},
                "lineStyle": {"type": "dashed"},
                "data": [drawn(one.target) for one in course.points],
            },
        ],
    }


def name_of(run: Run) -> str:
    """A settlement on an axis: the day that it was made on, and its kind."""
    return f"{run.made.date().isoformat()} {run.kind}"


def money_course(runs: Sequence[Run]) -> dict[str, Any]:
    """What each settlement came to as bars, and the sum of what was posted up to it as a line."""
    posted, running = [], Decimal(0)
    for run in runs:
        running += run.posted
        posted.append(float(running))
    return {
        "legend": {"top": 0},
        "xAxis": {"type": "category", "data": [name_of(run) for run in runs]},
        "yAxis": {"type": "value"},
        "series": [
            {
                "type": "bar",
                "name": "total",
                "barMaxWidth": 60,
                "itemStyle": {"color": "#1b6ca8"},
                "data": [float(run.total) for run in runs],
            },
            {
                "type": "line",
                "name": "posted in all",
                "symbolSize": 9,
                "itemStyle": {"color": "#b5651d"},
                "data": posted,
            },
        ],
    }
