"""``python -m fhir_gateway.auth``: what a backend client does on its own side, for a first try with curl.

A real client keeps its key in its own key store and signs its own assertions; this is a stand-in for one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from fhir_gateway.auth.assertion import client_assertion, generate_key, public_key_set
from fhir_gateway.auth.models import ALGORITHMS

app = typer.Typer(help="Keys and assertions of a backend client.", no_args_is_help=True)


@app.command("new-key")
def new_key(
    folder: Annotated[Path, typer.Argument(help="Where private.json and jwks.json are written.")],
    alg: Annotated[str, typer.Option(help="RS384 or ES384.")] = "ES384",
    kid: Annotated[str, typer.Option(help="Key id.")] = "key-1",
) -> None:
    """Make a key pair: private.json stays with the client, jwks.json is registered at the gateway."""
    if alg not in ALGORITHMS:
        raise typer.BadParameter(f"alg is one of {', '.join(ALGORITHMS)}")
    folder.mkdir(parents=True, exist_ok=True)
    private = folder / "private.json"
    key = generate_key(alg, kid)
    try:
        descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise typer.BadParameter(f"{private} exists; a key is never overwritten") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(key, file)
    (folder / "jwks.json").write_text(json.dumps(public_key_set(key), indent=2) + "\n", encoding="utf-8")
    typer.echo(f"{private} (keep it), {folder / 'jwks.json'} (register it)")


@app.command()
def assertion(
    client_id: Annotated[str, typer.Argument(help="The registered client id.")],
    token_url: Annotated[str, typer.Argument(help="token_endpoint of the smart-configuration.")],
    private: Annotated[Path, typer.Argument(help="private.json of new-key.")],
) -> None:
    """Print a signed client assertion, good for one token request within four minutes."""
    key = json.loads(private.read_text(encoding="utf-8"))
    typer.echo(client_assertion(client_id, token_url, key, key["alg"]))


if __name__ == "__main__":
    app()
