"""Hospital Readmissions Reduction Program: the supplemental file of a fiscal year, and the file of measures.

Supplemental files have a row per hospital and columns per condition (``ERR for AMI``); measure files a row per hospital
and condition. Which conditions there are is read from the columns.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from pathlib import Path

from fhir_gateway.contracts.scoring import readmissions as engine
from fhir_gateway.contracts.scoring.readmissions import Condition, ReadmissionsYear
from tests.contract.public_tables import tables
from tests.contract.public_tables.folders import fiscal_year, hospital, read_all
from tests.contract.public_tables.report import NotSuchATable, Report
from tests.contract.public_tables.tables import Table

_PARTS = {
    "discharges": re.compile(
        r"^(?:numberof)?(?:eligible)?(?:discharges|cases)for(?P<c>.+)$|^numberof(?P<d>.+?)(?:cases|discharges)$"
    ),
    "ratio": re.compile(r"^(?:err|excessreadmissionratio|excessreadmissionsratio)for(?P<c>.+)$"),
    "median": re.compile(r"^(?:peergroup)?median(?:err|excessreadmissionratio)?for(?P<c>.+)$"),
    "indicator": re.compile(r"^penaltyindicatorfor(?P<c>.+)$"),
    "payment_ratio": re.compile(r"^(?:base)?(?:operating)?(?:drg)?paymentratiofor(?P<c>.+)$"),
}
_MEASURES = ("Excess Readmission Ratio", "Predicted Readmission Rate", "Expected Readmission Rate")
_CLOSE = Decimal("0.0001")
#: With fewer hospitals a file is an extract: quintiles and medians of the programme cannot be found from it.
EVERYBODY = 2500


def check(paths: Sequence[Path]) -> Iterator[Report]:
    """One report per file."""
    found = False
    for table in read_all(paths):
        conditions = _conditions(table)
        with localcontext(Context(prec=60)):
            if table.has(_MEASURES[0]):
                found = True
                yield _check_measures(table)
            elif conditions:
                found = True
                yield _check_supplement(table, conditions)
    if not found:
        raise NotSuchATable(f"{', '.join(map(str, paths))}: no columns of excess readmission ratios in it")


def _conditions(table: Table) -> dict[str, dict[str, str]]:
    """Condition -> part -> column."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for column in table.columns:
        for part, pattern in _PARTS.items():
            if match := pattern.match(column):
                name = next(group for group in match.groups() if group)
                found[name].setdefault(part, column)
    return {name: parts for name, parts in found.items() if "ratio" in parts}


def _check_measures(table: Table) -> Report:
    report = Report(f"{table.path.name}: readmission measures")
    for quantity in ("peer medians", "penalty indicators", "payment adjustment factor"):
        report.lacks(quantity, "a file of measures; give the supplemental file")
    if not table.has(*_MEASURES):
        report.lacks("excess readmission ratio", "no columns of predicted and expected rates")
        return report
    for row in table.rows:
        ratio, predicted, expected = (tables.number(row, name) for name in _MEASURES)
        if ratio is None:
            continue
        name = f"{hospital(row, table)} {tables.cell(row, 'Measure Name', 'Measure ID', 'Measure')}"
        if predicted is None or not expected:
            report.skip(name, "a ratio without its rates")
            continue
        computed = _like(engine.excess_ratio(predicted, expected), ratio)
        # the rates are published rounded: the last digit of their quotient may differ
        report.tally("excess readmission ratio within 0.0001").add(
            name, abs(computed - ratio) <= _CLOSE, computed, ratio
        )
        report.tally("excess readmission ratio, every digit").add(name, computed == ratio, computed, ratio)
    return report


def _check_supplement(table: Table, conditions: Mapping[str, Mapping[str, str]]) -> Report:
    year = fiscal_year(table)
    terms = ReadmissionsYear.of(year or 2019)  # penalties have had the same cap and groups since then
    report = Report(f"{table.path.name}: supplemental file of {f'FY{year}' if year else 'an unnamed fiscal year'}")
    groups = _check_groups(table, terms, report)
    for name, parts in conditions.items():
        _check_condition(table, name, parts, groups, terms, report)
    _check_factors(table, conditions, terms, report)
    report.lacks("excess readmission ratio", "predicted and expected rates are in the file of measures")
    return report


def _check_groups(table: Table, terms: ReadmissionsYear, report: Report) -> dict[str, int]:
    """Published groups; compared with the quintiles of the dual proportions in the file."""
    dual: dict[str, Decimal] = {}
    published: dict[str, int] = {}
    for row in table.rows:
        name = hospital(row, table)
        share = tables.number(row, "Dual proportion", "Proportion of dual eligible stays", "Dual stays proportion")
        group = tables.number(row, "Peer group assignment", "Peer group")
        if group is not None:
            published[name] = int(group)
            if share is not None:
                dual[name] = share
    if not published:
        report.lacks("peer groups", "no column of peer groups")
        return {}
    if not dual:
        report.lacks("peer groups", "no column of dual proportions")
        return published
    if len(dual) < EVERYBODY:
        _check_order(dual, published, report)
        return published
    for name, computed in engine.peer_groups(dual, terms.peer_groups or 5).items():
        report.tally("peer groups").add(name, computed == published[name], computed, published[name])
    return published


