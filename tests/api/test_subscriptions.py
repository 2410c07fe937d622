"""Subscribers are told of what they may see, in order, at least once, whatever happens on the way."""

from __future__ import annotations

import ipaddress
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import time_machine
from cryptography.fernet import Fernet
from fhir_face import BASE, PUBLIC_URL, client_for, enter
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.deliveries import Deliveries, deliver, spread
from fhir_gateway.jobs.patience import Patience
from fhir_gateway.jobs.rest_hook import DeliveryError, RestHook
from fhir_gateway.server.app import create_app
from fhir_gateway.subscriptions.models import is_public
from fhir_gateway.subscriptions.topics import TOPICS
from tests.support.subscriber import Subscriber
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

LISTS = "http://hl7.org/fhir/us/davinci-atr/SubscriptionTopic/atr-list-change"
REPORTS = "https://fhir-gateway.example/fhir/SubscriptionTopic/measure-report"
BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"
QUICK = Patience(pause=0.02, first=0.02, longest=0.05, error_after=2, give_up=60)
GRANTS: dict[str, list[str] | None] = {
    "operator": None,
    "practice": ["organization:111"],
    "other": ["organization:222"],
    "reader": None,
}


def group(name: str, tin: str, version: int = 1) -> dict[str, Any]:
    return labelled(
        {
            "resourceType": "Group",
            "id": name,
            "type": "person",
            "actual": True,
            "quantity": version,
            "identifier": [{"system": "urn:tin", "value": tin}],
        },
        label("organization", tin),
    )


def report(name: str, measure: str, tin: str | None = None) -> dict[str, Any]:
    resource = {
        "resourceType": "MeasureReport",
        "id": name,
        "status": "complete",
        "type": "summary",
        "measure": measure,
        "period": {"start": "2025-01-01", "end": "2025-12-31"},
    }
    return labelled(resource, label("organization", tin)) if tin else resource


