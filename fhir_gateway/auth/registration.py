"""Self-registration of clients (RFC 7591): off by default, and never more than a request that an operator decides.

Whoever registers gets a client id and nothing else: no scopes, nobody's data. ``client approve`` gives both, or
``client disable`` ends it. With ``invited`` a registration needs an initial access token, made by ``client invite``;
with ``open`` it does not, and no more than so many may wait. Software statements are refused: no issuer of them is
trusted here. A JWKS URL is fetched only once the client is approved, and then from a public address (ADR 0152).
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from fhir_gateway.auth.jwks import check_jwks_url, is_public
from fhir_gateway.auth.keys import check_key_set
from fhir_gateway.auth.models import ALGORITHMS, Client, Reply
from fhir_gateway.auth.scopes import is_scope_list
from fhir_gateway.auth.store import AuthStore
from fhir_gateway.db.audience import Audience
from fhir_gateway.errors import InputError

Mode = Literal["off", "invited", "open"]
#: Registrations that may wait for an operator; what is more is refused.
MOST_PENDING = 100

_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_MOST_CONTACTS = 10
_LONGEST = 255
_logger = logging.getLogger(__name__)


class MetadataError(Exception):
    """Client metadata that is not registered; ``error`` is RFC 7591's code."""

    def __init__(self, description: str, error: str = "invalid_client_metadata") -> None:
        super().__init__(description)
        self.error = error


@dataclass(frozen=True, slots=True)
class Registration:
    """The registration endpoint's rules; ``private_jwks`` lets JWKS URLs be at private addresses."""

    store: AuthStore
    mode: Mode
    private_jwks: bool = False

    def register(self, metadata: object, initial_access_token: str | None) -> Reply:
        """Answer a registration request; every refusal is a Reply too."""
        try:
            client = self._client(metadata)
        except MetadataError as error:
            body = {"error": error.error, "error_description": str(error)}
            return Reply(400, body, _NO_STORE, check="metadata", reason=str(error))
        if self.store.pending_clients() >= MOST_PENDING:
            body = {"error": "temporarily_unavailable", "error_description": "Too many registrations are waiting."}
            return Reply(429, body, {**_NO_STORE, "Retry-After": "3600"}, check="pending", reason="too many wait")
        origin = "open"
        if self.mode == "invited":
            name = self.store.use_invitation(initial_access_token or "", int(time.time()))
            if name is None:
                body = {"error": "invalid_token", "error_description": "An initial access token is needed."}
                challenge = {**_NO_STORE, "WWW-Authenticate": 'Bearer error="invalid_token"'}
                return Reply(401, body, challenge, check="invitation", reason="no initial access token that is good")
            origin = f"invitation:{name}"
        client = replace(client, origin=origin)
        self.store.add_client(client)
        _logger.info("client registered itself and waits for approval (client %s, %s)", client.client_id, origin)
        return Reply(201, _registered(client), _NO_STORE, client_id=client.client_id)

    def _client(self, metadata: object) -> Client:
        if not isinstance(metadata, Mapping):
            raise MetadataError("The body must be a JSON object.")
        if "software_statement" in metadata:
            raise MetadataError("Software statements are not trusted here.", "unapproved_software_statement")
        if metadata.get("redirect_uris"):
            raise MetadataError("Backend clients have no redirect URIs.", "invalid_redirect_uri")
        _check_list(metadata, "grant_types", {"client_credentials"})
        _check_list(metadata, "response_types", set())
        if metadata.get("token_endpoint_auth_method", "private_key_jwt") != "private_key_jwt":
            raise MetadataError("token_endpoint_auth_method must be private_key_jwt.")
        if metadata.get("token_endpoint_auth_signing_alg", ALGORITHMS[0]) not in ALGORITHMS:
            raise MetadataError(f"token_endpoint_auth_signing_alg must be one of {', '.join(ALGORITHMS)}.")
        jwks, url = metadata.get("jwks"), metadata.get("jwks_uri")
        self._check_keys(jwks, url)
        identity = f"self-{secrets.token_hex(10)}"
        return Client(
            identity,
            _text(metadata, "client_name") or identity,
            (),
            jwks,
            url,
            audience=Audience(frozenset()),
            pending=True,
            requested=_scope(metadata),
            contacts=_contacts(metadata),
        )

    def _check_keys(self, jwks: object, url: object) -> None:
        if (jwks is None) == (url is None):
            raise MetadataError("Give either jwks or jwks_uri.")
        try:
            if jwks is not None:
                check_key_set(jwks if isinstance(jwks, Mapping) else {})
            elif not isinstance(url, str) or len(url) > 1024 or not url.isascii() or not url.isprintable():
                raise MetadataError("jwks_uri must be an absolute https URL.")
            else:
                check_jwks_url(url)
                if not self.private_jwks and not is_public(url):
                    raise MetadataError("jwks_uri must be an https URL at a public address.")
        except InputError as error:
            raise MetadataError(f"{error.message[0].upper()}{error.message[1:]}.".replace('"', "'")) from error


def _registered(client: Client) -> dict[str, Any]:
    """What was registered (RFC 7591 section 3.2.1); ``scope`` is what may be granted by now, which is nothing."""
    body: dict[str, Any] = {
        "client_id": client.client_id,
        "client_id_issued_at": int(time.time()),
        "client_name": client.name,
        "grant_types": ["client_credentials"],
        "response_types": [],
        "token_endpoint_auth_method": "private_key_jwt",
        "scope": "",
        "registration_status": "pending",
    }
    body |= {"jwks": client.jwks} if client.jwks is not None else {"jwks_uri": client.jwks_url}
    return body | ({"contacts": list(client.contacts)} if client.contacts else {})


def _check_list(metadata: Mapping[str, Any], name: str, allowed: set[str]) -> None:
    given = metadata.get(name, [])
    if not isinstance(given, list) or any(not isinstance(one, str) or one not in allowed for one in given):
        raise MetadataError(f"{name} may hold {' '.join(allowed) or 'nothing'}, and nothing else.")


def _text(metadata: Mapping[str, Any], name: str) -> str | None:
    value = metadata.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST or not value.isprintable():
        raise MetadataError(f"{name} must be a text of at most {_LONGEST} printable characters.")
    return value


def _scope(metadata: Mapping[str, Any]) -> str | None:
    value = metadata.get("scope")
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > 10 * _LONGEST or not is_scope_list(value):
        raise MetadataError("scope must be a list of scopes, separated by spaces.")
    return value


def _contacts(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    given = metadata.get("contacts", [])
    if not isinstance(given, list) or len(given) > _MOST_CONTACTS:
        raise MetadataError(f"contacts must be a list of at most {_MOST_CONTACTS} texts.")
    return tuple(str(_text({"contacts": one}, "contacts")) for one in given if one is not None)
