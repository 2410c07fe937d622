"""The outside world of the demo: a synthetic population, and the two sandbox endpoints that serve it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from fhir_gateway.errors import ConfigurationError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.sandbox.population import generate
from fhir_gateway.sandbox.server import SandboxServer
from fhir_gateway.server.serve import listen
from fhir_gateway.sources.endpoint import Endpoint

#: Source name -> how its sandbox calls itself. The client ids are what each of them gave us.
SOURCES = {"ehr": "Sandbox EHR", "payer": "Sandbox payer"}
_GENERATED = "summary.json"


def make_population(
    folder: Path, patients: int, seed: int, year: int, progress: Callable[[int], None]
) -> tuple[dict[str, Any], bool]:
    """Summary of the population in ``folder``, and whether it was there already.

    It is generated anew unless it was completely written with the same arguments before.
    """
    written = folder / _GENERATED
    if written.exists():
        summary: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
        if (summary["patients"], summary["seed"], summary["year"]) == (patients, seed, year):
            return summary, True
        raise ConfigurationError(f"{folder} holds another population; use --fresh to delete it, or another --folder")
    if folder.exists():
        shutil.rmtree(folder)  # of a run that was interrupted while writing
    generate(folder, patients=patients, seed=seed, year=year, progress=progress)
    made: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    return made, False


def register_endpoint(gateway: Gateway, name: str) -> Endpoint:
    """The endpoint of a sandbox on a free port, with a key of its own; an earlier registration stays."""
    try:
        return gateway.endpoints.get(name)
    except NotFoundError:
        with listen("127.0.0.1", 0) as free:
            port = free.getsockname()[1]
        endpoint = Endpoint(name, f"http://127.0.0.1:{port}/fhir", client_id=f"gateway-at-{name}")
        return gateway.endpoints.add(endpoint, "ES384" if name == "ehr" else "RS384")


class Sandboxes:
    """The sandbox endpoints, serving while the ``with`` block lasts; each knows our public key for it."""

    def __init__(self, gateway: Gateway, population: Path) -> None:
        self._gateway = gateway
        self._population = population
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for name, title in SOURCES.items():
            endpoint = register_endpoint(self._gateway, name)
            self._stack.enter_context(
                SandboxServer(
                    self._population / name,
                    clients={str(endpoint.client_id): self._gateway.endpoints.public_jwks(name)},
                    port=urlsplit(endpoint.base_url).port or 0,
                    name=title,
                )
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
