"""Reports for people, out of what was settled, scored and stratified: what an audience sees of it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa

from fhir_gateway.contracts import Contract, Settlement
from fhir_gateway.contracts.inputs import MeasureScore, measure_scores
from fhir_gateway.contracts.projection import Projection
from fhir_gateway.contracts.runs import ZERO, Run
from fhir_gateway.db.audience import EVERYONE, Audience
from fhir_gateway.equity.stratify import Cell, Strata
from fhir_gateway.equity.suppression import THRESHOLD
from fhir_gateway.errors import ContractError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.contract_versions import kept_document
from fhir_gateway.jobs.equity import Period, Question, newest_runs, stratified
from fhir_gateway.jobs.settlement_runs import settled
from fhir_gateway.jobs.what_if import project
from fhir_gateway.measures.model import GroupResult, MeasureResult
from fhir_gateway.measures.report_groups import quantity
from fhir_gateway.reports import board, loss_ratio, quality, statement
from fhir_gateway.reports.document import Document
from fhir_gateway.reports.quality import Rate, Target

#: Dimensions of the quality report unless others are asked for.
USUAL = ("race", "ethnicity", "sex", "age", "payer", "language", "adi-quintile")
Settled = tuple[Run, Contract, Settlement]
Point = tuple[str, Decimal | None, bool]
_AS_LONG = timedelta(days=3)
"""Periods are as long as each other in spite of leap years."""


def statement_report(gateway: Gateway, run_id: str, audience: Audience = EVERYONE) -> Document:
    """The statement of a settlement; NotFoundError for one that the audience does not see."""
    gateway.resources.seen_by(audience).read("MeasureReport", run_id)
    run, contract, settlement = settled(gateway, run_id)
    return statement.statement(settlement, contract, run.id, run.state)


def loss_ratio_report(gateway: Gateway, audience: Audience = EVERYONE, accounts: Path | None = None) -> Document:
    """Ratios of the newest settlement of each contract that has some and, where given, of a file of accounts."""
    found = [
        one for run, terms, made in _newest(gateway, audience) for one in loss_ratio.of_settlement(made, terms, run.id)
    ]
    if accounts is not None:
        found += loss_ratio.of_accounts(accounts)
    return loss_ratio.loss_ratio_report(found, "fhir-gateway")


def quality_report(
    gateway: Gateway, period: Period, audience: Audience = EVERYONE, dimensions: Sequence[str] = ()
) -> Document:
    """Kept results of a period over the members that the audience sees; NotFoundError where there are none."""
    members = gateway.resources.seen_by(audience).members()
    results = _results(gateway, period)
    strata = stratified(gateway, period, Question(dimensions=tuple(dimensions) or USUAL, members=members))
    contracts = [terms for _, terms, made in _newest(gateway, audience) if made.period == period]
    facts = _facts(results, members)
    return quality.quality_report(
        period, _rates(gateway, results, members, strata, contracts), strata, facts, strata.notes
    )


def board_report(
    gateway: Gateway, period: Period, audience: Audience = EVERYONE, as_of: date | None = None
) -> Document:
    """Members, quality, money and, as of a day, the outlook of the contracts of a period."""
    members = gateway.resources.seen_by(audience).members()
    newest = [one for one in _newest(gateway, audience) if one[2].period == period]
    accounts = [_account(gateway, audience, one, as_of) for one in newest]
    results = _results(gateway, period)
    rates: list[Rate] = []
    if results:
        strata = stratified(gateway, period, Question(dimensions=USUAL, members=members))
        rates = _rates(gateway, results, members, strata, [terms for _, terms, _ in newest])
    return board.board_summary(period, accounts, rates, _facts(results, members), as_of)


def _newest(gateway: Gateway, audience: Audience) -> Iterator[Settled]:
    """The newest settlement of each contract, by title, of those that the audience sees."""
    seen = gateway.resources.seen_by(audience)
    runs = gateway.settlements.runs()
    mine = {one.id for one in seen.read_many(("MeasureReport", run.id) for run in runs)}
    newest = {run.contract: run for run in sorted(runs, key=lambda one: (one.made, one.id)) if run.id in mine}
    yield from sorted((settled(gateway, run.id) for run in newest.values()), key=lambda one: (one[1].title, one[0].id))


def _account(gateway: Gateway, audience: Audience, made: Settled, as_of: date | None) -> board.Account:
    run, contract, settlement = made
    open_ones = [one for one in gateway.settlements.disputes(contract.id) if one.state == "open"]
    outlook: Projection | str | None = None
    if as_of is not None:
        try:
            document = kept_document(gateway, contract.id, run.version)
            outlook = project(gateway, str(document), as_of)
        except ContractError as error:  # what cannot be carried on says why
            outlook = error.message
    return board.Account(
        contract,
        run,
        settlement,
        _listed(gateway, audience, contract),
        sum(gateway.settlements.owed(contract.id).values(), ZERO),
        len(open_ones),
        sum((one.amount for one in open_ones), ZERO),
        outlook,
    )


def _listed(gateway: Gateway, audience: Audience, contract: Contract) -> int | None:
    """Members on the contract's list; None for too few, or a list that is not there any more."""
    try:
        group = gateway.resources.seen_by(audience).read("Group", contract.id).json()
    except NotFoundError:
        return None
    count = int(group.get("quantity", 0))
    return None if 0 < count < THRESHOLD else count


