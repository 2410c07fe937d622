"""``python -m fhir_gateway.sandbox.population --patients 2000 --seed 7 --year 2025 OUT_DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fhir_gateway.errors import GatewayError
from fhir_gateway.sandbox.population.generate import BATCH, generate


def main(
    folder: Annotated[Path, typer.Argument(help="New or empty folder to write to.")],
    patients: Annotated[int, typer.Option(help="Number of persons.")] = 2000,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 7,
    year: Annotated[int, typer.Option(help="Measurement year; the year before is written too.")] = 2025,
    batch: Annotated[int, typer.Option(help="Persons per batch and part file.")] = BATCH,
    drawn: Annotated[float, typer.Option(help="Share of visits with blood drawn: some twenty results each.")] = 0.0,
    compressed: Annotated[bool, typer.Option("--compressed", help="Write gzip.")] = False,
) -> None:
    """Write a synthetic population as an EHR and a payer would export it."""
    try:
        summary = generate(
            folder, patients=patients, seed=seed, year=year, batch=batch, drawn=drawn, compressed=compressed
        )
    except GatewayError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    for source, types in summary.counts.items():
        for resource_type, count in types.items():
            typer.echo(f"{source:6} {resource_type:22} {count:10,}")
    typer.echo(f"{summary.patients:,} persons, {summary.resources:,} resources in {folder}")


if __name__ == "__main__":
    typer.run(main)
