"""What an outside provider may answer, and what is refused: the checks of OpenID Connect Core 1.0, section 3.1.3.7."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from cryptography.fernet import Fernet
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from fhir_gateway.auth.jwks import JwksCache
from fhir_gateway.config import OpenIdProvider, Settings
from fhir_gateway.console import openid
from fhir_gateway.console.accounts import Accounts
from fhir_gateway.console.openid import ATTEMPT_SECONDS, Provider, SignInRefused, Vouched
from fhir_gateway.console.sessions import Sessions
from fhir_gateway.db.engine import create_engine
from fhir_gateway.db.migrate import upgrade
from fhir_gateway.db.secrets import SecretBox
from fhir_gateway.errors import AuthenticationError, ConfigurationError, ConflictError

ISSUER = "https://people.example"
PUBLIC = "https://gateway.example"
NOW = 1_800_000_000
KEY = ECKey.generate_key("P-256", {"kid": "k1", "use": "sig"})
METADATA = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/keys",
    "userinfo_endpoint": f"{ISSUER}/me",
    "end_session_endpoint": f"{ISSUER}/end",
}
CLAIMS = {"sub": "s-1", "preferred_username": "ann", "roles": ["gateway-it", "staff"]}


def asked_for(**more: Any) -> OpenIdProvider:
    return OpenIdProvider(
        **{"issuer": ISSUER, "client_id": "us", "client_secret": "hush", "roles": {"gateway-it": "it"}} | more
    )


class Keys(JwksCache):
    """The provider's keys without a network."""

    def get(self, url: str, *, public: bool = False) -> dict[str, Any]:
        assert url == METADATA["jwks_uri"]
        return {"keys": [KEY.as_dict(private=False)]}

    def refresh(self, url: str, *, public: bool = False) -> None:
        return None


