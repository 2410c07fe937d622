"""Access tokens by SMART Backend Services: one request at a time, renewed ahead of expiry and after a 401.

SMART App Launch 2.2.0, backend-services and client-confidential-asymmetric; RFC 7523. This is a module of our own
because authlib's async client renews client-credentials tokens wrongly (docs/adr/0050).
"""

from __future__ import annotations

import asyncio
import re
import uuid
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote_plus

import httpx
from joserfc import jwt

from fhir_gateway.errors import SourceAuthError, SourceError
from fhir_gateway.sources.endpoint import ClientSecret, Credential, CredentialNow, SigningKey, without_query
from fhir_gateway.sources.retry import Clock, backoff, retry_after

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_LIFE = 240
"""Seconds; the limit is 300 and some clocks differ. A vendor's profile may say otherwise."""
SKEW = 30.0
"""Seconds between two clocks from which on assertions fail."""
_DEFAULT_LIFE = 300.0
_JWT_LIKE = re.compile(r"[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")


def client_assertion(
    client_id: str, audience: str, key: SigningKey, now: float, jku: str | None = None, life: int = ASSERTION_LIFE
) -> str:
    """A signed assertion with a fresh ``jti``, good for one token request."""
    header = {"alg": key.algorithm, "typ": "JWT", "kid": key.kid, **({"jku": jku} if jku else {})}
    claims: dict[str, Any] = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "iat": int(now),
        "exp": int(now) + life,
        "jti": uuid.uuid4().hex,
    }
    return jwt.encode(header, claims, key.key, algorithms=[key.algorithm])


