"""Which check fails: an endpoint examined step by step, for the person who has to get it running."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

import httpx

from fhir_gateway.errors import GatewayError
from fhir_gateway.sources.connect import forget_discovery, open_source
from fhir_gateway.sources.endpoint import LOOPBACK, Endpoint, SigningKey
from fhir_gateway.sources.retry import Clock
from fhir_gateway.sources.vendors import VendorProfile

Result = Literal["ok", "warning", "failed", "skipped"]
_SKEW = 30.0


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One check and what it found."""

    name: str
    result: Result
    detail: str


async def check_endpoint(
    endpoint: Endpoint,
    key: SigningKey | None,
    public_url: str,
    *,
    clock: Clock | None = None,
    profile: VendorProfile | None = None,
) -> list[CheckLine]:
    """Discovery, key, JWKS, token, clock, scope, metadata and export, in that order; later ones need earlier ones."""
    forget_discovery(endpoint.base_url)
    lines: list[CheckLine] = []
    try:
        async for line in _lines(endpoint, key, public_url, clock, profile):
            lines.append(line)  # noqa: PERF401 - what was found before a failure is kept
    except GatewayError as error:
        step = "discovery" if not lines else "token" if lines[-1].name in ("key", "jwks") else "metadata"
        lines.append(CheckLine(step, "failed", error.message))
    return lines


async def _lines(
    endpoint: Endpoint, key: SigningKey | None, public_url: str, clock: Clock | None, profile: VendorProfile | None
) -> AsyncIterator[CheckLine]:
    async with open_source(endpoint, key, clock=clock, profile=profile) as source:
        tokens = source.session.tokens
        if tokens is not None and key is not None and source.smart is not None:
            concerns = source.smart.concerns(key.algorithm)
            found = endpoint.token_endpoint or source.smart.token_endpoint or ""
            yield CheckLine("discovery", "warning" if concerns else "ok", "; ".join(concerns) or found)
            yield CheckLine("key", "ok", f"{key.kid} ({key.algorithm}), client id {endpoint.client_id}")
            yield await _published(source.session.client, public_url, key)
            await tokens.token()
            yield CheckLine("token", "ok", f"asked for {tokens.scope}")
            skewed = abs(tokens.skew) > _SKEW
            yield CheckLine("clock", "warning" if skewed else "ok", f"{tokens.skew:+.0f} s")
            short = set((tokens.scope or "").split()) - set((tokens.granted or "").split())
            yield CheckLine("scope", "warning" if short else "ok", f"granted {tokens.granted}")
        else:
            yield CheckLine("token", "skipped", "the endpoint wants no authorization")
        capabilities = await source.capabilities()
        right = (capabilities.fhir_version or "").startswith("4.")
        stated = f"FHIR {capabilities.fhir_version}, {capabilities.software or 'software not named'}, "
        yield CheckLine("metadata", "ok" if right else "warning", stated + f"{len(capabilities.types)} types")
        levels = ", ".join(sorted(capabilities.export_levels))
        yield CheckLine("export", "ok" if levels else "warning", levels or "none listed: pulls go by search")


async def _published(client: httpx.AsyncClient, public_url: str, key: SigningKey) -> CheckLine:
    """Whether the world can read our key where we say it is."""
    url = f"{public_url.rstrip('/')}/.well-known/jwks.json"
    if httpx.URL(public_url).host in LOOPBACK:
        return CheckLine("jwks", "skipped", f"{url} is on this machine only; give the endpoint our keys inline")
    try:
        response = await client.get(url)
        kids = [one.get("kid") for one in response.json()["keys"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return CheckLine("jwks", "warning", f"{url} cannot be read from here")
    if key.kid not in kids:
        return CheckLine("jwks", "warning", f"{url} does not have {key.kid}")
    return CheckLine("jwks", "ok", url)
