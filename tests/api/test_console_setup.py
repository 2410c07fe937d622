"""An endpoint is set up step by step, without scripts; and what runs is followed to its end."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import anyio
import httpx
import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse

from fhir_gateway.config import Settings
from fhir_gateway.console.accounts import User
from fhir_gateway.console.app import with_console
from fhir_gateway.console.frame import PATH, Frame
from fhir_gateway.console.progress import following
from fhir_gateway.console.roles import Role
from fhir_gateway.console.sessions import Sessions
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.sandbox.server.runner import SandboxServer
from fhir_gateway.sources.endpoint import SigningKey, generate_key
from tests.support.serving import free_port

OTHER_KEY = SigningKey.of("other", generate_key("ES384"))


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(Settings(data_dir=tmp_path / "data", lake_buckets=2))


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[SandboxServer]:
    folder = tmp_path / "ehr"
    folder.mkdir()
    lines = [json.dumps({"resourceType": "Patient", "id": f"p{number}"}) for number in range(3)]
    (folder / "Patient.ndjson").write_text("\n".join(lines))
    with SandboxServer(folder, clients={"desk": {"keys": [OTHER_KEY.public_jwk()]}}) as served:
        yield served


Send = Callable[..., Awaitable[httpx.Response]]


def told(gateway: Gateway, name: str, role: Role, tell: Callable[[httpx.AsyncClient, Send], Awaitable[None]]) -> None:
    """The story of somebody who has signed in; ``send`` posts a form of theirs."""
    cookie = Sessions(gateway.engine).start(User(name, "local", (role,)))

    async def all_of_it() -> None:
        transport = httpx.ASGITransport(with_console(gateway))
        async with httpx.AsyncClient(transport=transport, base_url=gateway.settings.public_url) as http:
            http.cookies.set("console", cookie)
            page = (await http.get(f"{PATH}/")).text
            token = re.findall(r'X-Form-Token": "([^"]+)"', page)[0]

            async def send(path: str, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
                return await http.post(f"{PATH}{path}", data={"form_token": token, **fields}, headers=headers)

            await tell(http, send)

    anyio.run(all_of_it)


def test_an_endpoint_is_looked_at_registered_and_checked(gateway: Gateway, sandbox: SandboxServer) -> None:
    async def tell(http: httpx.AsyncClient, send: Send) -> None:
        found = await send("/endpoints/new", url=sandbox.fhir_url, vendor="generic")
        assert found.status_code == 200
        for said in ("4.0.1", "Patient", sandbox.token_url, "private_key_jwt", "ES384, RS384", "system/*.rs"):
            assert said in found.text, said
        assert gateway.endpoints.all() == []  # nothing is registered by looking

        made = await send("/endpoints", url=sandbox.fhir_url, vendor="generic", name="clinic", algorithm="RS384")
        setup = made.headers["location"]
        page = (await http.get(setup)).text
        key = gateway.endpoints.signing_key("clinic")
        assert (key.algorithm, key.kid in page) == ("RS384", True)
        assert "/.well-known/jwks.json" in page
        assert "on this machine only" in page
        assert "First pull" not in page  # not before there is a client id
        private = re.search(r"&#34;d&#34;|\"d\"", page)
        assert private is None

        assert (await send("/endpoints/clinic/setup")).status_code == 400
        assert (await send("/endpoints/clinic/setup", client_id="desk")).status_code == 303
        assert gateway.endpoints.get("clinic").client_id == "desk"
        assert "First pull" in (await http.get(setup)).text
        whole = await send("/endpoints/clinic/check")
        part = await send("/endpoints/clinic/check", headers={"HX-Request": "true"})
        for answer in (whole, part):
            results = dict(re.findall(r'<th scope="row">(\w+)</th><td><span class="state[^"]*">(\w+)<', answer.text))
            assert (results["url"], results["discovery"]) == ("ok", "ok")
            assert "failed" in results.values()  # they know another key
        assert ("<html" in whole.text, "<html" in part.text) == (True, False)

    told(gateway, "ida", "it", tell)


def test_what_is_not_there_is_said_and_can_be_registered_all_the_same(gateway: Gateway) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/fhir"

    async def tell(_: httpx.AsyncClient, send: Send) -> None:
        found = await send("/endpoints/new", url=nowhere)
        assert found.status_code == 200
        assert 'role="alert"' in found.text
        assert "Make the key" in found.text
        assert (await send("/endpoints/new", url="ftp://nowhere.example")).status_code == 400
        assert (await send("/endpoints/new")).status_code == 400
        assert (await send("/endpoints/new", url=nowhere, vendor="of nobody")).status_code == 400
        assert (await send("/endpoints", url=nowhere, name="later")).status_code == 303

    told(gateway, "ida", "it", tell)


def test_who_may_only_look_sets_nothing_up(gateway: Gateway, sandbox: SandboxServer) -> None:
    async def tell(http: httpx.AsyncClient, send: Send) -> None:
        for path in ("/endpoints/new", "/endpoints", "/endpoints/clinic/setup"):
            assert (await send(path, url=sandbox.fhir_url, name="clinic", client_id="x")).status_code == 403
        assert (await http.get(f"{PATH}/endpoints/clinic/setup")).status_code == 404

    told(gateway, "vera", "viewer", tell)


def test_jobs_are_followed_until_none_runs(gateway: Gateway) -> None:
    with closing(JobBook(gateway)) as book:
        book.submit("settle", "settle-1", asked={"contract": "x.toml"})
        book.cancel("settle-1")

    async def tell(http: httpx.AsyncClient, _: Send) -> None:
        listed = (await http.get(f"{PATH}/operations")).text
        assert f'href="{PATH}/operations/jobs/settle-1"' in listed
        assert "data-follow" not in listed
        assert "cancelled" in (await http.get(f"{PATH}/operations/jobs/settle-1")).text
        for address in ("/operations/jobs/events", "/operations/jobs/settle-1/events"):
            events = await http.get(f"{PATH}{address}")
            assert events.headers["content-type"].startswith("text/event-stream")
            assert "cancelled" in events.text
            assert events.text.endswith("event: end\ndata: over\n\n")
        assert (await http.get(f"{PATH}/operations/jobs/nobody")).status_code == 404
        assert (await http.get(f"{PATH}/operations/jobs/nobody/events")).status_code == 404

    told(gateway, "ida", "it", tell)


class Looking(Request):
    """Somebody who stays."""

    async def is_disconnected(self) -> bool:
        return False


@pytest.mark.parametrize("signed_in", [3, 100])
def test_following_tells_what_changes_and_ends_with_the_job_or_the_session(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, signed_in: int
) -> None:
    looks = 0

    def state() -> dict[str, object]:
        nonlocal looks
        looks += 1
        return {"text": f"line {looks // 2}\nof two", "over": looks == 4}

    frame = Frame(gateway)
    monkeypatch.setattr(frame, "page", lambda _, __, **values: HTMLResponse(values["text"]))
    monkeypatch.setattr(frame, "still_signed_in", lambda _: looks < signed_in)
    response = following(Looking({"type": "http"}), frame, "any.html", state)

    async def all_of_it() -> list[str]:
        return [str(one) async for one in response.body_iterator]

    events = ["data: line 0\ndata: of two\n\n", "data: line 1\ndata: of two\n\n", "data: line 2\ndata: of two\n\n"]
    told = events if signed_in == 100 else events[:2]
    assert anyio.run(all_of_it) == [*told, "event: end\ndata: over\n\n"]
