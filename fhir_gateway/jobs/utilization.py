"""Utilization and cost of the lake or of a contract's members: computed, compared with the year before, served.

Results are a summary MeasureReport. That of a contract carries the contract's label, so that who may see the contract
sees it; one of everybody in the lake is for those who see everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution import COVERAGE_COLUMNS, Attribution, member_months
from fhir_gateway.attribution.eligibility import MONTH_SCHEMA
from fhir_gateway.attribution.rules import MonthRule
from fhir_gateway.contracts import Contract
from fhir_gateway.contracts.benchmarks.completion import Completed, completed, triangle
from fhir_gateway.contracts.calendar import Cut
from fhir_gateway.contracts.inputs import MeasureScore
from fhir_gateway.contracts.vbpr import metrics_report
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.errors import ContractError, InputError
from fhir_gateway.experience.metrics import is_experience
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import AttributionReport, attribute, organizations
from fhir_gateway.jobs.claim_lines import kept_claim_lines
from fhir_gateway.jobs.people import persons_of
from fhir_gateway.jobs.publish import REPORTER
from fhir_gateway.risk.utilization import (
    LINE_COLUMNS,
    NETWORK_SCHEMA,
    STRATA_SCHEMA,
    Metric,
    Options,
    Population,
    Utilization,
    metric,
    utilization,
)
from fhir_gateway.risk.utilization.reports import canonical, measure, report, vbpr_groups
from fhir_gateway.risk.utilization.tables import Tables, load_imported, read_form

#: Dimensions that the gateway knows by itself; those of attribution exist under a contract.
DIMENSIONS = ("sex", "age-band", "attributed-tin", "attributed-npi", "rendering")
_MONTHS_OF_COMPLETION = 24
#: Values of a member by dimension; who is of none is unknown.
_KNOWN = {
    "sex": "coalesce(gender, 'unknown')",
    "age-band": """CASE WHEN age IS NULL THEN 'unknown' WHEN age < 18 THEN '0-17' WHEN age < 35 THEN '18-34'
      WHEN age < 50 THEN '35-49' WHEN age < 65 THEN '50-64' WHEN age < 75 THEN '65-74' WHEN age < 85 THEN '75-84'
      ELSE '85+' END""",
}


@dataclass(frozen=True, slots=True)
class Trend:
    """A metric in the period and a year before; ``completed``: with what is incurred and not yet paid."""

    metric: str
    prior: Decimal | None
    current: Decimal | None
    completed: Decimal | None = None

    @property
    def change(self) -> Decimal | None:
        """Growth from the year before, of the completed result where there is one."""
        now = self.current if self.completed is None else self.completed
        return None if now is None or not self.prior else now / self.prior - 1


@dataclass(frozen=True, slots=True)
class UtilizationReport:
    """Results, how they were before, and the id of the MeasureReport when it is served."""

    utilization: Utilization
    trends: tuple[Trend, ...]
    lake_version: int
    contract: str | None
    paid_through: date | None = None
    report: str | None = None


@dataclass(frozen=True, slots=True)
class _Whose:
    """The members that are asked about, and how their months count."""

    roster: pa.Array | None = None
    rule: MonthRule = "any_day"
    covered: bool = True
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    attributed: pa.Table | None = None
    network: pa.Table | None = None
    precedence: Sequence[str] = ()


def compute(
    gateway: Gateway,
    period: tuple[date, date],
    *,
    contract: str | None = None,
    dimensions: Sequence[str] = (),
    strata: pa.Table | None = None,
    paid_through: date | None = None,
    options: Options | None = None,
    trend: bool = False,
    keep_members: bool = False,
) -> UtilizationReport:
    """All metrics of everybody in the lake, or of the members attributed to a contract's provider.

    ``dimensions`` are of :data:`DIMENSIONS`; ``strata`` (``STRATA_SCHEMA``) adds any other. With ``trend`` the year
    before is computed too. Claims paid after ``paid_through`` (default: of a contract its run-out, else none) are
    unknown. With ``keep_members`` what each member adds is there too.
    """
    if period[1] < period[0]:
        raise InputError("the period ends before it begins")
    version = gateway.lake.version
    whose = _Whose()
    if contract is not None:
        attributed = attribute(gateway, contract)
        paid_through = paid_through or attributed.contract.claims.paid_through
        whose = _members_of(attributed.contract, attributed.attribution)
    if unknown := sorted(set(dimensions) - set(DIMENSIONS)):
        raise InputError(f"there is no dimension {', '.join(unknown)}: {', '.join(DIMENSIONS)}")
    if contract is None and (chosen := [one for one in dimensions if one.startswith("attributed-")]):
        raise InputError(f"{', '.join(chosen)}: only a contract attributes members")
    options = options or options_of(gateway)
    lines = _lines(gateway, version, paid_through, whose.precedence)
    people = persons_of(gateway, version)
    strata = _strata(people, whose, dimensions, period[1], strata)
    found, prior = (
        utilization(
            lines,
            _population(gateway, version, whose, when, people, strata, options),
            when,
            through=_through(lines, when, paid_through),
            options=options,
            by_rendering="rendering" in dimensions,
            keep_members=keep_members,
        )
        if when is not None
        else None
        for when in (period, _year_before(period) if trend else None)
    )
    assert found is not None  # of the period itself  # noqa: S101
    trends = _trends(found, prior, lines, whose.roster, paid_through) if prior else ()
    return UtilizationReport(found, trends, version, contract, paid_through)


def publish(gateway: Gateway, computed: UtilizationReport, now: datetime) -> UtilizationReport:
    """Serve the results as a MeasureReport, of a contract as a VBPR performance report too, and the Measure of both."""
    found = computed.utilization
    if computed.contract is None:
        resource = report(found, {"reference": f"Organization/{REPORTER}"}, now)
        served = [resource]
    else:
        contract = Contract.load(gateway.contract(computed.contract))
        known = organizations(gateway, computed.lake_version)
        resource = report(found, contract.payer.refer(known), now, contract.currency)
        resource["id"] = f"{resource['id']}-{contract.id}"[:64]
        performance = metrics_report(
            vbpr_groups(found, contract.currency),
            contract,
            report_id=f"v{resource['id'][1:]}",
            issued=now,
            period=found.period,
            paid_through=computed.paid_through or contract.claims.paid_through,
            organizations=known,
        )
        served = [labelled(one, label("contract", contract.id)) for one in (resource, performance)]
    gateway.resources.put_many([measure(), *served])
    return replace(computed, report=resource["id"])


def metric_outcomes(
    gateway: Gateway, attributed: AttributionReport, cut: Cut | None
) -> tuple[dict[str, MeasureScore], dict[str, str]]:
    """Results of the metrics that a contract weighs, as outcomes by canonical and group, and what they were made of."""
    contract = attributed.contract
    names = [one.metric for one in contract.measures if one.metric and not is_experience(one.metric)]
    if not names:
        return {}, {}
    through = contract.dates[1] if cut is None else cut.through
    paid_through = contract.claims.paid_through if cut is None else cut.paid_through
    period = (contract.dates[0], through)
    whose = _members_of(contract, attributed.attribution)
    options = options_of(gateway)
    version = attributed.lake_version
    lines = _lines(gateway, version, paid_through, whose.precedence)
    people = persons_of(gateway, version)
    population = _population(gateway, version, whose, period, people, None, options)
    found = utilization(lines, population, period, through=paid_through, options=options)
    outcomes = {}
    for name in names:
        if name in found.refused:
            raise ContractError(f"measures: metric {name}: {found.refused[name]}")
        outcomes[f"{canonical()}#{name}"] = _outcome(metric(name), found)
    return outcomes, {f"utilization.{name}": text for name, text in found.versions.items()}


def options_of(gateway: Gateway, base: Options | None = None) -> Options:
    """Options with the tables that were imported here."""
    return replace(base or Options(), tables=load_imported(tables_folder(gateway)))


def tables_folder(gateway: Gateway) -> Path:
    """Where imported tables are kept."""
    return gateway.data_folder / "utilization-tables"


def import_table(gateway: Gateway, path: Path, form: str) -> Tables:
    """Check a table and keep it; InputError names what is wrong in it. The same file name takes its place."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read") from error
    kind = read_form(form)
    found = Tables.shipped().with_imported(kind, content, path.name)
    folder = tables_folder(gateway)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stem = "".join(c if c.isalnum() or c == "-" else "-" for c in path.stem)
    name = f"{kind}.{stem}.csv" if kind == "value-sets" else f"{kind}.csv"
    partial = folder / f".{name}.part"
    partial.write_bytes(content)
    partial.replace(folder / name)
    return found


