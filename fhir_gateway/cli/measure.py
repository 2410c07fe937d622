"""``measure``: packages of measures; the lock that keeps one as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fhir_gateway.cli.context import context

app = typer.Typer(help="Measure packages.", no_args_is_help=True)


@app.command("lock")
def lock(
    command: typer.Context,
    path: Annotated[Path, typer.Argument(help="Folder or Bundle of the package.", exists=True)],
) -> None:
    """Write down what a package consists of; from then on it is refused when its content differs."""
    from fhir_gateway.measures.lock import entries, write_lock
    from fhir_gateway.measures.package import MeasurePackage

    here = context(command)
    target = write_lock(path)
    package = MeasurePackage.load(path)
    package.preflight()
    rows = [{"resource": name, "sha256": digest} for name, digest in sorted(entries(package.resources).items())]
    here.output.table(f"Locked in {target}", ("resource", "sha256"), rows)
