"""The quality report: each measure with its rate, what contracts hold it against, its course, and its strata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from fhir_gateway.contracts.contract import Contract
from fhir_gateway.contracts.terms import MeasureTerms, Scoring
from fhir_gateway.equity.stratify import Breakdown, Cell, Strata
from fhir_gateway.reports.document import HIDDEN, NONE, Bar, Chart, Document, Section, Table, Text, percent, plain

Period = tuple[date, date]


@dataclass(frozen=True, slots=True)
class Target:
    """What a contract holds a measure against, each where its scoring states it."""

    contract: str
    direction: str
    threshold: Decimal | None
    target: Decimal | None
    benchmark: Decimal | None
    baseline: Decimal | None

    @classmethod
    def of(cls, contract: Contract, terms: MeasureTerms) -> Target:
        """The target of a contract's measure; of a ladder the best step, of deciles the highest."""
        scoring = terms.scoring or Scoring(kind="threshold")
        named = scoring.kind == "attainment_or_improvement"  # its target is called the benchmark
        target = None if named else scoring.target
        if scoring.steps:
            target = max(scoring.steps, key=lambda one: one.points).at
        benchmark = scoring.target if named else scoring.deciles[-1].at if scoring.deciles else None
        return cls(contract.title, terms.direction, scoring.threshold, target, benchmark, scoring.baseline)


@dataclass(frozen=True, slots=True)
class Rate:
    """A measure's group over a period. Hidden numbers are null and ``hidden`` is true; a proportion has bounds."""

    metric: str
    title: str
    unit: str
    proportion: bool
    denominator: int | None
    numerator: int | None
    score: Decimal | None
    bounds: tuple[float, float] | None
    hidden: bool
    direction: str
    targets: tuple[Target, ...]
    course: tuple[tuple[str, Decimal | None, bool], ...]  # period, score, whether it is hidden; the oldest first

    @property
    def shown(self) -> str:
        """The score as it is read."""
        return HIDDEN if self.hidden else self.with_unit(self.score)

    @property
    def goals(self) -> list[Decimal]:
        """The targets that contracts state."""
        return [one.target for one in self.targets if one.target is not None]

    def with_unit(self, value: Decimal | None) -> str:
        """A value in the unit of the measure."""
        return percent(value) if self.proportion else f"{plain(value)} {self.unit if value is not None else ''}".strip()


def quality_report(
    period: Period, rates: Sequence[Rate], strata: Strata, facts: Sequence[tuple[str, str]], notes: Sequence[str]
) -> Document:
    """The report of a period; strata are those of the same results."""
    return Document(
        title=f"Quality report, {period[0]} to {period[1]}",
        author="fhir-gateway",
        facts=tuple(facts),
        sections=tuple(_sections(rates, strata)),
        notes=(
            "Hidden: the number, or another by subtraction, would tell of fewer people than the threshold.",
            "Intervals hold 95 %: Wilson's of proportions, Poisson's of rates.",
            *notes,
        ),
    )


def rates_section(rates: Sequence[Rate], heading: str = "Measures") -> Section:
    """All measures in a table, proportions as bars with a stroke at the first target; also of use to other reports."""
    drawn = [one for one in rates if one.proportion and one.score is not None and not one.hidden]
    bars = tuple(
        Bar(
            one.title,
            one.score,
            one.shown,
            one.bounds,
            next((t.target for t in one.targets if t.target is not None), None),
        )
        for one in drawn
        if one.score is not None
    )
    rows = tuple(
        (
            one.title,
            _count(one.denominator, one.hidden),
            _count(one.numerator, one.hidden),
            one.shown,
            NONE if one.bounds is None else f"{percent(one.bounds[0])} to {percent(one.bounds[1])}",
            {"increase": "higher", "decrease": "lower"}.get(one.direction, NONE),
            "; ".join(dict.fromkeys(one.with_unit(goal) for goal in one.goals)) or NONE,
        )
        for one in rates
    )
    said = f"Bars of {len(bars)} proportions with intervals, strokes at their targets. The table has the numbers."
    table = Table(
        "Measures",
        ("Measure", "Denominator", "Numerator", "Rate", "Interval", "Better", "Target"),
        rows,
        frozenset({1, 2, 3, 4, 6}),
        (2.2, 1.05, 1.0, 1.2, 1.3, 0.7, 1.0),
    )
    return Section(heading, (*([Chart("Rates; the stroke is the target", said, bars)] if bars else []), table))


