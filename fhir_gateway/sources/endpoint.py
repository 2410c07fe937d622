"""A remote FHIR endpoint as we registered it, and the keys we prove ourselves with. Plain values, no I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from fhir_gateway.errors import ConfigurationError
from fhir_gateway.sources.vendors import AuthKind

Algorithm = Literal["ES384", "RS384"]
KeyState = Literal["next", "active", "retired"]

ALGORITHMS: tuple[Algorithm, ...] = ("ES384", "RS384")
JWKS_PATH = "/.well-known/jwks.json"
"""Where our public keys are, under the gateway's public URL."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One FHIR endpoint of an EHR or payer.

    ``base_url`` has no trailing slash. ``token_endpoint``, ``scopes`` and ``audience`` (of assertions; else the token
    endpoint) overrule discovery when set. ``jku`` names our JWKS in assertions: some servers want that, some refuse it.
    ``group`` is exported when a pull names none. The access token is sent to the origin of ``base_url`` and to
    ``trusted_origins`` only.
    """

    name: str
    base_url: str
    auth: AuthKind = "smart-backend"
    client_id: str | None = None
    token_endpoint: str | None = None
    scopes: str | None = None
    vendor: str = "generic"
    trusted_origins: tuple[str, ...] = ()
    audience: str | None = None
    jku: str | None = None
    group: str | None = None

    @property
    def token_origins(self) -> frozenset[str]:
        """Origins that may see our access token."""
        return frozenset({origin(self.base_url), *self.trusted_origins})


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """What is known of a key of ours without its private part; ``created`` is an instant."""

    endpoint: str
    kid: str
    algorithm: Algorithm
    state: KeyState
    created: str


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key of ours for one endpoint. Never log it: its repr shows the key id only."""

    kid: str
    algorithm: Algorithm
    state: KeyState
    key: ECKey | RSAKey

    @classmethod
    def of(cls, endpoint: str, key: ECKey | RSAKey, state: KeyState = "active") -> SigningKey:
        """The key of an endpoint of that name; its id comes from both, so it is known before registration."""
        algorithm: Algorithm = "ES384" if isinstance(key, ECKey) else "RS384"
        return cls(f"{endpoint}-{key.thumbprint()[:24]}", algorithm, state, key)

    def __repr__(self) -> str:
        """Show no key material."""
        return f"SigningKey(kid={self.kid!r}, algorithm={self.algorithm!r}, state={self.state!r})"

    def public_jwk(self) -> dict[str, Any]:
        """The public half as published in a JWK Set."""
        public = self.key.as_dict(private=False)
        return {**public, "kid": self.kid, "use": "sig", "alg": self.algorithm, "key_ops": ["verify"]}


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A shared secret, for servers that know no signed assertions (``client_secret_basic``). Its repr shows nothing."""

    value: str

    def __repr__(self) -> str:
        """Show no secret."""
        return "ClientSecret()"


Credential = SigningKey | ClientSecret
"""What we prove ourselves with to one endpoint."""
CredentialNow = Credential | Callable[[], Credential | None]
"""The same, or how to get what is in force at the moment."""


def generate_key(algorithm: Algorithm) -> ECKey | RSAKey:
    """A new private key for that algorithm (P-384 or RSA 3072)."""
    if algorithm == "ES384":
        return ECKey.generate_key("P-384", private=True)
    return RSAKey.generate_key(3072, private=True)


def load_key(pem: bytes, algorithm: Algorithm) -> ECKey | RSAKey:
    """A private key from its PEM; `ConfigurationError` when it does not fit the algorithm."""
    try:
        key = ECKey.import_key(pem) if algorithm == "ES384" else RSAKey.import_key(pem)
    except (JoseError, ValueError, TypeError):
        raise ConfigurationError(f"the private key cannot be read as a key for {algorithm}") from None
    if isinstance(key, ECKey) and key.curve_name != "P-384":
        raise ConfigurationError(f"ES384 needs a P-384 key, this one is {key.curve_name}")
    return key


def origin(url: str) -> str:
    """Scheme, host and port of a URL, default ports written out, lower case."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme.lower(), 0)
    return f"{parts.scheme.lower()}://{(parts.hostname or '').lower()}:{port}"


def without_query(url: str) -> str:
    """A URL as it may be shown: no user information, query or fragment (signatures and patients hide there)."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}" if host else parts.path


def checked_base_url(url: str) -> str:
    """A base URL without trailing slash; refuses what is not absolute http(s), or plain http beyond this machine."""
    wrong = "an endpoint's URL must be an absolute http(s) URL without user, query or fragment"
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(wrong) from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or parts.username:
        raise ConfigurationError(wrong)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ConfigurationError(f"{parts.hostname}: plain http would show tokens and patients on the wire; use https")
    return url.strip().rstrip("/")
