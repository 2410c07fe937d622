"""Who may do what: the bearer token and its scopes, checked for every interaction (RFC 6750, SMART 2.2)."""

from __future__ import annotations

from typing import Protocol

from starlette.requests import Request

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.server.audit import Access
from fhir_gateway.server.problems import InsufficientScope, MissingToken


class TokenVerifier(Protocol):
    """The part of the authorization server that protects resources."""

    def verify(self, authorization: str | None) -> AccessToken:
        """Return the token of an ``Authorization`` header; raises AuthenticationError."""
        ...


def access_of(request: Request) -> Access:
    """The audit entry of this request (made by the middleware)."""
    access: Access = request.state.access
    return access


def admit(
    verifier: TokenVerifier,
    header: str | None,
    access: Access,
    resource_type: str,
    letters: str,
    *,
    some: bool = False,
) -> AccessToken:
    """Return the caller's token if it covers every one of ``letters`` on the type.

    Scopes with a search restriction count only for doors that say ``some``: those read and answer nothing but what
    ``seen_by(token.audience)`` shows them. A door that computes from something else needs the type as a whole.
    Raises AuthenticationError without a valid token, InsufficientScope when its scopes are short.
    """
    if not header:
        raise MissingToken("a bearer token is needed")
    token = verifier.verify(header)
    access.identify(token.client_id, token.purpose)
    missing = [letter for letter in letters if not token.allows(resource_type, letter, some=some)]
    if missing:
        raise InsufficientScope(f"the token needs system/{resource_type}.{letters}")
    return token
