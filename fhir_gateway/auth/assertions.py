"""Check client assertions: the SMART Backend Services profile of RFC 7523 on top of authlib's.

The stock class of authlib allows neither RS384 nor ES384 and knows no ``kid`` or ``jku`` rules, so every step that
SMART lays down is taken here in its order. A refusal tells the caller nothing but ``invalid_client``; which check
failed goes to the operator's log, without the assertion.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from authlib.oauth2.rfc6749 import InvalidClientError
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from joserfc import jws, jwt
from joserfc.errors import JoseError

from fhir_gateway.auth.jwks import JwksCache
from fhir_gateway.auth.keys import PublicKey, candidates, public_key
from fhir_gateway.auth.models import ALGORITHMS, ASSERTION_TYPE, Client
from fhir_gateway.auth.store import AuthStore
from fhir_gateway.errors import InputError, SourceError

#: The longest life that SMART allows an assertion.
MAXIMUM_LIFETIME_SECONDS = 300
#: How far clocks may differ: public test kits send exactly now + 300.
SKEW_SECONDS = 60

_MAXIMUM_JTI_LENGTH = 1024
_logger = logging.getLogger(__name__)


def refuse(check: str, client_id: str | None = None) -> InvalidClientError:
    """Log which check failed and return the error that says no more than that the client was not authenticated."""
    _logger.warning("client authentication refused: %s (client %s)", check, client_id or "unknown")
    return InvalidClientError(description="Client authentication failed.")


class PrivateKeyJwt(JWTBearerClientAssertion):  # type: ignore[misc]  # authlib has no types
    """Client authentication ``private_key_jwt`` as SMART App Launch 2.2.0 wants it."""

    CLIENT_AUTH_METHOD = "private_key_jwt"

    def __init__(self, store: AuthStore, jwks: JwksCache, token_url: str) -> None:
        super().__init__(validate_jti=False, leeway=SKEW_SECONDS)  # the jti is looked at after all else
        self._store = store
        self._jwks = jwks
        self._audiences = [token_url]

    def __call__(self, query_client: Callable[[str], Client | None], request: Any) -> Client | None:
        """Return the authenticated client, None when the request carries no assertion; raises InvalidClientError."""
        form: Mapping[str, str] = request.form
        if form.get("client_assertion_type") != ASSERTION_TYPE or not form.get("client_assertion"):
            return None
        assertion = form["client_assertion"]
        header, claims = self.extract_assertion(assertion)
        algorithm, kid = _checked_header(header)
        client = _known_client(query_client, claims, form.get("client_id"))
        key = self._key(client, header, kid, algorithm)
        try:
            verified = jwt.decode(assertion, key, algorithms=[algorithm]).claims
        except JoseError as error:
            raise refuse("bad signature", client.client_id) from error
        self._check_claims(client, verified)
        return client

    def get_audiences(self) -> list[str]:
        """The token endpoint's URL, and nothing else, is what ``aud`` must name."""
        return self._audiences

    def extract_assertion(self, assertion: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Decode header and claims without verifying them."""
        try:
            header: Mapping[str, Any] = jws.extract_compact(assertion.encode("ascii")).headers()
            _, claims = super().extract_assertion(assertion)
        except (JoseError, InvalidClientError, ValueError, TypeError, RecursionError) as error:
            raise refuse("not a JWT") from error
        return header, claims

    def _key(self, client: Client, header: Mapping[str, Any], kid: str, algorithm: str) -> PublicKey:
        jku = header.get("jku")
        if jku is not None and (client.jwks_url is None or jku != client.jwks_url):
            # Never dereferenced: an unregistered URL is the sender's, and may point anywhere.
            raise refuse("jku is not the registered JWKS URL", client.client_id)
        try:
            if client.jwks is not None:
                found = candidates(client.jwks, kid, algorithm)
            else:
                url = str(client.jwks_url)
                found = candidates(self._jwks.get(url), kid, algorithm)
                fresh = None if found else self._jwks.refresh(url)  # perhaps the client rotated its keys
                found = candidates(fresh, kid, algorithm) if fresh is not None else found
            if len(found) != 1:
                raise refuse(f"{len(found)} registered keys fit kid and alg, need one", client.client_id)
            return public_key(found[0])
        except (SourceError, InputError) as error:
            raise refuse(error.message, client.client_id) from error

    def _check_claims(self, client: Client, claims: Mapping[str, Any]) -> None:
        try:
            self.verify_claims(claims)  # iss, sub, aud, exp not passed, nbf and iat when present
        except InvalidClientError as error:
            raise refuse(error.description, client.client_id) from error
        if claims["exp"] > time.time() + MAXIMUM_LIFETIME_SECONDS + SKEW_SECONDS:
            raise refuse(f"exp is more than {MAXIMUM_LIFETIME_SECONDS} s ahead", client.client_id)
        jti = claims.get("jti")
        if not isinstance(jti, str) or not 0 < len(jti) <= _MAXIMUM_JTI_LENGTH:
            raise refuse("jti is missing or no short string", client.client_id)
        # Only now, so that nobody without the key can use up somebody's ids.
        if not self._store.use_assertion(client.client_id, jti, int(claims["exp"]) + SKEW_SECONDS + 1):
            raise refuse("jti was used before", client.client_id)


def _checked_header(header: Mapping[str, Any]) -> tuple[str, str]:
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise refuse(f"alg is none of {', '.join(ALGORITHMS)}")
    if str(header.get("typ", "")).upper() != "JWT":  # some clients write it in lower case
        raise refuse("typ is not JWT")
    if not isinstance(kid, str) or not kid:
        raise refuse("kid is missing")
    return str(algorithm), kid


def _known_client(
    query_client: Callable[[str], Client | None], claims: Mapping[str, Any], client_id: str | None
) -> Client:
    issuer, subject = claims.get("iss"), claims.get("sub")
    if not isinstance(issuer, str) or "\x00" in issuer:  # no database text has a NUL
        raise refuse("iss is missing")
    client = query_client(issuer)
    if client is None:
        raise refuse("iss is no registered client")
    if subject != issuer:
        raise refuse("sub differs from iss", issuer)
    if client_id is not None and client_id != issuer:
        raise refuse("the form's client_id differs from iss", issuer)
    return client
