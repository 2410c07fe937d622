"""A misbehaving source on loopback, an endpoint registered for it, and a clock that does not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.sources.endpoint import Endpoint, SigningKey, generate_key
from fhir_gateway.sources.outcome import PullOutcome
from fhir_gateway.sources.pull import pull
from fhir_gateway.sources.retry import Clock
from fhir_gateway.sources.vendors import PROFILES, VendorProfile
from tests.support.misbehaving import MisbehavingSource, running


class Waits:
    """Records waits instead of waiting; its monotonic time moves by them alone, however slow the machine is."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        await asyncio.sleep(0)

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: sum(self.asked), sleep=self.sleep)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture(scope="session")
def signing_key() -> SigningKey:
    return SigningKey("kid-1", "ES384", "active", generate_key("ES384"))


@pytest.fixture
def source(signing_key: SigningKey) -> Iterator[MisbehavingSource]:
    app = MisbehavingSource()
    app.jwks = {"keys": [signing_key.public_jwk()]}
    with running(app) as root:
        app.base = f"{root}/fhir"
        yield app


@pytest.fixture
def endpoint(source: MisbehavingSource) -> Endpoint:
    return Endpoint("ehr", source.base, client_id="us")


@pytest.fixture
def quick() -> VendorProfile:
    return replace(PROFILES["generic"], page_size=2)


@pytest.fixture
def pulling(
    endpoint: Endpoint, signing_key: SigningKey, waits: Waits, quick: VendorProfile, tmp_path: Path
) -> Callable[..., PullOutcome]:
    """Pull from the source into ``tmp_path``; keywords go to :func:`fhir_gateway.sources.pull.pull`."""

    def run(**values: Any) -> PullOutcome:
        asked = {"pull_id": "one", "clock": waits.clock, "profile": quick, **values}
        at = asked.pop("endpoint", endpoint)
        return asyncio.run(pull(at, asked.pop("key", signing_key), asked.pop("folder", tmp_path), **asked))

    return run
