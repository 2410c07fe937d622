"""Public keys of clients: what a registered JWK Set must look like, and which one key an assertion selects.

Source: SMART App Launch 2.2.0, "Client Authentication: Asymmetric", registration and key resolution; RFC 7517, 7518.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from fhir_gateway.errors import InputError

_MINIMUM_RSA_BITS = 2048  # RFC 7518 section 3.3
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_PUBLIC_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y")}

PublicKey = RSAKey | ECKey


#: Asymmetric signature algorithms of RFC 7518 by the kind of key, and the curve, that they need. Nothing else is ever
#: accepted: no ``none``, no HMAC (whose secret would be our public knowledge).
KEYS_OF_ALGORITHMS: Mapping[str, tuple[str, str | None]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
}


def fits(jwk: Mapping[str, Any], algorithm: str) -> bool:
    """True when a JWK is of the kind that ``algorithm`` signs with: RSA for RS384, EC on P-384 for ES384."""
    kind, curve = KEYS_OF_ALGORITHMS.get(algorithm, ("", None))
    return jwk.get("kty") == kind and (curve is None or jwk.get("crv") == curve) and jwk.get("use", "sig") == "sig"


def candidates(jwks: Mapping[str, Any], kid: str, algorithm: str) -> list[Mapping[str, Any]]:
    """Keys of the set with that ``kid`` whose kind fits ``algorithm``; an assertion needs exactly one."""
    return [key for key in _members(jwks) if key.get("kid") == kid and fits(key, algorithm)]


def public_key(jwk: Mapping[str, Any]) -> PublicKey:
    """Import a public JWK; InputError names the rule it breaks, never its values."""
    problem = _problem(jwk)
    if problem:
        raise InputError(f"a key of the JWK Set {problem}")
    kind = str(jwk["kty"])
    # Only what verifies is taken over: a certificate chain or a private part is none of our business.
    members = {name: jwk[name] for name in ("kty", "kid", "use", *_PUBLIC_MEMBERS[kind]) if name in jwk}
    try:
        if kind == "RSA" and _bits(members["n"]) < _MINIMUM_RSA_BITS:
            raise InputError(f"an RSA key of the JWK Set has fewer than {_MINIMUM_RSA_BITS} bits")
        return RSAKey.import_key(members) if kind == "RSA" else ECKey.import_key(members)
    except (JoseError, ValueError, TypeError) as error:
        raise InputError(f"a key of the JWK Set is not a valid {kind} key") from error


def check_key_set(jwks: Mapping[str, Any]) -> None:
    """Refuse (InputError) a JWK Set that cannot be registered.

    Every key needs ``kty``, a ``kid`` of its own and bare public parameters; none may carry private ones; at least one
    must fit an algorithm that SMART names.
    """
    keys = jwks.get("keys")
    if not isinstance(keys, list) or not keys or not all(isinstance(key, Mapping) for key in keys):
        raise InputError('a JWK Set is an object with a list "keys" of at least one key')
    ids = [key.get("kid") for key in keys]
    if len(set(map(str, ids))) != len(ids):
        raise InputError("two keys of the JWK Set have the same kid")
    for key in keys:
        public_key(key)
    if not any(fits(key, algorithm) for key in keys for algorithm in ("RS384", "ES384")):
        raise InputError("the JWK Set has no key for RS384 (RSA) or ES384 (EC on P-384)")


def _bits(number: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(number + "=" * (-len(number) % 4))).bit_length()


def _members(jwks: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    keys = jwks.get("keys")
    return [key for key in keys if isinstance(key, Mapping)] if isinstance(keys, list) else []


def _problem(jwk: Mapping[str, Any]) -> str | None:
    kind = jwk.get("kty")
    if kind not in _PUBLIC_MEMBERS:
        return "has a kty other than RSA and EC"
    if not isinstance(jwk.get("kid"), str) or not jwk["kid"]:
        return "has no kid"
    if _PRIVATE_MEMBERS & jwk.keys():
        return "carries private members: register public keys only"
    if not all(isinstance(jwk.get(name), str) and jwk[name] for name in _PUBLIC_MEMBERS[kind]):
        return f"lacks one of {', '.join(_PUBLIC_MEMBERS[kind])} (x5c alone is not enough)"
    return None
