"""A gateway's FHIR face over an in-memory control plane, with real clients and tokens, for the API stories."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from cryptography.fernet import Fernet
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import ECKey
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway

PUBLIC_URL = "https://gateway.example"
BASE = f"{PUBLIC_URL}/fhir"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def new_gateway() -> Gateway:
    """A gateway over an empty in-memory database, for stories that need neither lake nor results."""
    key = SecretStr(Fernet.generate_key().decode())
    nowhere = Path("/dev/null/no-data-folder")  # cannot be made
    memory = SecretStr("sqlite://")
    return Gateway(Settings(database_url=memory, encryption_key=key, public_url=PUBLIC_URL, data_dir=nowhere))


def register(gateway: Gateway, client_id: str, scopes: str, **more: Any) -> ECKey:
    """Register a client with a new key of its own, and return the key; ``more`` is what it is limited to."""
    key = ECKey.generate_key("P-384", {"kid": f"{client_id}-key", "use": "sig", "alg": "ES384"})
    jwks = {"keys": [key.as_dict(private=False)]}
    gateway.authorization.register_client(client_id, scopes=scopes, jwks=jwks, **more)
    return key


def client_for(app: FastAPI) -> httpx.AsyncClient:
    """An HTTP client that talks to the application in this process."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=PUBLIC_URL)


async def authorize(http: httpx.AsyncClient, client_id: str, key: ECKey, scope: str) -> Mapping[str, str]:
    """Discover, sign an assertion, get a token; returns the headers that carry it."""
    discovered = await http.get("/fhir/.well-known/smart-configuration")
    endpoint = discovered.json()["token_endpoint"]
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": endpoint,
        "exp": int(time.time()) + 240,
        "jti": uuid.uuid4().hex,
    }
    assertion = jwt.encode({"alg": "ES384", "kid": key.kid, "typ": "JWT"}, claims, key, algorithms=["ES384"])
    form = {
        "grant_type": "client_credentials",
        "scope": scope,
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": assertion,
    }
    answered = await http.post(endpoint, data=form)
    assert answered.status_code == 200, answered.text
    return {"Authorization": f"Bearer {answered.json()['access_token']}"}


async def enter(http: httpx.AsyncClient, gateway: Gateway, client_id: str, scopes: str, **more: Any) -> dict[str, str]:
    """Register a client and get it a token for all that it may; returns the headers that carry it."""
    return dict(await authorize(http, client_id, register(gateway, client_id, scopes, **more), scopes))
