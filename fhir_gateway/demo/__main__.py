"""``python -m fhir_gateway.demo``: the tour at the prompt, then the FHIR face and the console until interrupted."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fhir_gateway.console.app import with_console
from fhir_gateway.console.frame import PATH
from fhir_gateway.demo import client, person
from fhir_gateway.demo.steps import Steps
from fhir_gateway.demo.summary import Summary
from fhir_gateway.demo.tour import Options, open_gateway, run
from fhir_gateway.errors import ConfigurationError, GatewayError
from fhir_gateway.factory import Gateway
from fhir_gateway.server.serve import GatewayServer

_MARK = "demo-folder"
_DEFAULT = Options()


def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop after the summary.")] = False,
    patients: Annotated[int, typer.Option(help="Persons in the synthetic population.", min=1)] = _DEFAULT.patients,
    seed: Annotated[int, typer.Option(help="Seed of the population.", min=0)] = _DEFAULT.seed,
    folder: Annotated[Path, typer.Option(help="Where everything is kept.")] = _DEFAULT.folder,
    port: Annotated[int, typer.Option(help="Port to serve on, on 127.0.0.1.", min=1, max=65535)] = _DEFAULT.port,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what an earlier run left in the folder.")] = False,
) -> None:
    """Run the main job on a synthetic population, print a summary, and serve the results."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    console = Console(highlight=False)
    options = Options(folder, patients, seed, port=port)
    _claim(folder, fresh)
    gateway = open_gateway(options)
    # first, so that a port in use is known at once
    server = None if once else GatewayServer(gateway, port=port, application=with_console)
    summary = run(gateway, options, Steps(console))
    summary.write(folder / "summary.json")
    summary.show(console)
    if server is not None:
        _invite(console, gateway, options, summary)
        with suppress(KeyboardInterrupt):  # how it is meant to end
            server.run()


def _claim(folder: Path, fresh: bool) -> None:
    """Make the folder ours; only a folder that a demo made is ever deleted."""
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise ConfigurationError(f"{folder} was not made by the demo; choose another --folder")
    if fresh and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / _MARK).touch()


def _invite(console: Console, gateway: Gateway, options: Options, summary: Summary) -> None:
    """Print who may sign in at the console, and commands that work while the server runs."""
    public = gateway.settings.public_url.rstrip("/")
    console.print(f"\nConsole: {public}{PATH}/", soft_wrap=True)
    who = f"sign in as {person.NAME} ({', '.join(person.ROLES)}: sees everything), password {person.sign_up(gateway)}"
    console.print(f"         {who}", soft_wrap=True, markup=False)
    lines = [
        client.token_command(gateway, options.key_file),
        client.curl_command(gateway, "Group?_summary=true"),
        client.curl_command(gateway, "MeasureReport?type=summary"),
        client.curl_command(gateway, "MeasureReport?category=vbp"),
    ]
    console.print(f"\nServing {public}/fhir until Ctrl-C. In another shell:\n")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def main() -> None:
    """Run; an error of the gateway ends it with that error's exit code."""
    os.umask(0o077)  # made-up patients, but the same habits
    try:
        typer.run(demo)
    except GatewayError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, style="red")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
