"""Which check fails: an endpoint examined step by step, for the person who has to get it running.

Token endpoints say ``invalid_client`` and nothing more. So the check asks again with one thing changed at a time (a
shorter assertion, another audience, our JWKS named in it) until one answer differs: that thing is what was wrong.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

import httpx
import orjson

from fhir_gateway.errors import GatewayError, SourceError
from fhir_gateway.sources.connect import Source, open_source
from fhir_gateway.sources.discovery import Capabilities
from fhir_gateway.sources.endpoint import JWKS_PATH, LOOPBACK, Credential, Endpoint, SigningKey, without_query
from fhir_gateway.sources.retry import Clock
from fhir_gateway.sources.session import FHIR_JSON, SourceSession, new_client
from fhir_gateway.sources.token import SKEW, TokenRefused, TokenSource
from fhir_gateway.sources.vendors import VendorProfile, vendor_profile

Result = Literal["ok", "warning", "failed", "skipped"]
_SHORT_LIFE = 45
_SCOPES_TRIED = 25


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One check and what it found."""

    name: str
    result: Result
    detail: str


async def check_endpoint(
    endpoint: Endpoint,
    credential: Credential | None,
    public_url: str,
    *,
    group: str | None = None,
    clock: Clock | None = None,
    profile: VendorProfile | None = None,
) -> list[CheckLine]:
    """URL, TLS, discovery, alg, kid, token (aud, exp), clock, scope, export and group, in that order.

    Later checks need earlier ones: the list ends with the first that fails for good.
    """
    lines: list[CheckLine] = []
    profile = profile or vendor_profile(endpoint.vendor)
    try:
        async with aclosing(_lines(endpoint, credential, public_url, group, clock, profile)) as found:
            async for line in found:
                lines.append(line)
                if line.result == "failed":
                    break
    except GatewayError as error:
        done = {one.name for one in lines}
        step = next(name for name in ("url", "discovery", "token", "export", "group") if name not in done)
        lines.append(CheckLine(step, "failed", error.message))
    return lines


async def _lines(
    endpoint: Endpoint,
    credential: Credential | None,
    public_url: str,
    group: str | None,
    clock: Clock | None,
    profile: VendorProfile,
) -> AsyncGenerator[CheckLine]:
    async with new_client(profile) as client:
        async for line in _reachable(SourceSession(client, endpoint, profile, clock=clock)):
            yield line
        async with open_source(endpoint, credential, client=client, clock=clock, profile=profile) as source:
            if source.session.tokens is None:
                yield CheckLine("token", "skipped", "the endpoint wants no authorization")
            else:
                async for line in _authorized(source, credential, public_url):
                    yield line
            async for line in _exports(source, group):
                yield line


async def _reachable(session: SourceSession) -> AsyncIterator[CheckLine]:
    """Whether there is a FHIR base, and whether its certificate is good."""
    base = session.endpoint.base_url
    secure = base.startswith("https:")
    try:
        response = await session.client.get(f"{base}/metadata", headers={"Accept": FHIR_JSON})
    except httpx.TransportError as error:
        reason = _certificate(error)
        if reason is None:
            yield CheckLine("url", "failed", f"{base} cannot be reached ({_words(error)})")
        else:
            yield CheckLine("url", "ok", base)
            yield CheckLine("tls", "failed", f"{base}: {reason}")
        return
    if response.status_code == 404:
        yield CheckLine("url", "failed", f"{base}: there is a server, but no FHIR base at this path (metadata: 404)")
        return
    if response.is_redirect:
        target = without_query(str(response.next_request.url)) if response.next_request else "nowhere"
        yield CheckLine("url", "failed", f"{base} redirects to {target}: register the base it leads to")
        return
    if response.status_code == 200 and not _is_statement(response):
        yield CheckLine("url", "failed", f"{base}: metadata is no CapabilityStatement in JSON")
        return
    yield CheckLine("url", "ok", base)
    yield CheckLine("tls", "ok" if secure else "skipped", "the certificate is good" if secure else "plain http")


