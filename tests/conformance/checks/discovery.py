"""A: SMART discovery."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from face import Face

from checks import check

SMART = "SMART App Launch 1.0.0"


def document(face: Face) -> dict[str, Any]:
    answered = face.get(".well-known/smart-configuration", token=False, headers={"Accept": "application/json"})
    assert answered.status_code == 200
    found: dict[str, Any] = answered.json()
    return found


@check("A1", SMART, "M", "discovery answers 200 without a token")
def answers(face: Face) -> None:
    document(face)


@check("A2", SMART, "M", "discovery is JSON and says so")
def is_json(face: Face) -> None:
    answered = face.get(".well-known/smart-configuration", token=False)
    assert answered.headers["content-type"].startswith("application/json")
    assert isinstance(answered.json(), dict)


@check("A3", SMART, "M", "members of app launch are there with their types")
def members(face: Face) -> None:
    told = document(face)
    for name, kind in (
        ("authorization_endpoint", str),
        ("token_endpoint", str),
        ("capabilities", list),
        ("grant_types_supported", list),
        ("code_challenge_methods_supported", list),
    ):
        assert told.get(name), name
        assert isinstance(told[name], kind), name


@check("A4", SMART, "M", "grant types have authorization_code")
def authorization_code(face: Face) -> None:
    assert "authorization_code" in document(face)["grant_types_supported"]


@check("A5", SMART, "M", "code challenges by S256 and never plain")
def challenges(face: Face) -> None:
    methods = document(face)["code_challenge_methods_supported"]
    assert "S256" in methods
    assert "plain" not in methods


@check("A6", SMART, "M", "issuer and keys with OpenID Connect, no issuer without")
def issuer(face: Face) -> None:
    told = document(face)
    if "sso-openid-connect" in told["capabilities"]:
        assert isinstance(told["issuer"], str)
        assert isinstance(told["jwks_uri"], str)
    else:
        assert "issuer" not in told


@check("A7", SMART, "M", "each capability is text")
def capabilities(face: Face) -> None:
    assert all(isinstance(one, str) for one in document(face)["capabilities"])


@check("A8", SMART, "O", "discovery and metadata may be read from any origin")
def origins(face: Face) -> None:
    for path in (".well-known/smart-configuration", "metadata"):
        answered = face.get(path, token=False, headers={"Origin": "https://app.example"})
        assert answered.headers["access-control-allow-origin"] in ("*", "https://app.example"), path


@check("A9", "Bulk Data 0.13.0 (v1.0.1)", "M", "token endpoint is an address; backend authentication is announced")
def backend(face: Face) -> None:
    told = document(face)
    address = urlsplit(told["token_endpoint"])
    assert address.scheme in ("http", "https")
    assert address.netloc
    assert "private_key_jwt" in told["token_endpoint_auth_methods_supported"]
    assert {"RS384", "ES384"} & set(told["token_endpoint_auth_signing_alg_values_supported"])
    assert isinstance(told["scopes_supported"], list)
