"""The endpoint registry, key rotation, and the log of pulls."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Engine, text

from fhir_gateway.db.engine import create_engine
from fhir_gateway.db.migrate import upgrade
from fhir_gateway.db.secrets import SecretBox
from fhir_gateway.errors import ConfigurationError, ConflictError, NotFoundError
from fhir_gateway.sources.endpoint import ClientSecret, Endpoint, checked_base_url, generate_key, origin, without_query
from fhir_gateway.sources.store import EndpointStore


@pytest.fixture
def engine() -> Engine:
    engine = create_engine("sqlite://")
    upgrade(engine)
    return engine


@pytest.fixture
def store(engine: Engine) -> EndpointStore:
    return EndpointStore(engine, SecretBox(Fernet.generate_key()))


EHR = Endpoint("ehr", "https://ehr.example/fhir/", client_id="us")


def test_endpoints_come_back_as_they_were_given(store: EndpointStore) -> None:
    store.add(EHR)
    store.add(
        Endpoint("open", "http://127.0.0.1:9000/fhir", auth="none", vendor="hapi", trusted_origins=("https://f",))
    )
    assert [one.name for one in store.all()] == ["ehr", "open"]
    assert store.get("ehr").base_url == "https://ehr.example/fhir"
    assert store.get("open").trusted_origins == ("https://f",)
    assert store.keys("open") == []


@pytest.mark.parametrize("algorithm", ["ES384", "RS384"])
def test_every_endpoint_has_a_key_of_its_own(store: EndpointStore, engine: Engine, algorithm) -> None:  # type: ignore[no-untyped-def]
    store.add(EHR, algorithm)
    key = store.signing_key("ehr")
    assert key.algorithm == algorithm
    published = store.public_jwks()["keys"]
    assert [jwk["kid"] for jwk in published] == [key.kid]
    assert not {"d", "p", "q", "dp", "dq", "qi"} & set(published[0])
    with engine.connect() as connection:
        stored = connection.execute(text("select private_key from source_key")).scalar_one()
    assert b"PRIVATE KEY" not in stored
    assert repr(key) == f"SigningKey(kid={key.kid!r}, algorithm={algorithm!r}, state='active')"


def test_a_key_may_be_brought_along(store: EndpointStore) -> None:
    pem = generate_key("ES384").as_pem(private=True)
    store.add(EHR, "ES384", pem)
    assert store.signing_key("ehr").key.as_pem(private=True) == pem
    with pytest.raises(ConfigurationError, match="RS384"):
        store.add(Endpoint("other", EHR.base_url, client_id="us"), "RS384", pem)


def test_rotation_overlaps(store: EndpointStore) -> None:
    store.add(EHR)
    old = store.signing_key("ehr").kid
    new = store.prepare_key("ehr").kid
    assert store.signing_key("ehr").kid == old
    assert {jwk["kid"] for jwk in store.public_jwks("ehr")["keys"]} == {old, new}
    store.activate_key("ehr", new)
    assert store.signing_key("ehr").kid == new
    assert {jwk["kid"] for jwk in store.public_jwks("ehr")["keys"]} == {old, new}
    with pytest.raises(ConflictError):
        store.remove_key("ehr", new)
    store.remove_key("ehr", old)
    assert [jwk["kid"] for jwk in store.public_jwks()["keys"]] == [new]
    assert json.loads(json.dumps(store.public_jwks()))


def test_endpoints_that_choose_key_ids(store: EndpointStore) -> None:
    store.add(EHR)
    before = store.signing_key("ehr")
    named = store.name_key("ehr", "4c1e-theirs")
    assert (named.kid, named.state) == ("4c1e-theirs", "active")
    assert named.key.thumbprint() == before.key.thumbprint()
    assert [one["kid"] for one in store.public_jwks("ehr")["keys"]] == ["4c1e-theirs"]
    for wrong in ("", "a b", "x" * 65):
        with pytest.raises(ConfigurationError):
            store.name_key("ehr", wrong)


def test_what_is_known_of_an_endpoint_changes(store: EndpointStore) -> None:
    store.add(replace(EHR, client_id=None))
    store.update("ehr", client_id="us", jku="https://us.example/jwks", group="g")
    assert store.get("ehr").client_id == "us"
    with pytest.raises(ConfigurationError, match="secret"):
        store.update("ehr", auth="client-secret")
    store.update("ehr", "s3cret", auth="client-secret")
    assert store.credential("ehr") == ClientSecret("s3cret")
    assert "s3cret" not in repr(store.credential("ehr"))
    store.remove("ehr")
    assert store.all() == []
    assert store.public_jwks() == {"keys": []}


@pytest.mark.parametrize(
    "endpoint",
    [
        Endpoint("EHR", "https://ehr.example", client_id="us"),
        Endpoint("ehr", "https://ehr.example", auth="client-secret", client_id="us"),
        Endpoint("ehr", "ftp://ehr.example", client_id="us"),
        Endpoint("ehr", "http://ehr.example", client_id="us"),
        Endpoint("ehr", "https://me:secret@ehr.example", client_id="us"),
        Endpoint("ehr", "https://ehr.example?x=1", client_id="us"),
        Endpoint("ehr", "https://ehr.example", client_id="us", vendor="nobody"),
    ],
)
def test_mistakes_are_named(store: EndpointStore, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError) as caught:
        store.add(endpoint)
    assert "me:secret" not in str(caught.value)


def test_names_are_taken_once_and_must_be_known(store: EndpointStore) -> None:
    store.add(EHR)
    with pytest.raises(ConflictError):
        store.add(EHR)
    with pytest.raises(NotFoundError):
        store.get("other")
    with pytest.raises(NotFoundError):
        store.signing_key("other")
    with pytest.raises(NotFoundError):
        store.activate_key("ehr", "none")


def test_urls_as_they_may_be_shown() -> None:
    assert without_query("https://u:p@h:8443/a/b?sig=secret#x") == "https://h:8443/a/b"
    assert origin("HTTPS://Ehr.Example/x") == origin("https://ehr.example:443/y")
    assert origin("http://ehr.example") != origin("https://ehr.example")
    for nowhere in ("https://[", "https://h:port/r4", "https://h:99999/r4"):
        with pytest.raises(ConfigurationError, match="absolute"):
            checked_base_url(nowhere)
    assert checked_base_url(" https://h/r4/ ") == "https://h/r4"