def _is_statement(response: httpx.Response) -> bool:
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return False
    return isinstance(body, dict) and body.get("resourceType") == "CapabilityStatement"


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _certificate(error: BaseException) -> str | None:
    """What is wrong with the certificate or the handshake; None when that is not it."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"the TLS handshake failed ({cause.reason or 'no reason given'})"
    return None


def _words(error: BaseException) -> str:
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return type(error).__name__


async def _authorized(source: Source, credential: Credential | None, public_url: str) -> AsyncIterator[CheckLine]:
    tokens, smart, endpoint = source.session.tokens, source.smart, source.endpoint
    if tokens is None or smart is None:
        return
    concerns = smart.concerns(isinstance(credential, SigningKey))
    yield CheckLine("discovery", "warning" if concerns else "ok", "; ".join(concerns) or tokens.where)
    listed = ", ".join(sorted(smart.algorithms))
    wrong_alg = isinstance(credential, SigningKey) and smart.algorithms and credential.algorithm not in smart.algorithms
    if isinstance(credential, SigningKey):
        detail = f"our key signs with {credential.algorithm}, the server takes {listed or 'what it does not say'}"
        yield CheckLine("alg", "warning" if wrong_alg else "ok", detail)
        yield await _published(source.session.client, public_url, credential)
    try:
        await tokens.token()
    except TokenRefused as refused:
        if refused.error == "invalid_scope":
            yield CheckLine("token", "ok", f"client id {endpoint.client_id} and its credentials are accepted")
            yield CheckLine("scope", "failed", await _scopes(source, refused))
            return
        if refused.error == "invalid_client" and isinstance(credential, SigningKey):
            if wrong_alg:
                yield CheckLine(
                    "alg", "failed", f"our key signs with {credential.algorithm}, the server lists {listed}"
                )
                return
            yield await _diagnosed(source, refused, f"{public_url.rstrip('/')}{JWKS_PATH}")
            return
        yield CheckLine("token", "failed", refused.message)
        return
    yield CheckLine("token", "ok", f"client id {endpoint.client_id}, good for {tokens.life:.0f} s")
    skewed = abs(tokens.skew) > SKEW
    detail = f"the server's clock is {tokens.skew:+.0f} s off ours"
    yield CheckLine("clock", "warning" if skewed else "ok", detail + "; set one of them" * skewed)
    short = set((tokens.scope or "").split()) - set((tokens.granted or "").split())
    yield CheckLine("scope", "warning" if short else "ok", f"asked for {tokens.scope}, granted {tokens.granted}")


async def _diagnosed(source: Source, refused: TokenRefused, jwks_url: str) -> CheckLine:
    """The one thing that makes the token request succeed when it is changed."""
    tokens, endpoint = source.session.tokens, source.endpoint
    if tokens is None:
        return CheckLine("token", "failed", refused.message)
    if await _accepted(tokens.variant(life=_SHORT_LIFE)):
        return CheckLine(
            "exp", "failed", f"assertions of {tokens.assertion_life} s are refused, of {_SHORT_LIFE} s are accepted"
        )
    for audience in _audiences(tokens, endpoint):
        if await _accepted(tokens.variant(audience=audience)):
            return CheckLine("aud", "failed", f"the server wants aud {audience}: set it with --audience")
    if endpoint.jku is None and await _accepted(tokens.variant(jku=jwks_url)):
        return CheckLine("jku", "failed", "the server wants our JWKS named in assertions: set --jku")
    return CheckLine("kid", "failed", refused.message)


def _audiences(tokens: TokenSource, endpoint: Endpoint) -> list[str]:
    """What servers were seen to want instead of the token endpoint."""
    root = str(httpx.URL(tokens.endpoint).copy_with(raw_path=b"/")).rstrip("/")
    other = tokens.endpoint.rstrip("/") if tokens.endpoint.endswith("/") else tokens.endpoint + "/"
    found = [tokens.endpoint, other, endpoint.base_url, endpoint.base_url + "/", root, root + "/"]
    return [one for one in dict.fromkeys(found) if one != tokens.audience]


async def _accepted(tokens: TokenSource) -> bool:
    try:
        await tokens.token()
    except SourceError:
        return False
    return True


async def _scopes(source: Source, refused: TokenRefused) -> str:
    """Which of several scopes the server does not take."""
    tokens = source.session.tokens
    wanted = (tokens.scope or "").split() if tokens else []
    if tokens is None or not 1 < len(wanted) <= _SCOPES_TRIED:
        return refused.message
    bad = [one for one in wanted if not await _accepted(tokens.variant(scope=one))]
    return f"{refused.message}; refused are: {' '.join(bad) or 'none of them alone'}"


async def _published(client: httpx.AsyncClient, public_url: str, key: SigningKey) -> CheckLine:
    """Whether the world can read our key where we say it is."""
    url = f"{public_url.rstrip('/')}{JWKS_PATH}"
    if httpx.URL(public_url).host in LOOPBACK:
        detail = f"{key.kid}; {url} is on this machine only: give the endpoint our keys inline"
        return CheckLine("kid", "skipped", detail)
    try:
        response = await client.get(url)
        kids = [one.get("kid") for one in response.json()["keys"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return CheckLine("kid", "warning", f"{url} cannot be read from here")
    if key.kid not in kids:
        return CheckLine("kid", "warning", f"{url} does not have {key.kid}")
    return CheckLine("kid", "ok", f"{key.kid} is in {url}")


async def _exports(source: Source, group: str | None) -> AsyncIterator[CheckLine]:
    capabilities = await source.capabilities()
    right = (capabilities.fhir_version or "").startswith("4.")
    stated = f"FHIR {capabilities.fhir_version}, {capabilities.software or 'software not named'}"
    levels = ", ".join(sorted(capabilities.export_levels)) or "none listed: pulls go by search"
    good = right and capabilities.export_levels
    yield CheckLine("export", "ok" if good else "warning", f"{stated}, {len(capabilities.types)} types; {levels}")
    yield await _group(source, group or source.endpoint.group or source.profile.default_group, capabilities)


async def _group(source: Source, group: str | None, capabilities: Capabilities) -> CheckLine:
    if group is None:
        needed = source.profile.levels == ("group",) or capabilities.export_levels == {"group"}
        return CheckLine("group", "warning" if needed else "skipped", "none named" + (": name one" if needed else ""))
    url = f"{source.endpoint.base_url}/Group/{group}"
    response = await source.session.send("GET", url, headers={"Accept": FHIR_JSON})
    if response.status_code == 200:
        return CheckLine("group", "ok", f"Group {group} can be read")
    if response.status_code in (404, 410):
        return CheckLine("group", "failed", f"Group {group}: there is no such Group, or none that we may see")
    if response.status_code in (401, 403):
        return CheckLine("group", "failed", f"Group {group}: we may not read it ({response.status_code})")
    return CheckLine("group", "warning", f"Group {group}: reading it was answered with {response.status_code}")
