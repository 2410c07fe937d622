"""A gateway face over an in-memory control plane, with real clients and tokens, for the API stories."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from cryptography.fernet import Fernet
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import ECKey
from sqlalchemy import Engine

from fhir_gateway.auth.service import AuthorizationServer
from fhir_gateway.config import Settings
from fhir_gateway.db.engine import create_engine
from fhir_gateway.db.migrate import upgrade
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.db.secrets import SecretBox
from fhir_gateway.server.app import create_app

PUBLIC_URL = "https://gateway.example"
BASE = f"{PUBLIC_URL}/fhir"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass
class FaceGateway:
    """The least that the HTTP face needs."""

    engine: Engine
    settings: Settings = field(default_factory=lambda: Settings(public_url=PUBLIC_URL))
    secrets: SecretBox = field(default_factory=lambda: SecretBox(Fernet.generate_key()))

    def __post_init__(self) -> None:
        self.resources = ResourceStore(self.engine, BASE)
        self.authorization = AuthorizationServer.from_settings(self.engine, self.settings)
        self.keys: dict[str, ECKey] = {}

    def public_jwks(self) -> dict[str, Any]:
        return {"keys": []}

    def register(self, client_id: str, scopes: str) -> None:
        """Register a client with a new key of its own."""
        key = ECKey.generate_key("P-384", {"kid": f"{client_id}-key", "use": "sig", "alg": "ES384"})
        self.keys[client_id] = key
        public = key.as_dict(private=False)
        self.authorization.register_client(client_id, scopes=scopes, jwks={"keys": [public]})


def new_gateway() -> FaceGateway:
    """A gateway over an empty in-memory database."""
    engine = create_engine("sqlite://")
    upgrade(engine)
    return FaceGateway(engine)


def client_for(app: FastAPI) -> httpx.AsyncClient:
    """An HTTP client that talks to the application in this process."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=PUBLIC_URL)


def app_of(gateway: FaceGateway) -> FastAPI:
    return create_app(gateway)


async def authorize(http: httpx.AsyncClient, gateway: FaceGateway, client_id: str, scope: str) -> Mapping[str, str]:
    """Discover, sign an assertion, get a token; returns the headers that carry it."""
    discovered = await http.get("/fhir/.well-known/smart-configuration")
    endpoint = discovered.json()["token_endpoint"]
    key = gateway.keys[client_id]
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
