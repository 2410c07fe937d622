"""Utilization and cost of the lake or of a contract's members: computed, compared with the year before, served.

Results are a summary MeasureReport. That of a contract carries the contract's label, so that who may see the contract
sees it; one of everybody in the lake is for those who see everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

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
from fhir_gateway.jobs.publish import REPORTER
from fhir_gateway.jobs.utilization_members import DIMENSIONS, KnownClaims, Whose, members_of
from fhir_gateway.risk.utilization import (
    Metric,
    Options,
    Utilization,
    metric,
    utilization_of,
)
from fhir_gateway.risk.utilization.reports import canonical, measure, report, vbpr_groups
from fhir_gateway.risk.utilization.service import value_sets_looked_at
from fhir_gateway.risk.utilization.tables import Tables, load_imported, read_form

_MONTHS_OF_COMPLETION = 24
_COMPLETION_COLUMNS = ("_member", "counts", "denied", "claim_type", "service_from", "payment_date", "paid", "allowed")


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
    whose = Whose()
    if contract is not None:
        attributed = attribute(gateway, contract)
        paid_through = paid_through or attributed.contract.claims.paid_through
        whose = members_of(attributed.contract, attributed.attribution)
    if unknown := sorted(set(dimensions) - set(DIMENSIONS)):
        raise InputError(f"there is no dimension {', '.join(unknown)}: {', '.join(DIMENSIONS)}")
    if contract is None and (chosen := [one for one in dimensions if one.startswith("attributed-")]):
        raise InputError(f"{', '.join(chosen)}: only a contract attributes members")
    options = options or options_of(gateway)
    claims = KnownClaims(gateway, version, paid_through, whose)
    newest = pc.max(claims.lines(["service_from"])["service_from"]).as_py()
    found, prior = (
        utilization_of(
            claims.slices(when, options, dimensions, period[1], strata),
            when,
            through=_through(newest, when, paid_through),
            options=options,
            by_rendering="rendering" in dimensions,
            keep_members=keep_members,
        )
        if when is not None
        else None
        for when in (period, _year_before(period) if trend else None)
    )
    assert found is not None  # of the period itself  # noqa: S101
    trends: tuple[Trend, ...] = ()
    if prior is not None:
        trends = _trends(found, prior, claims.lines(_COMPLETION_COLUMNS), whose.roster, paid_through)
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
    whose = members_of(contract, attributed.attribution)
    options = options_of(gateway)
    version = attributed.lake_version
    claims = KnownClaims(gateway, version, paid_through, whose)
    found = utilization_of(claims.slices(period, options), period, through=paid_through, options=options)
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
    if unknown := sorted(set(found.value_sets) - value_sets_looked_at()):
        raise InputError(f"{path.name}: {', '.join(unknown)}: no metric looks at such a value set")
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


def _through(newest: date | None, period: tuple[date, date], paid_through: date | None) -> date:
    """The last day that services are known of: not after the run-out, nor after the last (``newest``) service."""
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
