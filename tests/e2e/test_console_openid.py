"""Signing in at the console by an OpenID provider that is not ours (oidc-provider, npm), on its pages, and out again.

``make test-third-party`` installs it and runs this; without it the tests are skipped and say so.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
import sqlalchemy as sa

from fhir_gateway.config import OpenIdProvider, Settings
from fhir_gateway.console.accounts import Accounts
from fhir_gateway.console.app import with_console
from fhir_gateway.db.engine import snapshot
from fhir_gateway.factory import Gateway
from fhir_gateway.server.audit import audit_events
from fhir_gateway.server.serve import GatewayServer
from tests.support.serving import free_port
from tests.support.waiting import HANG

NPM = Path(__file__).parents[1] / "support" / "npm"
SECRET = "only-for-this-test"
ACCOUNTS = {
    "s-ann": {"preferred_username": "ann", "groups": ["gw-admins"], "practices": ["office"]},
    "s-pat": {"preferred_username": "pat", "groups": ["gw-quality", "all-staff"], "practices": ["north"]},
    "s-eve": {"preferred_username": "eve", "groups": ["all-staff"], "practices": ["office"]},
}

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (NPM / "node_modules" / "oidc-provider").exists(),
    reason="node or oidc-provider is not installed: make test-third-party",
)


class Browser:
    """What a browser does with the two sites: cookies of each, redirects, and the forms of the provider's pages."""

    def __init__(self, console: str) -> None:
        self.console = console
        self.http = httpx.Client(timeout=HANG, follow_redirects=True, base_url=console)

    def submit(self, page: httpx.Response, **fields: str) -> httpx.Response:
        """The page's form with its hidden fields, and what somebody typed."""
        form = re.search(r"<form[^>]*action=\"([^\"]+)\"[^>]*>(.*?)</form>", page.text, re.DOTALL)
        assert form, page.text[:2000]
        hidden = {
            name: html.unescape(value)
            for tag in re.findall(r"<input[^>]*type=\"hidden\"[^>]*>", form[2])
            for name, value in re.findall(r"name=\"([^\"]+)\" value=\"([^\"]*)\"", tag)
        }
        return self.http.post(urljoin(str(page.url), html.unescape(form[1])), data=hidden | fields)

    def sign_in(self, account: str, wanted: str = "/console/") -> httpx.Response:
        """By the link of the sign-in page, and then whatever the provider asks until it lets one go."""
        page = self.http.get(wanted)
        link = re.search(r'href="(/console/sign-in/provider[^"]*)"', page.text)
        assert link, page.text
        page = self.http.get(html.unescape(link[1]))
        while not str(page.url).startswith(self.console):
            page = self.submit(page, **({"login": account, "password": "any"} if 'name="login"' in page.text else {}))
        return page


@pytest.fixture(scope="module", params=["client_secret_basic", "client_secret_post", "none"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose people sign in at oidc-provider: a client with a secret, sent either way, and a public one."""
    port = free_port()
    public = f"http://127.0.0.1:{port}"
    client: dict[str, Any] = {
        "client_id": "console",
        "redirect_uris": [f"{public}/console/sign-in/callback"],
        "post_logout_redirect_uris": [f"{public}/console/sign-in"],
        "token_endpoint_auth_method": request.param,
        **({} if request.param == "none" else {"client_secret": SECRET}),
    }
    with subprocess.Popen(
        ["node", NPM / "openid_provider.mjs"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as node:
        assert node.stdin is not None
        assert node.stdout is not None
        node.stdin.write(json.dumps({"clients": [client], "accounts": ACCOUNTS}) + "\n")
        node.stdin.flush()
        provider = OpenIdProvider(
            issuer=json.loads(node.stdout.readline())["issuer"],
            client_id="console",
            client_secret=client.get("client_secret"),
            title="The Clinic",
            roles_claim="groups",
            roles={"gw-admins": "admin", "gw-quality": "quality"},
            practices_claim="practices",
            practices={"office": "*", "north": "123456789"},
        )
        folder = tmp_path_factory.mktemp("gateway")
        made = Gateway(Settings(data_dir=folder, lake_buckets=2, public_url=public, openid=provider))
        with GatewayServer(made, port=port, application=with_console):
            yield made
        made.engine.dispose()
        node.stdin.close()
        node.wait(timeout=HANG)


@pytest.fixture
def browsers(gateway: Gateway) -> Iterator[Callable[[], Browser]]:
    with ExitStack() as stack:

        def opened() -> Browser:
            found = Browser(gateway.settings.public_url)
            stack.enter_context(found.http)
            return found

        yield opened


def test_people_sign_in_there_with_roles_and_practices_and_out_again(
    gateway: Gateway, browsers: Callable[[], Browser]
) -> None:
    public = gateway.settings.public_url
    ann = browsers()
    page = ann.sign_in("s-ann", "/console/operations/users")
    assert (page.status_code, urlsplit(str(page.url)).path) == (200, "/console/operations/users")
    assert "<h1>Users</h1>" in page.text
    cookies = [one for one in ann.http.cookies.jar if one.name.startswith("console")]
    assert [one.name for one in cookies] == ["console"]  # nothing is left of the attempt
    assert all(one.has_nonstandard_attr("HttpOnly") for one in cookies)

    pat = browsers()
    assert pat.sign_in("s-pat").status_code == 200
    assert pat.http.get("/console/quality").status_code == 200
    for closed in ("/console/contracts", "/console/endpoints", "/console/operations/users"):
        assert pat.http.get(closed).status_code == 403
    users = {one.name: (one.roles, one.labels) for one in Accounts(gateway.engine, gateway.secrets).all()}
    assert users == {"ann": (("admin",), None), "pat": (("quality",), ("organization:123456789",))}

    eve = browsers()
    refused = eve.sign_in("s-eve")
    assert refused.status_code == 401
    assert "did not succeed" in refused.text
    assert urlsplit(str(eve.http.get("/console/").url)).path == "/console/sign-in"

    out = ann.http.post("/console/sign-out", headers={"Sec-Fetch-Site": "same-origin"})
    assert "You are signed out here" in out.text
    assert urlsplit(str(ann.http.get("/console/operations/users").url)).path == "/console/sign-in"
    leave = re.search(r'href="(http[^"]+)"', out.text)
    assert leave
    asked = ann.http.get(html.unescape(leave[1]))
    assert "Do you want to sign-out" in asked.text
    done = ann.submit(asked, logout="yes")
    assert str(done.url).startswith(f"{public}/console/sign-in")
    page = ann.http.get("/console/sign-in/provider")
    assert 'name="login"' in page.text  # the provider does not know who it is any more

    with snapshot(gateway.engine) as connection:
        chosen = sa.select(audit_events.c.client_id, audit_events.c.status, audit_events.c.reason)
        rows = connection.execute(chosen.where(audit_events.c.interaction == "console-sign-in")).all()
    assert ("console/ann", 303, None) in rows
    assert (None, 401, "sign-in refused") in rows


def test_an_answer_is_good_once_and_in_the_browser_that_asked(browsers: Callable[[], Browser]) -> None:
    ann, thief = browsers(), browsers()
    ann.sign_in("s-ann")
    answers = []
    ann.http.event_hooks["response"].append(lambda one: answers.append(one.headers.get("location", "")))
    ann.http.get("/console/sign-in/provider")  # the provider remembers ann
    back = next(one for one in answers if "/console/sign-in/callback?" in one)
    for browser in (thief, ann):
        again = browser.http.get(back)
        assert again.status_code == 401
        assert "did not succeed" in again.text
