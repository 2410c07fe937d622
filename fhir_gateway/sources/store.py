"""The endpoint registry: endpoints and the keys we sign with for each, private keys encrypted at rest."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from sqlalchemy import Engine
from sqlmodel import Session, select

from fhir_gateway.db.engine import session
from fhir_gateway.errors import ConfigurationError, ConflictError, NotFoundError
from fhir_gateway.sources.endpoint import (
    ALGORITHMS,
    JWKS_PATH,
    Algorithm,
    ClientSecret,
    Credential,
    Endpoint,
    KeyState,
    PublishedKey,
    SigningKey,
    checked_base_url,
    generate_key,
    load_key,
)
from fhir_gateway.sources.tables import SourceEndpoint, SourceKey
from fhir_gateway.sources.vendors import AuthKind, vendor_profile

SOURCE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
"""Names of sources; they begin the ids of resources served, so they are short and of few characters."""


KEY_ID = re.compile(r"[A-Za-z0-9._~-]{1,64}")


class Cipher(Protocol):
    """Encryption at rest (``fhir_gateway.db.secrets``)."""

    def encrypt(self, plain: bytes, /) -> bytes:
        """Ciphertext of these bytes."""

    def decrypt(self, token: bytes, /) -> bytes:
        """The bytes that were encrypted."""


class EndpointStore:
    """Registered endpoints and their keys."""

    def __init__(self, engine: Engine, cipher: Cipher, public_url: str = "") -> None:
        """Over a control plane whose tables exist; `cipher` protects private keys and secrets.

        `public_url` is where our JWKS is, for endpoints that want ``jku`` in assertions.
        """
        self._engine = engine
        self._cipher = cipher
        self._jwks_url = f"{public_url.rstrip('/')}{JWKS_PATH}"

    def add(
        self,
        endpoint: Endpoint,
        algorithm: Algorithm = "ES384",
        private_key: bytes | None = None,
        client_secret: str | None = None,
    ) -> Endpoint:
        """Register an endpoint; one with SMART Backend Services gets a key of its own (or brings one as PEM).

        The client id may come later (``update``): some endpoints want our JWKS before they give one.
        """
        if not SOURCE_NAME.fullmatch(endpoint.name):
            raise ConfigurationError("an endpoint's name is 1 to 32 of a-z, 0-9 and '-', not beginning with '-'")
        if algorithm not in ALGORITHMS:
            raise ConfigurationError(f"unknown signing algorithm {algorithm!r}; known: {', '.join(ALGORITHMS)}")
        vendor_profile(endpoint.vendor)
        _check_secret(endpoint, client_secret)
        endpoint = replace(endpoint, base_url=checked_base_url(endpoint.base_url))
        with session(self._engine) as opened:
            if opened.get(SourceEndpoint, endpoint.name):
                raise ConflictError(f"endpoint {endpoint.name} is registered already")
            opened.add(
                SourceEndpoint(
                    name=endpoint.name,
                    base_url=endpoint.base_url,
                    auth=endpoint.auth,
                    client_id=endpoint.client_id,
                    token_endpoint=endpoint.token_endpoint,
                    scopes=endpoint.scopes,
                    vendor=endpoint.vendor,
                    trusted_origins=list(endpoint.trusted_origins),
                    audience=endpoint.audience,
                    jku=endpoint.jku is not None,
                    group_id=endpoint.group,
                    client_secret=self._cipher.encrypt(client_secret.encode()) if client_secret else None,
                    created=_now(),
                )
            )
            opened.flush()
            if endpoint.auth == "smart-backend":
                opened.add(self._new_key(endpoint.name, algorithm, "active", private_key))
        return endpoint

    def update(self, name: str, client_secret: str | None = None, **values: Any) -> Endpoint:
        """Change what is known of an endpoint: all fields of `Endpoint` but its name; a secret replaces the old one."""
        changed = replace(self.get(name), **values)
        if changed.name != name:
            raise ConfigurationError("an endpoint's name stays: it is part of the ids of what it brought")
        vendor_profile(changed.vendor)
        with session(self._engine) as opened:
            row = self._row(opened, name)
            _check_secret(changed, client_secret or (row.client_secret and "kept"))
            row.base_url = checked_base_url(changed.base_url)
            row.auth, row.client_id, row.vendor = changed.auth, changed.client_id, changed.vendor
            row.token_endpoint, row.scopes, row.audience = changed.token_endpoint, changed.scopes, changed.audience
            row.trusted_origins, row.group_id = list(changed.trusted_origins), changed.group
            row.jku = changed.jku is not None
            if client_secret:
                row.client_secret = self._cipher.encrypt(client_secret.encode())
            opened.add(row)
            opened.flush()
            has_key = opened.exec(select(SourceKey).where(SourceKey.endpoint == name)).first() is not None
            if changed.auth == "smart-backend" and not has_key:
                opened.add(self._new_key(name, "ES384", "active", None))
        return self.get(name)

    def remove(self, name: str) -> None:
        """Forget an endpoint and its keys; what it brought stays in the lake."""
        with session(self._engine) as opened:
            row = self._row(opened, name)
            for key in opened.exec(select(SourceKey).where(SourceKey.endpoint == name)):
                opened.delete(key)
            opened.flush()
            opened.delete(row)

    def get(self, name: str) -> Endpoint:
        """The endpoint of that name."""
        with session(self._engine) as opened:
            return self._endpoint(self._row(opened, name))

    def _row(self, opened: Session, name: str) -> SourceEndpoint:
        row = opened.get(SourceEndpoint, name)
        if row is None:
            raise NotFoundError(f"no endpoint named {name}; register it with `fhir-gateway endpoint add`")
        return row

    def credential(self, name: str) -> Credential | None:
        """What we prove ourselves with to this endpoint; None when it wants no authorization."""
        with session(self._engine) as opened:
            row = self._row(opened, name)
            if row.auth == "none":
                return None
            if row.auth == "client-secret" and row.client_secret is not None:
                return ClientSecret(self._cipher.decrypt(row.client_secret).decode())
        return self.signing_key(name)

    def all(self) -> list[Endpoint]:
        """All endpoints, in the order they were registered."""
        with session(self._engine) as opened:
            return [
                self._endpoint(row)
                for row in opened.exec(select(SourceEndpoint).order_by(SourceEndpoint.created, SourceEndpoint.name))
            ]

    def keys(self, name: str | None = None) -> list[SigningKey]:
        """The keys of one endpoint, or of all, oldest first."""
        query = select(SourceKey).order_by(SourceKey.created, SourceKey.kid)
        if name is not None:
            query = query.where(SourceKey.endpoint == name)
        with session(self._engine) as opened:
            return [self._key(row) for row in opened.exec(query)]

    def published_keys(self) -> list[PublishedKey]:
        """All keys by endpoint, oldest first, without their private parts."""
        query = select(SourceKey).order_by(SourceKey.endpoint, SourceKey.created, SourceKey.kid)
        with session(self._engine) as opened:
            return [
                PublishedKey(
                    row.endpoint, row.kid, cast(Algorithm, row.algorithm), cast(KeyState, row.state), row.created
                )
                for row in opened.exec(query)
            ]

    def signing_key(self, name: str) -> SigningKey:
        """The key that signs for the endpoint now."""
        for key in self.keys(name):
            if key.state == "active":
                return key
        raise NotFoundError(f"endpoint {name} has no active signing key")

    def prepare_key(self, name: str, algorithm: Algorithm = "ES384") -> SigningKey:
        """First step of a rotation: publish a new key beside the present one, without signing with it yet."""
        self.get(name)
        row = self._new_key(name, algorithm, "next", None)
        with session(self._engine) as opened:
            opened.add(row)
        return self._key(row)

    def activate_key(self, name: str, kid: str) -> None:
        """Second step, when caches have had the time to see the new key: sign with it; the old one stays published."""
        with session(self._engine) as opened:
            rows = {row.kid: row for row in opened.exec(select(SourceKey).where(SourceKey.endpoint == name))}
            if kid not in rows:
                raise NotFoundError(f"endpoint {name} has no key {kid}")
            for row in rows.values():
                if row.state == "active":
                    row.state = "retired"
            rows[kid].state = "active"
            opened.add_all(rows.values())

    def remove_key(self, name: str, kid: str) -> None:
        """Last step: stop publishing a key that no longer signs."""
        with session(self._engine) as opened:
            row = opened.get(SourceKey, kid)
            if row is None or row.endpoint != name:
                raise NotFoundError(f"endpoint {name} has no key {kid}")
            if row.state == "active":
                raise ConflictError(f"key {kid} signs for {name}; activate another one first")
            opened.delete(row)

    def name_key(self, name: str, kid: str) -> SigningKey:
        """Give the active key the id that the endpoint knows it by, where endpoints choose the ids."""
        with session(self._engine) as opened:
            row = opened.exec(
                select(SourceKey).where(SourceKey.endpoint == name, SourceKey.state == "active")
            ).one_or_none()
            if row is None:
                raise NotFoundError(f"endpoint {name} has no active signing key")
            if not KEY_ID.fullmatch(kid):
                raise ConfigurationError("a key id is 1 to 64 letters, digits and any of -._~")
            if opened.get(SourceKey, kid) is not None:
                raise ConflictError(f"there is a key {kid} already")
            named = SourceKey(**{**row.model_dump(), "kid": kid})
            opened.delete(row)
            opened.flush()
            opened.add(named)
        return self.signing_key(name)

    def public_jwks(self, name: str | None = None) -> dict[str, Any]:
        """The JWK Set to host at ``/.well-known/jwks.json``: every key that signs, will sign or has just signed."""
        return {"keys": [key.public_jwk() for key in self.keys(name)]}

    def _endpoint(self, row: SourceEndpoint) -> Endpoint:
        return Endpoint(
            name=row.name,
            base_url=row.base_url,
            auth=cast("AuthKind", row.auth),
            client_id=row.client_id,
            token_endpoint=row.token_endpoint,
            scopes=row.scopes,
            vendor=row.vendor,
            trusted_origins=tuple(row.trusted_origins),
            audience=row.audience,
            jku=self._jwks_url if row.jku else None,
            group=row.group_id,
        )

    def _new_key(self, name: str, algorithm: Algorithm, state: KeyState, pem: bytes | None) -> SourceKey:
        key = load_key(pem, algorithm) if pem is not None else generate_key(algorithm)
        encrypted = self._cipher.encrypt(key.as_pem(private=True))
        return SourceKey(
            kid=SigningKey.of(name, key).kid,
            endpoint=name,
            algorithm=algorithm,
            state=state,
            private_key=encrypted,
            created=_now(),
        )

    def _key(self, row: SourceKey) -> SigningKey:
        algorithm = cast("Algorithm", row.algorithm)
        key = load_key(self._cipher.decrypt(row.private_key), algorithm)
        return SigningKey(row.kid, algorithm, cast("KeyState", row.state), key)


def _check_secret(endpoint: Endpoint, secret: object) -> None:
    if endpoint.auth == "client-secret" and not (endpoint.client_id and secret):
        raise ConfigurationError("authorization by client secret needs the client id and the secret that they gave us")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
