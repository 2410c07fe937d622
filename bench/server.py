"""Reads, searches and evaluations of one subject over HTTP at 64 connections, next to a bare FastAPI route.

Server and load are processes of their own, each on one core where there are two. ``--database URL`` takes PostgreSQL
in the place of SQLite (``make bench-server`` runs both).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

CONNECTIONS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", help="SQLAlchemy URL of an empty PostgreSQL database; default: SQLite")
    parser.add_argument("--patients", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--only", help="rows whose name begins so")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(json.loads(given.serve))
        return
    with tempfile.TemporaryDirectory() as name:
        about = fill(Path(name), given.patients, given.database)
        kind = "PostgreSQL" if given.database else "SQLite"
        print(f"{platform.machine()}, Python {platform.python_version()}, {kind}, {given.patients} patients")
        print(f"{CONNECTIONS} connections, {given.seconds:g} s each; p50 and p99 in ms")
        print(
            "CPU: of the serving process for one request, in ms; of bare: our requests/s by theirs, their CPU by ours"
        )
        print("what | bytes | requests/s | p50 | p99 | CPU | bare requests/s | p99 | CPU | of bare: requests/s | CPU")
        for row in measure(about, given.seconds, given.only or ""):
            print(" | ".join(row))


def fill(folder: Path, patients: int, database: str | None) -> dict[str, Any]:
    """The demo's population and results, and a token."""
    from rich.console import Console

    from fhir_gateway.demo.steps import Steps
    from fhir_gateway.demo.tour import Options, open_gateway, run
    from fhir_gateway.factory import Gateway

    options = Options(folder=folder, patients=patients, port=free_port())
    gateway = open_gateway(options)
    if database:
        gateway = Gateway(gateway.settings.model_copy(update={"database_url": SecretStr(database)}))
    run(gateway, options, Steps(Console(quiet=True)))
    reports = gateway.resources.ids("Group")
    listed = gateway.resources.read("Group", reports[0]).json()["member"]
    members = [one["entity"]["reference"].partition("/")[2] for one in listed]
    measures = [gateway.resources.read("Measure", one).json() for one in gateway.resources.ids("Measure")]
    evaluable = next(one["id"] for one in measures if one.get("library"))
    return {
        "data": str(gateway.settings.data_dir),
        "database": database,
        "port": options.port,
        "members": members[:200],
        "measure": evaluable,
        "folder": str(folder),
    }


def serve(about: Mapping[str, Any]) -> None:
    """In a process of its own: the gateway, or the bare route."""
    logging.basicConfig(level=logging.ERROR)
    if "body" in about:
        bare(Path(about["body"]).read_bytes(), about["port"])
        return
    from fhir_gateway.config import Settings
    from fhir_gateway.factory import Gateway
    from fhir_gateway.server.serve import serve as serve_gateway

    database = about["database"]
    settings = Settings.read(
        data_dir=Path(about["data"]),
        database_url=database,
        lake_url=None,
        lake_buckets=2,
        encryption_key=None,
        public_url=f"http://127.0.0.1:{about['port']}",
        client_requests_per_minute=0,
        token_requests_per_minute=0,
        log_level="error",
    )
    serve_gateway(Gateway(settings), port=about["port"])


def bare(body: bytes, port: int) -> None:
    """A FastAPI route that returns bytes, by the same server."""
    import uvicorn
    from fastapi import FastAPI, Response

    app = FastAPI()

    @app.get("/")
    async def answer() -> Response:
        return Response(body, media_type="application/fhir+json")

    uvicorn.run(app, port=port, log_level="error", access_log=False, http="httptools")


