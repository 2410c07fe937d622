"""kill -9 between a change and its notification loses nothing: everything arrives, in order, perhaps twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.deliveries import Deliveries
from fhir_gateway.jobs.patience import Patience
from fhir_gateway.subscriptions.models import read_subscription
from tests.support.subscriber import Subscriber
from tests.support.waiting import HANG, until

TOPIC = "http://hl7.org/fhir/us/davinci-atr/SubscriptionTopic/atr-list-change"
KILLS, CHANGES = 4, 24
_QUICK = Patience(pause=0.01, first=0.02, longest=0.05, error_after=1000)


def _work(folder: str) -> None:
    """A worker that tells subscribers until it is killed."""
    with Deliveries(Gateway(_settings(Path(folder))), _QUICK):
        time.sleep(600)


def _settings(folder: Path) -> Settings:
    return Settings(data_dir=folder, subscription_endpoints="any", public_url="https://gateway.example")


def _group(version: int) -> dict[str, Any]:
    return {"resourceType": "Group", "id": "g", "type": "person", "actual": True, "quantity": version}


def _subscribe(gateway: Gateway, endpoint: str) -> str:
    gateway.authorization.register_client("payer", scopes="system/Group.rs", jwks_url="https://payer.example/jwks")
    resource = {
        "resourceType": "Subscription",
        "id": "s",
        "status": "requested",
        "reason": "test",
        "criteria": TOPIC,
        "channel": {"type": "rest-hook", "endpoint": endpoint, "payload": "application/fhir+json"},
    }
    now = instant(gateway, None)
    asked = read_subscription(resource, public_only=False, now=now)
    with gateway.resources.writing() as writing:
        gateway.subscriptions.save(writing.connection, "s", "payer", asked, 0)
        writing.put(resource)
    return "s"


def test_every_change_arrives_whatever_is_killed(tmp_path: Path) -> None:
    chance = random.Random(7)  # noqa: S311 - a seed, no secret
    gateway = Gateway(_settings(tmp_path))
    _ = gateway.resources
    forks = multiprocessing.get_context("forkserver")
    with Subscriber(delay=0.01) as subscriber:
        one = _subscribe(gateway, subscriber.url)
        kills = made = 0
        while kills < KILLS:
            worker = forks.Process(target=_work, args=(str(tmp_path),), daemon=True)
            worker.start()
            taken = len(subscriber.taken)
            deadline = time.monotonic() + HANG
            while len(subscriber.taken) == taken:  # until it is at work
                assert time.monotonic() < deadline
                if made < CHANGES:
                    made += 1
                    gateway.resources.put(_group(made))
                time.sleep(0.02)
            for _ in range(3 if made < CHANGES else 0):
                made += 1
                gateway.resources.put(_group(made))
                time.sleep(chance.uniform(0, 0.03))
            os.kill(worker.pid or 0, signal.SIGKILL)
            worker.join()
            kills += 1
            made += 1
            gateway.resources.put(_group(made))  # while nobody is at work
        with Deliveries(gateway, _QUICK):
            until(lambda: gateway.subscriptions.channel(one).delivered >= made)
        notified = [each.numbers for each in subscriber.of("event-notification")]
    numbers = [number for each in notified for number in each]
    assert list(dict.fromkeys(numbers)) == list(range(1, made + 1))  # all, the first time each in order
    repeated = len(notified) - len({each[0] for each in notified})
    assert repeated <= kills  # at most one notification for each kill
    gateway.engine.dispose()
