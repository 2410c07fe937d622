"""E: our own side as a client of bulk exports, watched by a source of the tests; I: member match."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from face import FHIR_JSON, Face
from joserfc import jws

from checks import check, line
from fhir_gateway.sources.endpoint import Endpoint, SigningKey, generate_key
from fhir_gateway.sources.outcome import PullOutcome
from fhir_gateway.sources.pull import pull
from tests.support.misbehaving import MisbehavingSource, running

CLIENT = "Bulk Data 0.13.0 (client)"


@contextmanager
def pulled(alg: str = "ES384", **source: Any) -> Iterator[tuple[MisbehavingSource, PullOutcome]]:
    """A source that was pulled from, with what it saw; keywords are its attributes."""
    key = SigningKey("kid-1", alg, "active", generate_key(alg))
    app = MisbehavingSource()
    app.jwks = {"keys": [key.public_jwk()]}
    for name, value in source.items():
        setattr(app, name, value)
    with running(app) as root, tempfile.TemporaryDirectory() as folder:
        app.base = f"{root}/fhir"
        endpoint = Endpoint("ehr", app.base, client_id="us")
        yield app, asyncio.run(pull(endpoint, key, Path(folder), pull_id="one"))


@check("E1", CLIENT, "M", "our public keys are at an address that a server can be given")
def registered(face: Face) -> None:
    answered = face.http.get(f"{face.root}/.well-known/jwks.json")
    assert answered.status_code == 200
    assert isinstance(answered.json()["keys"], list)


@check("E2", CLIENT, "M", "assertion: type, algorithm, claims, life, a jti of its own, key by kid; the token is used")
def assertion(face: Face) -> None:
    jtis = set()
    for alg in ("RS384", "ES384"):
        with pulled(alg) as (source, _):
            (asked, *_) = source.requests("token")
            form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
            assert form["scope"]
            assert form["grant_type"] == "client_credentials"
            signed = jws.extract_compact(form["client_assertion"].encode())
            assert (signed.headers()["typ"], signed.headers()["alg"], signed.headers()["kid"]) == ("JWT", alg, "kid-1")
            jtis |= set(source.jtis)
            assert source.requests("kickoff")[0].authorized
            assert all("refresh_token" not in one.body.decode() for one in source.requests("token"))
    assert len(jtis) >= 2


@check("E3", CLIENT, "M", "kick-off with the headers of an asynchronous request")
def kick_off(face: Face) -> None:
    with pulled() as (source, _):
        (asked,) = source.requests("kickoff")
        assert asked.path == "/fhir/$export"
        assert asked.headers["accept"] == FHIR_JSON
        assert "respond-async" in asked.headers["prefer"]


@check("E4", CLIENT, "M", "polls until it is done")
def polls(face: Face) -> None:
    with pulled(polls_before_done=2) as (source, outcome):
        assert len(source.requests("poll")) >= 3
        assert outcome.complete


@check("E5", CLIENT, "M", "files are fetched with the token")
def files(face: Face) -> None:
    with pulled() as (source, _):
        assert source.requests("file")
        assert all(one.authorized for one in source.requests("file"))


@check("E6", CLIENT, "O", "the export is deleted when everything is here")
def deleted(face: Face) -> None:
    with pulled() as (source, _):
        assert source.seen[-1].kind == "delete"


@check("J7", "our own", "M", "our client takes error, outcome or neither, and kicks off by GET or POST")
def versions(face: Face) -> None:
    for name in ("error", "outcome", None):
        with pulled(errors_name=name) as (_, outcome):
            assert outcome.complete, name
    for methods in ({"GET"}, {"POST"}):
        with pulled(kickoff_methods=methods) as (_, outcome):
            assert outcome.complete, methods


line("I1", "PDex 0.13.0", "M", "member match is listed")
line("I2", "PDex 0.13.0", "M", "member match of one member")
line("I3", "PDex 0.13.0", "M", "the member is found by the identifier")
line("I4", "PDex 0.13.0", "M", "no match is a 422")
line("I5", "PDex 0.13.0", "M", "several matches are a 422")
line("I6", "PDex 0.13.0", "O", "export of the matched member")
