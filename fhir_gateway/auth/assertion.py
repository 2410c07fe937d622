"""Build a client assertion: the signed JWT by which a backend client proves who it is (documentation, demo, tests)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

_LIFETIME_SECONDS = 240  # below the 300 that servers allow, so that clocks may differ


def client_assertion(client_id: str, token_url: str, key: Mapping[str, Any], alg: str, **claims: Any) -> str:
    """Return a compact JWT for ``client_assertion``.

    ``key`` is a private JWK with its ``kid``; ``alg`` is RS384 or ES384. Each call makes a new ``jti``, as each
    attempt at the token endpoint needs. ``claims`` replace the standard ones; a claim that is None is left out.
    """
    private = RSAKey.import_key(dict(key)) if key["kty"] == "RSA" else ECKey.import_key(dict(key))
    standard = {
        "iss": client_id,
        "sub": client_id,
        "aud": token_url,
        "exp": int(time.time()) + _LIFETIME_SECONDS,
        "jti": secrets.token_urlsafe(24),
    }
    payload = {name: value for name, value in (standard | claims).items() if value is not None}
    return jwt.encode({"alg": alg, "kid": key["kid"], "typ": "JWT"}, payload, private, algorithms=[alg])


def generate_key(alg: str, kid: str) -> dict[str, Any]:
    """Make a private JWK for ``alg`` (RS384 or ES384) under the key id ``kid``."""
    parameters: Any = {"kid": kid, "alg": alg, "use": "sig"}
    key = RSAKey.generate_key(3072, parameters) if alg == "RS384" else ECKey.generate_key("P-384", parameters)
    return dict(key.as_dict(private=True))


def public_key_set(*keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JWK Set to register for private JWKs: the same keys without their private members."""
    public = ("kty", "kid", "alg", "use", "n", "e", "crv", "x", "y")
    return {"keys": [{name: key[name] for name in public if name in key} for key in keys]}
