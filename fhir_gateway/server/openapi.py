"""Write ``openapi/openapi.json``: ``python -m fhir_gateway.server.openapi [FILE]``.

The document depends on the code alone: it is built over an empty in-memory control plane.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cryptography.fernet import Fernet
from fastapi import FastAPI
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app

DEFAULT_PATH = Path("openapi/openapi.json")


def document(app: FastAPI) -> str:
    """The application's OpenAPI document as text with sorted keys."""
    return json.dumps(app.openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def current() -> str:
    """The document of the code as it is."""
    key = SecretStr(Fernet.generate_key().decode())
    return document(create_app(Gateway(Settings(database_url=SecretStr("sqlite://"), encryption_key=key))))


def main(arguments: list[str]) -> None:
    """Write the document to the named file, by default the committed one."""
    path = Path(arguments[0]) if arguments else DEFAULT_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(current(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
