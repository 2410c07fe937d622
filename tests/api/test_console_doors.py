"""Every door of the console, as its pages list them: closed to strangers, and to who may only look."""

from __future__ import annotations

import re
from collections.abc import Callable

import anyio
import httpx
import pytest
from fastapi.routing import APIRoute

from fhir_gateway.config import Settings
from fhir_gateway.console.accounts import User
from fhir_gateway.console.app import with_console
from fhir_gateway.console.frame import PATH, Frame
from fhir_gateway.console.pages import PAGES
from fhir_gateway.console.roles import Role
from fhir_gateway.console.sessions import Sessions
from fhir_gateway.factory import Gateway

#: Forms that change nothing: they show what somebody may see, by a list that they send.
READING = {"/population/x/roster", "/members"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    return Gateway(Settings(data_dir=tmp_path_factory.mktemp("data"), lake_buckets=2))


@pytest.fixture(scope="module")
def doors(gateway: Gateway) -> list[tuple[str, str]]:
    """Method and path of each, with something in the place of what is named there."""
    frame = Frame(gateway)
    routes = [one for page in PAGES for one in page.router(frame).routes if isinstance(one, APIRoute)]
    found = [(method, re.sub(r"\{[^}]*\}", "x", one.path)) for one in routes for method in sorted(one.methods)]
    assert len(found) > 40
    return found


Check = Callable[[httpx.Response, str, str], None]


def knock(gateway: Gateway, doors: list[tuple[str, str]], check: Check, user: User | None = None) -> None:
    """Try each door, with the form token of whoever is signed in."""
    cookie = Sessions(gateway.engine).start(user) if user else None
    session = Sessions(gateway.engine).find(cookie) if cookie else None
    token = {"form_token": session.form_token if session else "made-up"}

    async def all_of_them() -> None:
        transport = httpx.ASGITransport(with_console(gateway))
        async with httpx.AsyncClient(transport=transport, base_url=gateway.settings.public_url) as http:
            if cookie:
                http.cookies.set("console", cookie)
            for method, path in doors:
                sent = {"data": token} if method == "POST" else {}
                check(await http.request(method, PATH + path, **sent), method, path)  # type: ignore[arg-type]

    anyio.run(all_of_them)


def test_strangers_are_led_to_the_sign_in(gateway: Gateway, doors: list[tuple[str, str]]) -> None:
    def check(answer: httpx.Response, method: str, path: str) -> None:
        assert answer.status_code == 303, f"{method} {path}"
        assert answer.headers["location"].startswith(f"{PATH}/sign-in?next=")

    knock(gateway, doors, check)


def test_who_may_only_look_changes_nothing(gateway: Gateway, doors: list[tuple[str, str]]) -> None:
    def check(answer: httpx.Response, method: str, path: str) -> None:
        if method == "POST" and path not in READING:
            assert answer.status_code == 403, path
            assert "not for your role" in answer.text
        else:
            assert answer.status_code < 500, path

    knock(gateway, doors, check, User("vera", "local", ("viewer",)))


@pytest.mark.parametrize("role", ["admin", "it", "contracts", "viewer"])
def test_a_practice_has_no_door_to_what_is_everybodys(
    gateway: Gateway, doors: list[tuple[str, str]], role: Role
) -> None:
    def check(answer: httpx.Response, method: str, path: str) -> None:
        everybodys = path.startswith(("/endpoints", "/pulls", "/operations"))
        if everybodys or (method == "POST" and path not in READING):
            assert answer.status_code == 403, f"{method} {path}"
        else:
            assert answer.status_code < 500, f"{method} {path}"

    knock(gateway, doors, check, User("pat", "local", (role,), ("organization:123456789",)))


def test_no_form_is_taken_without_its_token(gateway: Gateway, doors: list[tuple[str, str]]) -> None:
    cookie = Sessions(gateway.engine).start(User("ann", "local", ("admin",)))

    async def all_of_them() -> None:
        transport = httpx.ASGITransport(with_console(gateway))
        async with httpx.AsyncClient(transport=transport, base_url=gateway.settings.public_url) as http:
            http.cookies.set("console", cookie)
            for method, path in doors:
                if method == "POST":
                    for form in ({}, {"form_token": "made-up"}):
                        answer = await http.post(PATH + path, data=form)
                        assert answer.status_code == 403, path
                        assert "load the page again" in answer.text

    anyio.run(all_of_them)
