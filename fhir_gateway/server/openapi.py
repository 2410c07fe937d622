"""Write ``openapi/openapi.json``: ``python -m fhir_gateway.server.openapi [FILE]``.

The document depends on the code alone: it is built over an empty in-memory control plane.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from fastapi import FastAPI
from sqlalchemy import Engine

from fhir_gateway.auth.service import AuthorizationServer
from fhir_gateway.config import Settings
from fhir_gateway.db.engine import create_engine
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.db.secrets import SecretBox
from fhir_gateway.server.app import create_app

DEFAULT_PATH = Path("openapi/openapi.json")


@dataclass(frozen=True)
class _Bare:
    """A gateway without content: enough to build the routes."""

    engine: Engine
    settings: Settings = field(default_factory=Settings)
    secrets: SecretBox = field(default_factory=lambda: SecretBox(Fernet.generate_key()))

    @property
    def resources(self) -> ResourceStore:
        return ResourceStore(self.engine)

    @property
    def authorization(self) -> AuthorizationServer:
        return AuthorizationServer.from_settings(self.engine, self.settings)

    def public_jwks(self) -> dict[str, Any]:
        return {"keys": []}


def document(app: FastAPI) -> str:
    """The application's OpenAPI document as text with sorted keys."""
    return json.dumps(app.openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def current() -> str:
    """The document of the code as it is."""
    return document(create_app(_Bare(create_engine("sqlite://"))))


def main(arguments: list[str]) -> None:
    """Write the document to the named file, by default the committed one."""
    path = Path(arguments[0]) if arguments else DEFAULT_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(current(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
