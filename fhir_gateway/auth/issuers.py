"""Access tokens of outside issuers: JWTs (RFC 9068), verified by the issuer's keys and mapped to a registered client.

The issuer says who calls and with which scopes; what that client may be granted at most, whose data it sees and why it
reads stays the registration's to say here. So a token is cut to the registered scopes as one of ours would be, and a
client that is not registered, disabled or not approved has no access, whatever its issuer says.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from joserfc import jws, jwt
from joserfc.errors import JoseError

from fhir_gateway.auth.jwks import JwksCache, check_jwks_url
from fhir_gateway.auth.keys import public_key
from fhir_gateway.config import Issuer
from fhir_gateway.errors import AuthenticationError, InputError, SourceError

#: How far the issuer's clock may differ.
SKEW_SECONDS = 60
_LONGEST_TOKEN = 16 * 1024
_logger = logging.getLogger(__name__)


class TokenRefused(AuthenticationError):
    """An access token that is not good; ``check`` is the operator's to know, the caller is told no more."""

    def __init__(self, check: str, reason: str, message: str = "the access token is not valid") -> None:
        super().__init__(message)
        self.check = check
        _logger.warning("access token refused: %s: %s", check, reason)


@dataclass(frozen=True, slots=True)
class OutsideToken:
    """What a verified token says: the client by the claim that names it, the scopes as text, and its end."""

    client_id: str
    scope: str
    expires_at: int


class Issuers:
    """Verifies the tokens of the issuers that are trusted."""

    def __init__(self, issuers: Iterable[Issuer], jwks: JwksCache) -> None:
        self._issuers = {one.url: one for one in issuers}
        for one in self._issuers.values():
            check_jwks_url(one.jwks_url)
        self._jwks = jwks

    def __bool__(self) -> bool:
        return bool(self._issuers)

    def verify(self, token: str) -> OutsideToken:
        """What the token says; raises TokenRefused."""
        header, claims = _decoded(token)
        issuer = self._issuers.get(str(claims.get("iss")))
        if issuer is None:
            raise TokenRefused("iss", "iss is no trusted issuer")
        algorithm = _checked_header(header, issuer)
        try:
            found = self._jwks.find(issuer.jwks_url, str(header["kid"]), algorithm)
            if len(found) != 1:
                raise TokenRefused("key", f"{len(found)} keys of the issuer fit kid and alg, need one")
            verified = jwt.decode(token, public_key(found[0]), algorithms=[algorithm]).claims
        except (SourceError, InputError) as error:
            raise TokenRefused("jwks", error.message) from error
        except JoseError as error:
            raise TokenRefused("signature", "the signature is not of the issuer's key") from error
        return _checked_claims(verified, issuer)


def _decoded(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if len(token) > _LONGEST_TOKEN:
        raise TokenRefused("jwt", "the token is too long")
    try:
        parts = jws.extract_compact(token.encode("ascii"))
        header, claims = parts.headers(), orjson.loads(parts.payload)
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise TokenRefused("jwt", "the token is no JWT") from error
    if not isinstance(claims, dict):
        raise TokenRefused("jwt", "the token is no JWT")
    return header, claims


def _checked_header(header: Mapping[str, Any], issuer: Issuer) -> str:
    algorithm = header.get("alg")
    if algorithm not in issuer.algorithms:
        raise TokenRefused("alg", f"alg is none of {', '.join(issuer.algorithms)}")
    if "crit" in header:
        raise TokenRefused("crit", "the header has critical extensions")
    kind = str(header.get("typ", "")).lower().removeprefix("application/")
    if kind != issuer.typ:
        raise TokenRefused("typ", f"typ is not {issuer.typ}")
    if not isinstance(header.get("kid"), str) or not header["kid"]:
        raise TokenRefused("kid", "kid is missing")
    return str(algorithm)


def _checked_claims(claims: Mapping[str, Any], issuer: Issuer) -> OutsideToken:
    now = time.time()
    audience = claims.get("aud")
    if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
        raise TokenRefused("aud", "aud does not name this gateway")
    times = {name: claims.get(name) for name in ("exp", "nbf", "iat")}
    for name, value in times.items():
        if not isinstance(value, int | float) and (value is not None or name == "exp"):
            raise TokenRefused(name, f"{name} is missing or no number")
    expires_at = float(times["exp"] or 0)
    if not expires_at > now - SKEW_SECONDS:  # written so that no NaN passes
        raise TokenRefused("exp", "exp has passed", "the access token has expired")
    for name in ("nbf", "iat"):
        if times[name] is not None and not float(times[name] or 0) <= now + SKEW_SECONDS:
            raise TokenRefused(name, f"{name} is in the future")
    client_id = claims.get(issuer.client_claim)
    if not isinstance(client_id, str) or not client_id or "\x00" in client_id:
        raise TokenRefused("client", f"the claim {issuer.client_claim} names no client")
    return OutsideToken(client_id, _scope(claims), int(min(expires_at, now + 86_400)))


def _scope(claims: Mapping[str, Any]) -> str:
    """``scope`` as RFC 9068 has it, or ``scp`` as a text or a list, as some issuers write it."""
    value = claims.get("scope", claims.get("scp", ""))
    if isinstance(value, list):
        value = " ".join(one for one in value if isinstance(one, str))
    return value if isinstance(value, str) else ""
