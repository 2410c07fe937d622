"""A client of the demo: a key file, its registration, and the commands to try the API with."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import orjson

from fhir_gateway.auth.assertion import generate_key, public_key_set
from fhir_gateway.errors import ConflictError
from fhir_gateway.factory import Gateway

CLIENT_ID = "demo"
SCOPES = "system/*.rs"


def register_client(gateway: Gateway, key_file: Path) -> None:
    """Register the demo client with the key in ``key_file``, made when absent (mode 600)."""
    if not key_file.exists():
        descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(generate_key("ES384", f"{CLIENT_ID}-key")))
    public = public_key_set(orjson.loads(key_file.read_bytes()))
    try:
        gateway.authorization.register_client(CLIENT_ID, scopes=SCOPES, jwks=public, name="Demo client")
    except ConflictError:
        return  # registered by an earlier run with the same key


def token_command(gateway: Gateway, key_file: Path) -> str:
    """A shell command that puts an access token into ``$TOKEN``."""
    program = Path(sys.executable).parent / "fhir-gateway"
    words = [
        _short(program),
        "--data-dir",
        _short(gateway.settings.data_dir),
        *("client", "token", CLIENT_ID, "--key", _short(key_file)),
        *("--url", gateway.authorization.token_url),
    ]
    return f"TOKEN=$({shlex.join(words)})"


def curl_command(gateway: Gateway, path: str) -> str:
    """A curl line for a path below the FHIR base."""
    url = f"{gateway.settings.public_url.rstrip('/')}/fhir/{path}"
    return f'curl -s -H "Authorization: Bearer $TOKEN" {shlex.quote(url)}'


def _short(path: Path) -> str:
    """The path from here when it is below, else as it is."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)
