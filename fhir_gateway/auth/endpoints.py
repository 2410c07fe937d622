"""The OAuth endpoints on authlib: token (client credentials), introspection (RFC 7662), revocation (RFC 7009)."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from authlib.oauth2.rfc6749 import AuthorizationServer as AuthlibServer
from authlib.oauth2.rfc6749 import (
    InvalidClientError,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Error,
    OAuth2Payload,
    OAuth2Request,
)
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint

from fhir_gateway.auth import scopes
from fhir_gateway.auth.assertions import Refused, refuse
from fhir_gateway.auth.models import ASSERTION_TYPE, Client, IssuedToken, Reply
from fhir_gateway.auth.store import AuthStore

_logger = logging.getLogger(__name__)


class Form(OAuth2Payload):  # type: ignore[misc]  # authlib has no types
    """Form fields of a request; each occurs once (the door refuses duplicates)."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = dict(fields)

    @property
    def data(self) -> dict[str, str]:
        """The fields."""
        return self._fields

    @property
    def datalist(self) -> Any:
        """The fields, each as a list of one."""
        return {name: [value] for name, value in self._fields.items()}


class Request(OAuth2Request):  # type: ignore[misc]  # authlib has no types
    """A POST with form fields, free of any web framework."""

    def __init__(self, fields: Mapping[str, str], authorization: str | None = None) -> None:
        # The URI is a placeholder: authlib looks at it only to insist on https, and TLS ends before this process.
        super().__init__("POST", "https://authorization.invalid/")
        self.payload = Form(fields)
        self.authorization = authorization

    @property
    def form(self) -> dict[str, str]:
        """The form fields."""
        fields: dict[str, str] = self.payload.data
        return fields


class BackendServicesGrant(ClientCredentialsGrant):  # type: ignore[misc]  # authlib has no types
    """The client credentials grant: only by signed assertion, with the scopes cut to what may be granted."""

    TOKEN_ENDPOINT_AUTH_METHODS = ("private_key_jwt",)

    def validate_requested_scope(self) -> None:
        """Put what is granted in place of what was requested; invalid_scope when nothing is left."""
        client: Client = self.request.client
        requested = self.request.payload.scope
        if not scopes.is_scope_list(requested):
            _logger.warning("token refused: scope: the scope parameter is malformed (client %s)", client.client_id)
            raise InvalidScopeError()
        granted = scopes.grant(
            requested, client.scopes, self.server.supported_types, self.server.supported_interactions
        )
        if len([one for one in granted if one.constraint is not None]) > scopes.MOST_RESTRICTIONS:
            raise InvalidScopeError(description="There are too many scopes with search restrictions.")
        if not granted:
            _logger.warning("token refused: scope: nothing of it can be granted (client %s)", client.client_id)
            raise InvalidScopeError(description="None of the requested scopes can be granted.")
        self.request.payload.data["scope"] = " ".join(map(str, granted))


class Introspection(IntrospectionEndpoint):  # type: ignore[misc]  # authlib has no types
    """RFC 7662; a client may ask about its own tokens."""

    CLIENT_AUTH_METHODS = ("private_key_jwt", "bearer")

    def query_token(self, token_string: str, token_type_hint: str | None) -> IssuedToken | None:
        """Look the token up by its digest."""
        store: AuthStore = self.server.store
        return store.token(token_string)

    def check_permission(self, token: IssuedToken, client: Client, request: Request) -> bool:
        """Another client's token looks like no token at all."""
        return token.check_client(client)

    def introspect_token(self, token: IssuedToken) -> dict[str, Any]:
        """Members that SMART requires of an active token."""
        return {
            "active": True,
            "client_id": token.client_id,
            "scope": token.scope,
            "exp": token.expires_at,
            "iat": token.issued_at,
            "token_type": "bearer",
        }


class Revocation(RevocationEndpoint):  # type: ignore[misc]  # authlib has no types
    """RFC 7009; a client may give back its own tokens."""

    CLIENT_AUTH_METHODS = ("private_key_jwt", "bearer")

    def query_token(self, token_string: str, token_type_hint: str | None) -> IssuedToken | None:
        """Look the token up by its digest."""
        store: AuthStore = self.server.store
        return store.token(token_string)

    def revoke_token(self, token: IssuedToken, request: Request) -> None:
        """Refuse the token from now on, in every process."""
        self.server.store.revoke_token(token.token_hash)


