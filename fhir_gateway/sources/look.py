"""What an endpoint says of itself before it is registered: asked once, without a token, for who decides about it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fhir_gateway.errors import SourceError
from fhir_gateway.sources.connect import Source, smart_configuration
from fhir_gateway.sources.discovery import Capabilities, SmartConfiguration
from fhir_gateway.sources.endpoint import ALGORITHMS, Algorithm, Endpoint, checked_base_url
from fhir_gateway.sources.session import SourceSession, new_client
from fhir_gateway.sources.vendors import VendorProfile


@dataclass(frozen=True, slots=True)
class Look:
    """What was found at ``base_url``; of what was not found, ``problems`` say why."""

    base_url: str
    smart: SmartConfiguration | None
    stated: Capabilities | None
    problems: tuple[str, ...]

    @property
    def token_endpoint(self) -> str | None:
        """Where tokens are asked for, as either document says."""
        return (self.smart.token_endpoint if self.smart else None) or (
            self.stated.token_endpoint if self.stated else None
        )

    @property
    def algorithm(self) -> Algorithm:
        """The first of our algorithms that the server takes, or that we prefer where it does not say."""
        taken = self.smart.algorithms if self.smart else frozenset()
        return next((one for one in ALGORITHMS if one in taken), ALGORITHMS[0])


async def look(base_url: str, profile: VendorProfile) -> Look:
    """Ask for the SMART configuration and the CapabilityStatement, each once: somebody waits for the answer."""
    once = replace(profile, max_attempts=1)
    endpoint = Endpoint("new", checked_base_url(base_url), auth="none", vendor=profile.name)
    smart, stated, problems = None, None, []
    async with new_client(once) as client:
        source = Source(endpoint, once, SourceSession(client, endpoint, once), None)
        try:
            smart = await smart_configuration(source.session)
        except SourceError as error:
            problems.append(error.message)
        try:
            stated = await source.capabilities()
        except SourceError as error:
            problems.append(error.message)
    return Look(endpoint.base_url, smart, stated, tuple(problems))
