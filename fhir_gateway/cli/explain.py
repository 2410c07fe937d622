"""The command ``explain``: why a person is in the populations of a measure, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fhir_gateway.cli.context import context, parse_period
from fhir_gateway.cli.value import parse_instant
from fhir_gateway.errors import ConfigurationError


def explain(
    command: typer.Context,
    package: Annotated[str, typer.Argument(help="A measure package (path or name).")],
    person: Annotated[str, typer.Argument(help="A person's id.")],
    period: Annotated[str, typer.Option(help="Measurement period: 2025, or 2025-01-01/2025-12-31.")] = "",
    now: Annotated[str | None, typer.Option(help="Evaluation instant with offset; default: the present.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the CQL with its clauses marked to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: every definition and clause.")] = False,
) -> None:
    """Explain a measure for one person: populations, gaps, and the value of each definition and clause."""
    from fhir_gateway.jobs.clock import instant
    from fhir_gateway.measures.explain import explain as explain_measure
    from fhir_gateway.measures.explain_page import page
    from fhir_gateway.measures.package import MeasurePackage
    from fhir_gateway.measures.population import LakePopulation
    from fhir_gateway.measures.supplement import maps_of, supplemented

    here = context(command)
    here.output.json = here.output.json or as_json
    if not period:
        raise ConfigurationError("give the measurement period, such as --period 2025")
    during = parse_period(period)
    measure = supplemented(
        MeasurePackage.load(here.gateway.measure_package(package), profiles=here.gateway.settings.profiles),
        here.gateway.terminology,
        during[0],
    )
    explanation = explain_measure(
        measure,
        LakePopulation(
            here.gateway.lake,
            members=[person],
            maps=maps_of([measure]),
            copies=here.gateway.settings.encounter_copies,
        ),
        person,
        during,
        instant(here.gateway, parse_instant(now)),
    )
    if html is not None:
        html.write_text(page(explanation), encoding="utf-8")
        html.chmod(0o600)  # it shows a patient's data
    if here.output.json:
        here.output.value(explanation.to_dict())
        return
    rows: list[dict[str, Any]] = [
        {"group": group.id, "population": population.code, "counts": int(population.counts[0])}
        for group in explanation.groups
        for population in group.populations
    ]
    here.output.table(f"{explanation.package.title}, {period}", ("group", "population", "counts"), rows)
    if explanation.failure:
        here.output.warn(f"not evaluated: {explanation.failure}")
    for gap in explanation.gaps:
        here.output.say(f"{gap.group}: {gap.status}")
        for criterion in gap.failed:
            here.output.say(f"  decided by {criterion.definition}: {criterion.text} ({criterion.outcome})")
        for one in gap.evidence:
            stopped = "counts" if one.failed is None else f"stopped at {one.failed.text}"
            here.output.say(f"  {one.reference} {one.start or 'without date'} {one.value or ''}: {stopped}")
    if html is not None:
        here.output.say(f"page: {html}")
