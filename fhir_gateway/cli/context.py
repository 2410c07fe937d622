"""What every command gets: the gateway and where to print."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

import typer

from fhir_gateway.cli.audited import note
from fhir_gateway.cli.output import Output
from fhir_gateway.config import Settings
from fhir_gateway.errors import ConfigurationError
from fhir_gateway.factory import Gateway


@dataclass
class Context:
    """Options given before the command. The gateway is built when a command first needs it."""

    output: Output
    data_dir: Path | None = None
    command: typer.Context | None = None

    @cached_property
    def gateway(self) -> Gateway:
        """The gateway of the settings in the environment, and the data folder given at the prompt.

        A command that shows people's data or money is in the audit trail before it gets it.
        """
        gateway = Gateway(read_settings(self.data_dir))
        if self.command is not None:
            note(gateway, self.command)
        return gateway


def read_settings(data_dir: Path | None = None) -> Settings:
    """Settings of the environment, with the data folder given at the prompt."""
    return Settings.read() if data_dir is None else Settings.read(data_dir=data_dir)


def context(command: typer.Context) -> Context:
    """The :class:`Context` of a running command."""
    found = command.find_object(Context)
    if found is None:
        raise ConfigurationError("commands run through the fhir-gateway application")
    found.command = command
    return found


def parse_period(text: str) -> tuple[date, date]:
    """A measurement period: a year (``2025``), or two days (``2025-01-01/2025-12-31``), both in it."""
    try:
        if "/" in text:
            start, end = (date.fromisoformat(part) for part in text.split("/"))
        else:
            start, end = date(int(text), 1, 1), date(int(text), 12, 31)
    except ValueError:
        raise ConfigurationError("a period is a year (2025) or two days (2025-01-01/2025-12-31)") from None
    if end < start:
        raise ConfigurationError("the period ends before it starts")
    return start, end