def _check_order(dual: Mapping[str, Decimal], published: Mapping[str, int], report: Report) -> None:
    """Of some hospitals only the order can be checked: no group reaches into the dual proportions of another."""
    quintiles: dict[int, list[Decimal]] = defaultdict(list)
    for name, share in dual.items():
        quintiles[published[name]].append(share)
    for name, share in dual.items():
        group = published[name]
        below = max((max(of) for other, of in quintiles.items() if other < group), default=share)
        above = min((min(of) for other, of in quintiles.items() if other > group), default=share)
        quantity = "peer groups in the order of dual proportions"
        report.tally(quantity).add(name, below <= share <= above, f"between {below} and {above}", share)
    report.lacks("peer groups", f"quintiles need every hospital, about 3,000; this file has {len(dual)}")


def _check_condition(
    table: Table,
    name: str,
    parts: Mapping[str, str],
    groups: Mapping[str, int],
    terms: ReadmissionsYear,
    report: Report,
) -> None:
    ratios: dict[str, Decimal] = {}
    medians: dict[int, Decimal] = {}
    for row in table.rows:
        ccn = hospital(row, table)
        known = _condition(row, parts, terms)
        if known is None:
            continue
        if known.ratio is not None:
            ratios[ccn] = known.ratio
        if ccn in groups and "median" in parts:
            medians[groups[ccn]] = known.median
        stated = tables.cell(row, parts.get("indicator", ""))
        if stated is not None and known.ratio is not None:
            computed = "Y" if engine.is_penalised(known, terms.min_discharges) else "N"
            agrees = computed == stated.strip().upper()[:1]
            report.tally("penalty indicators").add(f"{ccn} {name}", agrees, computed, stated)
    if not medians:
        report.lacks("peer medians", "no column of peer medians")
        return
    if len(groups) < EVERYBODY:
        report.lacks("peer medians", f"they need every hospital, about 3,000; this file has {len(groups)}")
        return
    for group, computed_median in engine.peer_medians(ratios, groups).items():
        if (published := medians.get(group)) is not None:
            rounded = _like(computed_median, published)
            agrees = abs(computed_median - published) <= _CLOSE
            report.tally("peer medians within 0.0001").add(f"{name} group {group}", agrees, rounded, published)


def _condition(row: Mapping[str, str], parts: Mapping[str, str], terms: ReadmissionsYear) -> Condition | None:
    value = {part: tables.number(row, column) for part, column in parts.items() if part != "indicator"}
    median = value.get("median")
    if median is None:
        if "median" in parts or terms.peer_groups:
            return None
        median = Decimal(1)  # before peer groups every hospital was compared with what is expected
    return Condition(value.get("discharges"), value.get("ratio"), median, value.get("payment_ratio") or Decimal(0))


def _check_factors(
    table: Table, conditions: Mapping[str, Mapping[str, str]], terms: ReadmissionsYear, report: Report
) -> None:
    factor_column = next((c for c in table.columns if c.endswith("adjustmentfactor")), None)
    percent_column = next((c for c in table.columns if "reductionpercentage" in c), None)
    lacking = [
        what
        for what, there in (
            ("payment adjustment factors", factor_column),
            ("DRG payment ratios", all("payment_ratio" in parts for parts in conditions.values())),
            ("peer medians", not terms.peer_groups or all("median" in parts for parts in conditions.values())),
            ("the neutrality modifier", not terms.peer_groups or table.has("Neutrality modifier")),
        )
        if not there
    ]
    if lacking:
        report.lacks("payment adjustment factor", f"the file lacks {', '.join(lacking)}")
        return
    for row in table.rows:
        ccn, published = hospital(row, table), tables.number(row, factor_column or "")
        modifier = tables.number(row, "Neutrality modifier") if terms.peer_groups else Decimal(1)
        if published is None or modifier is None:
            report.skip(ccn, "no factor or modifier")
            continue
        known = [_condition(row, parts, terms) for parts in conditions.values()]
        excess = engine.unmodified_penalty([c for c in known if c is not None], terms.min_discharges)
        computed = engine.adjustment_factor(engine.penalty(excess, modifier, terms.cap))
        report.tally("payment adjustment factor").add(ccn, computed == published, computed, published)
        within = abs(computed - published) <= _CLOSE
        report.tally("payment adjustment factor within 0.0001").add(ccn, within, computed, published)
        stated = tables.number(row, percent_column or "")
        if stated is not None:
            report.tally("payment reduction percentage (of the published factor)").add(
                ccn, 1 - published == stated, 1 - published, stated
            )
    if not percent_column:
        report.lacks("payment reduction percentage", "no such column")


def _like(computed: Decimal, published: Decimal) -> Decimal:
    """Rounded to as many digits as were published, four at least."""
    digits = max(4, -int(published.as_tuple().exponent))
    return computed.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