class Outside:
    """The provider: answers what it is asked as it should, but for what a test changes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.now = float(NOW)
        self.key: Any = KEY
        self.header = {"alg": "ES256", "kid": "k1"}
        self.claims: dict[str, Any] = {"iss": ISSUER, "aud": "us", "exp": NOW + 60, "iat": NOW, **CLAIMS}
        self.userinfo: dict[str, Any] = {"sub": "s-1"}
        self.metadata: dict[str, Any] = dict(METADATA)
        self.token_requests: list[tuple[dict[str, str], dict[str, str]]] = []
        monkeypatch.setattr(openid, "_asked", self._asked)
        self.box = SecretBox(Fernet.generate_key())
        self.provider = Provider(asked_for(**settings), PUBLIC, self.box, Keys(), lambda: self.now)

    def _asked(self, method: str, address: str, *, refused: str | None = None, **more: Any) -> dict[str, Any]:
        if address.endswith("/.well-known/openid-configuration"):
            return self.metadata
        if address == METADATA["userinfo_endpoint"]:
            assert more["headers"] == {"Authorization": "Bearer opaque"}
            return self.userinfo
        assert (method, address) == ("POST", METADATA["token_endpoint"])
        self.token_requests.append((more["headers"], dict(parse_qsl(more["content"]))))
        claims = {name: value for name, value in self.claims.items() if value is not None}
        if self.header["alg"] == "none":
            parts = (json.dumps(one).encode() for one in (self.header, claims))
            token = ".".join(base64.urlsafe_b64encode(one).rstrip(b"=").decode() for one in parts) + "."
        else:
            token = jwt.encode(self.header, claims, self.key, algorithms=["ES256", "HS256"])
        return {"id_token": token, "access_token": "opaque", "token_type": "Bearer"}

    def begin(self) -> tuple[dict[str, str], str]:
        address, cookie = self.provider.begin("/console/contracts")
        assert address.startswith(METADATA["authorization_endpoint"])
        asked = {name: value for name, (value,) in parse_qs(urlsplit(address).query).items()}
        self.claims.setdefault("nonce", asked["nonce"])
        return asked, cookie

    def enter(self, **answer: str) -> Vouched:
        asked, cookie = self.begin()
        return self.provider.finish({"code": "c-1", "state": asked["state"], **answer}, cookie)


def test_a_code_becomes_somebody_with_our_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Outside(monkeypatch)
    asked, cookie = outside.begin()
    assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
    assert asked["redirect_uri"] == f"{PUBLIC}/console/sign-in/callback"
    said = outside.provider.finish({"code": "c-1", "state": asked["state"], "iss": ISSUER}, cookie)
    assert (said.name, said.subject, said.roles, said.labels) == ("ann", "s-1", ("it",), None)
    assert said.wanted == "/console/contracts"
    ((headers, form),) = outside.token_requests
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"us:hush"
    hashed = hashlib.sha256(form["code_verifier"].encode()).digest()
    assert base64.urlsafe_b64encode(hashed).rstrip(b"=").decode() == asked["code_challenge"]
    assert form["grant_type"] == "authorization_code"
    end = urlsplit(outside.provider.end_address(said.id_token) or "")
    assert parse_qs(end.query)["id_token_hint"] == [said.id_token]
    assert parse_qs(end.query)["post_logout_redirect_uri"] == [f"{PUBLIC}/console/sign-in"]


def test_two_attempts_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Outside(monkeypatch)
    first, _ = outside.begin()
    second, cookie = outside.begin()
    assert not {first[name] for name in ("state", "nonce", "code_challenge")} & set(second.values())
    with pytest.raises(SignInRefused, match="did not succeed"):
        outside.provider.finish({"code": "c-1", "state": first["state"]}, cookie)


@pytest.mark.parametrize(
    ("changed", "check"),
    [
        ({"iss": "https://other.example"}, "iss"),
        ({"aud": "somebody else"}, "aud"),
        ({"aud": ["us", "somebody else"], "azp": "somebody else"}, "azp"),
        ({"aud": None}, "aud"),
        ({"exp": NOW - 120}, "exp"),
        ({"exp": None}, "exp"),
        ({"iat": NOW + 600}, "iat"),
        ({"nonce": "of another attempt"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}, "at_hash"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"preferred_username": 7}, "preferred_username"),
        ({"roles": ["staff"]}, "roles"),
        ({"roles": None}, "roles"),
    ],
)
def test_claims_that_are_not_good_are_refused_and_only_the_log_says_which(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, changed: dict[str, Any], check: str
) -> None:
    outside = Outside(monkeypatch)
    outside.claims |= changed
    with caplog.at_level(logging.WARNING), pytest.raises(SignInRefused) as refused:
        outside.enter()
    assert check in refused.value.check
    assert check not in refused.value.message
    assert check in caplog.text


def test_signatures_by_what_is_no_key_of_the_provider_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Outside(monkeypatch)
    outside.key = ECKey.generate_key("P-256", {"kid": "k1"})
    with pytest.raises(SignInRefused) as refused:
        outside.enter()
    assert "BadSignature" in refused.value.check
    for key, header in (
        (KEY, {"alg": "ES256", "kid": "k2"}),
        (KEY, {"alg": "ES256"}),
        (OctKey.import_key(b"a secret that everybody may know...."), {"alg": "HS256", "kid": "k1"}),
        (KEY, {"alg": "none", "kid": "k1"}),
    ):
        outside.key, outside.header = key, header
        with pytest.raises(SignInRefused):
            outside.enter()


def test_answers_of_other_browsers_issuers_and_times_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Outside(monkeypatch)
    asked, cookie = outside.begin()
    good = {"code": "c-1", "state": asked["state"]}
    refusals: list[tuple[dict[str, str], str | None]] = [
        (good, None),
        (good, cookie[:-4] + "AAAA"),
        (good, "é"),
        *((good, outside.box.encrypt(other).decode()) for other in (b"{}", b"[]", b"no JSON", b"\xff")),
        ({**good, "state": "made-up"}, cookie),
        ({"code": "c-1"}, cookie),
        ({"state": asked["state"]}, cookie),
        ({**good, "iss": "https://other.example"}, cookie),
        ({"state": asked["state"], "error": "access_denied"}, cookie),
    ]
    for answer, brought in refusals:
        with pytest.raises(SignInRefused):
            outside.provider.finish(answer, brought)
    outside.metadata["authorization_response_iss_parameter_supported"] = True
    with pytest.raises(SignInRefused):
        outside.provider.finish(good, cookie)
    assert not outside.token_requests
    outside.now += ATTEMPT_SECONDS + 1
    with pytest.raises(SignInRefused, match="did not succeed"):
        outside.provider.finish(good, cookie)


def test_claims_may_come_from_userinfo_of_the_same_person(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Outside(monkeypatch, roles_claim="realm.roles")
    outside.userinfo = {"sub": "s-1", "realm": {"roles": "gateway-it"}, "preferred_username": "not believed"}
    assert outside.enter().name == "ann"
    outside.userinfo["sub"] = "s-2"
    outside.claims.pop("nonce")
    with pytest.raises(SignInRefused):
        outside.enter()


def test_practices_limit_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Outside(monkeypatch, practices_claim="tin")
    plain.claims["tin"] = ["123456789", "987654321"]
    assert plain.enter().labels == ("organization:123456789", "organization:987654321")
    del plain.claims["nonce"]
    plain.claims["tin"] = "*"
    assert plain.enter().labels == ("organization:*",)  # a practice of that name: our settings alone show everything
    for nothing in (None, [], [7]):
        del plain.claims["nonce"]
        plain.claims["tin"] = nothing
        with pytest.raises(SignInRefused):
            plain.enter()

    mapped = Outside(monkeypatch, practices_claim="tin", practices={"north": "123456789", "office": "*"})
    mapped.claims["tin"] = ["north", "south"]
    assert mapped.enter().labels == ("organization:123456789",)
    del mapped.claims["nonce"]
    mapped.claims["tin"] = ["office"]
    assert mapped.enter().labels is None
    del mapped.claims["nonce"]
    mapped.claims["tin"] = ["south"]
    with pytest.raises(SignInRefused):
        mapped.enter()


def test_wrong_discovery_is_the_operators_to_set_right(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Outside(monkeypatch)
    other.metadata["issuer"] = "https://other.example"
    with pytest.raises(ConfigurationError, match="another issuer"):
        other.begin()
    plain = Outside(monkeypatch)
    plain.metadata["authorization_endpoint"] = "http://people.example/authorize"
    with pytest.raises(ConfigurationError, match="https"):
        plain.begin()
    with pytest.raises(ConfigurationError, match="https"):
        Outside(monkeypatch, issuer="http://people.example")
    silent = Outside(monkeypatch)
    del silent.metadata["end_session_endpoint"]
    assert silent.provider.end_address("token") is None


def test_who_is_vouched_for_is_told_by_subject_and_never_takes_anothers_name() -> None:
    engine = create_engine("sqlite://")
    upgrade(engine)
    accounts = Accounts(engine, SecretBox(Fernet.generate_key()))
    sessions = Sessions(engine)
    accounts.add("bob", "a long enough password", ["viewer"], code=False)
    ann = accounts.vouch(ISSUER, "s-1", "ann", ("it",), None)
    cookie = sessions.start(ann, "kept")
    assert (sessions.find(cookie) or pytest.fail("no session")).roles == ("it",)
    for origin, subject, name in ((ISSUER, "s-2", "ann"), (ISSUER, "s-2", "bob"), ("https://b.example", "s-1", "ann")):
        with pytest.raises(AuthenticationError, match="another user's"):
            accounts.vouch(origin, subject, name, ("admin",), None)
    with pytest.raises(AuthenticationError):
        accounts.sign_in("ann", "", "")
    with pytest.raises(ConflictError):
        accounts.set_password("ann", "a long enough password")
    with pytest.raises(ConflictError):
        accounts.new_code("ann")

    renamed = accounts.vouch(ISSUER, "s-1", "ann.b", ("viewer",), ["organization:123456789"])
    assert sessions.find(cookie) is None
    assert {(one.name, one.origin, one.roles, one.labels) for one in accounts.all()} == {
        ("ann.b", ISSUER, ("viewer",), ("organization:123456789",)),
        ("bob", "local", ("viewer",), None),
    }
    again = sessions.start(renamed, "kept")
    accounts.disable("ann.b")
    assert sessions.find(again) is None
    with pytest.raises(AuthenticationError, match="disabled"):
        accounts.vouch(ISSUER, "s-1", "ann.b", ("viewer",), None)
    accounts.disable("ann.b", disabled=False)
    accounts.vouch(ISSUER, "s-1", "ann.b", ("viewer",), None)
    assert sessions.end(sessions.start(renamed, "kept")) == "kept"
    engine.dispose()


def test_the_documented_settings_are_good_and_each_is_told() -> None:
    page = (Path(__file__).parents[3] / "docs" / "use" / "console.md").read_text()
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert Settings(openid=json.loads(example)).openid is not None
    assert [name for name in OpenIdProvider.model_fields if f"`{name}`" not in page] == []
