"""Fetching JWK Sets: obey Cache-Control, refuse what is not one, never hammer the client's server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import time_machine

from fhir_gateway.auth import jwks
from fhir_gateway.auth.jwks import JwksCache, check_jwks_url, lifetime_seconds
from fhir_gateway.errors import InputError, SourceError

URL = "https://partner.example/jwks.json"


class PartnerServer:
    """Counts requests; answers what it is told to."""

    def __init__(self, answer: Callable[[], httpx.Response]) -> None:
        self.answer = answer
        self.requests = 0

    def cache(self) -> JwksCache:
        def handle(request: httpx.Request) -> httpx.Response:
            self.requests += 1
            assert "authorization" not in request.headers
            return self.answer()

        return JwksCache(lambda _url: httpx.Client(transport=httpx.MockTransport(handle)))


def _set(cache_control: str | None = None, kid: str = "one") -> httpx.Response:
    headers = {} if cache_control is None else {"Cache-Control": cache_control}
    return httpx.Response(200, json={"keys": [{"kid": kid}]}, headers=headers)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 300),
        ("max-age=60", 60),
        ("public, max-age=999999", 3600),
        ("no-store", 0),
        ("no-cache, max-age=60", 0),
        ("max-age=0", 0),
    ],
)
def test_lifetime_follows_cache_control(header: str | None, seconds: int) -> None:
    assert lifetime_seconds(header) == seconds


def test_a_set_is_kept_as_long_as_allowed_and_no_longer() -> None:
    server = PartnerServer(lambda: _set("max-age=60"))
    cache = server.cache()
    with time_machine.travel("2026-03-01T12:00:00+05:00", tick=False) as clock:
        cache.get(URL)
        clock.shift(59)
        cache.get(URL)
        assert server.requests == 1
        clock.shift(2)
        cache.get(URL)
        assert server.requests == 2


def test_an_unknown_key_id_refetches_but_not_again_and_again() -> None:
    server = PartnerServer(_set)
    cache = server.cache()
    with time_machine.travel("2026-03-01T12:00:00+05:00", tick=False) as clock:
        cache.get(URL)
        assert cache.refresh(URL) is None  # fetched this very moment
        clock.shift(jwks.RETRY_SECONDS + 1)
        assert cache.refresh(URL) is not None
        assert cache.refresh(URL) is None
        assert server.requests == 2


def test_a_fresh_set_stays_good_while_its_server_is_down() -> None:
    server = PartnerServer(lambda: _set("max-age=600"))
    cache = server.cache()
    with time_machine.travel("2026-03-01T12:00:00+05:00", tick=False) as clock:
        cache.get(URL)
        clock.shift(jwks.RETRY_SECONDS + 1)
        server.answer = lambda: httpx.Response(503)
        with pytest.raises(SourceError):
            cache.refresh(URL)  # somebody asked with an unknown kid
        assert cache.get(URL)["keys"]
        clock.shift(600)
        with pytest.raises(SourceError):
            cache.get(URL)


def test_of_many_that_come_at_once_with_an_unknown_key_id_one_asks() -> None:
    gate = threading.Event()

    def slowly() -> httpx.Response:
        gate.wait()
        return _set()

    server = PartnerServer(_set)
    cache = server.cache()
    cache.get(URL)
    with time_machine.travel(time.time() + jwks.RETRY_SECONDS + 1, tick=False), ThreadPoolExecutor(8) as pool:
        server.answer = slowly
        asked = [pool.submit(cache.refresh, URL) for _ in range(8)]
        gate.set()
        assert len([one for one in asked if one.result() is not None]) == 1
    assert server.requests == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda: httpx.Response(500), "answered 500"),
        (lambda: httpx.Response(302, headers={"Location": "http://169.254.169.254/"}), "answered 302"),
        (lambda: httpx.Response(200, text="<html>"), "did not answer JSON"),
        (lambda: httpx.Response(200, json=["keys"]), "object with a list"),
        (lambda: httpx.Response(200, content=b" " * (jwks.MAXIMUM_BYTES + 1)), "larger than"),
    ],
)
def test_what_is_no_key_set_is_refused_and_not_asked_for_again_at_once(
    answer: Callable[[], httpx.Response], reason: str
) -> None:
    server = PartnerServer(answer)
    cache = server.cache()
    with time_machine.travel("2026-03-01T12:00:00+05:00", tick=False) as clock:
        with pytest.raises(SourceError, match=reason):
            cache.get(URL)
        with pytest.raises(SourceError, match="a moment ago"):
            cache.get(URL)
        assert server.requests == 1
        server.answer = _set
        clock.shift(jwks.RETRY_SECONDS + 1)
        assert cache.get(URL)["keys"]


def test_a_server_that_cannot_be_reached_is_a_source_error() -> None:
    def fail() -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(SourceError, match="ConnectError"):
        PartnerServer(fail).cache().get(URL)


@pytest.mark.parametrize("url", ["https://partner.example/k", "http://127.0.0.1:9/k", "http://localhost/k"])
def test_urls_that_may_be_registered(url: str) -> None:
    check_jwks_url(url)


@pytest.mark.parametrize(
    "url", ["http://partner.example/k", "ftp://partner.example/k", "/k", "https:///k", "https://u:p@partner.example/k"]
)
def test_urls_that_may_not(url: str) -> None:
    with pytest.raises(InputError):
        check_jwks_url(url)
