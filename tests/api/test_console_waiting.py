"""Reports take long: they run beside the loop, a few at once, and pages are answered meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import anyio
import httpx
import pytest

from fhir_gateway.config import Settings
from fhir_gateway.console.accounts import User
from fhir_gateway.console.app import with_console
from fhir_gateway.console.frame import PATH
from fhir_gateway.console.pages.reports import reports
from fhir_gateway.console.sessions import Sessions
from fhir_gateway.factory import Gateway
from fhir_gateway.reports.document import Document
from tests.support.waiting import HANG

#: More than threads that pages have.
MANY = 60


def test_pages_are_answered_while_reports_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(Settings(data_dir=tmp_path, lake_buckets=1))
    begun, go_on, made_by, at_work, most = threading.Event(), threading.Event(), set[int](), 0, 0
    lock = threading.Lock()

    def slow(*_: object) -> Document:
        nonlocal at_work, most
        made_by.add(threading.get_ident())
        with lock:
            at_work += 1
            most = max(most, at_work)
        begun.set()
        assert go_on.wait(HANG)
        with lock:
            at_work -= 1
        return Document("Ratios", "us", (), ())

    monkeypatch.setattr(reports, "loss_ratio_report", slow)
    cookie = Sessions(gateway.engine).start(User("ann", "local", ("admin",)))
    found: list[int] = []

    async def ask() -> None:
        transport = httpx.ASGITransport(with_console(gateway))
        async with httpx.AsyncClient(
            transport=transport, base_url=gateway.settings.public_url, cookies={"console": cookie}
        ) as http:

            async def report() -> None:
                found.append((await http.get(f"{PATH}/reports/loss-ratio.html")).status_code)

            async with anyio.create_task_group() as waiting:
                for _ in range(MANY):
                    waiting.start_soon(report)
                with anyio.fail_after(HANG):
                    assert await anyio.to_thread.run_sync(begun.wait, HANG)
                    page = await http.get(f"{PATH}/")
                    assert page.status_code == 200
                    assert found == [], "no report is done while the page was answered"
                    go_on.set()

    anyio.run(ask)
    assert found == [200] * MANY
    assert threading.main_thread().ident not in made_by
    assert most <= 2
