"""B: the token endpoint of SMART Backend Services."""

from __future__ import annotations

import ssl
import time

from face import Face

from checks import check

SMART = "SMART App Launch 1.0.0"


@check("B1", SMART, "M", "the token endpoint offers TLS 1.2 or newer and nothing older")
def transport(face: Face) -> None:
    assert all(url.startswith("https://") for url in (face.token_url,))
    for version, spoken in (("TLSv1", False), ("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)):
        assert face.speaks(ssl.TLSVersion[version]) is spoken, version


@check("B2", SMART, "M", "another grant type is a 400")
def grant_type(face: Face) -> None:
    assert face.client.ask(grant_type="not_a_grant_type").status_code == 400


@check("B3", SMART, "M", "another assertion type is refused")
def assertion_type(face: Face) -> None:
    assert face.client.ask(client_assertion_type="not_an_assertion_type").status_code in (400, 401)


@check("B4", SMART, "M", "an assertion that is not right is refused: signature, issuer, audience, expiry, repetition")
def assertions(face: Face) -> None:
    client = face.client
    now = int(time.time())
    stranger = face.register()
    stranger.name = client.name  # its key, another's name
    wrong = {
        "signature": stranger.assertion(),
        "issuer": client.assertion(iss="somebody-else"),
        "subject": client.assertion(sub="somebody-else"),
        "audience": client.assertion(aud="https://elsewhere.example/token"),
        "expired": client.assertion(exp=now - 120),
        "too long": client.assertion(exp=now + 3600),
        "no expiry": client.assertion(exp=None),
        "no jti": client.assertion(jti=None),
        "no token": "x.y.z",
    }
    for name, assertion in wrong.items():
        assert client.ask(client_assertion=assertion).status_code in (400, 401), name
    once = client.assertion()
    assert client.ask(client_assertion=once).status_code == 200
    assert client.ask(client_assertion=once).status_code in (400, 401), "the same jti again"


@check("B5", SMART, "M", "a right request is granted, with nothing in it but what must be")
def granted(face: Face) -> None:
    client = face.client
    assertion = client.assertion(exp=int(time.time()) + 300, iat=None)
    assert client.ask(client_assertion=assertion).status_code == 200


@check("B6", SMART, "M", "keys RS384 and ES384, registered inline or by URL")
def keys(face: Face) -> None:
    for alg in ("RS384", "ES384"):
        for by_url in (False, True):
            client = face.register("system/*.rs", alg, by_url)
            assert client.ask().status_code == 200, f"{alg}, {'by URL' if by_url else 'inline'}"


@check("B7", SMART, "M", "the answer has token, type, life and scope")
def answer(face: Face) -> None:
    told = face.client.ask().json()
    assert all(told[name] for name in ("access_token", "token_type", "expires_in", "scope"))


@check("B8", SMART, "M", "type bearer, life a number")
def bearer(face: Face) -> None:
    told = face.client.ask().json()
    assert told["token_type"].lower() == "bearer"
    assert isinstance(told["expires_in"], int)
    assert told["expires_in"] <= 300


@check("B9", SMART, "M", "the scope of version 1 that kits ask for is granted")
def first_version(face: Face) -> None:
    client = face.client
    answered = client.ask("system/*.read")
    assert answered.status_code == 200
    headers = {"Authorization": f"Bearer {answered.json()['access_token']}"}
    assert face.get("Patient?_count=1", token=False, headers=headers).status_code == 200
