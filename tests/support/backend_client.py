"""A backend client and an authorization server to tell token stories with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import sqlalchemy as sa

from fhir_gateway.auth.assertion import client_assertion, public_key_set
from fhir_gateway.db.engine import transaction
from fhir_gateway.factory import Gateway

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass
class Partner:
    """A client that asks for tokens; ``request`` lets a test break any one thing."""

    http: httpx.AsyncClient
    token_url: str
    key: dict[str, Any]
    alg: str
    client_id: str = "partner"

    async def request(
        self,
        *,
        scope: str | None = "system/*.rs",
        claims: Mapping[str, Any] | None = None,
        assertion: str | None = None,
        **fields: str | None,
    ) -> httpx.Response:
        """POST a token request; a field or claim that is None is left out."""
        form: dict[str, str | None] = {
            "grant_type": "client_credentials",
            "scope": scope,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion or self.assertion(**(claims or {})),
        }
        sent = {name: value for name, value in (form | fields).items() if value is not None}
        return await self.http.post(self.token_url, data=sent)

    def assertion(self, **claims: Any) -> str:
        return client_assertion(self.client_id, self.token_url, self.key, self.alg, **claims)

    async def bearer(self, scope: str = "system/*.rs") -> dict[str, str]:
        """Headers with a fresh token."""
        response = await self.request(scope=scope)
        assert response.status_code == 200, response.text
        return {"Authorization": f"Bearer {response.json()['access_token']}"}

    @property
    def jwks(self) -> dict[str, Any]:
        return public_key_set(self.key)


def lasting(gateway: Gateway) -> None:
    """Have the tokens that were issued so far last: those of a whole module's tests may be wanted for longer."""
    with transaction(gateway.engine) as connection:
        connection.execute(sa.text("UPDATE auth_token SET expires_at = expires_at + 86400"))
