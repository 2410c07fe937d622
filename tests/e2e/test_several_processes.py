"""Several servers and workers over one control plane: jobs, moments of schedules and assertions count once.

Real processes, each with its own connections, on SQLite and on PostgreSQL (``make test-postgresql``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from fhir_gateway.auth.assertion import client_assertion, generate_key, public_key_set
from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.book import JobBook
from tests.support.databases import KINDS, empty_database
from tests.support.serving import free_port, serving
from tests.support.waiting import until

#: A worker whose jobs of kind "retain" write down that they were carried out.
WORKER = """
import os, sys, time
from pathlib import Path
from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import calculations, durable

done, leave = Path(sys.argv[1]), Path(sys.argv[2])

def carry_out(gateway, asked):
    file = os.open(done, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(file, f"{asked.get('id') or asked['now']} {os.getpid()}\\n".encode())
    os.close(file)
    return []

calculations.CALCULATIONS["retain"] = carry_out
with durable.Worker(Gateway(Settings.read()), background=True):
    print("working", flush=True)
    while not leave.exists():
        time.sleep(0.1)
"""
#: Begins what is due at each of many moments, as a worker does every few seconds.
BEGINNER = """
import sys
from contextlib import closing
from datetime import datetime
from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.schedules import begin_due

gateway = Gateway(Settings.read())
with closing(JobBook(gateway)) as book:
    print("ready", flush=True)
    sys.stdin.readline()
    for moment in sys.argv[1:]:
        begin_due(gateway, book, datetime.fromisoformat(moment))
"""


@pytest.fixture(params=KINDS)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    with empty_database(request.param, tmp_path) as engine:
        if engine.dialect.name == "postgresql":
            with engine.begin() as connection:
                connection.execute(sa.text("DROP SCHEMA IF EXISTS dbos CASCADE"))
        url = engine.url.render_as_string(hide_password=False)
    return {"DATA_DIR": str(tmp_path / "data"), "DATABASE_URL": url}


@contextmanager
def gateway_of(settings: dict[str, str], **more: Any) -> Iterator[Gateway]:
    """This process's own gateway over the same control plane."""
    gateway = Gateway(
        Settings(data_dir=Path(settings["DATA_DIR"]), database_url=SecretStr(settings["DATABASE_URL"]), **more)
    )
    try:
        yield gateway
    finally:
        gateway.engine.dispose()


@contextmanager
def book_of(settings: dict[str, str]) -> Iterator[JobBook]:
    with gateway_of(settings) as gateway, closing(JobBook(gateway)) as book:
        yield book


@contextmanager
def process(settings: dict[str, str], code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said its first word."""
    environment = {**os.environ, **{f"FHIR_GATEWAY_{name}": value for name, value in settings.items()}}
    started = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stdout is not None
        assert started.stdout.readline(), "it ended before it began"
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.wait()
        for stream in (started.stdin, started.stdout):
            if stream is not None:
                stream.close()


def test_each_job_is_carried_out_once_by_one_of_several_workers(settings: dict[str, str], tmp_path: Path) -> None:
    done, leave = tmp_path / "done", tmp_path / "leave"
    with ExitStack() as workers, book_of(settings) as book:
        for _ in range(3):
            workers.enter_context(process(settings, WORKER, str(done), str(leave)))
        ids = [f"retain-{number}" for number in range(24)]
        for id in ids:
            book.submit("retain", id, asked={"id": id, "now": "2026-01-01T00:00:00+00:00"})
        until(lambda: all(one.state == "done" for one in book.jobs(limit=100)))
        leave.touch()
    carried = Counter(line.split()[0] for line in done.read_text().splitlines())
    assert carried == Counter(ids)


def test_a_schedule_fires_once_for_each_moment_however_many_look(settings: dict[str, str], tmp_path: Path) -> None:
    schedules = [
        {"name": "upkeep", "cron": "*/10 * * * *", "job": "retain"},
        {"name": "night", "cron": "0 2 * * *", "job": "retain"},
    ]
    stated = {**settings, "SCHEDULES": json.dumps(schedules)}
    first = datetime(2026, 3, 1, 1, 0, 30, tzinfo=UTC)
    moments = [(first + timedelta(minutes=10 * step)).isoformat() for step in range(13)]
    again = [*moments, *moments[3:]]  # the clock jumps back
    with ExitStack() as held:
        beginners = [held.enter_context(process(stated, BEGINNER, *again)) for _ in range(3)]
        for one in beginners:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        assert [one.wait() for one in beginners] == [0, 0, 0]
    upkeep = [f"upkeep-{first + timedelta(minutes=10 * step):%Y%m%dT%H%MZ}" for step in range(13)]
    wanted = [*upkeep, "night-20260228T0200Z", "night-20260301T0200Z"]
    done, leave = tmp_path / "done", tmp_path / "leave"
    with ExitStack() as workers, book_of(settings) as book:
        assert Counter(one.id for one in book.jobs(limit=1000)) == Counter(wanted)
        for _ in range(2):
            workers.enter_context(process(settings, WORKER, str(done), str(leave)))
        until(lambda: all(one.state == "done" for one in book.jobs(limit=100)))
        leave.touch()
    assert len(done.read_text().splitlines()) == len(wanted)


def test_an_assertion_counts_once_for_all_servers(settings: dict[str, str], tmp_path: Path) -> None:
    public_url = "https://gateway.example"
    key = generate_key("ES384", "k")
    with gateway_of(settings, public_url=public_url) as gateway:
        gateway.authorization.register_client("a", scopes="system/*.rs", jwks=public_key_set(key))
    stated = {**settings, "PUBLIC_URL": public_url, "JOBS_IN_SERVER": "false"}
    stated.pop("DATA_DIR")
    ports = [free_port(), free_port()]
    with ExitStack() as held:
        for port in ports:
            held.enter_context(serving(Path(settings["DATA_DIR"]), port, **stated))
        http = held.enter_context(httpx.Client(timeout=600))

        def ask(port: int, assertion: str) -> int:
            form = {
                "grant_type": "client_credentials",
                "scope": "system/*.rs",
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                "client_assertion": assertion,
            }
            return http.post(f"http://127.0.0.1:{port}/auth/token", data=form).status_code

        with ThreadPoolExecutor(6) as together:
            for _ in range(3):
                assertion = client_assertion("a", f"{public_url}/auth/token", key, "ES384", jti=uuid.uuid4().hex)
                answers = list(together.map(lambda port: ask(port, assertion), ports * 3))  # noqa: B023
                assert sorted(answers) == [200, 400, 400, 400, 400, 400]
        headers = {}
        for port in ports:  # a token of one server is one of the other
            assertion = client_assertion("a", f"{public_url}/auth/token", key, "ES384")
            form = {
                "grant_type": "client_credentials",
                "scope": "system/*.rs",
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                "client_assertion": assertion,
            }
            token = http.post(f"http://127.0.0.1:{port}/auth/token", data=form).json()["access_token"]
            headers = {"Authorization": f"Bearer {token}"}
            asked = [http.get(f"http://127.0.0.1:{one}/fhir/Patient", headers=headers).status_code for one in ports]
            assert asked == [200, 200]