class OAuthServer(AuthlibServer):  # type: ignore[misc]  # authlib has no types
    """authlib's authorization server over our store; requests and replies are plain objects."""

    def __init__(
        self,
        store: AuthStore,
        token_lifetime_seconds: int,
        supported_types: frozenset[str] | None,
        supported_interactions: str,
    ) -> None:
        super().__init__()
        self.store = store
        self.supported_types = supported_types
        self.supported_interactions = supported_interactions
        self._lifetime = token_lifetime_seconds
        self.register_grant(BackendServicesGrant)
        self.register_endpoint(Introspection)
        self.register_endpoint(Revocation)
        self.register_token_generator("default", self._new_token)

    def token(self, fields: Mapping[str, str]) -> Reply:
        """Answer a token request."""
        try:
            _check_token_parameters(fields)
        except OAuth2Error as error:
            reply: Reply = self.handle_error_response(None, error)
            return reply
        request = Request(fields)
        return _of(request, self.create_token_response(request))

    def about_token(self, endpoint: str, fields: Mapping[str, str], authorization: str | None) -> Reply:
        """Answer ``introspection`` or ``revocation``."""
        request = Request(fields, authorization)
        reply = _of(request, self.create_endpoint_response(endpoint, request))
        if reply.body.get("error") == InvalidClientError.error:
            challenge = {**reply.headers, "WWW-Authenticate": 'Bearer error="invalid_token"'}
            return replace(reply, status=401, headers=challenge)
        return reply

    def query_client(self, client_id: str) -> Client | None:
        """Look a client up; a disabled one is unknown."""
        return self.store.client(client_id)

    def save_token(self, token: Mapping[str, Any], request: Request) -> None:
        """Record the token so that every process knows it."""
        now = int(time.time())
        expires_at = now + int(token["expires_in"])
        self.store.add_token(token["access_token"], request.client.client_id, token["scope"], now, expires_at)
        _logger.info("token issued (client %s, scope %s)", request.client.client_id, token["scope"])

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens to authlib's signals."""

    def create_oauth2_request(self, request: Request) -> Request:
        """Requests arrive in authlib's shape already."""
        return request

    def handle_response(self, status: int, body: Mapping[str, Any], headers: list[tuple[str, str]]) -> Reply:
        """Turn authlib's triple into a reply."""
        return Reply(status, body, dict(headers))

    def handle_error_response(self, request: Request | None, error: OAuth2Error) -> Reply:
        """The error as its reply, with the check that failed beside it for the audit trail."""
        reply: Reply = super().handle_error_response(request, error)
        if isinstance(error, Refused):
            return replace(reply, client_id=error.client_id, check=error.check, reason=error.reason)
        reason = error.description or "nobody authenticated"
        return replace(reply, check=_CHECKS.get(error.error, "request"), reason=reason)

    def _new_token(self, *, scope: str, **_: Any) -> dict[str, Any]:
        return {
            "access_token": secrets.token_urlsafe(32),
            "token_type": "bearer",
            "expires_in": self._lifetime,
            "scope": scope,
        }


#: What a refusal that is no failed authentication is counted as.
_CHECKS = {"invalid_scope": "scope", "unsupported_grant_type": "grant_type", "invalid_client": "client"}


def _of(request: Request, reply: Reply) -> Reply:
    """The reply, with whose request it answers."""
    client: Client | None = request.client
    return reply if client is None or reply.client_id is not None else replace(reply, client_id=client.client_id)


class _UnsupportedGrantType(OAuth2Error):  # type: ignore[misc]  # authlib has no types
    """authlib's own repeats the caller's value in its description; this one does not."""

    error = "unsupported_grant_type"
    description = "The only grant type is client_credentials."


def _check_token_parameters(fields: Mapping[str, str]) -> None:
    grant_type = fields.get("grant_type")
    if not grant_type:
        raise InvalidRequestError(description="Missing parameter: grant_type.")
    if grant_type != BackendServicesGrant.GRANT_TYPE:
        raise _UnsupportedGrantType()
    for name in ("scope", "client_assertion_type", "client_assertion"):
        if not fields.get(name):
            raise InvalidRequestError(description=f"Missing parameter: {name}.")
    if fields["client_assertion_type"] != ASSERTION_TYPE:
        raise InvalidRequestError(description=f"client_assertion_type must be {ASSERTION_TYPE}.")


def bearer_client(store: AuthStore, authorization: str | None) -> Client | None:
    """The client that a bearer token belongs to; None without a token, InvalidClientError with a bad one."""
    token = bearer_token(authorization)
    if token is None:
        return None
    issued = store.token(token)
    if issued is None or issued.is_expired() or issued.is_revoked():
        raise refuse("token", "the bearer token is not active")
    return store.client(issued.client_id)


def bearer_token(authorization: str | None) -> str | None:
    """The token of an ``Authorization: Bearer`` header (RFC 6750 section 2.1); None for any other."""
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and token else None
