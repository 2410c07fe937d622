"""Signing in at an outside provider: OpenID Connect Core 1.0, authorization code with PKCE, state and nonce.

What belongs to an attempt (state, nonce, verifier) is in an encrypted cookie of the browser that makes it, so any
process may finish it, and no other browser can. A refusal names the check in the log, and nothing to whoever tries.
"""

from __future__ import annotations

import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
import orjson
from authlib.common.security import generate_token
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jws, jwt
from joserfc.errors import JoseError

from fhir_gateway.auth.jwks import JwksCache, check_jwks_url
from fhir_gateway.auth.keys import public_key
from fhir_gateway.config import OpenIdProvider
from fhir_gateway.console.frame import PATH, local_path
from fhir_gateway.console.roles import Role, read_roles
from fhir_gateway.db.audience import Audience
from fhir_gateway.db.secrets import SecretBox
from fhir_gateway.errors import AuthenticationError, ConfigurationError, InputError, SourceError

CALLBACK = f"{PATH}/sign-in/callback"
#: How long somebody may take at the provider.
ATTEMPT_SECONDS = 15 * 60
_PURPOSE = "console-sign-in"
_METADATA_SECONDS = 60 * 60
_SKEW_SECONDS = 60
_TIMEOUT = httpx.Timeout(10.0)
_LONGEST = 64 * 1024

log = logging.getLogger("fhir_gateway.console")


class SignInRefused(AuthenticationError):
    """The provider's answer is not good; ``check`` is the operator's to know."""

    def __init__(self, check: str) -> None:
        super().__init__("the sign-in did not succeed; try again, or ask who runs this gateway")
        log.warning("sign-in by the provider refused: %s", check)
        self.check = check


@dataclass(frozen=True, slots=True)
class Vouched:
    """Somebody as the provider says, in our terms; ``labels`` None sees everybody's data."""

    name: str
    subject: str
    roles: tuple[Role, ...]
    labels: tuple[str, ...] | None
    id_token: str
    wanted: str


