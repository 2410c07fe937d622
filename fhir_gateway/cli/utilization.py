"""Commands about utilization and cost: ``utilization report``, ``metrics``, ``import``."""

from __future__ import annotations

import csv
import sys
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fhir_gateway.cli.context import context
from fhir_gateway.errors import ConfigurationError

app = typer.Typer(help="Utilization and cost out of claims.", no_args_is_help=True)


class Form(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"
    csv = "csv"


_COLUMNS = ("metric", "dimension", "value", "category", "numerator", "denominator", "result", "unit", "vbpr")
_TREND = ("metric", "prior", "current", "completed", "change")


@app.command("report")
def report(
    command: typer.Context,
    period: Annotated[str, typer.Option(help="A year, or two days: 2025 or 2025-01-01..2025-12-31.")],
    contract: Annotated[str | None, typer.Option(help="Members of this contract; default: everybody.")] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Dimension: sex, age-band, rendering; of a contract attributed-tin, attributed-npi."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--metric", help="Only this metric.")] = None,
    strata: Annotated[
        Path | None, typer.Option(help="CSV of more dimensions: member, dimension, value.", exists=True)
    ] = None,
    paid_through: Annotated[str | None, typer.Option(help="Claims paid later are as if unknown.")] = None,
    high_cost: Annotated[int, typer.Option(min=1, help="Paid amount from which a member is of high cost.")] = 100_000,
    min_age: Annotated[int, typer.Option(min=0, help="Youngest age of an index stay of readmissions.")] = 18,
    enrolled: Annotated[
        bool, typer.Option(help="Index stays need 12 covered months before and 30 covered days after.")
    ] = False,
    trend: Annotated[bool, typer.Option(help="Beside the year before, cost completed.")] = False,
    publish: Annotated[bool, typer.Option(help="Serve the results as a MeasureReport.")] = False,
    form: Annotated[Form, typer.Option("--format", help="table, json or csv.")] = Form.table,
) -> None:
    """All metrics of a period: numerator, denominator and result, in total and by dimension."""
    from fhir_gateway.jobs import utilization as job
    from fhir_gateway.jobs.clock import instant
    from fhir_gateway.risk.utilization import Options, ReadmissionTerms, metric, metrics

    here = context(command)
    for name in only or ():
        metric(name)
    terms = ReadmissionTerms(min_age=min_age, enrolment="required" if enrolled else "ignored")
    options = job.options_of(here.gateway, Options(high_cost=high_cost, readmissions=terms))
    found = job.compute(
        here.gateway,
        _period(period),
        contract=contract,
        dimensions=tuple(by or ()),
        strata=_strata(strata) if strata else None,
        paid_through=_day(paid_through, "--paid-through") if paid_through else None,
        options=options,
        trend=trend,
    )
    if publish:
        found = job.publish(here.gateway, found, instant(here.gateway, None))
    known = metrics()
    rows = [
        {name: _plain(row.get(name)) for name in _COLUMNS[:7]}
        | {"unit": known[row["metric"]].unit, "vbpr": known[row["metric"]].vbpr}
        for row in found.utilization.table.to_pylist()
        if not only or row["metric"] in only
    ]
    trends = [
        {name: _plain(getattr(one, name)) for name in _TREND} for one in found.trends if not only or one.metric in only
    ]
    if form is Form.csv:
        _write_csv(_COLUMNS, rows)
        return
    if form is Form.json or here.output.json:
        here.output.value(
            {
                "period": [day.isoformat() for day in found.utilization.period],
                "contract": contract,
                "lake_version": found.lake_version,
                "report": found.report,
                "versions": dict(found.utilization.versions),
                "refused": dict(found.utilization.refused),
                "notes": list(found.utilization.notes),
                "results": rows,
                "trend": trends,
            }
        )
        return
    columns = [name for name in _COLUMNS if name == "metric" or any(row[name] is not None for row in rows)]
    here.output.table(f"Utilization, {period}" + (f", {contract}" if contract else ""), columns, rows)
    if trends:
        here.output.table("Trend", _TREND, trends)
    for name, why in found.utilization.refused.items():
        here.output.say(f"not computed: {name}: {why}")
    for note in found.utilization.notes:
        here.output.say(f"note: {note}")
    if found.report:
        here.output.say(f"served as MeasureReport/{found.report}")


@app.command("metrics")
def list_metrics(command: typer.Context) -> None:
    """Every metric with its definition, source and trust."""
    from fhir_gateway.risk.utilization import metrics

    rows = [
        {
            "metric": one.id,
            "numerator": one.numerator,
            "denominator": one.denominator,
            "per": one.per,
            "unit": one.unit,
            "vbpr": one.vbpr,
            "definition": one.definition,
            "source": one.source,
            "trust": one.trust,
            "version": one.version,
        }
        for one in metrics().values()
    ]
    columns = ("metric", "definition", "unit", "vbpr", "source", "trust")
    context(command).output.table("Metrics of utilization", columns, rows)


@app.command("import")
def import_table(
    command: typer.Context,
    path: Annotated[Path, typer.Argument(help="CSV file with a header.", exists=True, dir_okay=False)],
    form: Annotated[str, typer.Option(help="value-sets or ed-probabilities.")] = "value-sets",
) -> None:
    """Import value sets (planned readmissions, PQI) or the probabilities of ED diagnoses (NYU, Johnston)."""
    from fhir_gateway.jobs import utilization as job
    from fhir_gateway.risk.utilization.tables import IMPORTED

    here = context(command)
    found = job.import_table(here.gateway, path, form)
    imported = [
        {"value_set": one.id, "codes": len(one.codes), "version": one.version}
        for one in found.value_sets.values()
        if one.trust == IMPORTED
    ]
    if found.ed_probabilities is not None:
        imported.append({"value_set": form, "codes": found.ed_probabilities.num_rows, "version": str(found.ed_version)})
    here.output.table("Imported", ("value_set", "codes", "version"), imported)


def _period(text: str) -> tuple[date, date]:
    first, _, last = text.partition("..")
    if not last and len(first) == 4 and first.isdigit():
        return date(int(first), 1, 1), date(int(first), 12, 31)
    return _day(first, "--period"), _day(last, "--period")


def _day(text: str, option: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option} has days such as 2025-12-31") from None


def _strata(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    from fhir_gateway.risk.utilization import STRATA_SCHEMA

    kinds = arrow_csv.ConvertOptions(column_types=dict.fromkeys(STRATA_SCHEMA.names, pa.string()))
    try:
        return arrow_csv.read_csv(path, convert_options=kinds).select(STRATA_SCHEMA.names)
    except (pa.ArrowInvalid, KeyError):
        raise ConfigurationError(f"{path.name}: a CSV file with the columns member, dimension and value") from None


def _plain(value: Any) -> Any:
    """A decimal as a number, an integer where it is one."""
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    return int(number) if number.is_integer() else round(number, 6)


def _write_csv(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