class TokenSource:
    """Gives the access token for one endpoint and scope; concurrent callers share one request."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        token_endpoint: str,
        client_id: str,
        credential: CredentialNow,
        scope: str | None,
        audience: str | None = None,
        jku: str | None = None,
        assertion_life: int = ASSERTION_LIFE,
        max_wait: float = 60.0,
        attempts: int = 5,
        clock: Clock | None = None,
    ) -> None:
        """`max_wait` caps each wait in seconds, `attempts` counts requests per token; a `scope` of None asks for none.

        `credential` may be asked for anew with each request: a key that was rotated away while a pull of days goes on
        is not used any more. `audience` is the ``aud`` of assertions, by default the token endpoint; `jku` the address
        of our JWKS in them.
        """
        self._client = client
        self.endpoint = token_endpoint
        self._client_id = client_id
        self._credential = credential
        self.audience = audience or token_endpoint
        self._jku = jku
        self.assertion_life = assertion_life
        self.scope = scope
        self.granted: str | None = None
        """The scope of the last token as the server stated it; equal to ``scope`` when it stated none."""
        self.life = 0.0
        """Seconds that the last token was good for."""
        self.skew = 0.0
        """Seconds the server's clock is ahead of ours, by its last ``Date`` header."""
        self._max_wait = max_wait
        self._attempts = attempts
        self._clock = clock or Clock()
        self._lock = asyncio.Lock()
        self._token = ""
        self._renew_at = 0.0

    async def token(self) -> str:
        """A token that is good for at least a moment."""
        if not self._fresh:
            async with self._lock:
                if not self._fresh:
                    await self._renew()
        return self._token

    def variant(
        self, *, audience: str | None = None, jku: str | None = None, life: int | None = None, scope: str | None = None
    ) -> TokenSource:
        """A token source that differs in one respect, to find out what a server minds."""
        return TokenSource(
            self._client,
            token_endpoint=self.endpoint,
            client_id=self._client_id,
            credential=self._credential,
            scope=scope or self.scope,
            audience=audience or self.audience,
            jku=jku or self._jku,
            assertion_life=life or self.assertion_life,
            max_wait=self._max_wait,
            attempts=self._attempts,
            clock=self._clock,
        )

    @property
    def _fresh(self) -> bool:
        return bool(self._token) and self._clock.monotonic() < self._renew_at

    def discard(self, token: str) -> None:
        """Forget a token that was refused, unless it has been renewed already."""
        if token == self._token:
            self._token = ""

    async def _renew(self) -> None:
        self._token = ""
        asked = self._clock.monotonic()
        body = await self._request()
        token = body.get("access_token")
        if not isinstance(token, str) or not token:
            raise SourceAuthError(f"{self.where}: answer without access_token")
        kind = body.get("token_type", "bearer")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise SourceAuthError(f"{self.where}: token_type is not bearer")
        life = _seconds(body.get("expires_in"))
        # a fifth of the life, at most half a minute: a 6-second token is used for about 5
        self._renew_at = asked + life - min(30.0, life / 5)
        scope = body.get("scope")
        self.granted = scope if isinstance(scope, str) and scope.strip() else self.scope
        self.life = life
        self._token = token

    async def _request(self) -> dict[str, Any]:
        corrected = False
        attempt = 0
        while True:
            attempt += 1
            form, basic = self._proof(self._clock.now() + (self.skew if corrected else 0.0))
            try:
                response = await self._client.post(
                    self.endpoint,
                    data=form,
                    headers={"Accept": "application/json"},
                    auth=basic or httpx.USE_CLIENT_DEFAULT,
                    follow_redirects=False,
                )
            except httpx.TransportError as error:
                if attempt >= self._attempts:
                    raise SourceError(f"{self.where}: cannot be reached ({type(error).__name__})") from None
                await self._clock.sleep(backoff(attempt, self._max_wait))
                continue
            self.skew = _skew(response, self._clock.now())
            if response.status_code == 200:
                return _json(response, self.where)
            if response.status_code in (429, 500, 502, 503, 504) and attempt < self._attempts:
                wait = retry_after(response.headers.get("Retry-After"), self._clock.now(), self._max_wait)
                await self._clock.sleep(backoff(attempt, self._max_wait) if wait is None else wait)
                continue
            if _oauth_error(response) == "invalid_client" and abs(self.skew) > SKEW and not corrected:
                corrected = True
                continue
            raise self._refusal(response)

    def _proof(self, now: float) -> tuple[dict[str, str], httpx.BasicAuth | None]:
        """The form of a token request, and the credentials that go into its header (RFC 6749 section 2.3.1)."""
        credential = self._present()
        form = {"grant_type": "client_credentials", **({"scope": self.scope} if self.scope else {})}
        if isinstance(credential, ClientSecret):
            return form, httpx.BasicAuth(quote_plus(self._client_id), quote_plus(credential.value))
        form["client_assertion_type"] = ASSERTION_TYPE
        form["client_assertion"] = client_assertion(
            self._client_id, self.audience, credential, now, self._jku, self.assertion_life
        )
        return form, None

    def _present(self) -> Credential:
        credential = self._credential() if callable(self._credential) else self._credential
        if credential is None:
            raise SourceAuthError(f"{self.where}: we have nothing any more to prove ourselves with")
        return credential

    @property
    def where(self) -> str:
        """The token endpoint as it may be shown."""
        return f"token endpoint {without_query(self.endpoint)}"

    def _refusal(self, response: httpx.Response) -> TokenRefused:
        """What was refused and, as far as can be told from here, why."""
        error = _oauth_error(response)
        kind = response.headers.get("Content-Type", "no content type").split(";")[0]
        text = f"{self.where}: answered {response.status_code} {error or f'without an OAuth error ({kind})'}"
        description = _description(response)
        if description:
            text += f" ({description})"
        if error == "invalid_client":
            hints = [f"client id {self._client_id} must be known there"]
            key = self._present()
            if isinstance(key, SigningKey):
                hints.append(f"key {key.kid} ({key.algorithm}) must be in the JWK Set registered there")
                hints.append(f"aud was {self.audience}")
            else:
                hints.append("the client secret must be the one it gave us")
            if abs(self.skew) > SKEW:
                hints.insert(0, f"the server's clock is {self.skew:+.0f} s off ours")
            text += "; check: " + "; ".join(hints)
        elif error == "invalid_scope":
            text += f"; asked for scope: {self.scope or 'none'}"
        elif response.is_redirect:
            text += "; a token request is not redirected: register the final token endpoint"
        return TokenRefused(text, error, self.skew)


class TokenRefused(SourceAuthError):
    """The token endpoint said no. ``error`` is its OAuth code; ``skew`` the seconds its clock is ahead of ours."""

    def __init__(self, message: str, error: str | None, skew: float) -> None:
        super().__init__(message)
        self.error = error
        self.skew = skew


def _seconds(value: object) -> float:
    """``expires_in`` as a number; some servers send a string, some nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _DEFAULT_LIFE
    try:
        return max(float(value), 0.0)
    except ValueError:
        return _DEFAULT_LIFE


def _skew(response: httpx.Response, now: float) -> float:
    try:
        return parsedate_to_datetime(response.headers.get("Date", "")).timestamp() - now
    except (ValueError, TypeError):
        return 0.0


def _json(response: httpx.Response, where: str) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise SourceAuthError(f"{where}: answered 200 with something that is no JSON object")
    return body


def _oauth_error(response: httpx.Response) -> str | None:
    """The OAuth error code of a refusal; bodies may be plain text or HTML."""
    try:
        body = response.json()
    except ValueError:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, str) else None


def _description(response: httpx.Response) -> str | None:
    try:
        body = response.json()
    except ValueError:
        return None
    text = body.get("error_description") if isinstance(body, dict) else None
    if not isinstance(text, str) or not text.strip():
        return None
    return _JWT_LIKE.sub("…", " ".join(text.split()))[:200]
