"""The control plane tables: an assertion counts once, whoever asks; nothing secret is stored; old rows go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from fhir_gateway.auth.assertion import generate_key, public_key_set
from fhir_gateway.auth.service import AuthorizationServer
from fhir_gateway.auth.store import AuthStore
from fhir_gateway.db.engine import create_engine
from fhir_gateway.errors import AuthenticationError, ConflictError, InputError, NotFoundError

JWKS = public_key_set(generate_key("ES384", "k"))


def _server(engine: sa.Engine) -> AuthorizationServer:
    server = AuthorizationServer(engine, auth_url="https://gateway.example/auth")
    server.store.create_tables()
    return server


def test_of_many_processes_one_uses_an_assertion(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'control.db'}"
    AuthStore(create_engine(url)).create_tables()
    engines = [create_engine(url) for _ in range(4)]  # as if in four processes
    with ThreadPoolExecutor(8) as pool:
        wins = list(pool.map(lambda n: AuthStore(engines[n % 4]).use_assertion("a", "same", 100), range(24)))
    for engine in engines:
        engine.dispose()
    assert sum(wins) == 1


def test_the_same_id_of_another_client_is_another_assertion() -> None:
    store = _server(create_engine("sqlite://")).store
    assert store.use_assertion("a", "1", 100)
    assert store.use_assertion("b", "1", 100)
    assert not store.use_assertion("a", "1", 100)


def test_rows_that_cannot_matter_any_more_are_purged() -> None:
    store = _server(create_engine("sqlite://")).store
    days = 2 * 86_400  # by so much the clock may have been ahead
    store.use_assertion("a", "old", 100 - days)
    store.use_assertion("a", "new", 200 - days)
    store.add_token("old", "a", "system/*.rs", 0, 100)
    store.add_token("new", "a", "system/*.rs", 0, 200)
    store.purge(150)
    assert store.token("old") is None
    assert store.token("new") is not None
    assert store.use_assertion("a", "old", 100)
    assert not store.use_assertion("a", "new", 200)


def test_an_assertion_stays_used_when_a_clock_that_was_ahead_is_set_right() -> None:
    store = _server(create_engine("sqlite://")).store
    assert store.use_assertion("a", "1", 1_000_000)
    store.purge(1_000_000 + 86_400)
    assert not store.use_assertion("a", "1", 1_000_000)


def test_a_token_is_known_to_every_process_and_stored_only_as_a_digest(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'control.db'}"
    here, there = create_engine(url), create_engine(url)
    _server(here).register_client("a", scopes="system/*.rs", jwks=JWKS, grants=["contract:aco"], purpose="HPAYMT")
    _server(here).store.add_token("the-token", "a", "system/*.rs", 0, 4102444800)
    server = AuthorizationServer(there, auth_url="https://gateway.example/auth")
    token = server.verify("bearer the-token")
    assert (token.client_id, token.allows("Patient", "r"), token.allows("Patient", "c")) == ("a", True, False)
    assert (token.audience.labels, token.purpose) == ({"contract:aco"}, "HPAYMT")
    _server(here).store.add_token("of-nobody", "unregistered", "system/*.rs", 0, 4102444800)
    with pytest.raises(AuthenticationError):
        server.verify("bearer of-nobody")
    with here.connect() as connection:
        assert "the-token" not in str(connection.exec_driver_sql("select * from auth_token").all())
    here.dispose()
    there.dispose()


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer unknown"])
def test_without_a_valid_token_nobody_is_known(header: str | None) -> None:
    with pytest.raises(AuthenticationError):
        _server(create_engine("sqlite://")).verify(header)


def test_clients_are_registered_listed_and_disabled() -> None:
    server = _server(create_engine("sqlite://"))
    server.register_client("a", scopes="system/*.read", jwks=JWKS, name="Partner A")
    server.register_client("b", scopes="system/Patient.rs", jwks_url="https://b.example/jwks")
    with pytest.raises(ConflictError):
        server.register_client("a", scopes="system/*.rs", jwks=JWKS)
    server.store.add_token("t", "a", "system/*.rs", 0, 4102444800)
    server.disable_client("a")
    assert [(c.client_id, c.name, c.disabled) for c in server.clients()] == [
        ("a", "Partner A", True),
        ("b", "b", False),
    ]
    with pytest.raises(AuthenticationError):
        server.verify("Bearer t")
    with pytest.raises(NotFoundError):
        server.disable_client("c")


@pytest.mark.parametrize(
    ("client_id", "scopes", "jwks", "jwks_url"),
    [
        ("", "system/*.rs", JWKS, None),
        ("a b", "system/*.rs", JWKS, None),
        ("a", "", JWKS, None),
        ("a", "patient/*.rs", JWKS, None),
        ("a", "system/Patient.rs?nonsense=x", JWKS, None),
        ("a", "system/Patient.cud?name=x", JWKS, None),
        ("a", "system/*.rs", None, None),
        ("a", "system/*.rs", JWKS, "https://a.example/jwks"),
        ("a", "system/*.rs", {"keys": []}, None),
        ("a", "system/*.rs", None, "http://a.example/jwks"),
    ],
)
def test_unfit_registrations_are_refused(
    client_id: str, scopes: str, jwks: dict[str, object] | None, jwks_url: str | None
) -> None:
    with pytest.raises(InputError):
        _server(create_engine("sqlite://")).register_client(client_id, scopes=scopes, jwks=jwks, jwks_url=jwks_url)
