"""An upgrade beside readers: the release before answers all along, and this one reads and recomputes what it made."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from fhir_gateway.auth.assertion import client_assertion, generate_key, public_key_set
from fhir_gateway.config import Settings
from fhir_gateway.db.migrate import revision
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.settlement_runs import recompute, settled
from tests.support import earlier
from tests.support.databases import KINDS, empty_database
from tests.support.serving import free_port
from tests.support.waiting import HANG, until

#: What the earlier release did before anybody thought of an upgrade, in its own words.
STORY = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.jobs.settle import settle
from fhir_gateway.sandbox.population import generate
from tests.support.sandbox_contracts import contract_terms, tins_of, write_contract

folder, key = Path(sys.argv[1]), json.loads(sys.argv[2])
generate(folder / "population", patients=40, seed=5, year=2025)
gateway = Gateway(Settings.read())
for source in ("ehr", "payer"):
    pull_files(gateway, [folder / "population" / source], source)
terms = contract_terms("quality-2025", tins_of(folder / "population"))
made = settle(gateway, write_contract(folder, terms), now=datetime(2026, 4, 1, tzinfo=UTC))
gateway.authorization.register_client("reader", scopes="system/*.rs", jwks=key)
print(json.dumps({"report": made.report, "runs": list(gateway.results.runs())}))
"""


@contextmanager
def serving(release: Path, port: int, **settings: str) -> Iterator[str]:
    """The server of a release; the address of its FHIR base."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fhir_gateway.cli", "serve", "--port", str(port)],
        cwd=release,
        env=earlier.environment(release, **settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def ready() -> bool:
            assert process.poll() is None, "the server ended"
            try:
                return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=HANG).status_code == 200
            except httpx.TransportError:
                return False

        until(ready, 0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@dataclass
class Reader(threading.Thread):
    """Asks a server one thing after the other until it is told to stop, and keeps all answers' statuses."""

    base: str
    token_url: str
    key: dict[str, str]
    paths: list[str]
    answers: list[tuple[str, int]] = field(default_factory=list)
    failure: Exception | None = None

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.leaving = threading.Event()

    def __hash__(self) -> int:
        return id(self)

    def headers(self, http: httpx.Client) -> dict[str, str]:
        form = {
            "grant_type": "client_credentials",
            "scope": "system/*.rs",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": client_assertion("reader", self.token_url, self.key, "ES384"),
        }
        answered = http.post(f"{self.base}/auth/token", data=form)
        assert answered.status_code == 200, answered.text
        return {"Authorization": f"Bearer {answered.json()['access_token']}"}

    def run(self) -> None:
        try:
            with httpx.Client(timeout=HANG) as http:
                headers, since = self.headers(http), time.monotonic()
                while not self.leaving.is_set():
                    for path in self.paths:
                        if time.monotonic() - since > 60:
                            headers, since = self.headers(http), time.monotonic()
                        self.answers.append((path, http.get(f"{self.base}{path}", headers=headers).status_code))
        except Exception as failure:  # noqa: BLE001 - the test that waits for it tells
            self.failure = failure

    def asked(self, more: int) -> None:
        """Wait until it has had that many answers more."""
        before = len(self.answers)
        until(lambda: self.failure is not None or len(self.answers) >= before + more)


@contextmanager
def closing_engine(gateway: Gateway) -> Iterator[None]:
    try:
        yield
    finally:
        gateway.engine.dispose()


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    with empty_database(request.param, tmp_path) as engine:
        if engine.dialect.name == "postgresql":
            with engine.begin() as connection:
                connection.execute(sa.text("DROP SCHEMA IF EXISTS dbos CASCADE"))
        return engine.url.render_as_string(hide_password=False)


def test_readers_are_answered_all_along_and_what_was_made_stays(database: str, tmp_path: Path) -> None:
    old = earlier.unpack(tmp_path / "earlier")
    key = generate_key("ES384", "reader")
    public_url = "http://127.0.0.1:1"
    said = {"DATA_DIR": str(tmp_path / "data"), "DATABASE_URL": database, "PUBLIC_URL": public_url}
    said |= {"CLIENT_REQUESTS_PER_MINUTE": "0", "TOKEN_REQUESTS_PER_MINUTE": "0"}  # a reader in a hurry
    made = json.loads(earlier.run(old, "-c", STORY, str(tmp_path), json.dumps(public_key_set(key)), **said))
    report = f"/fhir/MeasureReport/{made['report']}"
    with serving(old, free_port(), JOBS_IN_SERVER="false", **said) as base:
        paths = ["/fhir/Patient?_count=2", report, "/fhir/Group?_count=1", "/ready"]
        reader = Reader(base, f"{public_url}/auth/token", key, paths)
        reader.start()
        reader.asked(8)
        told = earlier.run(earlier.ROOT, "-m", "fhir_gateway.cli", "--json", "migrate", **said)
        reader.asked(8)
        with (
            serving(earlier.ROOT, free_port(), JOBS_IN_SERVER="false", **said) as beside,
            httpx.Client(timeout=HANG) as http,
        ):
            reader.asked(8)
            headers = reader.headers(http)
            before, after = (http.get(f"{one}{report}", headers=headers, timeout=HANG) for one in (base, beside))
            reader.asked(8)
        reader.leaving.set()
        reader.join()
    assert reader.failure is None
    assert {status for _, status in reader.answers} == {200}
    gateway = Gateway(Settings.read(data_dir=tmp_path / "data", database_url=database, public_url=public_url))
    with closing_engine(gateway):
        assert json.loads(told)["migration"] == revision(gateway.engine)
        assert before.content == after.content
        assert before.headers["etag"] == after.headers["etag"]
        for run in made["runs"]:
            result = gateway.results.load(run)
            assert result.engine_version == earlier.VERSION
            summary = gateway.resources.read("MeasureReport", run).json()
            assert earlier.VERSION in json.dumps(summary), "a report says which engine made it"
        run, _, _ = settled(gateway, made["report"])
        assert run.total is not None
        again = recompute(gateway, made["report"])
        assert again.differing == ()
        assert again.same
