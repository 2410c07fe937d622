"""The authorization server for backend clients (SMART App Launch 2.2.0, Backend Services).

::

    server = AuthorizationServer(engine, auth_url="https://gateway.example/auth")
    server.register_client("acme", scopes="system/*.rs", jwks={"keys": [...]})
    server.token(form fields)            -> Reply, the token endpoint's answer
    server.verify("Bearer ...")          -> AccessToken, or AuthenticationError
    token.require("Observation", "s")    -> AuthorizationError unless granted

Access tokens are opaque: 256 random bits whose digest is a row of the control plane, so that every process knows them
and a revocation holds at once, in other processes within a second (docs/adr/0040). All calls block on the database and
some on the network: in an event loop run them in a thread.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Self

from sqlalchemy import Engine

from fhir_gateway.auth import scopes as smart_scopes
from fhir_gateway.auth.assertions import PrivateKeyJwt
from fhir_gateway.auth.endpoints import OAuthServer, bearer_client, bearer_token
from fhir_gateway.auth.issuers import Issuers, TokenRefused
from fhir_gateway.auth.jwks import JwksCache, check_jwks_url
from fhir_gateway.auth.kept import KeptTokens
from fhir_gateway.auth.keys import check_key_set
from fhir_gateway.auth.models import AccessToken, Client, Reply
from fhir_gateway.auth.registration import Mode, Registration
from fhir_gateway.auth.store import AuthStore, grants_text, keys_text
from fhir_gateway.config import Issuer, Settings
from fhir_gateway.db.audience import EVERYONE, Audience
from fhir_gateway.db.search.matching import evaluable
from fhir_gateway.errors import AuthenticationError, ConflictError, InputError


class AuthorizationServer:
    """Registers clients, issues tokens, verifies them.

    ``auth_url`` is the public base of the endpoints (``{auth_url}/token`` is what assertions must name as ``aud``).
    ``supported_types`` None means every R4 type; ``supported_interactions`` is what the FHIR server behind it can do.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        auth_url: str,
        token_lifetime_seconds: int = 300,
        supported_types: Iterable[str] | None = None,
        supported_interactions: str = "rs",
        jwks: JwksCache | None = None,
        issuers: Iterable[Issuer] = (),
        issues: bool = True,
        registration: Mode = "off",
        private_jwks: bool = False,
    ) -> None:
        self.store = AuthStore(engine)
        self.token_url = f"{auth_url.rstrip('/')}/token"
        self.introspection_url = f"{auth_url.rstrip('/')}/introspect"
        self.revocation_url = f"{auth_url.rstrip('/')}/revoke"
        cache = jwks or JwksCache()
        trusted = tuple(issuers)
        self.issues = issues
        #: Where clients get their tokens: from us, or from the first outside issuer.
        self.discovered_token_url = self.token_url if issues else trusted[0].token_url
        self._issuers = Issuers(trusted, cache)
        self.registration_url = f"{auth_url.rstrip('/')}/register" if issues and registration != "off" else None
        self._registration = Registration(self.store, registration, private_jwks)
        self._kept = KeptTokens()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._counting = threading.Lock()
        self._types = None if supported_types is None else frozenset(supported_types)
        self._interactions = supported_interactions
        self._oauth = OAuthServer(self.store, token_lifetime_seconds, self._types, supported_interactions)
        self._oauth.register_client_auth_method(
            PrivateKeyJwt.CLIENT_AUTH_METHOD,
            PrivateKeyJwt(self.store, cache, self.token_url, private_jwks=private_jwks),
        )
        self._oauth.register_client_auth_method(
            "bearer", lambda _query, request: bearer_client(self.store, request.authorization)
        )

    @classmethod
    def from_settings(cls, engine: Engine, settings: Settings, **options: Any) -> Self:
        """The gateway's own server, at ``{public_url}/auth``."""
        return cls(
            engine,
            auth_url=f"{settings.public_url.rstrip('/')}/auth",
            token_lifetime_seconds=settings.token_lifetime_seconds,
            issuers=settings.issuers,
            issues=settings.issue_tokens,
            registration=settings.registration,
            private_jwks=settings.registration_private_jwks,
            **options,
        )

    def register_client(
        self,
        client_id: str,
        *,
        scopes: str,
        name: str | None = None,
        jwks: Mapping[str, Any] | None = None,
        jwks_url: str | None = None,
        grants: Iterable[str] | None = None,
        purpose: str | None = None,
    ) -> Client:
        """Register a backend client by its public keys, inline (``jwks``) or by URL; InputError when unfit.

        ``scopes`` is the most it may be granted, for example ``system/*.rs``. ``grants`` limit whose data it sees
        (``contract:ID``, ``organization:TIN``, ``group:ID``; None: everybody's); ``purpose`` is a code of PurposeOfUse,
        for the audit trail. Without keys its tokens come from an outside issuer. ConflictError when the id is taken.
        """
        if not client_id or len(client_id) > 255 or not client_id.isprintable() or " " in client_id:
            raise InputError("a client id is 1 to 255 printable characters without spaces")
        if jwks is None and jwks_url is None and not self._issuers:
            raise InputError("register a JWK Set or a JWKS URL: no outside issuer is trusted that could give it tokens")
        _check_keys(jwks, jwks_url)
        _check_purpose(purpose)
        client = Client(
            client_id,
            name or client_id,
            _registered_scopes(scopes),
            jwks,
            jwks_url,
            audience=EVERYONE if grants is None else Audience.of(grants),
            purpose=purpose,
        )
        self.store.add_client(client)
        return client

    def approve_client(
        self, client_id: str, *, scopes: str, grants: Iterable[str] | None = None, purpose: str | None = None
    ) -> Client:
        """Give a client that registered itself its scopes and whose data it sees, as in :meth:`register_client`.

        ConflictError for one that is not waiting; NotFoundError for an unknown one.
        """
        client = self.store.any_client(client_id)
        if not client.pending:
            raise ConflictError(f"client {client_id} is not waiting for approval")
        _check_purpose(purpose)
        audience = EVERYONE if grants is None else Audience.of(grants)
        words = " ".join(map(str, _registered_scopes(scopes)))
        self.store.change_client(
            client_id,
            {"scopes": words, "grants": grants_text(audience), "purpose": purpose, "pending": False},
        )
        return self.store.any_client(client_id)

    def replace_keys(
        self, client_id: str, *, jwks: Mapping[str, Any] | None = None, jwks_url: str | None = None
    ) -> None:
        """Put other keys in place of a client's; those of before count no more, and its tokens end at once."""
        self.store.change_client(client_id, _other_keys(jwks, jwks_url))

    def change_client(self, client_id: str, **given: Any) -> Client:
        """Change what is said of a client: its ``name``, ``scopes``, ``grants``, ``purpose``, keys (``jwks`` or
        ``jwks_url``), whether it is ``disabled``. Its tokens end.

        What is not given stays; grants of None are everybody's data. All of it is changed or nothing: raises
        InputError, NotFoundError, and ConflictError for a client that waits for approval.
        """
        if self.store.any_client(client_id).pending and given.keys() - {"name", "disabled"}:
            raise ConflictError(f"client {client_id} is waiting for approval")
        values: dict[str, Any] = {name: given[name] for name in ("name", "disabled") if name in given}
        if "scopes" in given:
            values["scopes"] = " ".join(map(str, _registered_scopes(given["scopes"])))
        if "grants" in given:
            values["grants"] = grants_text(EVERYONE if given["grants"] is None else Audience.of(given["grants"]))
        if "purpose" in given:
            _check_purpose(given["purpose"])
            values["purpose"] = given["purpose"]
        if {"jwks", "jwks_url"} & given.keys():
            values |= _other_keys(given.get("jwks"), given.get("jwks_url"))
        if values:
            self.store.change_client(client_id, values)
        return self.store.any_client(client_id)

    def remove_client(self, client_id: str) -> None:
        """Forget a client; its tokens end at once. What it wrote, and its accesses in the trail, keep its name."""
        self.store.remove_client(client_id)

    def client(self, client_id: str) -> Client:
        """A registered client, also a disabled one; NotFoundError when there is none."""
        return self.store.any_client(client_id)

    def invite(self, name: str, *, uses: int = 1, days: int = 7) -> str:
        """Make an initial access token by which clients may register themselves; it is shown once and not kept."""
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
            raise InputError("the name of an invitation is 1 to 64 letters, digits, dots, dashes")
        if not 1 <= uses <= 1000 or not 1 <= days <= 365:
            raise InputError("an invitation is for 1 to 1000 registrations and 1 to 365 days")
        token = secrets.token_urlsafe(32)
        self.store.invite(name, token, int(time.time()) + days * 86_400, uses)
        return token

    def register(self, metadata: object, authorization: str | None) -> Reply:
        """Answer a registration request (RFC 7591)."""
        return self._counted("register", self._registration.register(metadata, bearer_token(authorization)))

    def clients(self) -> list[Client]:
        """All registered clients, disabled ones included."""
        return self.store.clients()

    def disable_client(self, client_id: str) -> None:
        """Refuse a client from now on; its tokens end at once. NotFoundError for an unknown one."""
        self.store.change_client(client_id, {"disabled": True})

    def token(self, fields: Mapping[str, str]) -> Reply:
        """Answer a token request; every refusal is a Reply too."""
        return self._counted("token", self._oauth.token(fields))

    def introspect(self, fields: Mapping[str, str], authorization: str | None) -> Reply:
        """Answer an introspection request of a client that authenticates by bearer token or assertion."""
        return self._counted("introspect", self._oauth.about_token("introspection", fields, authorization))

    def revoke(self, fields: Mapping[str, str], authorization: str | None) -> Reply:
        """Answer a revocation request of a client that authenticates by bearer token or assertion."""
        return self._counted("revoke", self._oauth.about_token("revocation", fields, authorization))

    def counts(self) -> dict[tuple[str, str], int]:
        """Answers of this process by endpoint and check that failed (``ok``: none), for metrics."""
        with self._counting:
            return dict(self._counts)

    def _counted(self, endpoint: str, reply: Reply) -> Reply:
        with self._counting:
            self._counts[endpoint, reply.check or "ok"] += 1
        return reply

    def verify(self, authorization: str | None) -> AccessToken:
        """The valid token of an ``Authorization`` header; AuthenticationError when missing, unknown, expired, revoked.

        What it allows is the token's to say: ``token.require("Patient", "rs")``.
        """
        presented = bearer_token(authorization)
        if presented is None:
            raise AuthenticationError("an access token is required: Authorization: Bearer <token>")
        state = self.store.state  # before anything is read, so that no change comes between
        token = self._kept.find(presented, state)
        if token is None:
            outside = self._issuers and presented.count(".") == 2
            token = self._outside(presented) if outside else self._own(presented)
            self._kept.keep(presented, token, state)
        return token

    def verified(self, authorization: str) -> AccessToken | None:
        """The token that :meth:`verify` found valid a moment ago; None when it has to be asked. Does not block."""
        presented = bearer_token(authorization)
        return None if presented is None else self._kept.find(presented, self.store.state)

    def _own(self, presented: str) -> AccessToken:
        """The token that we issued."""
        issued = self.store.token(presented) if self.issues else None
        if issued is None or issued.is_revoked():
            raise AuthenticationError("the access token is not valid")
        if issued.is_expired():
            raise AuthenticationError("the access token has expired")
        client = self.store.client(issued.client_id)
        if client is None or client.pending:
            raise AuthenticationError("the access token is not valid")
        return _access_token(client, smart_scopes.parse_scopes(issued.scope), issued.expires_at)

    def _outside(self, presented: str) -> AccessToken:
        """The token of an outside issuer, cut to what its client is registered for."""
        try:
            token = self._issuers.verify(presented)
            client = self.store.client(token.client_id)
            if client is None or client.pending:
                raise TokenRefused("client", "the issuer's token names no registered client, or a disabled one")
        except TokenRefused as refused:
            with self._counting:
                self._counts["bearer", refused.check] += 1
            raise
        granted = smart_scopes.grant(token.scope, client.scopes, self._types, self._interactions)
        return _access_token(client, granted, token.expires_at)

    @property
    def scopes_supported(self) -> tuple[str, ...]:
        """Scopes for the discovery document: wildcards, then one per type when the types are limited."""
        interactions = "".join(x for x in smart_scopes.INTERACTIONS if x in self._interactions)
        wildcards = [smart_scopes.Scope("*", interactions)]
        if set("rs") <= set(interactions):
            wildcards += [smart_scopes.Scope("*", "rs")] if interactions != "rs" else []
            wildcards.append(smart_scopes.Scope("*", "rs", version=1))
        single = [smart_scopes.Scope(name, interactions) for name in sorted(self._types or ())]
        return tuple(str(scope) for scope in (*wildcards, *single))


