"""Opening an endpoint: discovery, token source, session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin

import httpx
import orjson

from fhir_gateway.errors import ConfigurationError, SourceAuthError, SourceError
from fhir_gateway.sources.discovery import Capabilities, SmartConfiguration
from fhir_gateway.sources.endpoint import CredentialNow, Endpoint, without_query
from fhir_gateway.sources.outcome import Progress
from fhir_gateway.sources.retry import Clock
from fhir_gateway.sources.session import FHIR_JSON, SourceSession, new_client
from fhir_gateway.sources.token import TokenSource
from fhir_gateway.sources.vendors import VendorProfile, vendor_profile

_NO_DOCUMENT = frozenset({401, 403, 404, 405, 406, 410, 501})
"""Answers of servers that have no SMART configuration, or guard every path they do not know."""


@dataclass(slots=True)
class Source:
    """An endpoint that is ready to be asked."""

    endpoint: Endpoint
    profile: VendorProfile
    session: SourceSession
    smart: SmartConfiguration | None
    _capabilities: Capabilities | None = field(default=None)

    async def capabilities(self) -> Capabilities:
        """The CapabilityStatement, read once; asked without a token first, since it is public by the specification."""
        if self._capabilities is None:
            url = f"{self.endpoint.base_url}/metadata"
            headers = {"Accept": FHIR_JSON}
            response = await self.session.send("GET", url, headers=headers, authorized=False)
            if response.status_code in (401, 403):
                response = await self.session.send("GET", url, headers=headers)
            self._capabilities = Capabilities.parse(_document(response, "CapabilityStatement"))
        return self._capabilities


@asynccontextmanager
async def open_source(
    endpoint: Endpoint,
    credential: CredentialNow | None,
    *,
    types: tuple[str, ...] = (),
    client: httpx.AsyncClient | None = None,
    clock: Clock | None = None,
    progress: Progress | None = None,
    profile: VendorProfile | None = None,
) -> AsyncIterator[Source]:
    """Discover an endpoint and make its token source; no token is asked for before the first request needs one.

    The token endpoint is the one that was registered, else the SMART configuration's, else that of the
    CapabilityStatement's security extension.
    ``types`` narrows the scope where the server has no wildcard. ``client``, ``clock`` and ``profile`` are for tests
    and for callers that share a connection pool.
    """
    profile = profile or vendor_profile(endpoint.vendor)
    owned = client is None
    client = client or new_client(profile)
    try:
        session = SourceSession(client, endpoint, profile, None, clock, progress)
        source = Source(endpoint, profile, session, None)
        if endpoint.auth != "none":
            if credential is None or not endpoint.client_id:
                raise ConfigurationError(
                    f"endpoint {endpoint.name} has no client id yet: `fhir-gateway endpoint update` when they gave one"
                )
            session.report("discover", endpoint.base_url)
            source.smart = smart = await smart_configuration(session)
            session.tokens = TokenSource(
                client,
                token_endpoint=await _token_endpoint(source),
                client_id=endpoint.client_id,
                credential=credential,
                scope=_scope(endpoint, profile, smart, types),
                audience=endpoint.audience,
                jku=endpoint.jku,
                assertion_life=profile.assertion_life,
                max_wait=profile.max_wait,
                attempts=profile.max_attempts,
                clock=session.clock,
            )
        yield source
    finally:
        if owned:
            await client.aclose()


def _scope(endpoint: Endpoint, profile: VendorProfile, smart: SmartConfiguration, types: tuple[str, ...]) -> str | None:
    """What was registered for the endpoint, else what its vendor wants, else what discovery suggests; None for none."""
    scope = endpoint.scopes or profile.scope or smart.read_scope(types)
    return None if scope == "none" else scope


async def _token_endpoint(source: Source) -> str:
    endpoint, smart = source.endpoint, source.smart
    found = endpoint.token_endpoint or (smart.token_endpoint if smart else None)
    if not found:
        try:
            stated = await source.capabilities()
        except SourceError:
            stated = None
        if stated is None or not stated.token_endpoint:
            raise SourceAuthError(
                f"{endpoint.base_url}: neither .well-known/smart-configuration nor the CapabilityStatement names a "
                "token endpoint; set it with --token-endpoint"
            )
        found = urljoin(endpoint.base_url + "/", stated.token_endpoint)
    if endpoint.base_url.startswith("https:") and not found.startswith("https:"):
        raise SourceAuthError(f"{endpoint.base_url}: its token_endpoint is not https")
    return found


async def smart_configuration(session: SourceSession) -> SmartConfiguration:
    """The endpoint's SMART configuration, asked for each time: what it says may have changed since the last pull.

    It lies under the FHIR base, not under the host's root (unlike RFC 8615). An endpoint may do without it when its
    token endpoint is known in another way.
    """
    base = session.endpoint.base_url
    url = f"{base}/.well-known/smart-configuration"
    response = await session.send("GET", url, headers={"Accept": "application/json"}, authorized=False)
    if response.status_code in _NO_DOCUMENT or (response.status_code != 200 and session.endpoint.token_endpoint):
        return SmartConfiguration(token_endpoint=None)
    return SmartConfiguration.parse(_document(response, "the SMART configuration"), base)


def _document(response: httpx.Response, what: str) -> dict[str, object]:
    where = without_query(str(response.request.url))
    if response.status_code != 200:
        raise SourceError(f"{where}: {what} was answered with {response.status_code}")
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise SourceError(f"{where}: {what} is no JSON object")
    return body
