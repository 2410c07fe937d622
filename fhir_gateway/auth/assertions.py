"""Check client assertions: the SMART Backend Services profile of RFC 7523 on top of authlib's.

The stock class of authlib allows neither RS384 nor ES384 and knows no ``kid`` or ``jku`` rules, so every step that
SMART lays down is taken here in its order. A refusal tells the caller nothing but ``invalid_client``; which check
failed goes to the operator's log and audit trail, without the assertion.
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
_CLAIMS = {
    "iss": "iss is malformed",
    "sub": "sub is missing or malformed",
    "aud": "aud does not name the token endpoint",
    "exp": "exp is missing, no number, or has passed",
    "nbf": "nbf is no number or in the future",
    "iat": "iat is no number or in the future",
    "jti": "jti is no text",
}
_logger = logging.getLogger(__name__)


class Refused(InvalidClientError):  # type: ignore[misc]  # authlib has no types
    """The client was not authenticated, and is told no more than that; ``check`` and ``reason`` are the operator's.

    ``check`` is a word to count by, ``reason`` a sentence that repeats nothing of the assertion; ``client_id`` is set
    once it is a registered one.
    """

    def __init__(self, check: str, reason: str, client_id: str | None = None) -> None:
        super().__init__(description="Client authentication failed.")
        self.check, self.reason, self.client_id = check, reason, client_id


def refuse(check: str, reason: str, client_id: str | None = None) -> Refused:
    """Log which check failed and return the error that says no more than that the client was not authenticated."""
    _logger.warning("client authentication refused: %s: %s (client %s)", check, reason, client_id or "unknown")
    return Refused(check, reason, client_id)


class PrivateKeyJwt(JWTBearerClientAssertion):  # type: ignore[misc]  # authlib has no types
    """Client authentication ``private_key_jwt`` as SMART App Launch 2.2.0 wants it."""

    CLIENT_AUTH_METHOD = "private_key_jwt"

    def __init__(self, store: AuthStore, jwks: JwksCache, token_url: str, *, private_jwks: bool = False) -> None:
        super().__init__(validate_jti=False, leeway=SKEW_SECONDS)  # the jti is looked at after all else
        self._store = store
        self._jwks = jwks
        self._private_jwks = private_jwks
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
            raise refuse("signature", "the signature is not of the registered key", client.client_id) from error
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
            raise refuse("jwt", "the assertion is no JWT") from error
        return header, claims

    def _key(self, client: Client, header: Mapping[str, Any], kid: str, algorithm: str) -> PublicKey:
        jku = header.get("jku")
        if jku is not None and (client.jwks_url is None or jku != client.jwks_url):
            # Never dereferenced: an unregistered URL is the sender's, and may point anywhere.
            raise refuse("jku", "jku is not the registered JWKS URL", client.client_id)
        try:
            if client.jwks is not None:
                found = candidates(client.jwks, kid, algorithm)
            elif client.jwks_url is None:
                raise refuse("issuer", "the client gets its tokens from an outside issuer", client.client_id)
            else:
                found = self._jwks.find(client.jwks_url, kid, algorithm, public=self._public(client))
            if len(found) != 1:
                reason = f"{len(found)} registered keys fit kid and alg, need one"
                raise refuse("key", reason, client.client_id)
            return public_key(found[0])
        except (SourceError, InputError) as error:
            raise refuse("jwks", error.message, client.client_id) from error

    def _public(self, client: Client) -> bool:
        """Whether the URL is the client's own choice, and must lead to a public address."""
        return client.origin is not None and not self._private_jwks

    def _check_claims(self, client: Client, claims: Mapping[str, Any]) -> None:
        try:
            self.verify_claims(claims)  # iss, sub, aud, exp not passed, nbf and iat when present
        except InvalidClientError as error:
            named = _named_claim(error)
            raise refuse(named, _CLAIMS.get(named, "a claim is malformed"), client.client_id) from error
        if claims["exp"] > time.time() + MAXIMUM_LIFETIME_SECONDS + SKEW_SECONDS:
            raise refuse("exp", f"exp is more than {MAXIMUM_LIFETIME_SECONDS} s ahead", client.client_id)
        jti = claims.get("jti")
        if not isinstance(jti, str) or not 0 < len(jti) <= _MAXIMUM_JTI_LENGTH:
            raise refuse("jti", "jti is missing or no short string", client.client_id)
        # Only now, so that nobody without the key can use up somebody's ids.
        if not self._store.use_assertion(client.client_id, jti, int(claims["exp"]) + SKEW_SECONDS + 1):
            raise refuse("replay", "jti was used before", client.client_id)


def _named_claim(error: InvalidClientError) -> str:
    """The claim that joserfc names in its error, which nobody but the operator is told."""
    named = getattr(error.__cause__, "claim", None)
    return str(named) if named in _CLAIMS else "claims"


def _checked_header(header: Mapping[str, Any]) -> tuple[str, str]:
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise refuse("alg", f"alg is none of {', '.join(ALGORITHMS)}")
    if "crit" in header:  # RFC 7515 section 4.1.11: extensions that are not understood
        raise refuse("crit", "the header has critical extensions")
    if str(header.get("typ", "")).upper() != "JWT":  # some clients write it in lower case
        raise refuse("typ", "typ is not JWT")
    if not isinstance(kid, str) or not kid:
        raise refuse("kid", "kid is missing")
    return str(algorithm), kid


def _known_client(
    query_client: Callable[[str], Client | None], claims: Mapping[str, Any], client_id: str | None
) -> Client:
    issuer, subject = claims.get("iss"), claims.get("sub")
    if not isinstance(issuer, str) or "\x00" in issuer:  # no database text has a NUL
        raise refuse("iss", "iss is missing")
    client = query_client(issuer)
    if client is None:
        raise refuse("client", "iss is no registered client, or a disabled one")
    if client.pending:
        raise refuse("pending", "the registration has not been approved", issuer)
    if subject != issuer:
        raise refuse("sub", "sub differs from iss", issuer)
    if client_id is not None and client_id != issuer:
        raise refuse("client_id", "the form's client_id differs from iss", issuer)
    return client
