"""``guide``: implementation guides that the validator checks by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer

from fhir_gateway.cli.context import context
from fhir_gateway.errors import ConflictError

app = typer.Typer(help="Implementation guides that the validator checks by.", no_args_is_help=True)

LOCK = "guides.lock.json"


@app.command()
def add(
    command: typer.Context,
    source: Annotated[Path, typer.Argument(help="FHIR package (.tgz), or a folder of FHIR JSON files.")],
    package: Annotated[str | None, typer.Option(help="name#version, for a folder without package.json.")] = None,
) -> None:
    """Install a guide; servers that run take it up when they start next."""
    from fhir_gateway.conformance.guides import add_guide

    here = context(command)
    guide = add_guide(source, here.gateway.guides_folder, package)
    here.output.say(f"{guide}: {guide.definitions} definitions")
    if here.output.json:
        here.output.value({"guide": str(guide), "definitions": guide.definitions})


@app.command("list")
def list_guides(command: typer.Context) -> None:
    """List the guides that are installed."""
    from fhir_gateway.conformance.guides import guides

    here = context(command)
    rows = [
        {"guide": one.name, "version": one.version, "definitions": one.definitions}
        for one in guides(here.gateway.guides_folder)
    ]
    here.output.table("Guides", ("guide", "version", "definitions"), rows)


@app.command()
def check(command: typer.Context) -> None:
    """Compare the installed guides with the lock of what the gateway was built on; exit code 5 when they differ."""
    from fhir_gateway.conformance.definitions import load
    from fhir_gateway.conformance.guides import differences, guides

    here = context(command)
    lock = load(here.gateway.profiles_folder / LOCK)
    installed = {str(one) for one in guides(here.gateway.guides_folder)}
    differing = differences(lock, here.gateway.definitions)
    rows = [
        {
            "guide": guide["package"],
            "version": guide["version"],
            "locked": len(guide.get("definitions", {})),
            "installed": f"{guide['package']}#{guide['version']}" in installed,
            "differ": sum(one.startswith(guide["canonical"]) for one in differing),
        }
        for guide in lock["guides"]
    ]
    here.output.table("Guides of the lock", ("guide", "version", "locked", "installed", "differ"), rows)
    if differing:
        raise ConflictError("not what the gateway was built on: " + ", ".join(differing[:20]))


@app.command()
def lock(
    command: typer.Context,
    file: Annotated[Path, typer.Argument(help="The lock to bring up to the installed guides.")],
) -> None:
    """Write the digests of the installed guides' definitions into a lock (for those who change the gateway)."""
    from fhir_gateway.conformance.definitions import load
    from fhir_gateway.conformance.guides import locked

    here = context(command)
    written = locked(load(file), here.gateway.definitions)
    file.write_bytes(orjson.dumps(written, option=orjson.OPT_INDENT_2) + b"\n")
    here.output.say(f"{file}: {sum(len(one.get('definitions', {})) for one in written['guides'])} definitions")
