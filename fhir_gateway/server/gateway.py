"""What the HTTP face needs of the gateway; :mod:`fhir_gateway.factory` builds it."""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy import Engine

from fhir_gateway.auth.service import AuthorizationServer
from fhir_gateway.config import Settings
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.db.secrets import SecretBox


class Gateway(Protocol):
    """The services behind the routes."""

    @property
    def settings(self) -> Settings:
        """Settings; the public address comes from here, never from a request."""
        ...

    @property
    def engine(self) -> Engine:
        """The control plane."""
        ...

    @property
    def resources(self) -> ResourceStore:
        """Served resources."""
        ...

    @property
    def authorization(self) -> AuthorizationServer:
        """Issues and verifies tokens."""
        ...

    @property
    def secrets(self) -> SecretBox:
        """Seals next links."""
        ...

    def public_jwks(self) -> dict[str, Any]:
        """The JWK Set of our own client keys."""
        ...