def measure(about: Mapping[str, Any], seconds: float, only: str = "") -> Iterator[tuple[str, ...]]:
    """One row for each kind of request whose name begins with ``only``."""
    base = f"http://127.0.0.1:{about['port']}"
    with running(about):
        members, measured = about["members"], about["measure"]
        period = "periodStart=2025-01-01&periodEnd=2025-12-31"
        evaluate = f"/fhir/Measure/{measured}/$evaluate-measure?{period}&subject=Patient/"
        requests = {
            "metadata": ["/fhir/metadata"],
            "read Patient": [f"/fhir/Patient/{one}" for one in members],
            "search Patient by _id": [f"/fhir/Patient?_id={one}" for one in members],
            "search MeasureReport by patient": [f"/fhir/MeasureReport?patient={one}" for one in members],
            "search Observation by patient": [f"/fhir/Observation?patient={one}" for one in members],
            "$evaluate-measure of a subject": [evaluate + one for one in members],
        }
        for what, paths in requests.items():
            if not what.startswith(only):
                continue
            headers = {"Authorization": f"Bearer {token_of(about, base)}"}
            if what.startswith("$"):  # of subjects who are in the measure's initial population, warm
                with httpx.Client(base_url=base, headers=headers, timeout=60) as client:
                    paths = [path for path in paths[:60] if client.get(path).status_code == 200]
            sample = httpx.get(base + paths[0], headers=headers, timeout=60).raise_for_status()
            asyncio.run(load(about["port"], paths, headers, min(seconds, 2)))  # warm
            ours = asyncio.run(load(about["port"], paths, headers, seconds))
            port = free_port()
            body = Path(about["folder"]) / "body"
            body.write_bytes(sample.content)
            with running({"body": str(body), "port": port}):
                theirs = asyncio.run(load(port, ["/"], headers, seconds))
            yield (
                what,
                f"{len(sample.content):,}",
                f"{ours['rate']:,.0f}",
                f"{ours['p50']:.1f}",
                f"{ours['p99']:.1f}",
                f"{ours['cpu']:.2f}",
                f"{theirs['rate']:,.0f}",
                f"{theirs['p99']:.1f}",
                f"{theirs['cpu']:.2f}",
                f"{ours['rate'] / theirs['rate']:.2f}",
                f"{theirs['cpu'] / ours['cpu']:.2f}",
            )


def token_of(about: Mapping[str, Any], base: str) -> str:
    """A token of the demo's client."""
    from fhir_gateway.auth.assertion import client_assertion
    from fhir_gateway.demo.client import CLIENT_ID, SCOPES
    from fhir_gateway.demo.tour import Options

    key = json.loads(Options(folder=Path(about["folder"])).key_file.read_text())
    form = {
        "grant_type": "client_credentials",
        "scope": SCOPES,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": client_assertion(CLIENT_ID, f"{base}/auth/token", key, "ES384"),
    }
    return str(httpx.post(f"{base}/auth/token", data=form).raise_for_status().json()["access_token"])


async def load(port: int, paths: Sequence[str], headers: Mapping[str, str], seconds: float) -> dict[str, float]:
    """Ask over 64 connections for some seconds; every answer must be a 200."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    asked = [f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{lines}\r\n".encode() for path in paths]
    times: list[float] = []
    before, started = cpu_of(port), time.perf_counter()
    ends = started + seconds
    turned = (asked[number % len(asked) :] + asked for number in range(CONNECTIONS))
    await asyncio.gather(*(ask(port, one, times, ends) for one in turned))
    elapsed = time.perf_counter() - started
    times.sort()
    return {
        "rate": len(times) / elapsed,
        "p50": times[len(times) // 2] * 1000,
        "p99": times[int(len(times) * 0.99)] * 1000,
        "cpu": (cpu_of(port) - before) / len(times) * 1000,
    }


async def ask(port: int, requests: Sequence[bytes], times: list[float], ends: float) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while (started := time.perf_counter()) < ends:
        writer.write(requests[number % len(requests)])
        number += 1
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"{requests[(number - 1) % len(requests)][:200]!r}: {head.decode()}")
        lowered = head.lower()
        at = lowered.find(b"content-length:")
        if at < 0:
            raise SystemExit("an answer without its length")
        await reader.readexactly(int(lowered[at + 15 : lowered.index(b"\r\n", at)]))
        times.append(time.perf_counter() - started)
    writer.close()


_PROCESSES: dict[int, int] = {}


def cpu_of(port: int) -> float:
    """CPU seconds that the server on a port has taken (Linux)."""
    fields = Path(f"/proc/{_PROCESSES[port]}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(about: Mapping[str, Any]) -> Iterator[None]:
    """The server in a process of its own."""
    command = [sys.executable, "-m", "bench.server", "--serve", json.dumps(about)]
    with subprocess.Popen(command) as process:
        try:
            port = int(about["port"])
            _PROCESSES[port] = process.pid
            deadline = time.monotonic() + 60
            while True:
                try:
                    httpx.get(f"http://127.0.0.1:{port}/", timeout=5)
                    break
                except httpx.TransportError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit("the server did not start") from None
                    time.sleep(0.2)
            yield
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
