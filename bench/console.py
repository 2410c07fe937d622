"""Server time of every page of the console over a population of 100,000 members.

    python -m bench.console [--patients 100000] [--folder FOLDER] [--times 100] [--only TEXT]

The population is built once by ``bench.main_job`` (generate, pull, match, attribute two contracts, evaluate, settle)
and ``bench.console_lake`` (everything else that pages show), and kept in FOLDER. Pages are not listed here: they are
the GET routes of the console's router, and addresses of each, with ids of many members, lines and reports, are found by
following links from the first page. Each page is asked for in this process over ASGI, without a network, by somebody
who sees everybody, by a party of a contract, and by a practice that sees its own. ``first`` is the first request of a
page in a new process, which may compute what later ones read; p50 and p95 are over TIMES requests that cycle through
the addresses. What follows a job is timed until its first event. Seconds of CPU are those of all threads of the
process; wall time depends on who else uses the machine. Ends with 1 when a page is above the limit, or was not timed
though it is not closed to the reader for a reason that is given here.
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
from collections.abc import Iterable, MutableMapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
from fastapi.routing import APIRoute
from starlette.routing import Match

from bench.console_lake import fill as fill_rooms
from bench.console_lake import open_gateway
from fhir_gateway.console.accounts import User
from fhir_gateway.console.app import with_console
from fhir_gateway.console.frame import PATH, Frame
from fhir_gateway.console.pages import PAGES
from fhir_gateway.console.sessions import Sessions
from fhir_gateway.factory import Gateway

LIMIT = 0.200
#: Addresses of one page at most, and pages that are read to find them.
_ADDRESSES, _CRAWLED = 60, 6
_LINK = re.compile(r'(?:href|hx-get|data-follow)="([^"#]+)"')
_FILTERS = re.compile(r'<form method="get"[^>]*>(.*?)</form>', re.DOTALL)
_CHOICE = re.compile(r'<select[^>]* name="([^"]+)"[^>]*>(.*?)</select>', re.DOTALL)
_OPTION = re.compile(r'<option(?: value="([^"]*)"|())[^>]*>([^<]*)</option>')
_ELSEWHERE = re.compile(r'formaction="([^"]+)"')

#: Reports to hand round and statements: made while somebody waits, beside the pages.
REPORTS = (
    *(f"/reports/{name}.{{form}}" for name in ("quality", "board", "loss-ratio")),
    "/settlements/{run_id}/statement.{form}",
)
#: Pages that readers who see a part are refused, by how their routes begin, with the reason. 403 or 404 is checked.
OWN = "the gateway's own: not for who sees a part"
PARTIES = "terms and money are for the contract's parties"
_OPERATORS = dict.fromkeys(("/endpoints", "/pulls", "/operations", "/alerts/channels"), OWN)
CLOSED: dict[str, dict[str, str]] = {
    "a party of a contract": _OPERATORS,
    "a practice": _OPERATORS
    | dict.fromkeys(("/contracts/{contract_id}", "/settlements", "/disputes/{dispute_id}"), PARTIES)
    | {
        "/utilization/{report_id}": "reported of contracts and of everybody",
        "/population/{contract_id}/churn": "of all practices of a contract",
    },
}


@dataclass(frozen=True)
class Timed:
    """Seconds of one request."""

    wall: float
    cpu: float


@dataclass
class Walk:
    """What a reader found: addresses by route, and what the first request of each took."""

    first: dict[str, Timed] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    found: dict[str, list[str]] = field(default_factory=dict)


def fill(folder: Path, patients: int) -> None:
    """The population with its results, unless it is there."""
    if not (folder / "filled").exists():
        command = [sys.executable, "-m", "bench.main_job", "--patients", str(patients), "--buckets", "16"]
        subprocess.run([*command, "--folder", str(folder)], check=True, stdout=sys.stderr)
        (folder / "filled").touch()
    fill_rooms(folder)


class Reader:
    """Somebody signed in who asks for pages in this process."""

    def __init__(self, gateway: Gateway, name: str, labels: tuple[str, ...] | None) -> None:
        sessions = Sessions(gateway.engine)
        self.name, self._app = name, with_console(gateway)
        cookie = sessions.start(User(name, "local", ("admin",), labels))
        session = sessions.find(cookie)
        assert session is not None
        self.form_token = session.form_token
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self._app),
            base_url=gateway.settings.public_url,
            cookies={"console": cookie},
            timeout=None,  # noqa: S113 nothing is waited for but this process
        )

    async def get(self, address: str) -> tuple[httpx.Response, Timed]:
        """The answer, and what it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        ask = self._first_event if address.endswith("/events") else self._http.get
        answer = await ask(address)
        return answer, Timed(time.perf_counter() - wall, time.process_time() - cpu)

    async def post(self, address: str, fields: dict[str, str]) -> tuple[httpx.Response, Timed]:
        """A form as our script sends it, for a part of the page."""
        wall, cpu = time.perf_counter(), time.process_time()
        sent = {"form_token": self.form_token, **fields}
        answer = await self._http.post(address, data=sent, headers={"HX-Request": "true"})
        return answer, Timed(time.perf_counter() - wall, time.process_time() - cpu)

    async def _first_event(self, address: str) -> httpx.Response:
        """What a stream says first; then its reader is gone."""
        told = asyncio.Event()
        answer: dict[str, Any] = {"status": 0, "body": b""}

        async def receive() -> MutableMapping[str, Any]:
            await told.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            answer["status"] = message.get("status", answer["status"])
            answer["body"] = answer["body"] or message.get("body", b"")
            if answer["body"]:
                told.set()

        request = self._http.build_request("GET", address)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path,
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("127.0.0.1", 1),
            "server": (request.url.host, request.url.port),
        }
        serving = asyncio.ensure_future(self._app(scope, receive, send))
        waiting = asyncio.ensure_future(told.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        serving.cancel()
        await asyncio.gather(serving, waiting, return_exceptions=True)
        return httpx.Response(answer["status"], content=answer["body"])


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


async def walk(reader: Reader, pages: Pages) -> Walk:
    """Follow links from the first page. Of what is not looked at here, a link is as good as the page."""
    made = Walk()
    linked: dict[str, dict[str, None]] = defaultdict(dict)
    refused: set[str] = set()
    crawled: dict[str, int] = defaultdict(int)
    waiting, seen = [f"{PATH}/"], {f"{PATH}/"}
    while waiting:
        address = waiting.pop(0)
        route = pages.of(address)
        most = 1 if "." in (route or "") else _CRAWLED  # files lead nowhere
        if route is None or route in REPORTS or crawled[route] >= most:
            continue
        crawled[route] += 1
        answer, took = await reader.get(address)
        made.first.setdefault(route, took)
        linked[route].setdefault(address)
        if answer.status_code != 200:
            refused.add(address)
            _no_error(address, answer)
            continue
        made.sizes[route] = max(made.sizes.get(route, 0), len(answer.content))
        if "html" not in answer.headers.get("content-type", ""):
            continue
        for target in _links(address.partition("?")[0], answer.text):
            kind = pages.of(target) if target.startswith(PATH) else None
            if kind is not None and target not in seen:
                seen.add(target)
                waiting.append(target)
                linked[kind].setdefault(target)
    for route, those in linked.items():
        if left := [one for one in those if one not in refused]:
            made.found[route] = left
    return made


def _links(here: str, page: str) -> list[str]:
    """Where a page leads: its links, and what the choices of its filters ask for."""
    found = [html.unescape(one) for one in _LINK.findall(page)]
    for form in _FILTERS.findall(page):
        targets = [html.unescape(one) for one in _ELSEWHERE.findall(form)] or [here]
        for name, options in _CHOICE.findall(form):
            given = _OPTION.finditer(options)
            values = [html.unescape(one[3] if one[1] is None else one[1]) for one in given]
            found += [f"{one}?{urlencode({name: value})}" for one in targets for value in values[:_ADDRESSES] if value]
    return [f"{here}{one}" if one.startswith("?") else one for one in found]


async def measured(
    reader: Reader, pages: Pages, times: int, only: str, known: Walk | None
) -> tuple[Walk, list[list[str]]]:
    """What the reader found, and a row of the table for each page but reports; ``known``: by the first reader."""
    made = await walk(reader, pages)
    rows = []
    for page in pages.routes:
        if only not in page.path or page.path in REPORTS:
            continue
        here = made.found.get(page.path)
        if here:
            rows.append(await _row(reader, page.path, here, made, times))
        else:
            rows.append([page.path, await _why(reader, page.path, known), *[""] * 7])
    return made, rows


async def _why(reader: Reader, route: str, known: Walk | None) -> str:
    """Why a page was not timed: it is closed to the reader, as a try shows. ``NOT TIMED`` when nothing says so."""
    reasons = [why for begins, why in CLOSED.get(reader.name, {}).items() if route.startswith(begins)]
    addresses = known.found.get(route, [])[:3] if known else []
    if not reasons or not addresses:
        return "NOT TIMED: no link leads there"
    tried = {(await reader.get(one))[0].status_code for one in addresses}
    if not tried <= {403, 404}:
        return f"NOT TIMED: {', '.join(map(str, sorted(tried)))} though closed"
    return f"closed ({', '.join(map(str, sorted(tried)))}): {reasons[0]}"


async def _row(reader: Reader, route: str, addresses: Iterable[str], made: Walk, times: int) -> list[str]:
    addresses = list(dict.fromkeys(addresses))[:_ADDRESSES]
    random.Random(7).shuffle(addresses)  # noqa: S311 no secret
    taken = []
    for number in range(times):
        address = addresses[number % len(addresses)]
        answer, took = await reader.get(address)
        if answer.status_code != 200:
            raise SystemExit(f"{address}: {answer.status_code}")
        taken.append(took)
    return _shown(route, len(addresses), made.sizes.get(route, 0), made.first[route], taken)


async def tried(reader: Reader, made: Walk, times: int) -> list[list[str]]:
    """What-if by a slider: each move settles anew."""
    rows = []
    for page in made.found.get("/contracts/{contract_id}/what-if", []):
        text = (await reader.get(page))[0].text
        name, value = re.findall(r'<input type="number"[^>]* name="([^"]+)"[^>]* value="([^"]+)"', text)[0]
        given = [f"{float(value) * (1 + number / 100):.4f}" for number in range(times + 1)]
        answers = [await reader.post(page, {name: one}) for one in given]
        for answer, _ in answers:
            if answer.status_code != 200:
                raise SystemExit(f"{page}: {answer.status_code}")
        label = f"POST {page.removeprefix(PATH)}"
        rows.append(_shown(label, 1, len(answers[0][0].content), answers[0][1], [took for _, took in answers[1:]]))
    return rows


async def handed_round(reader: Reader, pages: Pages, made: Walk) -> list[list[str]]:
    """Reports: what one takes, and what the first page takes at most while it is made."""
    rows = []
    for route in (one.path for one in pages.routes if one.path in REPORTS):
        for address in made.found.get(route, []):
            if not address.partition("?")[0].endswith((".pdf", ".html")):
                continue
            making = asyncio.ensure_future(reader.get(address))
            meanwhile = []
            while not making.done():
                meanwhile.append((await reader.get(f"{PATH}/"))[1].wall)
                await asyncio.sleep(0.02)
            answer, took = await making
            if answer.status_code != 200:
                raise SystemExit(f"{address}: {answer.status_code}")
            shown = address.removeprefix(PATH)
            times = (took.wall, took.cpu, max(meanwhile))
            rows.append([shown, f"{len(answer.content) / 1024:,.0f}", *(f"{one * 1000:,.0f}" for one in times)])
    return rows


def _shown(name: str, addresses: int, size: int, first: Timed, taken: Sequence[Timed]) -> list[str]:
    wall, cpu = sorted(one.wall for one in taken), sorted(one.cpu for one in taken)
    slow = _high(cpu) > LIMIT or _high(wall) > LIMIT
    times = (first.wall, statistics.median(wall), _high(wall), statistics.median(cpu), _high(cpu))
    shown = [f"{one * 1000:,.0f}" for one in times]
    return [name, str(addresses), f"{size / 1024:,.0f}", *shown, "ABOVE THE LIMIT" if slow else ""]


def _no_error(address: str, answer: httpx.Response) -> None:
    if answer.status_code >= 500:
        raise SystemExit(f"{address}: {answer.status_code}")


def _high(values: list[float]) -> float:
    """The 95th percentile of sorted values."""
    return values[min(len(values) - 1, -(-len(values) * 95 // 100) - 1)]


def _print(rows: Iterable[Sequence[str]]) -> None:
    print(f"{'page':<58}{'addresses':>10}{'KiB':>6}{'first':>8}{'p50':>7}{'p95':>7}{'CPU p50':>9}{'p95':>7}")
    for page, count, size, begun, half, high, cpu, high_cpu, slow in rows:
        if not half:
            print(f"{page:<58}  {count}")
            continue
        times = f"{begun:>8}{half:>7}{high:>7}{cpu:>9}{high_cpu:>7}"
        print(f"{page:<58}{count:>10}{size:>6}{times}  {slow}".rstrip())


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
        )
        practice = next(one for one in labels if one.startswith("organization:"))
        contract = next(one for one in labels if one.startswith("contract:"))
        readers = (
            ("who sees everybody", None),
            ("a party of a contract", (contract,)),
            ("a practice", (practice,)),
        )
        pages, known = Pages(gateway), None
        above = untimed = 0
        for who, given in readers:
            reader = Reader(gateway, who, given)
            made, rows = asyncio.run(measured(reader, pages, options.times, options.only, known))
            print(f"\n{who}: milliseconds of {options.times} requests each; limit of p95: {LIMIT * 1000:.0f}")
            _print(rows)
            if known is None and options.only in "/contracts/{contract_id}/what-if":
                moves = asyncio.run(tried(reader, made, options.times))
                _print(moves)
                rows += moves
            known = known or made
            above += sum(bool(row[-1]) for row in rows)
            untimed += sum(row[1].startswith("NOT TIMED") for row in rows)
            if options.only in "/reports":
                print(f"\n{'report':<72}{'KiB':>6}{'wall':>8}{'CPU':>8}{'a page meanwhile, at most':>28}")
                for row in asyncio.run(handed_round(reader, pages, made)):
                    print(f"{row[0]:<72}{row[1]:>6}{row[2]:>8}{row[3]:>8}{row[4]:>28}")
        print(f"\n{above} above the limit, {untimed} not timed")
    if above or untimed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
