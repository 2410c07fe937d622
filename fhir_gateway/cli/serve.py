"""``serve``: the FHIR face over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from fhir_gateway.cli.context import context


def serve(
    command: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
) -> None:
    """Serve FHIR over HTTP until stopped, and carry out jobs beside it."""
    from contextlib import ExitStack

    from fhir_gateway.console.app import with_console
    from fhir_gateway.logs import configure
    from fhir_gateway.server.serve import serve as serve_until_interrupted

    here = context(command)
    settings = here.gateway.settings
    configure(settings.log_format, settings.log_level)
    public = here.gateway.settings.public_url.rstrip("/")

    def listening(port: int) -> None:
        here.output.say(f"FHIR base {public}/fhir, console {public}/console (listening on {host}:{port})")

    with ExitStack() as beside:
        if here.gateway.settings.jobs_in_server:
            from fhir_gateway.jobs.durable import Worker

            beside.enter_context(Worker(here.gateway, background=True))
        serve_until_interrupted(here.gateway, host, port, listening, with_console)
