"""What does not work is told on a page, with the number of the request and nothing that only the log may know."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import anyio
import httpx
import pytest
import sqlalchemy as sa

from fhir_gateway.config import Settings
from fhir_gateway.console.accounts import Accounts
from fhir_gateway.console.app import with_console
from fhir_gateway.console.frame import PATH
from fhir_gateway.db.engine import snapshot
from fhir_gateway.factory import Gateway
from fhir_gateway.server.audit import audit_events

PASSWORD = "a long enough password"


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    made = Gateway(Settings(data_dir=tmp_path, lake_buckets=2))
    Accounts(made.engine, made.secrets).add("vera", PASSWORD, ["viewer"], code=False)
    Accounts(made.engine, made.secrets).add("quinn", PASSWORD, ["quality"], code=False)
    return made


def answers(gateway: Gateway, name: str, path: str, **headers: str) -> httpx.Response:
    """What somebody signed in is answered; whatever is raised would be raised here."""

    async def told() -> httpx.Response:
        transport = httpx.ASGITransport(with_console(gateway))
        async with httpx.AsyncClient(transport=transport, base_url=gateway.settings.public_url) as http:
            await http.post(f"{PATH}/sign-in", data={"name": name, "password": PASSWORD})
            return await http.get(f"{PATH}{path}", headers=headers)

    return anyio.run(told)


def check_page(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    number = answer.headers["x-request-id"]
    assert f"Request {number}, status {status}." in answer.text


def test_an_unexpected_failure_is_a_page_that_names_its_request_and_nothing_else(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("of the inside")

    monkeypatch.setattr(type(gateway.endpoints), "all", fails)
    with caplog.at_level(logging.ERROR):
        answer = answers(gateway, "vera", "/endpoints")
    check_page(answer, 500)
    assert "of the inside" not in answer.text
    assert "Traceback" not in answer.text
    number = answer.headers["x-request-id"]
    (said,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert number in said.getMessage()
    assert "of the inside" in (said.exc_text or "")
    with snapshot(gateway.engine) as connection:
        rows = connection.execute(sa.select(audit_events).where(audit_events.c.request_id == number)).mappings().all()
    assert [(row["client_id"], row["interaction"], row["status"]) for row in rows] == [
        ("console/vera", "console-page", 500)
    ]

    part = answers(gateway, "vera", "/endpoints", **{"HX-Request": "true"})
    assert part.status_code == 500
    assert "<html" not in part.text
    assert part.headers["x-request-id"] in part.text


@pytest.mark.parametrize(
    ("name", "path", "status"),
    [
        ("vera", "/nowhere", 404),
        ("vera", "/endpoints/nobody", 404),
        ("vera", "/quality/nobody/gaps?page=nonsense", 400),
        ("vera", "/sign-out", 405),
        ("quinn", "/endpoints", 403),
    ],
)
def test_so_are_what_is_not_there_and_what_is_not_for_somebody(
    gateway: Gateway, name: str, path: str, status: int
) -> None:
    answer = answers(gateway, name, path)
    check_page(answer, status)
    assert not re.search(r"Traceback|fhir_gateway", answer.text)
