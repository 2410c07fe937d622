"""Tokens that were verified a moment ago count without a look-up, and never longer than they should."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from fhir_gateway.auth import kept as kept_tokens
from fhir_gateway.auth.assertion import generate_key, public_key_set
from fhir_gateway.auth.kept import KEPT_SECONDS, KeptTokens
from fhir_gateway.auth.models import AccessToken
from fhir_gateway.auth.service import AuthorizationServer
from fhir_gateway.auth.store import digest
from fhir_gateway.db.engine import create_engine
from fhir_gateway.errors import AuthenticationError

URL = "https://gateway.example/auth"
HEADER = "Bearer opaque"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The seconds that count, which stand still: what is kept for one of them would be forgotten by a busy machine."""
    seconds = [time.monotonic()]
    with monkeypatch.context() as patched:
        patched.setattr(kept_tokens, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
        yield seconds


@pytest.fixture
def server() -> Iterator[AuthorizationServer]:
    engine = create_engine("sqlite://")
    made = AuthorizationServer(engine, auth_url=URL)
    made.store.create_tables()
    made.register_client("acme", scopes="system/*.rs", jwks=public_key_set(generate_key("ES384", "k")))
    now = int(time.time())
    made.store.add_token("opaque", "acme", "system/*.rs", now, now + 300)
    yield made
    engine.dispose()


def test_a_second_request_costs_no_statement(server: AuthorizationServer) -> None:
    seen: list[str] = []
    sa.event.listen(server.store._engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    first = server.verify(HEADER)
    asked = len([one for one in seen if one.startswith("SELECT")])
    assert asked == 2
    assert server.verify(HEADER) == first
    assert len([one for one in seen if one.startswith("SELECT")]) == asked


@pytest.mark.parametrize("end", ["revoked", "disabled", "other keys"])
def test_a_change_in_this_process_ends_it_at_once(server: AuthorizationServer, end: str) -> None:
    assert server.verify(HEADER).client_id == "acme"
    if end == "revoked":
        server.store.revoke_token(digest("opaque"))
    elif end == "disabled":
        server.disable_client("acme")
    else:
        server.replace_keys("acme", jwks=public_key_set(generate_key("ES384", "other")))
    with pytest.raises(AuthenticationError):
        server.verify(HEADER)


def test_a_change_by_another_process_ends_it_within_the_bound(server: AuthorizationServer, clock: list[float]) -> None:
    assert server.verify(HEADER).client_id == "acme"
    AuthorizationServer(server.store._engine, auth_url=URL).disable_client("acme")  # of whom this one does not know
    clock[0] += KEPT_SECONDS - 0.001
    assert server.verify(HEADER).client_id == "acme"
    clock[0] += 0.002
    with pytest.raises(AuthenticationError):
        server.verify(HEADER)


def _token(expires_at: datetime) -> AccessToken:
    return AccessToken("acme", (), expires_at)


def test_what_was_looked_up_before_a_change_is_not_kept_beyond_it() -> None:
    kept, before, after = KeptTokens(), object(), object()
    kept.keep("one", _token(datetime.now(UTC) + timedelta(minutes=5)), before)
    assert kept.find("one", before) is not None
    assert kept.find("one", after) is None


def test_the_end_of_a_token_counts_whatever_is_kept() -> None:
    kept, state = KeptTokens(), object()
    kept.keep("one", _token(datetime.now(UTC)), state)
    assert kept.find("one", state) is None


def test_not_more_than_some_are_kept() -> None:
    kept, state = KeptTokens(), object()
    for number in range(1001):
        kept.keep(str(number), _token(datetime.now(UTC) + timedelta(minutes=5)), state)
    assert kept.find("0", state) is None
    assert kept.find("1", state) is not None
