"""``python -m fhir_gateway.sandbox.server FOLDER --port N --client-jwks FILE``: serve a folder of NDJSON."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fhir_gateway.errors import GatewayError
from fhir_gateway.sandbox.server.runner import SandboxServer


def serve(
    folder: Annotated[Path, typer.Argument(help="Folder of *.ndjson or *.ndjson.gz files.")],
    client_jwks: Annotated[Path, typer.Option(help="JWK Set (public keys) of the client that may get tokens.")],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 9000,
    client_id: Annotated[str, typer.Option(help="Id of that client.")] = "fhir-gateway",
    name: Annotated[str, typer.Option(help="Name shown in the CapabilityStatement.")] = "Sandbox",
) -> None:
    """Serve a folder of NDJSON as a FHIR endpoint on the loopback interface, until interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    console = Console()
    try:
        with console.status(f"indexing {folder}"):
            jwks = json.loads(client_jwks.read_text(encoding="utf-8"))
            sandbox = SandboxServer(folder, clients={client_id: jwks}, port=port, name=name)
    except (GatewayError, OSError, ValueError) as error:
        Console(stderr=True).print(f"[red]{error}[/red]")
        raise typer.Exit(error.exit_code if isinstance(error, GatewayError) else 2) from error
    console.print(f"{name} at [bold]{sandbox.fhir_url}[/bold], client id {client_id}")
    sandbox.run()


if __name__ == "__main__":
    typer.run(serve)
