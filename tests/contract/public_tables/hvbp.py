"""Hospital Value-Based Purchasing: a folder (or files) with one table per domain and one of Total Performance Scores.

Columns are named by measure: ``<measure> Achievement Threshold``, ``... Benchmark``, ``... Baseline Rate``,
``... Performance Rate``, ``... Achievement Points`` and so on, with ``... Floor`` in the survey. Which measures there
are is read from the columns; which domain a measure belongs to, and what domains weigh, from the programme's table of
the fiscal year.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from pathlib import Path

from fhir_gateway.contracts.scoring import hospital_vbp as engine
from fhir_gateway.contracts.scoring.hospital_vbp import Domain, HospitalVbpYear, Rates
from fhir_gateway.errors import ContractError
from tests.contract.public_tables import tables
from tests.contract.public_tables.folders import fiscal_year, read_all
from tests.contract.public_tables.report import NotSuchATable, Report, Tally
from tests.contract.public_tables.tables import Table, key

_ID = ("Facility ID", "Provider ID", "Provider Number", "CMS Certification Number (CCN)", "CCN", "Hospital CCN")
_PARTS = {
    "threshold": ("achievementthreshold",),
    "benchmark": ("benchmark",),
    "baseline": ("baselinerate", "baselineperiodrate"),
    "performance": ("performancerate", "performanceperiodrate"),
    "achievement": ("achievementpoints",),
    "improvement": ("improvementpoints",),
    "score": ("measurescore", "dimensionscore", "conditionscore"),
    "floor": ("floor",),
}
_DOMAIN = re.compile(r"^(?P<un>un)?weighted(?:normalized)?(?P<title>.+?)(?:domain)?score$")
#: Some exports write scores as binary floating point numbers.
_BINARY = Decimal("1e-9")
_POINTS = re.compile(r"^\s*(\d+)(?:\.0*)?(?:\s+out\s+of\s+\d+)?\s*$", re.IGNORECASE)


@dataclass
class _Hospital:
    """What was computed for a hospital, and what it takes to compute the rest."""

    scores: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))  # domain -> measure -> score
    domains: dict[str, Decimal] = field(default_factory=dict)


def check(paths: Sequence[Path]) -> Iterator[Report]:
    """One report per fiscal year."""
    found: dict[int, list[Table]] = defaultdict(list)
    for table in read_all(paths):
        if _measures(table) or _published_domains(table):
            year = fiscal_year(table)
            if year is None:
                raise NotSuchATable(f"{table.path}: neither rows nor file name say which fiscal year it is")
            found[year].append(table)
    if not found:
        raise NotSuchATable(f"{', '.join(map(str, paths))}: no table with points or scores of hospitals in it")
    for year, of_year in sorted(found.items()):
        with localcontext(Context(prec=60)):
            yield _check_year(year, of_year)


def _measures(table: Table) -> dict[str, dict[str, str]]:
    """Measure -> part -> column."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for column in table.columns:
        for part, endings in _PARTS.items():
            for ending in endings:
                if column.endswith(ending) and column != ending:
                    found[column.removesuffix(ending)].setdefault(part, column)
    return {name: parts for name, parts in found.items() if {"score", "achievement", "performance"} & parts.keys()}


def _published_domains(table: Table) -> dict[tuple[str, bool], str]:
    """(title, unweighted?) -> column."""
    found = {}
    for column in table.columns:
        if match := _DOMAIN.match(column):
            found[match["title"], bool(match["un"])] = column
    return found


def points_of(text: str | None) -> int | None:
    """Points as published: ``3 out of 10`` or ``3``."""
    match = _POINTS.match(text or "")
    return int(match.group(1)) if match else None


def _check_year(year: int, found: Sequence[Table]) -> Report:
    try:
        terms = HospitalVbpYear.of(year)
    except ContractError as error:
        raise NotSuchATable(f"FY{year}: {error.message}") from error
    report = Report(f"Hospital Value-Based Purchasing FY{year}: {len(found)} tables")
    hospitals: dict[str, _Hospital] = defaultdict(_Hospital)
    totals = [table for table in found if _published_domains(table)]
    for table in found:
        if measures := _measures(table):
            _check_measures(table, measures, terms, report, hospitals)
    for quantity in ("achievement points", "improvement points", "measure scores", "survey base", "survey consistency"):
        if quantity not in report.tallies:
            report.lacks(quantity, "no such column with values")
    if not totals:
        report.lacks("domain scores", "no table with domain scores")
        report.lacks("Total Performance Score", "no table with domain scores")
    for table in totals:
        _check_totals(table, terms, report, hospitals)
    report.lacks("payment factor", "base operating payments are not published with the scores")
    return report


