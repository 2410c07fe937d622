"""The gateway at the prompt: ``fhir-gateway COMMAND``. One module per group of commands."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``fhir-gateway`` command."""
    from fhir_gateway.cli.app import run

    run()
