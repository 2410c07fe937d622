"""Server time of every page of the console over a population of 100,000 members.

    python -m bench.console [--patients 100000] [--folder FOLDER] [--times 100] [--only TEXT]

The population is built once by ``bench.main_job`` (generate, pull, match, attribute two contracts, evaluate, settle),
then attributed a second time so that there is churn, and kept in FOLDER. Pages are not listed here: they are the GET
routes of the console's router, and addresses of each, with ids of many members, lines and reports, are found by
following links from the first page. Each page is asked for in this process over ASGI, without a network, first by
somebody who sees everybody and then by a practice that sees its own. ``first`` is the first request of a page in a new
process, which may compute what later ones read; p50 and p95 are over TIMES requests that cycle through the addresses.
Seconds of CPU are those of all threads of the process; wall time depends on who else uses the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import logging
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import httpx
from fastapi.routing import APIRoute
from starlette.routing import Match

from fhir_gateway.config import Settings
from fhir_gateway.console.accounts import User
from fhir_gateway.console.app import with_console
from fhir_gateway.console.frame import PATH, Frame
from fhir_gateway.console.pages import PAGES
from fhir_gateway.console.sessions import Sessions
from fhir_gateway.demo.tour import CONTRACTS
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.attribution_runs import evidence_runs

LIMIT = 0.200
#: Addresses of one page at most, and pages that are read to find them.
_ADDRESSES, _CRAWLED = 60, 12
_LINK = re.compile(r'(?:href|hx-get|data-follow)="([^"#]+)"')

_FILTERS = re.compile(r'<form method="get"[^>]*>(.*?)</form>', re.DOTALL)
_CHOICE = re.compile(r'<select[^>]* name="([^"]+)"[^>]*>(.*?)</select>', re.DOTALL)
_OPTION = re.compile(r'<option(?: value="([^"]*)")?[^>]*>([^<]*)</option>')


@dataclass(frozen=True)
class Timed:
    """Seconds of one request."""

    wall: float
    cpu: float


def fill(folder: Path, patients: int) -> None:
    """The population with its results, unless it is there."""
    if not (folder / "filled").exists():
        command = [sys.executable, "-m", "bench.main_job", "--patients", str(patients), "--buckets", "16"]
        subprocess.run([*command, "--folder", str(folder)], check=True, stdout=sys.stderr)
        (folder / "filled").touch()
    gateway = open_gateway(folder)
    for path in CONTRACTS:  # claims paid by then only: members come and go between the two attributions
        text = path.read_text(encoding="utf-8")
        earlier = folder / path.name
        earlier.write_text(text.replace("paid_through = 2026-03-31", "paid_through = 2025-12-31"), encoding="utf-8")
        identifier = re.search(r'^id = "([^"]+)"', text, re.MULTILINE)
        assert identifier is not None
        if len(evidence_runs(gateway, identifier[1])) < 2:
            attribute(gateway, str(earlier))
            attribute(gateway, str(path))
    gateway.engine.dispose()


def open_gateway(folder: Path) -> Gateway:
    """A gateway over the population."""
    return Gateway(Settings(data_dir=folder / "gateway", lake_buckets=None, log_level="error"))


class Reader:
    """Somebody signed in who asks for pages in this process."""

    def __init__(self, gateway: Gateway, name: str, labels: tuple[str, ...] | None) -> None:
        cookie = Sessions(gateway.engine).start(User(name, "local", ("admin",), labels))
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(with_console(gateway)),
            base_url=gateway.settings.public_url,
            cookies={"console": cookie},
            timeout=None,  # noqa: S113 nothing is waited for but this process
        )

    async def get(self, address: str) -> tuple[httpx.Response, Timed]:
        """The answer, and what it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        answer = await self._http.get(address)
        return answer, Timed(time.perf_counter() - wall, time.process_time() - cpu)


class Pages:
    """The console's own GET routes, and which of them an address is of."""

    def __init__(self, gateway: Gateway) -> None:
        frame = Frame(gateway)
        routes = [one for page in PAGES for one in page.router(frame).routes if isinstance(one, APIRoute)]
        self.routes = [one for one in routes if "GET" in (one.methods or ())]

    def of(self, address: str) -> str | None:
        """The route of an address; None when it is no page."""
        path = address.partition("?")[0].removeprefix(PATH) or "/"
        scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
        return next((one.path for one in self.routes if one.matches(scope)[0] is Match.FULL), None)