def _domain_of(measure: str, table: Table, terms: HospitalVbpYear) -> Domain | None:
    for domain in terms.domains:
        parts = [name for names in domain.parts.values() for name in names]
        if measure in map(key, (*domain.measures, *parts)):
            return domain
    named = [d for d in terms.domains if any(key(title) in key(table.path.name) for title in d.titles)]
    return named[0] if len(named) == 1 else None


def _rates(row: Mapping[str, str], parts: Mapping[str, str]) -> Rates | None:
    value = {name: tables.number(row, parts[name]) for name in parts if name not in ("score",)}
    threshold, benchmark, performance = (value.get(name) for name in ("threshold", "benchmark", "performance"))
    if threshold is None or benchmark is None or performance is None:
        return None
    return Rates(threshold, benchmark, performance, value.get("baseline"), value.get("floor"))


def _check_measures(
    table: Table,
    measures: Mapping[str, Mapping[str, str]],
    terms: HospitalVbpYear,
    report: Report,
    hospitals: Mapping[str, _Hospital],
) -> None:
    survey = [name for name, parts in measures.items() if "floor" in parts]
    for row in table.rows:
        ccn = _ccn(row, report)
        if ccn is None:
            continue
        scored: dict[str, int] = {}
        rates: dict[str, Rates] = {}
        for name, parts in measures.items():
            known = _rates(row, parts)
            if known is not None:
                rates[name] = known
            score = _check_points(f"{ccn} {name}", row, parts, known, report)
            if score is not None:
                scored[name] = score
        if survey:
            _check_survey(ccn, row, [rates.get(name) for name in survey], [scored.get(n) for n in survey], report)
            if (total := _survey_total(row)) is not None:
                engagement = next((d.id for d in terms.domains if d.survey), "survey")
                hospitals[ccn].domains[engagement] = Decimal(total)
            continue
        for name, score in scored.items():
            domain = _domain_of(name, table, terms)
            hospitals[ccn].scores[domain.id if domain else key(table.path.stem)][name] = score
    _check_combined(table, measures, terms, report)


def _ccn(row: Mapping[str, str], report: Report) -> str | None:
    text = tables.cell(row, *_ID)
    if text is None:
        report.skip(" ".join(list(row.values())[:2])[:40], "no hospital number")
        return None
    return text.strip().zfill(6)


def _check_points(
    row_name: str, row: Mapping[str, str], parts: Mapping[str, str], rates: Rates | None, report: Report
) -> int | None:
    """Compare a measure's points; its score when it was published as scored."""
    published = {name: points_of(row.get(parts.get(name, ""))) for name in ("achievement", "improvement", "score")}
    if rates is None:
        return published["score"]
    points = engine.measure_points(rates)
    for name, computed in (("achievement", points.achievement), ("improvement", points.improvement)):
        stated = published[name]
        if stated is not None:
            report.tally(f"{name} points").add(row_name, computed == stated, computed, stated)
    if published["score"] is None:
        return None if "score" in parts or published["achievement"] is None else points.score
    report.tally("measure scores").add(row_name, points.score == published["score"], points.score, published["score"])
    return points.score


def _survey_total(row: Mapping[str, str]) -> int | None:
    base, consistency = (
        points_of(tables.cell(row, f"HCAHPS {n} Score", f"Survey {n} Score")) for n in ("Base", "Consistency")
    )
    return None if base is None or consistency is None else base + consistency


def _check_survey(
    ccn: str, row: Mapping[str, str], rates: Sequence[Rates | None], scores: Sequence[int | None], report: Report
) -> None:
    for name in ("Base", "Consistency"):
        published = points_of(tables.cell(row, f"HCAHPS {name} Score", f"Survey {name} Score"))
        if published is None:
            continue
        computed = None
        if name == "Base" and None not in scores:
            computed = engine.survey_base([score for score in scores if score is not None])
        elif name == "Consistency" and None not in rates:
            computed = engine.consistency_points([r for r in rates if r is not None])
        report.tally(f"survey {name.lower()}").add(ccn, computed == published, computed, published)


def _check_combined(
    table: Table, measures: Mapping[str, Mapping[str, str]], terms: HospitalVbpYear, report: Report
) -> None:
    """A combined score lies between its parts; the predicted infections that weigh them are not published here."""
    for domain in terms.domains:
        for whole, parts in domain.parts.items():
            if key(whole) not in measures or not {key(part) for part in parts} <= measures.keys():
                continue
            for row in table.rows:
                published = points_of(row.get(measures[key(whole)]["score"]))
                stated = [points_of(row.get(measures[key(part)].get("score", ""))) for part in parts]
                scores = [score for score in stated if score is not None]
                if published is None or not scores:
                    continue
                ccn = tables.cell(row, *_ID) or ""
                quantity = f"{whole} score (of its one part)"
                computed: int | str | None = engine.combined_score([(score, Decimal(1)) for score in scores])
                agrees = computed == published
                if len(set(scores)) > 1:
                    quantity, agrees = f"{whole} score (between its parts)", min(scores) <= published <= max(scores)
                    computed = f"{min(scores)} to {max(scores)}"
                report.tally(quantity).add(ccn, agrees, computed, published)