class Provider:
    """The provider of the settings. Safe to share between threads."""

    def __init__(
        self,
        settings: OpenIdProvider,
        public_url: str,
        secrets: SecretBox,
        jwks: JwksCache | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        _check_address(settings.issuer)
        self.settings = settings
        self._public_url = public_url.rstrip("/")
        self._secrets = secrets
        self._jwks = jwks or JwksCache()
        self._clock = clock
        self._lock = threading.Lock()
        self._metadata: tuple[float, Mapping[str, Any]] | None = None

    def begin(self, wanted: str | None) -> tuple[str, str]:
        """Where the browser goes, and the cookie that it brings back."""
        attempt = {name: generate_token(48) for name in ("state", "nonce", "verifier")}
        address = prepare_grant_uri(
            self._address("authorization_endpoint"),
            self.settings.client_id,
            "code",
            redirect_uri=self._public_url + CALLBACK,
            scope=self.settings.scopes,
            state=attempt["state"],
            nonce=attempt["nonce"],
            code_challenge=create_s256_code_challenge(attempt["verifier"]),
            code_challenge_method="S256",
        )
        kept = {**attempt, "purpose": _PURPOSE, "wanted": local_path(wanted), "until": self._clock() + ATTEMPT_SECONDS}
        return address, self._secrets.encrypt(json.dumps(kept).encode()).decode("ascii")

    def finish(self, answer: Mapping[str, str], cookie: str | None) -> Vouched:
        """Who came back. SignInRefused when the answer is not good, SourceError when the provider does not answer."""
        attempt = self._attempt(cookie)
        if not hmac.compare_digest(answer.get("state", "").encode(), attempt["state"].encode()):
            raise SignInRefused("state")
        named = self._discovered().get("authorization_response_iss_parameter_supported") is True  # RFC 9207
        if answer.get("iss", None if named else self.settings.issuer) != self.settings.issuer:
            raise SignInRefused("iss of the answer")
        if "error" in answer:
            raise SignInRefused("the provider answered with an error")
        if not answer.get("code"):
            raise SignInRefused("no code")
        tokens = self._exchange(answer["code"], attempt["verifier"])
        claims = self._verified(tokens, attempt["nonce"])
        return self._person(self._with_userinfo(claims, tokens), str(tokens["id_token"]), attempt["wanted"])

    def end_address(self, id_token: str | None) -> str | None:
        """Where somebody signs out at the provider too (RP-Initiated Logout 1.0); None where that cannot be done."""
        if "end_session_endpoint" not in self._discovered():
            return None
        asked = {
            "client_id": self.settings.client_id,
            "post_logout_redirect_uri": f"{self._public_url}{PATH}/sign-in",
            **({"id_token_hint": id_token} if id_token else {}),
        }
        address = self._address("end_session_endpoint")
        return f"{address}{'&' if '?' in address else '?'}{urlencode(asked)}"

    def _attempt(self, cookie: str | None) -> dict[str, Any]:
        """What :meth:`begin` has kept: the same key encrypts other things too, which are no attempts."""
        try:
            found = json.loads(self._secrets.decrypt((cookie or "").encode()))
        except (ConfigurationError, ValueError):
            raise SignInRefused("no attempt of this browser") from None
        if not isinstance(found, dict) or found.get("purpose") != _PURPOSE:
            raise SignInRefused("no attempt of this browser")
        if found["until"] < self._clock():
            raise SignInRefused("the attempt is too old")
        return found

    def _discovered(self) -> Mapping[str, Any]:
        """The provider's metadata (OpenID Connect Discovery 1.0), asked for once in a while."""
        with self._lock:
            if self._metadata is None or self._metadata[0] < time.monotonic():
                found = _asked("GET", f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration")
                if found.get("issuer") != self.settings.issuer:
                    raise ConfigurationError("openid: the issuer's discovery document names another issuer")
                self._metadata = time.monotonic() + _METADATA_SECONDS, found
            return self._metadata[1]

    def _address(self, name: str) -> str:
        address = self._discovered().get(name)
        if not isinstance(address, str):
            raise ConfigurationError(f"openid: the issuer's discovery document has no {name}")
        _check_address(address)
        return address

    def _exchange(self, code: str, verifier: str) -> Mapping[str, Any]:
        """The tokens of a code (RFC 6749 section 4.1.3)."""
        secret = self.settings.client_secret
        offered = self._discovered().get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        method = "client_secret_basic" if "client_secret_basic" in offered else "client_secret_post"
        body = prepare_token_request(
            "authorization_code", redirect_uri=self._public_url + CALLBACK, code=code, code_verifier=verifier
        )
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        client = ClientAuth(
            self.settings.client_id, secret.get_secret_value() if secret else None, method if secret else "none"
        )
        address, headers, body = client.prepare("POST", self._address("token_endpoint"), headers, body)
        found = _asked("POST", address, headers=headers, content=body, refused="the code is refused")
        if not isinstance(found.get("id_token"), str) or not isinstance(found.get("access_token"), str):
            raise SignInRefused("no tokens for the code")
        return found

    def _verified(self, tokens: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        """The claims of a good ID token (OpenID Connect Core 1.0, section 3.1.3.7)."""
        token = tokens["id_token"]
        if len(token) > _LONGEST:
            raise SignInRefused("the ID token is too long")
        try:
            header = jws.extract_compact(token.encode("ascii")).headers()
            algorithm = header.get("alg")
            if algorithm not in self.settings.algorithms or "crit" in header:
                raise SignInRefused("alg or crit of the ID token")
            found = self._jwks.find(self._address("jwks_uri"), str(header.get("kid")), algorithm)
            if len(found) != 1:
                raise SignInRefused(f"{len(found)} keys of the provider fit kid and alg, need one")
            decoded = jwt.decode(token, public_key(found[0]), algorithms=[algorithm])
            claims = CodeIDToken(
                decoded.claims,
                decoded.header,
                {
                    "iss": {"essential": True, "value": self.settings.issuer},
                    "aud": {"essential": True, "value": self.settings.client_id},
                    "nonce": {"essential": True, "value": nonce},
                },
                {"nonce": nonce, "client_id": self.settings.client_id, "access_token": tokens["access_token"]},
            )
            claims.validate(int(self._clock()), _SKEW_SECONDS)
        except JoseError as error:
            raise SignInRefused(f"the ID token: {getattr(error, 'claim', None) or type(error).__name__}") from error
        except (InputError, ValueError, TypeError) as error:
            raise SignInRefused("the ID token cannot be read, or its key") from error
        return dict(claims)

    def _with_userinfo(self, claims: Mapping[str, Any], tokens: Mapping[str, Any]) -> Mapping[str, Any]:
        """Claims that the ID token lacks, of the userinfo endpoint where there is one (section 5.3)."""
        mine = self.settings
        wanted = [mine.name_claim, mine.roles_claim, *([mine.practices_claim] if mine.practices_claim else [])]
        if all(_claim(claims, one) is not None for one in wanted) or "userinfo_endpoint" not in self._discovered():
            return claims
        headers = {"Authorization": f"Bearer {tokens['access_token']}"}
        found = _asked("GET", self._address("userinfo_endpoint"), headers=headers)
        if found.get("sub") != claims["sub"]:
            raise SignInRefused("sub of userinfo")
        return {**found, **claims}

    def _person(self, claims: Mapping[str, Any], id_token: str, wanted: str) -> Vouched:
        mine = self.settings
        subject, name = claims.get("sub"), _claim(claims, mine.name_claim)
        if not isinstance(subject, str) or not 1 <= len(subject) <= 255:
            raise SignInRefused("sub")
        if not isinstance(name, str) or not name.strip():
            raise SignInRefused(f"the claim {mine.name_claim} is no name")
        if mine.name_claim == "email" and claims.get("email_verified") is False:
            raise SignInRefused("email is not verified")
        roles = {mine.roles[one] for one in _texts(_claim(claims, mine.roles_claim)) if one in mine.roles}
        if not roles:
            raise SignInRefused(f"the claim {mine.roles_claim} gives no role")
        return Vouched(name.strip(), subject, read_roles(roles), self._labels(claims), id_token, wanted)

    def _labels(self, claims: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Whose data: None for everybody's, else the labels of practices."""
        mine = self.settings
        if mine.practices_claim is None:
            return None
        said = _texts(_claim(claims, mine.practices_claim))
        numbers = [mine.practices[one] for one in said if one in mine.practices] if mine.practices else said
        if not numbers:
            raise SignInRefused(f"the claim {mine.practices_claim} gives no practice")
        if mine.practices and "*" in numbers:
            return None
        labels = tuple(sorted({f"organization:{one}" for one in numbers}))
        try:
            Audience.of(labels)
        except InputError:
            raise SignInRefused(f"the claim {mine.practices_claim} holds what is no practice") from None
        return labels


def _asked(method: str, address: str, *, refused: str | None = None, **more: Any) -> dict[str, Any]:
    """An object that the provider answers; ``refused`` is the check that failed where it says that we asked wrongly."""
    try:
        # a proxy of the environment may carry https (it cannot answer in the provider's name); http is this machine
        with httpx.Client(timeout=_TIMEOUT, trust_env=address.startswith("https:")) as client:
            response = client.request(method, address, **more)
    except httpx.HTTPError as error:
        raise SourceError(f"the sign-in provider cannot be reached ({type(error).__name__})") from error
    if refused is not None and response.is_client_error:
        raise SignInRefused(refused)
    if response.status_code != httpx.codes.OK or len(response.content) > 4 * _LONGEST:
        raise SourceError(f"the sign-in provider answered {response.status_code}")
    try:
        found = orjson.loads(response.content)
    except orjson.JSONDecodeError as error:
        raise SourceError("the sign-in provider did not answer JSON") from error
    if not isinstance(found, dict):
        raise SourceError("the sign-in provider did not answer an object")
    return found


def _check_address(address: str) -> None:
    try:
        check_jwks_url(address)
    except InputError:
        raise ConfigurationError("openid: the provider's addresses are https, or http on this machine") from None


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name or, where there is none of that name, by its path with dots."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _texts(value: Any) -> list[str]:
    """A claim's values: a list of them, or one."""
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, str) and one]
