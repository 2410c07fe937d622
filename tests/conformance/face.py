"""A gateway on loopback with a small population, real clients and real tokens: what the checks run against."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from fhir_gateway.auth.assertion import client_assertion, generate_key, public_key_set
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.demo.steps import Steps
from fhir_gateway.demo.summary import Summary
from fhir_gateway.demo.tour import CONTRACTS, Options, open_gateway, run
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.durable import Worker
from fhir_gateway.risk import CodingGaps, ConditionCategory, RiskModel
from fhir_gateway.server.serve import GatewayServer
from tests.support.certificates import certificate
from tests.support.serving import free_port
from tests.support.waiting import HANG

FHIR_JSON = "application/fhir+json"
PERIOD = {"periodStart": "2025-01-01", "periodEnd": "2025-12-31"}
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass
class Client:
    """A registered client, and the tokens it got."""

    face: Face
    name: str
    key: dict[str, Any]
    alg: str
    tokens: dict[str, tuple[str, float]] = field(default_factory=dict)

    def assertion(self, **claims: Any) -> str:
        """A signed assertion; claims replace the standard ones."""
        return client_assertion(self.name, self.face.token_url, self.key, self.alg, **claims)

    def ask(self, scope: str = "system/*.rs", **fields: str | None) -> httpx.Response:
        """A token request; a field that is None is left out."""
        form = {
            "grant_type": "client_credentials",
            "scope": scope,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": self.assertion(),
        } | fields
        return self.face.http.post(
            self.face.token_url, data={name: value for name, value in form.items() if value is not None}
        )

    def headers(self, scope: str = "system/*.rs") -> dict[str, str]:
        """Headers with a token of a scope; asked for again before it ends, after 300 seconds."""
        token, until = self.tokens.get(scope, ("", 0.0))
        if time.monotonic() > until:
            until = time.monotonic() + 60
            answered = self.ask(scope)
            assert answered.status_code == 200, answered.text
            token = answered.json()["access_token"]
            self.tokens[scope] = token, until
        return {"Authorization": f"Bearer {token}"}


@dataclass
class Face:
    """The running gateway, and what is in it that requests can name."""

    gateway: Gateway
    summary: Summary
    root: str
    http: httpx.Client
    jwks: dict[str, dict[str, Any]] = field(default_factory=dict)  # served at jwks_root
    jwks_root: str = ""
    certificate: Path = Path()

    @property
    def base(self) -> str:
        """The FHIR base."""
        return f"{self.root}/fhir"

    @property
    def token_url(self) -> str:
        """Where tokens are."""
        return f"{self.root}/auth/token"

    def register(
        self, scopes: str = "system/*.cruds", alg: str = "ES384", by_url: bool = False, grants: Any = None
    ) -> Client:
        """A new client with a key of its own, registered inline or by the URL of its JWK Set."""
        name = f"kit-{uuid.uuid4().hex[:12]}"
        key = generate_key(alg, f"{name}-key")
        where: dict[str, Any] = {"jwks": public_key_set(key)}
        if by_url:
            self.jwks[f"/{name}"] = public_key_set(key)
            where = {"jwks_url": f"{self.jwks_root}/{name}"}
        self.gateway.authorization.register_client(name, scopes=scopes, grants=grants, **where)
        return Client(self, name, key, alg)

    @cached_property
    def client(self) -> Client:
        """A client that may everything and sees everybody."""
        return self.register()

    def request(self, method: str, path: str, *, token: bool = True, **more: Any) -> httpx.Response:
        """A request below the FHIR base, or to an absolute URL; a body is a resource."""
        headers = {"Accept": FHIR_JSON}
        if token:
            headers |= self.client.headers("system/*.cruds")
        if "json" in more:
            more["content"] = json.dumps(more.pop("json")).encode()
            headers["Content-Type"] = FHIR_JSON
        headers |= more.pop("headers", {})
        url = path if path.startswith("http") else f"{self.base}/{path}"
        return self.http.request(method, url, headers=headers, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        """GET with the client's token."""
        return self.request("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """POST with the client's token; ``body`` is a resource, None an empty body that claims to be FHIR JSON."""
        if body is None:
            more.setdefault("headers", {}).setdefault("Content-Type", FHIR_JSON)
            return self.request("POST", path, **more)
        return self.request("POST", path, json=body, **more)

    def speaks(self, version: ssl.TLSVersion) -> bool:
        """True when the server answers by this version of TLS."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.set_ciphers("ALL:@SECLEVEL=0")  # else this side does not even ask for old ones
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that they are old is the point
            context.minimum_version = context.maximum_version = version
        where = httpx.URL(self.root)
        with socket.create_connection((where.host, where.port or 443), timeout=HANG) as plain:
            try:
                with context.wrap_socket(plain, server_hostname=where.host):
                    return True
            except OSError:
                return False

    def finished(self, status_url: str, seconds: float = HANG) -> httpx.Response:
        """Poll an asynchronous request to its end."""
        deadline = time.monotonic() + seconds
        while True:
            answered = self.get(status_url, headers={"Accept": "application/json"})
            if answered.status_code != 202 or time.monotonic() > deadline:
                return answered
            assert int(answered.headers["retry-after"]) >= 0
            time.sleep(0.2)

    # What is in it.

    @cached_property
    def group(self) -> str:
        """Id of an attribution list with at least two active members."""
        for name in self.gateway.resources.ids("Group"):
            if len(self.members(name)) >= 2:
                return name
        raise AssertionError("the population has no list with two members")

    def members(self, group: str) -> list[str]:
        """Patients on the active entries of a list."""
        entries = self.gateway.resources.read("Group", group).json().get("member", [])
        active = (one["entity"]["reference"].removeprefix("Patient/") for one in entries if not one.get("inactive"))
        return sorted(set(active))

    @cached_property
    def measures(self) -> list[dict[str, Any]]:
        """Measures that can be evaluated, as served (contracts have no library)."""
        store = self.gateway.resources
        found = [store.read("Measure", name).json() for name in store.ids("Measure")]
        return [one for one in found if one.get("library")]

    @cached_property
    def measure(self) -> dict[str, Any]:
        """One of them, which has somebody in its initial population."""
        return next(one for one in self.measures if self._subjects(one))

    @cached_property
    def patients(self) -> list[str]:
        """Two patients of the initial population of :attr:`measure`."""
        return self._subjects(self.measure)[:2]

    def _subjects(self, measure: Mapping[str, Any]) -> list[str]:
        canonical = f"{measure['url']}|{measure['version']}"
        bundle = self.get("MeasureReport", params={"measure": canonical, "type": "individual", "_count": "20"}).json()
        found = [entry["resource"]["subject"]["reference"] for entry in bundle.get("entry", ())]
        subjects = [one.removeprefix("Patient/") for one in dict.fromkeys(found)]
        return subjects if len(subjects) >= 2 else []


def parameters(*pairs: tuple[str, Any]) -> dict[str, Any]:
    """A Parameters resource: resources as resources, dates as valueDate, all else as valueString."""
    entries = []
    for name, value in pairs:
        kind = "resource" if isinstance(value, dict) else "valueDate" if name.startswith("period") else "valueString"
        entries.append({"name": name, kind: value})
    return {"resourceType": "Parameters", "parameter": entries}


MODEL = RiskModel("https://models.example/cms-hcc", "28", ("https://models.example", "CMS-HCC"), measure_id="hcc")


@dataclass(frozen=True)
class RiskRoom:
    """Coding gaps for everybody who has coverage, so that their reports can be looked at."""

    store: ResourceStore

    def models(self) -> Sequence[RiskModel]:
        """One model."""
        return [MODEL]

    def gaps(self, model: RiskModel, period: tuple[date, date], persons: Sequence[str]) -> list[CodingGaps]:
        """A gap that is open, with evidence, and one that is closed."""
        found = []
        for one in persons:
            evidence = tuple(
                f"Coverage/{id}" for id in self.store.ids("Coverage", [("beneficiary", f"Patient/{one}")])[:1]
            )
            day, codes = date(2025, 6, 1), ("E11.9",)
            status = "applied-not-superseded"
            old = ConditionCategory("36", "Diabetes", "historic", "open-gap", day, status, codes, evidence)
            new = ConditionCategory("226", "Heart failure", "net-new", "pending", hierarchical_status=status)
            found.append(CodingGaps(one, model, period, datetime(2026, 1, 15, tzinfo=UTC), (old, new)))
        return found


@contextmanager
def running(folder: Path, patients: int = 60) -> Iterator[Face]:
    """A gateway with a small population behind it, while the block lasts."""
    port = free_port()
    options = Options(folder, patients, port=port)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "demo-folder").touch()
    shown = certificate(folder, "localhost")
    gateway = open_gateway(options)
    contracts = gateway.data_folder / "contracts"
    contracts.mkdir()
    for file in CONTRACTS:  # where a server looks for them
        shutil.copy(file, contracts)
    summary = run(gateway, options, Steps(Console(quiet=True)))
    gateway.engine.dispose()
    root = f"https://localhost:{port}"
    gateway = Gateway(gateway.settings.model_copy(update={"public_url": root, "tls_certificate": shown}))
    gateway.__dict__["coding_gaps"] = (RiskRoom(gateway.resources),)
    jwks: dict[str, dict[str, Any]] = {}
    keys = ThreadingHTTPServer(("127.0.0.1", 0), _serving(jwks))
    threading.Thread(target=keys.serve_forever, daemon=True).start()
    try:
        with (
            GatewayServer(gateway, port=port),
            Worker(gateway, background=True),
            httpx.Client(verify=ssl.create_default_context(cafile=str(shown)), timeout=HANG, trust_env=False) as http,
        ):
            yield Face(gateway, summary, root, http, jwks, f"http://127.0.0.1:{keys.server_address[1]}", shown)
    finally:
        keys.shutdown()
        keys.server_close()
        gateway.engine.dispose()


def _serving(jwks: Mapping[str, Mapping[str, Any]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(jwks.get(self.path, {"keys": []})).encode()
            self.send_response(200 if self.path in jwks else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing on the console."""

    return Handler