def _check_totals(table: Table, terms: HospitalVbpYear, report: Report, hospitals: Mapping[str, _Hospital]) -> None:
    columns = _published_domains(table)
    by_title = {key(title): domain for domain in terms.domains for title in domain.titles}
    named = {title: by_title.get(title) for title, _ in columns}
    for title in sorted(title for title, domain in named.items() if domain is None):
        report.lacks(f"domain '{title}'", f"the programme's table of FY{terms.year} has no such domain")
    published_at_all = {
        name: any(tables.number(row, name) is not None for row in table.rows)
        for name in (*columns.values(), key("Total Performance Score"))
    }
    if not published_at_all[key("Total Performance Score")]:
        report.lacks("Total Performance Score", "no hospital has one")
    for row in table.rows:
        ccn = _ccn(row, report)
        if ccn is None:
            continue
        hospital = hospitals.get(ccn) or _Hospital()
        scores: dict[str, Decimal | None] = {}
        for title, domain in named.items():
            if domain is None:
                continue
            column = columns.get((title, True))
            published = tables.number(row, column) if column else None
            computed = _domain(hospital, domain)
            if computed is None and not _knows(hospitals, domain):
                report.lacks(f"{domain.id} domain score", "no table of its measures; taken as published")
                scores[domain.id] = published
                continue
            scores[domain.id] = computed
            if column and published_at_all[column]:
                _compare(report.tally(f"{domain.id} domain score"), ccn, computed, published)
            elif column:
                report.lacks(f"{domain.id} domain score", "no hospital has one")
        if published_at_all[key("Total Performance Score")]:
            _check_total(ccn, row, columns, named, terms, scores, report)


def _knows(hospitals: Mapping[str, _Hospital], domain: Domain) -> bool:
    """Whether the table of a domain was there."""
    return any(domain.id in h.scores or domain.id in h.domains for h in hospitals.values())


def _domain(hospital: _Hospital, domain: Domain) -> Decimal | None:
    if domain.survey:
        return hospital.domains.get(domain.id)
    scored = hospital.scores.get(domain.id, {})
    parts = {key(part) for names in domain.parts.values() for part in names}
    return engine.domain_score([score for name, score in scored.items() if name not in parts], domain.min_measures)


def _check_total(
    ccn: str,
    row: Mapping[str, str],
    columns: Mapping[tuple[str, bool], str],
    named: Mapping[str, Domain | None],
    terms: HospitalVbpYear,
    scores: Mapping[str, Decimal | None],
    report: Report,
) -> None:
    weights = {domain.id: domain.weight for domain in named.values() if domain}
    whole = engine.weighted_domains(scores, weights, terms.min_domains)
    published = tables.number(row, "Total Performance Score", "TPS")
    total = None if whole is None else engine.total_performance_score(whole)
    if total is not None and (bonus := _bonus(row)) is not None:
        total += bonus
    _compare(report.tally("Total Performance Score"), ccn, total, published)
    if published is not None and len([s for s in scores.values() if s is not None]) < len(weights):
        _compare(report.tally("  of these with a missing domain"), ccn, total, published)
    for title, domain in named.items():
        column = columns.get((title, False))
        if column and domain and whole is not None and published is not None:
            stated = tables.number(row, column)
            computed = whole[domain.id].weighted if domain.id in whole else None
            _compare(report.tally("weighted domain scores"), f"{ccn} {domain.id}", computed, stated)


def _bonus(row: Mapping[str, str]) -> Decimal | None:
    """Points on top of the domains (health equity adjustment), where a year publishes them."""
    names = [name for name in row if "healthequity" in name and ("bonus" in name or name.endswith("points"))]
    return tables.number(row, names[0]) if names else None


def _compare(tally: Tally, row: str, computed: Decimal | None, published: Decimal | None) -> None:
    """Equal at the digits that were published, or absent on both sides."""
    if computed is None or published is None:
        tally.add(row, computed is published, computed, published)
        return
    rounded = computed.quantize(Decimal(1).scaleb(min(0, int(published.as_tuple().exponent))), ROUND_HALF_UP)
    agrees = rounded == published or abs(computed - published) < _BINARY
    tally.add(row, agrees, rounded, published)