def _outcome(about: Metric, found: Utilization) -> MeasureScore:
    row = found.row(about.id)
    denominator = row["denominator"] or Decimal(0)
    whole = row["numerator"] == row["numerator"].to_integral_value()
    return MeasureScore(int(row["numerator"]) if whole else None, int(denominator), row["score"])


def _members_of(contract: Contract, attribution: Attribution) -> _Whose:
    chosen = attribution.table.filter(pc.equal(attribution.table["entity"], contract.provider.entity))
    rule = attribution.terms.eligibility
    tins = {*contract.provider.tins, *(tin for one in contract.participants for tin in one.tins)}
    npis = {*contract.provider.npis, *(npi for one in contract.participants for npi in one.npis)}
    rows = [{"tin": one, "npi": None} for one in sorted(tins)] + [{"tin": None, "npi": one} for one in sorted(npis)]
    return _Whose(
        roster=chosen["member"].combine_chunks(),
        rule=rule.month_rule,
        covered=rule.coverage != "ignored",
        include=rule.include_types,
        exclude=rule.exclude_types,
        attributed=chosen,
        network=pa.Table.from_pylist(rows, schema=NETWORK_SCHEMA) if rows else None,
        precedence=contract.claims.precedence,
    )


def _lines(gateway: Gateway, version: int, paid_through: date | None, precedence: Sequence[str]) -> pa.Table:
    return kept_claim_lines(gateway, version, paid_through, list(LINE_COLUMNS), precedence)