def _results(gateway: Gateway, period: Period) -> list[MeasureResult]:
    return [gateway.results.load(run) for run in newest_runs(gateway, period)]


def _facts(results: Sequence[MeasureResult], members: Sequence[str] | None) -> list[tuple[str, str]]:
    versions = sorted({str(one.lake_version) for one in results})
    evaluated = max((one.evaluated_at.isoformat() for one in results), default="–")
    return [
        ("Whose members", "everybody" if members is None else "those on the lists that the reader sees"),
        ("Measures evaluated", f"{evaluated}, lake version {', '.join(versions) or '–'}"),
    ]


def _rates(
    gateway: Gateway,
    results: Sequence[MeasureResult],
    members: Sequence[str] | None,
    strata: Strata,
    contracts: Sequence[Contract],
) -> list[Rate]:
    """Each group of each result with its score, as settlements count it, and what is protected hidden."""
    rates = []
    totals = _totals(strata)
    earlier = _earlier(gateway, results, members)
    for result in results:
        scores = _scores(result, members)
        for group in result.groups:
            score, metric = scores[f"{result.canonical}#{group.id}"], _metric(result, group)
            hidden, total = _hidden(score, metric, totals), totals.get(metric)
            proportion = group.scoring == "proportion"
            unit = quantity(group, score.score).get("unit", "") if score.score is not None else ""
            shown = total is not None and total.low is not None and total.high is not None and not hidden
            now = (_named(result.period), None if hidden else score.score, hidden)
            rates.append(
                Rate(
                    metric=metric,
                    title=result.title if len(result.groups) == 1 else f"{result.title}: {group.id}",
                    unit="" if proportion else str(unit),
                    proportion=proportion,
                    denominator=None if hidden else score.denominator,
                    numerator=None if hidden else score.numerator,
                    score=None if hidden else score.score,
                    bounds=(total.low, total.high) if proportion and shown else None,  # type: ignore[union-attr,arg-type]
                    hidden=hidden,
                    direction=group.improvement_notation or "",
                    targets=tuple(_targets(result, group, contracts)),
                    course=(
                        *earlier.get((result.url, group.id), ()),
                        now,
                    ),
                )
            )
    return rates


def _metric(result: MeasureResult, group: GroupResult) -> str:
    """What strata call it."""
    return result.name if len(result.groups) == 1 else f"{result.name}#{group.id}"


def _totals(strata: Strata) -> dict[str, Cell | None]:
    """The cell of everybody by metric; None where the strata withhold all of it."""
    withheld: dict[str, Cell | None] = {one.id: None for one in strata.aligned}
    return withheld | {one.metric.id: one.total for one in strata.breakdowns}


def _named(period: Period) -> str:
    return f"{period[0]} to {period[1]}"


def _scores(result: MeasureResult, members: Sequence[str] | None) -> dict[str, MeasureScore]:
    chosen = result.members if members is None else pa.array(sorted(members), pa.string())
    return measure_scores([result], chosen)


def _hidden(score: MeasureScore, metric: str, totals: Mapping[str, Cell | None]) -> bool:
    """What the strata do not show in total is not shown here; of what is not stratified, small counts are not."""
    if metric not in totals:
        return _few(score)
    total = totals[metric]
    return total is None or total.denominator is None or total.numerator is None


def _few(score: MeasureScore) -> bool:
    counts = (score.denominator, score.numerator or 0, score.denominator - (score.numerator or 0))
    return any(0 < one < THRESHOLD for one in counts)


def _targets(result: MeasureResult, group: GroupResult, contracts: Sequence[Contract]) -> Iterator[Target]:
    for contract in contracts:
        for terms in contract.measures:
            same = terms.canonical in (result.url, result.canonical)
            if same and (terms.group == group.id or (terms.group is None and len(result.groups) == 1)):
                yield Target.of(contract, terms)


def _earlier(
    gateway: Gateway, results: Sequence[MeasureResult], members: Sequence[str] | None
) -> dict[tuple[str, str], list[Point]]:
    """Scores of the same measures in periods before, as long as this one, protected as theirs; the oldest first."""
    found: dict[tuple[str, str], list[Point]] = {}
    if not results:
        return found
    urls, (start, end) = {one.url for one in results}, results[0].period
    headers = [gateway.results.header(run) for run in gateway.results.runs()]
    periods = {one.period for one in headers if one.url in urls and one.period[1] < start}
    for period in sorted(periods):
        if abs((period[1] - period[0]) - (end - start)) > _AS_LONG:
            continue
        totals = _totals(stratified(gateway, period, Question(dimensions=USUAL, members=members)))
        for result in _results(gateway, period):
            scores = _scores(result, members)
            for group in result.groups if result.url in urls else ():
                score = scores[f"{result.canonical}#{group.id}"]
                hidden = _hidden(score, _metric(result, group), totals)
                point = (_named(period), None if hidden else score.score, hidden)
                found.setdefault((result.url, group.id), []).append(point)
    return found