def challenge(error: Exception) -> str:
    """``WWW-Authenticate`` value for a 401 (AuthenticationError) or 403 (RFC 6750 section 3)."""
    code = "invalid_token" if isinstance(error, AuthenticationError) else "insufficient_scope"
    return f'Bearer error="{code}"'


def _check_keys(jwks: Mapping[str, Any] | None, jwks_url: str | None) -> None:
    if jwks is not None and jwks_url is not None:
        raise InputError("register either a JWK Set or a JWKS URL")
    if jwks is not None:
        check_key_set(jwks)
    if jwks_url is not None:
        check_jwks_url(jwks_url)


def _other_keys(jwks: Mapping[str, Any] | None, jwks_url: str | None) -> dict[str, Any]:
    """Columns of the keys that come in place of others."""
    if jwks is None and jwks_url is None:
        raise InputError("give either a JWK Set or a JWKS URL")
    _check_keys(jwks, jwks_url)
    return {"jwks": keys_text(jwks), "jwks_url": jwks_url}


def _check_purpose(purpose: str | None) -> None:
    if purpose is not None and not re.fullmatch("[A-Z]{1,40}", purpose):
        raise InputError("a purpose is a code of PurposeOfUse, such as HPAYMT, TREAT or HQUALIMP")


def _access_token(client: Client, scopes: tuple[smart_scopes.Scope, ...], expires_at: int) -> AccessToken:
    """What a valid token allows its client: the registration says whose data, the scopes say which."""
    restricted = any(scope.constraint is not None for scope in scopes)
    grants = tuple(scope.grant() for scope in scopes) if restricted else ()
    audience = replace(client.audience, grants=grants, viewer=client.client_id)
    expires = datetime.fromtimestamp(expires_at, UTC)
    return AccessToken(client.client_id, scopes, expires, audience, client.purpose)


def _registered_scopes(text: str) -> tuple[smart_scopes.Scope, ...]:
    scopes = []
    for word in text.split():
        scope = smart_scopes.parse_scope(word)
        if scope is None:
            raise InputError(f"{word} is not a system scope such as system/Patient.rs or system/*.read")
        if scope.constraint is not None and not evaluable(scope.resource_type, scope.criteria):
            raise InputError(f"{word}: this search restriction cannot be evaluated here")
        if scope.constraint is not None and not set(scope.interactions) <= set("rs"):
            raise InputError(f"{word}: search restrictions are for reading and searching (rs)")
        scopes.append(scope)
    if not scopes:
        raise InputError("a client needs at least one scope")
    return tuple(scopes)
