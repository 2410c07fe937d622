"""People at the console by HTTP: each with a browser's cookies, and forms sent with what the page had in them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx
import pyotp

from fhir_gateway.console.accounts import Accounts
from fhir_gateway.console.app import with_console
from fhir_gateway.console.frame import PATH
from fhir_gateway.factory import Gateway

PASSWORD = "a long enough password"


class Person:
    """Somebody with a browser of their own; forms are sent with what the page had in them."""

    def __init__(self, gateway: Gateway) -> None:
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(with_console(gateway)), base_url=gateway.settings.public_url
        )
        self.token = ""

    async def get(self, path: str, status: int = 200) -> str:
        answer = await self.http.get(path)
        assert answer.status_code == status, f"{path}: {answer.status_code}"
        page = answer.text
        if found := re.search(r'name="form_token" value="([^"]+)"', page):
            self.token = found[1]
        if "html" in answer.headers["content-type"]:
            assert "script-src 'self'" in answer.headers["content-security-policy"]
            assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=", page), path
        return page

    async def post(self, path: str, status: int = 303, token: str | None = None, **fields: str) -> httpx.Response:
        answer = await self.http.post(path, data={"form_token": self.token if token is None else token, **fields})
        assert answer.status_code == status, f"{path}: {answer.status_code} {answer.text[-500:]}"
        return answer


def sign_up(gateway: Gateway, name: str, *roles: str, labels: list[str] | None = None) -> str:
    accounts = Accounts(gateway.engine, gateway.secrets)
    if name not in {one.name for one in accounts.all()}:
        secret = accounts.add(name, PASSWORD, roles, labels)
    else:
        secret = accounts.new_code(name)
    return str(secret)


def story(gateway: Gateway, tell: Callable[[Person], Awaitable[None]], name: str, *roles: str, **more: Any) -> None:
    secret = sign_up(gateway, name, *roles, **more)

    async def told() -> None:
        person = Person(gateway)
        async with person.http:
            for _ in range(5):  # a code that was too old when it arrived is followed by the next one
                form = {"name": name, "password": PASSWORD, "code": pyotp.TOTP(secret).now()}
                if (await person.http.post(f"{PATH}/sign-in", data=form)).status_code == 303:
                    break
            await tell(person)

    anyio.run(told)