async def measured(reader: Reader, pages: Pages, times: int, only: str) -> list[list[str]]:
    """Rows of the table for one reader."""
    first: dict[str, Timed] = {}
    addresses: dict[str, dict[str, None]] = defaultdict(dict)
    linked: dict[str, list[str]] = defaultdict(list)
    refused: set[str] = set()
    sizes: dict[str, int] = {}
    crawled: dict[str, int] = defaultdict(int)
    waiting, seen = [f"{PATH}/"], {f"{PATH}/"}
    while waiting:
        address = waiting.pop(0)
        route = pages.of(address)
        if route is None or crawled[route] >= _CRAWLED:
            continue
        crawled[route] += 1
        answer, took = await reader.get(address)
        first.setdefault(route, took)
        if answer.status_code == 200:
            addresses[route].setdefault(address)
            sizes[route] = max(sizes.get(route, 0), len(answer.content))
        else:
            refused.add(address)
            _no_error(address, answer)
        if "html" not in answer.headers.get("content-type", ""):
            continue
        for found in _links(answer.text):
            target = f"{address.partition('?')[0]}{found}" if found.startswith("?") else found
            kind = pages.of(target) if target.startswith(PATH) else None
            if kind is not None and target not in seen:
                seen.add(target)
                waiting.append(target)
                linked[kind].append(target)
    rows = []
    for page in pages.routes:
        if only not in page.path:
            continue
        found_here = [*addresses[page.path], *(one for one in linked[page.path] if one not in refused)]
        if not found_here:
            rows.append([page.path, "no link leads there", *[""] * 7])
            continue
        rows.append(await _row(reader, page.path, list(dict.fromkeys(found_here))[:_ADDRESSES], first, sizes, times))
    return rows


def _links(page: str) -> list[str]:
    """Where a page leads: its links, and what the choices of its filters ask for."""
    found = [html.unescape(one) for one in _LINK.findall(page)]
    for form in _FILTERS.findall(page):
        for name, options in _CHOICE.findall(form):
            values = [html.unescape(value or text) for value, text in _OPTION.findall(options)]
            found += [f"?{urlencode({name: value})}" for value in values[:_ADDRESSES] if value]
    return found


async def _row(
    reader: Reader, route: str, addresses: list[str], first: dict[str, Timed], sizes: dict[str, int], times: int
) -> list[str]:
    random.Random(7).shuffle(addresses)  # noqa: S311 no secret
    taken = []
    for number in range(times):
        answer, took = await reader.get(addresses[number % len(addresses)])
        _no_error(addresses[number % len(addresses)], answer)
        taken.append(took)
    wall, cpu = sorted(one.wall for one in taken), sorted(one.cpu for one in taken)
    slow = _high(cpu) > LIMIT or _high(wall) > LIMIT
    shown = (first[route].wall, statistics.median(wall), _high(wall), statistics.median(cpu), _high(cpu))
    return [
        route,
        str(len(addresses)),
        f"{sizes.get(route, 0) / 1024:,.0f}",
        *(f"{one * 1000:,.0f}" for one in shown),
        "above the limit" if slow else "",
    ]


def _no_error(address: str, answer: httpx.Response) -> None:
    if answer.status_code >= 500:
        raise SystemExit(f"{address}: {answer.status_code}")


def _high(values: list[float]) -> float:
    """The 95th percentile of sorted values."""
    return values[min(len(values) - 1, -(-len(values) * 95 // 100) - 1)]


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="kept afterwards; default: a temporary one")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--only", default="", help="pages with this in their path")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with nullcontext(str(options.folder)) if options.folder else tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        fill(folder, options.patients)
        gateway = open_gateway(folder)
        members = len(gateway.lake.members())
        print(f"{members:,} members, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
        labels = sorted(
            one["code"]
            for found in gateway.resources.search("Group", count=100, total=False).resources
            for one in found.json().get("meta", {}).get("security", ())
            if one["code"].startswith("organization:")
        )
        above = 0
        for who, given in (("who sees everybody", None), ("a practice", (labels[0],))):
            rows = asyncio.run(measured(Reader(gateway, who, given), Pages(gateway), options.times, options.only))
            print(f"\n{who}: milliseconds of {options.times} requests each; limit of p95: {LIMIT * 1000:.0f}")
            print(f"{'page':<58}{'addresses':>10}{'KiB':>6}{'first':>8}{'p50':>7}{'p95':>7}{'CPU p50':>9}{'p95':>7}")
            for page, count, size, begun, half, high, cpu, high_cpu, slow in rows:
                print(
                    f"{page:<58}{count:>10}{size:>6}{begun:>8}{half:>7}{high:>7}{cpu:>9}{high_cpu:>7}  {slow}".rstrip()
                )
            above += sum(bool(row[-1]) for row in rows)
        print(f"\n{above} above the limit")


if __name__ == "__main__":
    main()
