"""What authorization talks about: registered clients and the tokens issued to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fhir_gateway.auth.scopes import Scope
from fhir_gateway.db.audience import EVERYONE, Audience
from fhir_gateway.errors import AuthorizationError

#: Media type of nothing but the token endpoint's own client authentication (RFC 7523 section 2.2).
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
#: Signature algorithms of client assertions that SMART names; no other is accepted.
ALGORITHMS = ("RS384", "ES384")

_INTERACTION_NAMES = {"c": "create", "r": "read", "u": "update", "d": "delete", "s": "search"}


@dataclass(frozen=True, slots=True)
class Client:
    """A registered backend client: its public keys (inline or by URL), the most it may be granted, what it may see.

    ``purpose`` is why it reads (a code of the HL7 v3 PurposeOfUse value set); it stands in every audit entry. One
    without keys gets its tokens from an outside issuer. A ``pending`` one registered itself (by the ``origin`` that let
    it, asking for the scopes ``requested``) and may nothing until an operator approves. The ``check_*`` methods are
    what authlib asks of a client.
    """

    client_id: str
    name: str
    scopes: tuple[Scope, ...]
    jwks: Mapping[str, Any] | None = None
    jwks_url: str | None = None
    disabled: bool = False
    audience: Audience = EVERYONE
    purpose: str | None = None
    pending: bool = False
    origin: str | None = None
    requested: str | None = None
    contacts: tuple[str, ...] = ()

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        """Signed assertions authenticate everywhere; a bearer token only where tokens are asked about."""
        return method == "private_key_jwt" or (method == "bearer" and endpoint != "token")

    def check_grant_type(self, grant_type: str) -> bool:
        """Backend clients have no other grant than their own credentials."""
        return grant_type == "client_credentials"


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token that was found valid: whose it is, what it allows, until when, and what its client may see.

    ``audience`` holds both halves of that: the client's registration, and the search restrictions of the scopes.
    Reading through ``seen_by(token.audience)`` obeys both.
    """

    client_id: str
    scopes: tuple[Scope, ...]
    expires_at: datetime  # aware, UTC
    audience: Audience = EVERYONE
    purpose: str | None = None

    def allows(self, resource_type: str, interaction: str, *, some: bool = False) -> bool:
        """True when a granted scope covers ``interaction`` (``c``, ``r``, ``u``, ``d`` or ``s``) on the type.

        ``resource_type`` ``"*"`` asks for a grant on all types. A scope with a search restriction counts only when the
        caller says that ``some`` resources will do, because it reads them through ``audience``.
        """
        return any(
            scope.reaches(resource_type, interaction) if some else scope.covers(resource_type, interaction)
            for scope in self.scopes
        )

    def require(self, resource_type: str, interactions: str) -> None:
        """Raise AuthorizationError unless every one of ``interactions`` is allowed on the type."""
        for interaction in interactions:
            if not self.allows(resource_type, interaction):
                raise AuthorizationError(
                    f"the token's scopes do not allow {_INTERACTION_NAMES[interaction]} of {resource_type}"
                )

    @property
    def scope(self) -> str:
        """The granted scopes as the token response spelled them."""
        return " ".join(map(str, self.scopes))


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token row as authlib's introspection and revocation see it; times are epoch seconds."""

    token_hash: str
    client_id: str
    scope: str
    issued_at: int
    expires_at: int
    revoked: bool
    now: int

    def check_client(self, client: Client) -> bool:
        """True when the token was issued to ``client``."""
        return self.client_id == client.client_id

    def is_expired(self) -> bool:
        """True once the life of the token is over."""
        return self.expires_at <= self.now

    def is_revoked(self) -> bool:
        """True when the client gave it back or the operator took it away."""
        return self.revoked


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer of an OAuth endpoint: status, JSON body, headers; and what only the operator is told.

    ``client_id`` is whose request it was, where that is known; ``check`` is the word for the check that failed, and
    ``reason`` says it in a sentence.
    """

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    client_id: str | None = None
    check: str | None = None
    reason: str | None = None