def _population(
    gateway: Gateway,
    version: int,
    whose: _Whose,
    period: tuple[date, date],
    people: pa.Table,
    strata: pa.Table | None,
    options: Options,
) -> Population:
    """Months from so many before the period as enrolment of readmissions looks at, to a month after it."""
    prior = options.readmissions.prior_months if options.readmissions.enrolment == "required" else 0
    start = period[0].replace(day=1)
    index = start.year * 12 + start.month - 1 - prior
    whole = (date(index // 12, index % 12 + 1, 1), period[1] + timedelta(days=62 if prior else 0))
    deaths = people.filter(people["died"].is_valid()).select(["member", "died"])
    months = MONTH_SCHEMA.empty_table()
    if whose.covered:
        coverage = gateway.lake.read("Coverage", COVERAGE_COLUMNS, version=version)
        if coverage.num_rows:
            months = member_months(coverage, whole, whose.rule, whose.include, whose.exclude, deaths)
            if whose.roster is not None:
                months = months.filter(pc.is_in(months["member"], value_set=whose.roster))
        elif whose.roster is None:
            months = _lived(people, whole)  # nobody sends coverage: who lives is a member
    else:
        months = _lived(people.filter(pc.is_in(people["member"], value_set=whose.roster)), whole)
    born = people.select(["member", "birth_date", "died"])
    return Population(months, roster=whose.roster, people=born, strata=strata, network=whose.network)


def _lived(people: pa.Table, period: tuple[date, date]) -> pa.Table:
    """A month for each that somebody lived in."""
    with duckdb.connect() as connection:
        connection.register("people", people)
        found = connection.sql(
            """
            SELECT member, month::DATE AS month, 1::DECIMAL(28, 8) AS months
            FROM people, generate_series(date_trunc('month', $start::DATE), $end::DATE, INTERVAL 1 MONTH) m (month)
            WHERE coalesce(last_day(month::DATE) >= birth_date, TRUE) AND coalesce(month::DATE <= died, TRUE)
            ORDER BY member, month
            """,
            params={"start": period[0], "end": period[1]},
        ).to_arrow_table()
    return found.cast(MONTH_SCHEMA)


def _strata(
    people: pa.Table, whose: _Whose, dimensions: Sequence[str], on: date, given: pa.Table | None
) -> pa.Table | None:
    """Which member is of which value in each dimension asked for; who is of none is ``unknown``."""
    chosen = [] if given is None else [given.select(STRATA_SCHEMA.names).cast(STRATA_SCHEMA)]
    with duckdb.connect() as connection:
        connection.register("people", people)
        connection.execute(
            """
            CREATE TEMP TABLE person AS
            SELECT member, gender, date_diff('year', birth_date, $on::DATE)
              - (strftime($on::DATE, '%m%d') < strftime(birth_date, '%m%d'))::INT AS age FROM people
            """,
            {"on": on},
        )
        for name in dimensions:
            if name in _KNOWN:
                query = f"SELECT member, '{name}' AS dimension, {_KNOWN[name]} AS value FROM person"  # noqa: S608 ours
                chosen.append(connection.sql(query).to_arrow_table().cast(STRATA_SCHEMA))
        if whose.attributed is not None:
            for name in ("tin", "npi"):
                if f"attributed-{name}" in dimensions:
                    values = pc.fill_null(whose.attributed[name], "unknown")
                    dimension = pa.array([f"attributed-{name}"] * len(values), pa.string())
                    table = pa.table([whose.attributed["member"], dimension, values], names=STRATA_SCHEMA.names)
                    chosen.append(table.cast(STRATA_SCHEMA))
    return pa.concat_tables(chosen) if chosen else None


def _through(lines: pa.Table, period: tuple[date, date], paid_through: date | None) -> date:
    """The last day that services are known of: not after the run-out, nor after the last service there is."""
    newest = pc.max(lines["service_from"]).as_py()
    known = [one for one in (paid_through, newest) if one is not None]
    return max(period[1], min(known)) if known else period[1]


def _trends(
    found: Utilization, prior: Utilization, lines: pa.Table, roster: pa.Array | None, paid_through: date | None
) -> tuple[Trend, ...]:
    """Every metric now and then; cost of the period is completed by the development of the two years before."""
    trends = []
    counting = lines.filter(pc.and_(lines["counts"], pc.is_valid(lines["payment_date"])))
    as_of = paid_through or pc.max(counting["payment_date"]).as_py()
    members = roster if roster is not None else pc.unique(counting["_member"])
    amounts: dict[str, Literal["paid", "allowed"]] = {"paid-pmpm": "paid", "allowed-pmpm": "allowed"}
    for name in dict.fromkeys(found.table["metric"].to_pylist()):
        now, then = found.score(name), prior.score(name)
        whole = None
        if now is not None and name in amounts and as_of is not None and as_of >= found.period[0]:
            whole = now * _completion(counting, members, as_of, found.period, amounts[name]).factor
        trends.append(Trend(name, then, now, whole))
    return tuple(trends)


def _completion(
    lines: pa.Table, members: pa.Array, as_of: date, period: tuple[date, date], amount: Literal["paid", "allowed"]
) -> Completed:
    reach = (as_of.year - period[0].year) * 12 + as_of.month - period[0].month + 1
    return completed(triangle(lines, members, as_of, max(reach, _MONTHS_OF_COMPLETION), amount), period)


def _year_before(period: tuple[date, date]) -> tuple[date, date]:
    def before(day: date) -> date:
        return date(day.year - 1, day.month, 28 if (day.month, day.day) == (2, 29) else day.day)

    return before(period[0]), before(period[1])
