"""A clock that jumps: processes whose time of day follows a file that a test writes (``clock.c``).

Monotonic time goes on as it does when somebody sets a machine's clock.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from fhir_gateway.auth.assertion import client_assertion
from fhir_gateway.jobs.clock import instant
from fhir_gateway.subscriptions.models import read_subscription
from tests.support.chaos import PULL, ChaoticSource, Field, check, field_of, quiet_content, resources
from tests.support.faults.callers import Caller
from tests.support.faults.site import Site, World, differing, outcome
from tests.support.serving import free_port
from tests.support.subscriber import Subscriber
from tests.support.waiting import HANG, until

MINUTE, DAY = 60, 86_400
_MOST_JUMPS = 5
JUMPS = (DAY, -DAY, 5 * MINUTE, -5 * MINUTE)
_SOURCE = Path(__file__).with_name("clock.c")
_ROOT = Path(__file__).parents[3]
_TOPIC = "http://hl7.org/fhir/us/davinci-atr/SubscriptionTopic/atr-list-change"


@dataclass
class Clock:
    """The time of day of processes that have its variables, in seconds beside the true one."""

    library: Path
    file: Path
    ahead: int = 0

    @classmethod
    def at(cls, folder: Path) -> Clock:
        """A clock that is right; skips visibly where there is no compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("needs a C compiler (Debian: apt-get install gcc libc6-dev)")
        found = cls(folder / "clock.so", folder / "clock")
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(found.library), str(_SOURCE), "-ldl"]
        subprocess.run(command, check=True, timeout=HANG)
        found.file.write_bytes(bytes(8))
        return found

    def jump(self, seconds: int) -> None:
        """Set it so far ahead, or back, from where it is."""
        self.ahead += seconds
        with self.file.open("r+b") as file:
            file.write(struct.pack("=q", self.ahead * 1_000_000_000))

    @property
    def now(self) -> int:
        """The time of day that those processes see, in seconds since 1970."""
        return int(time.time()) + self.ahead

    @property
    def variables(self) -> dict[str, str]:
        """Of a process that shall see this clock."""
        return {"LD_PRELOAD": str(self.library), "FAULTS_CLOCK": str(self.file)}

    @contextmanager
    def running(self, *arguments: str, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """The command line in a process with this clock; killed in the end."""
        environment = {**os.environ, **variables, **self.variables}
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "fhir_gateway.cli", *arguments],
                env=environment, cwd=_ROOT, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                yield process
            finally:
                process.kill()
                process.wait()


def pulls(folder: Path, seed: int) -> int:
    """A pull whose clock jumps before answers to some of its requests; how often it jumped.

    Tokens expire, the source asks for patience, exports are polled: no wait becomes endless, nothing comes twice.
    """
    chance = random.Random(seed)  # noqa: S311 - a seed, no secret
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock.at(folder)
    source = ChaoticSource(seed, rate=0.05)
    source.files = resources()
    expected = quiet_content(folder / "quiet", resources())
    jumped = 0

    def on_request(number: int, kind: str) -> None:
        nonlocal jumped
        if number % 4 == 0 and jumped < _MOST_JUMPS:
            clock.jump(chance.choice(JUMPS))
            jumped += 1

    with field_of(folder / "field", source) as field:
        source.on_request = on_request
        _run(clock, field, folder / "log")
        source.on_request = lambda number, kind: None
        check(field, expected)
    return jumped


def _run(clock: Clock, field: Field, log: Path, most: int = 10) -> None:
    """Until the pull is committed: what a source refuses because our clock is wrong, it is asked for again."""
    for _ in range(most):
        data = str(field.folder / "data")
        with clock.running("--data-dir", data, *PULL, log=log) as process:
            if process.wait(HANG) == 0:
                return
        clock.jump(-clock.ahead)  # a source that tells no time refuses us until somebody sets our clock right
    raise AssertionError(log.read_text("utf-8", "replace")[-3000:])


def server(folder: Path, world: World, pulled: Path, expected: Mapping[str, Any]) -> int:
    """A server that does jobs, gives tokens and tells subscribers, while its clock jumps; how often it jumped."""
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock.at(folder)
    site = Site.of(folder / "site", world, pulled)
    port = free_port()
    public = f"http://127.0.0.1:{port}"
    caller = Caller.registered(site.gateway, public)
    jumps = 0
    settings = {**site.variables, "FHIR_GATEWAY_PUBLIC_URL": public, "FHIR_GATEWAY_SUBSCRIPTION_ENDPOINTS": "any"}
    with (
        Subscriber() as subscriber,
        clock.running("serve", "--port", str(port), log=folder / "serve.log", **settings) as process,
    ):
        until(lambda: _answers(public))
        _subscribe(site, subscriber.url)
        proof = _proof(clock, caller)
        assert caller.token(proof).status_code == 200
        told = 0
        for kind, jump in zip(("evaluate", "attribute", "settle"), (DAY, -DAY, -DAY), strict=True):
            clock.jump(jump)
            jumps += 1
            site.submit([kind])
            told += 1
            site.gateway.resources.put({"resourceType": "Group", "id": "told", "type": "person", "actual": True,
                                        "quantity": told})  # fmt: skip
            events = told
            until(lambda: events in _numbers(subscriber))  # noqa: B023 - waited for here
            fresh = caller.token(_proof(clock, caller))
            assert fresh.status_code == 200, fresh.text
            headers = {"Authorization": f"Bearer {fresh.json()['access_token']}"}
            assert httpx.get(f"{public}/fhir/Group", headers=headers, timeout=HANG).status_code == 200
            assert caller.token(proof).status_code >= 400, "an assertion passed twice"
            site.ended([kind])
        clock.jump(DAY)  # the clock is right again
        jumps += 1
        assert caller.token(proof).status_code >= 400, "an assertion passed twice"
        assert process.poll() is None
    assert sorted(_numbers(subscriber)) == list(range(1, told + 1))  # each once: nobody was killed
    site.calculate(["compact", "retain"])
    wrong = [one for one in differing(outcome(site.gateway), expected) if not one.startswith(_OURS)]
    assert not wrong, wrong
    site.close()
    return jumps


#: Tables that hold the subscription and the list that it is told of.
_OURS = ("table fhir_change", "table fhir_resource", "table fhir_subscription", "table subscription")


def _answers(public: str) -> bool:
    try:
        return httpx.get(f"{public}/health", timeout=HANG).status_code == 200
    except httpx.TransportError:
        return False


def _proof(clock: Clock, caller: Caller) -> str:
    return client_assertion("payer", f"{caller.url}/auth/token", caller.key, "ES384", exp=clock.now + 240)


def _numbers(subscriber: Subscriber) -> list[int]:
    return [number for one in subscriber.of("event-notification") for number in one.numbers]


def _subscribe(site: Site, endpoint: str) -> None:
    gateway = site.gateway
    resource = {
        "resourceType": "Subscription",
        "id": "told",
        "status": "requested",
        "reason": "test",
        "criteria": _TOPIC,
        "channel": {"type": "rest-hook", "endpoint": endpoint, "payload": "application/fhir+json"},
    }
    asked = read_subscription(resource, public_only=False, now=instant(gateway, None))
    with gateway.resources.writing() as writing:
        gateway.subscriptions.save(writing.connection, "told", "payer", asked, 0)
        writing.put(resource)
