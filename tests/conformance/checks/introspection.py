"""C: introspection of tokens."""

from __future__ import annotations

import time

import httpx
from face import Face

from checks import check, line

SMART = "SMART App Launch 1.0.0"


def introspect(face: Face, token: str) -> httpx.Response:
    return face.http.post(f"{face.root}/auth/introspect", data={"token": token}, headers=face.client.headers())


@check("C1", SMART, "O", "introspection of an active token answers 200 in JSON")
def answers(face: Face) -> None:
    answered = introspect(face, face.client.ask().json()["access_token"])
    assert answered.status_code == 200
    assert answered.headers["content-type"].startswith("application/json")


@check("C2", SMART, "O", "client, scopes and expiry of an active token")
def active(face: Face) -> None:
    granted = face.client.ask("system/Patient.rs system/Group.rs").json()
    told = introspect(face, granted["access_token"]).json()
    assert told["active"] is True
    assert told["client_id"] == face.client.name
    assert sorted(told["scope"].split()) == sorted(granted["scope"].split())
    assert told["exp"] >= time.time() - 600


line("C3", SMART, "O", "launch context and identity of a user are repeated")


@check("C4", SMART, "O", "of another token: not active, and nothing else")
def inactive(face: Face) -> None:
    answered = introspect(face, "not-a-token-of-ours")
    assert answered.status_code == 200
    assert answered.json() == {"active": False}