def _sections(rates: Sequence[Rate], strata: Strata) -> Iterator[Section]:
    yield rates_section(rates)
    held = [(one, target) for one in rates for target in one.targets]
    if held:
        rows = tuple(
            (
                one.title,
                target.contract,
                target.direction,
                *(one.with_unit(x) for x in (target.threshold, target.target, target.benchmark, target.baseline)),
            )
            for one, target in held
        )
        head = ("Measure", "Contract", "Better", "Threshold", "Target", "Benchmark", "Baseline")
        widths = (2.2, 2.2, 0.8, 0.9, 0.9, 0.9, 0.9)
        yield Section("Targets and benchmarks", (Table("By contract", head, rows, frozenset({3, 4, 5, 6}), widths),))
    yield _course(rates)
    for one in rates:
        found = [each for each in strata.breakdowns if each.metric.id == one.metric]
        yield Section(f"Strata: {one.title}", tuple(_strata(found)))


def _course(rates: Sequence[Rate]) -> Section:
    periods = tuple(dict.fromkeys(sorted({name for one in rates for name, _, _ in one.course})))
    if len(periods) < 2:
        return Section("Trend", (Text("There are results of this period alone."),))
    parts: list[Table | Chart] = []
    rows = []
    for one in rates:
        by_period = {name: (score, hidden) for name, score, hidden in one.course}
        rows.append((one.title, *(_at(one, by_period.get(name)) for name in periods)))
        bars = tuple(
            Bar(name, score, one.with_unit(score)) for name, score, hidden in one.course if score and not hidden
        )
        if len(bars) > 1:
            parts.append(Chart(f"{one.title} by period", f"{len(bars)} periods; the table has the numbers.", bars))
    table = Table("Rates by period", ("Measure", *periods), tuple(rows), frozenset(range(1, len(periods) + 1)))
    return Section("Trend", (*parts, table))


def _at(one: Rate, found: tuple[Decimal | None, bool] | None) -> str:
    if found is None:
        return NONE
    return HIDDEN if found[1] else one.with_unit(found[0])


def _strata(found: Sequence[Breakdown]) -> Iterator[Text | Table]:
    if not found:
        yield Text("Not shown: too few members, or a measure of a kind that is not stratified; see the notes.")
        return
    rows = tuple(_row(each, cell) for each in found for cell in each.cells)
    head = ("Stratum", "Denominator", "Numerator", "Rate", "95 % interval")
    yield Table("By who the members are", head, rows, frozenset({1, 2, 3, 4}), (3.2, 1, 1, 1, 1.6))


def _row(each: Breakdown, cell: Cell) -> tuple[str, ...]:
    name = f"{each.dimension.title}: {cell.title}"
    if cell.suppressed and cell.denominator is None:
        return (name, HIDDEN, HIDDEN, HIDDEN, HIDDEN)
    bounds = NONE
    if cell.low is not None and cell.high is not None:
        bounds = f"{_figure(each, cell.low)} to {_figure(each, cell.high)}"
    hidden = cell.suppressed and cell.numerator is None
    return (
        name,
        plain(cell.denominator),
        HIDDEN if hidden else plain(cell.numerator),
        HIDDEN if hidden else _figure(each, cell.rate),
        bounds,
    )


def _figure(each: Breakdown, value: float | None) -> str:
    return percent(value) if each.metric.kind == "proportion" else plain(value, 4)


def _count(value: int | None, hidden: bool) -> str:
    return HIDDEN if hidden and value is None else plain(value)