def subscription(endpoint: str, topic: str = LISTS, filters: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    content = more.pop("content", "id-only")
    extension = [{"url": f"{BACKPORT}backport-{name}", member: value} for name, member, value in more.pop("extra", ())]
    channel: dict[str, Any] = {"type": "rest-hook", "endpoint": endpoint, "payload": "application/fhir+json"}
    channel["_payload"] = {"extension": [{"url": f"{BACKPORT}backport-payload-content", "valueCode": content}]}
    if extension:
        channel["extension"] = extension
    channel |= more.pop("channel", {})
    resource = {"resourceType": "Subscription", "status": "requested", "reason": "test", "criteria": topic}
    if filters:
        url = f"{BACKPORT}backport-filter-criteria"
        resource["_criteria"] = {"extension": [{"url": url, "valueString": one} for one in filters]}
    return resource | {"channel": channel} | more


class Story:
    """The face, its clients, and a way to do what the worker does."""

    def __init__(self, http: httpx.AsyncClient, gateway: Gateway, headers: dict[str, Any]) -> None:
        self.http, self.gateway, self.headers = http, gateway, headers
        self.hook = RestHook(public_only=False)

    async def create(self, client: str, resource: dict[str, Any]) -> httpx.Response:
        media = {"Content-Type": "application/fhir+json"}
        return await self.http.post("/fhir/Subscription", json=resource, headers=self.headers[client] | media)

    async def put(self, client: str, resource: dict[str, Any], **extra: str) -> httpx.Response:
        headers = self.headers[client] | {"Content-Type": "application/fhir+json"} | extra
        return await self.http.put(f"/fhir/Subscription/{resource['id']}", json=resource, headers=headers)

    async def get(self, client: str, path: str) -> httpx.Response:
        return await self.http.get(f"/fhir/{path}", headers=self.headers[client])

    def tell(self, patience: Patience = QUICK) -> int:
        """Everything that is due now; how many notifications were tried."""
        spread(self.gateway)
        return sum(deliver(self.gateway, self.hook, one.id, patience) for one in self.gateway.subscriptions.at_work())

    def status(self, subscription: str) -> str:
        return str(self.gateway.resources.read("Subscription", subscription).json()["status"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock(story: Story) -> Iterator[time_machine.Coordinates]:
    """The time of day, which stands still unless it is shifted."""
    with time_machine.travel(datetime.now(UTC), tick=False) as found:
        yield found


@pytest.fixture
def subscriber() -> Iterator[Subscriber]:
    with Subscriber() as found:
        yield found


def settings(tmp_path: Path, **more: Any) -> Settings:
    return Settings(
        encryption_key=SecretStr(Fernet.generate_key().decode()), public_url=PUBLIC_URL, data_dir=tmp_path, **more
    )


@pytest.fixture
async def story(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Story]:
    gateway = Gateway(settings(tmp_path, subscription_endpoints=getattr(request, "param", "any")))
    gateway.resources.put_many([group("one", "111"), group("two", "222")])
    spread(gateway)
    app = create_app(gateway)
    async with client_for(app) as http:
        headers = {}
        for name, grants in GRANTS.items():
            scopes = "system/*.rs" if name == "reader" else "system/*.cruds"
            headers[name] = await enter(http, gateway, name, scopes, grants=grants)
        found = Story(http, gateway, headers)
        yield found
        found.hook.close()
    gateway.engine.dispose()


async def test_a_subscription_from_handshake_to_end(story: Story, subscriber: Subscriber) -> None:
    created = await story.create("practice", subscription(subscriber.url))
    assert created.status_code == 201, created.text
    body = created.json()
    assert body["status"] == "requested"
    assert created.headers["Location"] == f"{BASE}/Subscription/{body['id']}/_history/1"
    assert story.tell() == 1
    (handshake,) = subscriber.taken
    assert handshake.type == "handshake"
    assert handshake.headers["Content-Type"] == "application/fhir+json"
    entry = handshake.body["entry"][0]
    assert entry["request"] == {"method": "GET", "url": f"Subscription/{body['id']}/$status"}
    assert entry["response"] == {"status": "200"}
    assert story.status(body["id"]) == "active"

    story.gateway.resources.put_many([group("one", "111", 2), group("two", "222", 2), group("three", "111")])
    assert story.tell() == 1
    told = subscriber.taken[-1]
    assert told.body["type"] == "history"
    assert told.status["subscription"] == f"{BASE}/Subscription/{body['id']}"
    assert told.status["topic"] == LISTS
    assert (told.status["status"], told.status["type"]) == ("active", "event-notification")
    assert told.numbers == [1, 2]
    assert told.status["events-since-subscription-start"] == "2"
    foci = {one["focus"] for one in told.status["events"]}
    assert foci == {f"{BASE}/Group/one", f"{BASE}/Group/three"}  # the other practice's list is not told
    told_of = {one["fullUrl"]: one for one in told.body["entry"][1:]}
    assert set(told_of) == foci
    assert told_of[f"{BASE}/Group/one"]["request"] == {"method": "PUT", "url": "Group/one"}
    assert told_of[f"{BASE}/Group/three"]["response"] == {"status": "201"}
    assert all("resource" not in one for one in told_of.values())
    assert story.tell() == 0

    asked = (await story.get("practice", f"Subscription/{body['id']}/$status")).json()
    (status,) = [one["resource"] for one in asked["entry"]]
    values = {one["name"]: one for one in status["parameter"]}
    assert values["type"]["valueCode"] == "query-status"
    assert values["events-since-subscription-start"]["valueString"] == "2"
    events = (await story.get("practice", f"Subscription/{body['id']}/$events?eventsSinceNumber=2")).json()
    assert [p["name"] for p in events["entry"][0]["resource"]["parameter"]].count("notification-event") == 1

    current = (await story.get("practice", f"Subscription/{body['id']}")).json()
    off = await story.put("practice", current | {"status": "off"})
    assert off.status_code == 200, off.text
    story.gateway.resources.put(group("one", "111", 3))
    assert story.tell() == 0
    gone = await story.http.delete(f"/fhir/Subscription/{body['id']}", headers=story.headers["practice"])
    assert gone.status_code == 204
    assert (await story.get("practice", f"Subscription/{body['id']}/$status")).status_code == 404


async def test_filters_and_contents(story: Story, subscriber: Subscriber) -> None:
    wanted = [
        subscription(subscriber.url, REPORTS, ("MeasureReport?measure=http://m.example/A",), content="full-resource"),
        subscription(subscriber.url, filters=("Group/one",), content="empty"),
        subscription(subscriber.url, filters=("Group?identifier=urn:tin|222", "Group?actual=true")),
    ]
    ids = [(await story.create("operator", one)).json()["id"] for one in wanted]
    assert story.tell() == 3
    story.gateway.resources.put_many([report("a", "http://m.example/A|1"), report("b", "http://m.example/B")])
    story.gateway.resources.put_many([group("one", "111", 2), group("two", "222", 2)])
    assert story.tell() == 3
    by_id = {one.status["subscription"].rpartition("/")[2]: one for one in subscriber.of("event-notification")}
    (entry,) = by_id[ids[0]].body["entry"][1:]
    assert entry["resource"]["id"] == "a"
    assert entry["fullUrl"] == f"{BASE}/MeasureReport/a"
    assert len(by_id[ids[1]].body["entry"]) == 1
    (event,) = by_id[ids[1]].status["events"]
    assert set(event) == {"event-number", "timestamp"}
    assert "topic" not in by_id[ids[1]].status
    assert [one["focus"] for one in by_id[ids[2]].status["events"]] == [f"{BASE}/Group/two"]


async def test_what_a_subscriber_no_longer_sees_is_not_told(story: Story, subscriber: Subscriber) -> None:
    asked = subscription(subscriber.url, content="full-resource")
    one = (await story.create("practice", asked)).json()["id"]
    story.tell()
    story.gateway.resources.put(group("one", "111", 2))
    spread(story.gateway)
    story.gateway.resources.put(group("one", "222", 3))  # before it was sent, the list became somebody else's
    assert story.tell() == 1
    (event,) = subscriber.taken[-1].status["events"]
    assert "focus" not in event
    assert "Group" not in str(subscriber.taken[-1].body["entry"])
    story.gateway.authorization.disable_client("practice")
    story.gateway.resources.put(group("one", "111", 4))
    story.tell()
    channel = story.gateway.subscriptions.channel(one)
    assert channel.events == 1
    assert story.gateway.subscriptions.count("practice") == 1


async def test_a_failing_receiver_is_asked_again_and_gets_everything_in_order(
    story: Story, subscriber: Subscriber, caplog: pytest.LogCaptureFixture, clock: time_machine.Coordinates
) -> None:
    asked = subscription(subscriber.url, extra=[("max-count", "valuePositiveInt", 2)])
    asked["channel"]["header"] = ["Authorization: Bearer very-secret"]
    one = (await story.create("practice", asked)).json()
    assert one["channel"]["header"] == ["Authorization: [hidden]"]
    story.tell()
    subscriber.statuses = deque([500, 503, 302])
    with caplog.at_level(logging.INFO):
        for version in range(2, 7):
            story.gateway.resources.put(group("one", "111", version))
        statuses = []
        while story.gateway.subscriptions.channel(one["id"]).delivered < 5:
            clock.shift(QUICK.longest)
            story.tell()
            statuses.append(story.status(one["id"]))
    tried = [(one.answered, one.numbers) for one in subscriber.taken[1:]]
    assert tried == [(500, [1, 2]), (503, [1, 2]), (302, [1, 2]), (200, [1, 2]), (200, [3, 4]), (200, [5])]
    assert statuses[:2] == ["active", "error"]
    assert statuses[-1] == "active"
    assert "error" not in story.gateway.resources.read("Subscription", one["id"]).json()
    assert all(one.headers["Authorization"] == "Bearer very-secret" for one in subscriber.taken)
    assert "very-secret" not in caplog.text
    assert "secret-path" not in caplog.text
    raw = (story.gateway.data_folder / "control.db").read_bytes()
    assert b"very-secret" not in raw
    history = [stored.json()["status"] for stored in story.gateway.resources.history("Subscription", one["id"])]
    assert history == ["active", "error", "active", "requested"]


async def test_a_receiver_that_is_gone_ends_off_and_may_come_back(
    story: Story, clock: time_machine.Coordinates
) -> None:
    with Subscriber() as receiver:
        one = (await story.create("practice", subscription(receiver.url))).json()["id"]
        story.tell()
    story.gateway.resources.put(group("one", "111", 2))
    hopeless = Patience(first=0.01, longest=0.01, error_after=2, give_up=0.05)
    for _ in range(8):
        story.tell(hopeless)
        clock.shift(0.02)
    assert story.status(one) == "off"
    stored = (await story.get("practice", f"Subscription/{one}")).json()
    assert stored["error"].startswith("the endpoint could not be reached")
    with Subscriber() as receiver:
        stored["channel"]["endpoint"] = receiver.url
        again = await story.put("practice", stored | {"status": "requested"})
        assert again.status_code == 200, again.text
        assert story.tell() == 1
        assert story.tell() == 1
        assert [one.type for one in receiver.taken] == ["handshake", "event-notification"]
        assert receiver.taken[1].numbers == [1]  # what was not taken waits


async def test_a_slow_receiver_holds_nobody_else_back(story: Story, subscriber: Subscriber) -> None:
    with Subscriber() as slow:
        slow.free.clear()
        timeout = [("timeout", "valueUnsignedInt", 1)]
        lame = (await story.create("operator", subscription(slow.url, extra=timeout))).json()["id"]
        quick = (await story.create("operator", subscription(subscriber.url))).json()["id"]
        with Deliveries(story.gateway, QUICK):
            until(lambda: story.status(quick) == "active")
            for version in range(2, 12):
                story.gateway.resources.put(group("one", "111", version))
            until(lambda: story.gateway.subscriptions.channel(quick).delivered == 10)
            until(lambda: story.status(lame) == "error")
        assert slow.taken
    assert [number for one in subscriber.of("event-notification") for number in one.numbers] == list(range(1, 11))
    assert "did not answer within 1 seconds" in str(story.gateway.subscriptions.channel(lame).error)


async def test_heartbeats_say_that_nothing_happened(
    story: Story, subscriber: Subscriber, clock: time_machine.Coordinates
) -> None:
    asked = subscription(subscriber.url, extra=[("heartbeat-period", "valueUnsignedInt", 10)])
    assert (await story.create("practice", asked)).status_code == 201
    assert (story.tell(), story.tell()) == (1, 0)
    clock.shift(9.9)
    assert story.tell() == 0
    clock.shift(0.2)
    assert story.tell() == 1
    assert [one.type for one in subscriber.taken] == ["handshake", "heartbeat"]
    assert subscriber.taken[1].numbers == []


async def test_subscriptions_are_their_clients_own(story: Story, subscriber: Subscriber) -> None:
    one = (await story.create("practice", subscription(subscriber.url))).json()
    path = f"Subscription/{one['id']}"
    assert (await story.get("practice", path)).status_code == 200
    assert (await story.get("other", path)).status_code == 404
    for operation in ("$status", "$events"):
        assert (await story.get("other", f"{path}/{operation}")).status_code == 404
    assert (await story.get("other", "Subscription/$status")).json()["total"] == 0
    assert (await story.get("other", "Subscription?status=requested")).json()["total"] == 0
    assert (await story.put("other", one)).status_code == 404
    assert (await story.http.delete(f"/fhir/{path}", headers=story.headers["other"])).status_code == 404
    assert (await story.put("operator", one)).status_code == 403  # sees it, and may not redirect it
    assert (await story.get("operator", f"{path}/$events")).status_code == 403
    assert (await story.create("reader", subscription(subscriber.url))).status_code == 403
    hidden = await story.create("practice", subscription(subscriber.url, filters=("Group/two",)))
    absent = await story.create("practice", subscription(subscriber.url, filters=("Group/never",)))
    assert (hidden.status_code, absent.status_code) == (403, 403)
    assert hidden.json()["issue"] == absent.json()["issue"]
    assert (await story.put("practice", one, **{"If-Match": 'W/"7"'})).status_code == 412


async def test_a_hidden_header_stays_what_it_was(story: Story, subscriber: Subscriber) -> None:
    asked = subscription(subscriber.url, channel={"header": ["X-Key: one", "X-Other: two"]})
    one = (await story.create("practice", asked)).json()
    one["channel"]["header"] = ["X-Key: [hidden]", "X-Other: three"]
    assert (await story.put("practice", one)).status_code == 200
    story.tell()
    assert (subscriber.taken[0].headers["X-Key"], subscriber.taken[0].headers["X-Other"]) == ("one", "three")
    one["channel"]["header"] = ["X-New: [hidden]"]
    assert (await story.put("practice", one)).status_code == 400


@pytest.mark.parametrize("story", ["public"], indirect=True)
@pytest.mark.parametrize(
    "endpoint",
    [
        "http://receiver.example/hook",
        "https://127.0.0.1/hook",
        "https://[::1]/hook",
        "https://[::ffff:10.0.0.1]/hook",
        "https://169.254.169.254/latest/meta-data",
        "https://10.1.2.3:8443/",
        "https://localhost/x",
        "https://intranet/x",
        "https://user:password@receiver.example/",
        "https://receiver.example/#x",
        "https://receiver.example:notaport/",
        "ftp://receiver.example/",
        "https://",
        "x" * 3000,
    ],
)
async def test_endpoints_in_private_networks_are_refused(story: Story, endpoint: str) -> None:
    answer = await story.create("practice", subscription(endpoint))
    assert answer.status_code == 400, answer.text
    assert "Subscription.channel.endpoint" in answer.json()["issue"][0]["expression"]
    assert not endpoint[8:] or endpoint[8:] not in answer.text


def test_a_name_that_leads_into_a_private_network_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = RestHook(public_only=True)
    for address in ("127.0.0.1", "10.0.0.7", "fd00::1", "169.254.169.254"):
        monkeypatch.setattr(
            "socket.getaddrinfo",
            lambda *_, address=address, **__: [(2, 1, 6, "", ("93.184.215.14", 443)), (2, 1, 6, "", (address, 443))],
        )
        with pytest.raises(DeliveryError, match="private network"):
            hook.send("https://receiver.example/hook", (), b"{}", 1)
    hook.close()
    assert is_public(ipaddress.ip_address("93.184.215.14"))
    assert not is_public(ipaddress.ip_address("2002:0a00:0001::"))


@pytest.mark.parametrize(
    ("change", "element"),
    [
        ({"status": "error"}, "status"),
        ({"reason": None}, "reason"),
        ({"criteria": "Patient?name=x"}, "criteria"),
        ({"channel": {"type": "websocket"}}, "channel.type"),
        ({"channel": {"payload": "text/plain"}}, "channel.payload"),
        ({"content": "everything"}, "channel.payload"),
        ({"channel": {"header": ["no header"]}}, "channel.header"),
        ({"channel": {"header": ["Host: other.example"]}}, "channel.header"),
        ({"channel": {"header": ["X: a\r\nY: b"]}}, "channel.header"),
        ({"filters": ("Patient?name=x",)}, "criteria.extension(filter-criteria)"),
        ({"filters": ("Group?member.name=x",)}, "criteria.extension(filter-criteria)"),
        ({"filters": ("Group?nonsense=x",)}, "criteria.extension(filter-criteria)"),
        ({"filters": ("Group?_id=",)}, "criteria.extension(filter-criteria)"),
        ({"extra": [("heartbeat-period", "valueUnsignedInt", 0)]}, "channel.extension(heartbeat-period)"),
        ({"extra": [("timeout", "valueUnsignedInt", "1")]}, "channel.extension(timeout)"),
        ({"end": "2001-01-01T00:00:00Z"}, "end"),
        ({"end": "soon"}, "end"),
    ],
)
async def test_wrong_subscriptions_are_refused_by_element(
    story: Story, subscriber: Subscriber, change: dict[str, Any], element: str
) -> None:
    inner = {key: change[key] for key in ("channel", "content", "filters", "extra") if key in change}
    resource = subscription(subscriber.url, **inner) | {key: value for key, value in change.items() if key not in inner}
    answer = await story.create("operator", resource)
    assert answer.status_code == 400, answer.text
    assert answer.json()["issue"][0]["expression"] == [f"Subscription.{element}"]
    assert story.gateway.subscriptions.at_work() == []


async def test_topics_are_named_by_the_capability_statement(story: Story) -> None:
    statement = (await story.get("operator", "metadata")).json()
    (entry,) = [one for one in statement["rest"][0]["resource"] if one["type"] == "Subscription"]
    assert {one["valueCanonical"] for one in entry["extension"]} == set(TOPICS) >= {LISTS, REPORTS}
    assert {"create", "update", "delete", "read", "search-type"} <= {one["code"] for one in entry["interaction"]}
