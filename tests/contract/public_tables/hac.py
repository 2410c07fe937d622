"""Hospital-Acquired Condition Reduction Program: the table with a row per hospital and columns per measure.

``<measure> W Z Score`` are winsorised z-scores, ``Total HAC Score`` their mean, ``Payment Reduction`` Yes or No.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from pathlib import Path

from fhir_gateway.contracts.scoring import acquired_conditions as engine
from fhir_gateway.contracts.scoring.acquired_conditions import AcquiredConditionsYear
from tests.contract.public_tables import tables
from tests.contract.public_tables.folders import fiscal_year, hospital, read_all
from tests.contract.public_tables.report import NotSuchATable, Report
from tests.contract.public_tables.tables import Table

_Z = re.compile(r"^(?P<name>.+?)(?:winsorized|winsorised|w)zscore$")
_VALUE = ("compositevalue", "sir", "value")
_TOTAL = ("Total HAC Score", "Total Score")
_REDUCED = ("Payment Reduction", "Payment Reduction Indicator")
_CLOSE = Decimal("0.0001")


def check(paths: Sequence[Path]) -> Iterator[Report]:
    """One report per file."""
    found = False
    for table in read_all(paths):
        if tables.one_of(table, _TOTAL) and any(_Z.match(column) for column in table.columns):
            found = True
            with localcontext(Context(prec=60)):
                yield _check(table)
    if not found:
        raise NotSuchATable(f"{', '.join(map(str, paths))}: no columns of z-scores and total HAC scores in it")


def _check(table: Table) -> Report:
    terms = AcquiredConditionsYear.of(fiscal_year(table) or 2024)
    report = Report(f"{table.path.name}: hospital-acquired conditions")
    columns = {match["name"]: column for column in table.columns if (match := _Z.match(column))}
    for name, column in columns.items():
        _check_scores(table, name, column, terms, report)
    totals: dict[str, Decimal] = {}
    for row in table.rows:
        scores = [score for column in columns.values() if (score := tables.number(row, column)) is not None]
        computed, published = engine.total_score(scores), tables.number(row, *_TOTAL)
        if published is None:
            continue
        ccn = hospital(row, table)
        totals[ccn] = published
        # z-scores are published at four digits: their mean may differ by as much
        agrees = computed is not None and abs(computed - published) <= _CLOSE
        shown = None if computed is None else computed.quantize(_CLOSE, ROUND_HALF_UP)
        report.tally("total score within 0.0001").add(ccn, agrees, shown, published)
    _check_reductions(table, totals, terms, report)
    return report


def _check_scores(table: Table, name: str, column: str, terms: AcquiredConditionsYear, report: Report) -> None:
    """Z-scores from the results; needs all hospitals of the programme, so it says how many there are."""
    source = next((name + ending for ending in _VALUE if name + ending in table.columns), None)
    if source is None:
        report.lacks(f"z-scores of {name}", "no column of results")
        return
    published = {hospital(row, table): tables.number(row, column) for row in table.rows}
    results: Mapping[str, Decimal] = {
        hospital(row, table): value
        for row in table.rows
        if (value := tables.number(row, source)) is not None and tables.number(row, column) is not None
    }
    for ccn, computed in engine.z_scores(results, terms.winsor).items():
        stated = published[ccn]
        agrees = stated is not None and abs(computed - stated) <= Decimal("0.001")
        quantity = f"z-scores within 0.001 (of the {len(table.rows)} hospitals in this file)"
        report.tally(quantity).add(f"{ccn} {name}", agrees, computed.quantize(_CLOSE), stated)


def _check_reductions(
    table: Table, totals: Mapping[str, Decimal], terms: AcquiredConditionsYear, report: Report
) -> None:
    if not totals or not tables.one_of(table, _REDUCED):
        report.lacks("payment reductions", "no column of them")
        return
    cut = engine.percentile(list(totals.values()), terms.cut_percentile)
    for row in table.rows:
        ccn, stated = hospital(row, table), tables.cell(row, *_REDUCED)
        if stated is None or ccn not in totals:
            continue
        computed, published = engine.is_reduced(totals[ccn], cut), stated.strip().lower().startswith(("y", "1", "t"))
        quantity = f"payment reductions (the worst of the {len(totals)} hospitals in this file)"
        report.tally(quantity).add(ccn, computed == published, computed, published)
