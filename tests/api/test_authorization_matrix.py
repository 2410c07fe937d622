"""The matrix client x door x target: every route of the FHIR face has a row, and no row shows what is not the client's.

Rows are matched against the routes of the OpenAPI document and the operations of the registry, so that a new route or
operation without a row fails. The oracle is one for all rows: whatever a client asks, by guessed ids, chains, bundles
or exports, nothing of what is hidden from it (ids, names, numbers) stands in the answer, and what it names but may not
see is answered as what never was. The operator, who sees everything, shows that there is something to find.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from fhir_face import authorize, client_for, new_gateway
from joserfc.jwk import ECKey

from fhir_gateway.db.audience import label, labelled
from fhir_gateway.db.search.clinical import CLINICAL, ONE_VERSION, patient_parameters
from fhir_gateway.jobs.clinical import ClinicalRows
from fhir_gateway.jobs.durable import Worker
from fhir_gateway.measures.reports import summary
from fhir_gateway.server.app import create_app
from fhir_gateway.server.registry import SERVED, SYSTEM_OPERATIONS, TYPE_OPERATIONS
from tests.support.deqm import DIABETES, Filled
from tests.support.results import cohort
from tests.support.waiting import HANG

pytestmark = pytest.mark.anyio

JSON = "application/fhir+json"
PERIOD = "periodStart=2026-01-01&periodEnd=2026-12-31"
#: Answers that tell a client that there is nothing for it.
NOTHING = frozenset({400, 403, 404, 405, 409, 410, 412, 422})
#: Whom and which lists each client sees, by number and name; worked out by hand.
SEES: dict[str, tuple[frozenset[int], frozenset[str]]] = {
    "operator": (frozenset(range(4)), frozenset({"aco", "practice", "other", "nobodys"})),
    "payer": (frozenset({0, 1}), frozenset({"aco", "practice"})),
    "practice": (frozenset({0}), frozenset({"practice"})),
    "stranger": (frozenset(), frozenset()),
    "narrow": (frozenset({0}), frozenset({"aco"})),  # registered for everything, with scopes that are restricted
    "scopeless": (frozenset(), frozenset()),  # registered for everything, with a scope on something else
}
GRANTS: dict[str, list[str] | None] = {
    "payer": ["contract:aco"],
    "practice": ["organization:111"],
    "stranger": ["contract:none"],
}
OTHERS = sorted(set(SEES) - {"operator"})


@dataclass(frozen=True)
class Ask:
    """One request; ``of`` is what it is about (a person's number or a list), None for what is nobody's in particular.

    ``names`` are hidden words that the request itself says; ``found``: the operator is answered, with what is there.
    """

    method: str
    path: str
    of: int | str | None = None
    body: Any = None
    names: tuple[str, ...] = ()
    found: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class World:
    """What there is, and words by which each thing would be known in an answer."""

    persons: list[str]
    run: str
    job: str = ""
    file: str = ""
    event: str = ""
    clinical: dict[int, list[tuple[str, str]]] = field(default_factory=dict)  # type and served id, by person

    @property
    def words(self) -> dict[int | str, tuple[str, ...]]:
        """Of persons by number, of lists by name."""
        found: dict[int | str, tuple[str, ...]] = {
            number: (
                person,
                f"Family{number}x",
                f"Subscriber{number}x",
                *(f'{id}"' for _, id in self.clinical.get(number, ())),
            )
            for number, person in enumerate(self.persons)
        }
        return (
            found
            | {name: (f"List{name}x",) for name in SEES["operator"][1]}
            | {"contract": ("ContractOtherx",), "operators": ("OfTheOperatorx",)}
        )

    def hidden(self, client: str) -> set[str]:
        """Words that must not come before a client."""
        persons, lists = SEES[client]
        seen = {*persons, *lists, *(("contract", "operators") if client == "operator" else ())}
        found = {word for what, words in self.words.items() if what not in seen for word in words}
        # a list that it may read says who is on it, whatever else is known of them
        return found - {self.persons[1]} if client == "narrow" else found


def _resources(persons: list[str]) -> Iterator[dict[str, Any]]:
    lists = {
        "aco": ([0, 1], [label("contract", "aco")]),
        "practice": ([0], [label("contract", "aco"), label("organization", "111")]),
        "other": ([2], [label("contract", "other")]),
        "nobodys": ([3], []),
    }
    for name, (members, labels) in lists.items():
        entries = [{"entity": {"reference": f"Patient/{persons[one]}"}} for one in members]
        group = {"resourceType": "Group", "id": name, "type": "person", "actual": True, "member": entries}
        yield labelled({**group, "name": f"List{name}x"}, *labels)
    for number, person in enumerate(persons):
        yield {"resourceType": "Patient", "id": person, "name": [{"family": f"Family{number}x"}]}
        beneficiary = {"reference": f"Patient/{person}"}
        covered = {"resourceType": "Coverage", "id": f"cov-{number}", "status": "active", "beneficiary": beneficiary}
        yield covered | {"subscriberId": f"Subscriber{number}x", "payor": [{"reference": "Organization/payer"}]}
    yield {"resourceType": "Organization", "id": "payer", "name": "Payer"}
    yield {"resourceType": "Practitioner", "id": "dr"}
    yield {"resourceType": "PractitionerRole", "id": "role", "practitioner": {"reference": "Practitioner/dr"}}
    contract = {"resourceType": "Measure", "id": "c-other", "url": "http://x/c-other", "status": "active"}
    yield labelled({**contract, "title": "ContractOtherx"}, label("contract", "other"))
    signed = {"resourceType": "Contract", "id": "c-other", "status": "executed", "title": "ContractOtherx"}
    yield labelled(signed, label("contract", "other"))
    settled = {"resourceType": "MeasureReport", "id": "s-other", "status": "complete", "type": "summary"}
    settled |= {"measure": "http://x/c-other", "period": {"start": "2025-01-01", "end": "2025-12-31"}}
    yield labelled({**settled, "identifier": [{"value": "ContractOtherx"}]}, label("contract", "other"))
    own = label("client", "operator")
    written = {**settled, "id": "written", "type": "data-collection", "identifier": [{"value": "OfTheOperatorx"}]}
    yield labelled({**written, "subject": {"reference": f"Patient/{persons[3]}"}}, own)
    told = {"resourceType": "Subscription", "id": "told", "status": "active", "reason": "OfTheOperatorx"}
    channel = {"type": "rest-hook", "endpoint": "https://operator.example", "payload": JSON}
    yield labelled({**told, "criteria": "Group?_id=other", "channel": channel}, own)
    decided = {"resourceType": "Provenance", "id": "decided", "recorded": "2026-01-01T00:00:00Z"}
    decided |= {"target": [{"reference": "Group/other"}], "agent": [{"who": {"display": "ContractOtherx"}}]}
    yield labelled(decided, label("contract", "other"))


class Face:
    """The HTTP face of a world, with a client of each kind and a worker for what takes longer."""

    def __init__(self, world: World, http: httpx.AsyncClient) -> None:
        self.world, self.http = world, http
        self.keys: dict[str, tuple[ECKey, str]] = {}
        self.headers: dict[str, Mapping[str, str]] = {}

    async def enter(self, client: str) -> None:
        """Get a token, which lives for five minutes."""
        self.headers[client] = await authorize(self.http, client, *self.keys[client])

    async def ask(self, client: str, ask: Ask) -> httpx.Response:
        headers = {**self.headers[client], **ask.headers}
        content = None
        if ask.body is not None:
            headers.setdefault("Content-Type", JSON)
            content = ask.body if isinstance(ask.body, str) else json.dumps(ask.body)
        return await self.http.request(ask.method, ask.path, headers=headers, content=content)

    async def text(self, client: str, answer: httpx.Response) -> str:
        """Everything that an answer holds: of a search its pages, of an asynchronous request what it ends in."""
        if answer.status_code == 202 and "content-location" in answer.headers:
            return await self._later(client, answer.headers["content-location"])
        found = answer.text
        while answer.headers.get("content-type") == JSON and '"next"' in answer.text:
            following = [one["url"] for one in answer.json().get("link", ()) if one["relation"] == "next"]
            if not following:
                break
            answer = await self.http.get(following[0], headers=self.headers[client])
            found += answer.text
        return re.sub(r'"link":\[.*?\]', "", found)  # says what was asked

    async def _later(self, client: str, location: str) -> str:
        manifest = await self.finished(client, location)
        found = manifest.text
        for kind in ("output", "error", "deleted"):
            for one in manifest.json().get(kind, ()):
                found += (await self.http.get(one["url"], headers=self.headers[client])).text
        await self.http.delete(location, headers=self.headers[client])
        return found

    async def finished(self, client: str, location: str) -> httpx.Response:
        deadline = time.monotonic() + HANG
        while (poll := await self.http.get(location, headers=self.headers[client])).status_code == 202:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        return poll


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    limits = {"async_per_client": 100, "client_requests_per_minute": 100_000, "token_requests_per_minute": 100_000}
    filled = Filled(tmp_path_factory.mktemp("matrix"), [DIABETES], in_memory=False, **limits)
    with Worker(filled.gateway, background=True):
        yield filled


@pytest.fixture(scope="module")
async def face(filled: Filled) -> AsyncIterator[Face]:
    gateway = filled.gateway
    counts = filled.counts(DIABETES)
    persons = [one for one in filled.persons(DIABETES) if counts[one]["initial-population"]][:4]
    result = cohort(persons, period=Filled.period)
    world = World(persons, gateway.results.save(result))
    rows_of = ClinicalRows(gateway)
    for number, person in enumerate(persons):
        kept = [list(rows_of.of_members(kind, [person]))[:1] for kind in sorted(CLINICAL)]
        world.clinical[number] = [(one.type, one.id) for some in kept for one in some]
    gateway.resources.put_many([*_resources(persons), summary(result, {"reference": "Organization/payer"})])
    restricted = {
        "Patient": f"_id={persons[0]}",
        "Coverage": f"beneficiary=Patient/{persons[0]}",
        "Group": "_id=aco",
        "MeasureReport": f"subject=Patient/{persons[0]}",
        "Contract": "_id=nothing",
        "Measure": "title:missing=false&_id=nothing",
        "Provenance": "_id=nothing",
        "Subscription": "_id=nothing",
        "AuditEvent": "altid=narrow",
        "Condition": f"patient=Patient/{persons[0]}",
        "Observation": f"subject=Patient/{persons[0]}",
        "Encounter": "_id=nothing",
    }
    scopes = dict.fromkeys(SEES, "system/*.cruds system/AuditEvent.rs")
    scopes["narrow"] = " ".join(f"system/{kind}.rs?{query}" for kind, query in restricted.items())
    scopes["scopeless"] = "system/Practitioner.rs"
    async with client_for(create_app(gateway)) as http:
        face = Face(world, http)
        for client in SEES:
            key = ECKey.generate_key("P-384", {"kid": f"{client}-key", "use": "sig", "alg": "ES384"})
            keys = {"keys": [key.as_dict(private=False)]}
            gateway.authorization.register_client(client, scopes=scopes[client], jwks=keys, grants=GRANTS.get(client))
            face.keys[client] = key, scopes[client]
            await face.enter(client)
        await _operators_job(face)
        yield face


async def _operators_job(face: Face) -> None:
    """An export of the operator's that is not deleted, and an access of the operator's, for others to guess at."""
    later = {"Prefer": "respond-async"}
    accepted = await face.ask("operator", Ask("GET", "/fhir/Patient/$export?_type=Patient", headers=later))
    assert accepted.status_code == 202, accepted.text
    location = accepted.headers["content-location"]
    manifest = (await face.finished("operator", location)).json()
    face.world.job = location.rpartition("/")[2]
    face.world.file = manifest["output"][0]["url"].rpartition("/")[2]
    events = await face.ask("operator", Ask("GET", "/fhir/AuditEvent?altid=operator&_count=1"))
    face.world.event = events.json()["entry"][0]["resource"]["id"]


# -- the rows ------------------------------------------------------------------------------------------------------

#: Routes that need no token and hold nothing that is anybody's.
OPEN = {
    ("GET", "/fhir/metadata"),
    ("GET", "/fhir/.well-known/smart-configuration"),
    ("GET", "/.well-known/jwks.json"),
    ("GET", "/endpoints/{name}/jwks.json"),
    ("GET", "/health"),
    ("GET", "/ready"),
}
#: Routes with stories of their own about who is let in.
ELSEWHERE = {
    ("POST", "/auth/token"): "test_token.py",
    ("POST", "/auth/introspect"): "test_token.py: a client sees its own tokens",
    ("POST", "/auth/revoke"): "test_token.py: a client ends its own tokens",
    ("GET", "/metrics"): "test_robust_server.py: this machine, or the scraper's token",
}
Rows = dict[tuple[str, str], list[Ask]]


def rows(world: World) -> Rows:
    """Requests for each route; of those on every type, by the template ``/fhir/{type}``."""
    return {**_reading(world), **_writing(world), **_system(world), **_operations(world), **_later(world), **_admin()}


def _targets(world: World) -> Iterator[tuple[str, str, int | str | None]]:
    """Type, id, and what it is about; None is open to all."""
    for number, person in enumerate(world.persons):
        yield "Patient", person, number
        yield "Coverage", f"cov-{number}", number
        yield "MeasureReport", f"{world.run}-{person}", number
    for name in SEES["operator"][1]:
        yield "Group", name, name
    yield from (
        ("Contract", "c-other", "contract"),
        ("Measure", "c-other", "contract"),
        ("MeasureReport", "s-other", "contract"),
    )
    yield from (("MeasureReport", world.run, "summary"), ("MeasureReport", "written", "operators"))
    yield from (("Subscription", "told", "operators"), ("Provenance", "decided", "contract"))
    yield "AuditEvent", world.event, "trail"
    for number, resources in world.clinical.items():
        yield from ((kind, identity, number) for kind, identity in resources)
    yield from (("Organization", "payer", None), ("Practitioner", "dr", None), ("PractitionerRole", "role", None))


def _reading(world: World) -> Rows:
    found: Rows = {}

    def add(method: str, template: str, ask: Ask) -> None:
        found.setdefault((method, template), []).append(ask)

    for kind, identity, of in _targets(world):
        here = f"/fhir/{kind}/{identity}"
        words = (identity, f'{identity}"', *(one for one in world.persons if one in identity))
        add("GET", "/fhir/{type}/{id}", Ask("GET", here, of, names=words))
        add("GET", "/fhir/{type}/{id}/_history/{vid}", Ask("GET", f"{here}/_history/1", of, names=words))
        add("GET", "/fhir/{type}/{id}/_history", Ask("GET", f"{here}/_history", of, names=words))
        add("GET", "/fhir/{type}", Ask("GET", f"/fhir/{kind}?_id={identity}", names=words))
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for kind in SERVED:
        whole = kind not in CLINICAL  # those are searched for somebody
        # what a client asked for itself stands in its own entries of the audit trail
        asked = tuple(word for words in world.words.values() for word in words) if kind == "AuditEvent" else ()
        newest = f"/fhir/{kind}?_sort=-_lastUpdated"
        add("GET", "/fhir/{type}", Ask("GET", f"/fhir/{kind}?_count=7", names=asked, found=whole))
        add("GET", "/fhir/{type}", Ask("GET", newest, names=asked, found=whole and kind != "MeasureReport"))
        searched = Ask("POST", f"/fhir/{kind}/_search", None, "_count=50", asked, whole, form)
        add("POST", "/fhir/{type}/_search", searched)
        earlier = kind not in ONE_VERSION
        past = Ask("GET", f"/fhir/{kind}/_history?_count=7", names=asked, found=earlier)
        add("GET", "/fhir/{type}/_history", past)
    for kind in sorted(CLINICAL):
        for name in sorted(patient_parameters(kind)):
            about = f"/fhir/{kind}?{name}=Patient/{world.persons[2]}&_include={kind}:{name}"
            add("GET", "/fhir/{type}", Ask("GET", about, names=(world.persons[2],)))
        chained = f"/fhir/{kind}?patient.family=Family&_include={kind}:patient"
        add("GET", "/fhir/{type}", Ask("GET", chained, found=False))
    hidden = world.persons[2]
    for query in (
        "Group?_include=Group:member&_revinclude:iterate=Coverage:beneficiary",
        "Coverage?_include=Coverage:beneficiary&_revinclude:iterate=Group:member",
        "Patient?_revinclude=MeasureReport:patient&_revinclude=Group:member",
        "MeasureReport?_include=MeasureReport:subject&_include=MeasureReport:measure",
        "Coverage?beneficiary:Patient.family=Family",
        "Patient?_has:Group:member:name=List",
    ):
        add("GET", "/fhir/{type}", Ask("GET", f"/fhir/{query}", found="_has" not in query))
    add("GET", "/fhir/{type}", Ask("GET", f"/fhir/Coverage?beneficiary={hidden}", names=(hidden,)))
    add("GET", "/fhir/{type}", Ask("GET", f"/fhir/MeasureReport?subject=Patient/{hidden}", names=(hidden,)))
    return found


def _report(world: World, number: int) -> dict[str, Any]:
    period = {"start": "2026-01-01", "end": "2026-12-31"}
    report = {"resourceType": "MeasureReport", "status": "complete", "type": "data-collection", "period": period}
    return {**report, "measure": "http://x", "subject": {"reference": f"Patient/{world.persons[number]}"}}


_PATCH = {"Content-Type": "application/json-patch+json"}
_SAME = [{"op": "test", "path": "/status", "value": "complete"}]


def _writing(world: World) -> Rows:
    """Nobody changes or deletes what another client wrote, nor what the gateway made; asked again by a test below."""
    theirs = _report(world, 3) | {"id": "written"}
    hook = {"type": "rest-hook", "endpoint": "https://127.0.0.1/x", "payload": JSON}
    asked = {"resourceType": "Subscription", "status": "requested", "reason": "x", "channel": hook}
    asked["criteria"] = "Group?_id=other"
    return {
        ("POST", "/fhir/{type}"): [Ask("POST", "/fhir/Subscription", "operators", asked, found=False)],
        ("PUT", "/fhir/{type}/{id}"): [
            Ask("PUT", "/fhir/MeasureReport/written", "operators", theirs, (world.persons[3],), found=False),
            Ask(
                "PUT", "/fhir/MeasureReport/s-other", "contract", theirs | {"id": "s-other"}, (world.persons[3],), False
            ),
            Ask("PUT", "/fhir/Subscription/told", "operators", asked | {"id": "told"}, found=False),
        ],
        ("PUT", "/fhir/{type}"): [
            Ask("PUT", "/fhir/MeasureReport?_id=written", "operators", theirs, (world.persons[3],), found=False)
        ],
        ("DELETE", "/fhir/{type}/{id}"): [
            Ask("DELETE", "/fhir/MeasureReport/s-other", "contract", found=False),
            Ask(
                "DELETE",
                f"/fhir/MeasureReport/{world.run}-{world.persons[2]}",
                2,
                names=(world.persons[2],),
                found=False,
            ),
        ],
        ("PATCH", "/fhir/{type}/{id}"): [
            Ask("PATCH", "/fhir/MeasureReport/written", "operators", _SAME, (world.persons[3],), headers=_PATCH),
            Ask("PATCH", "/fhir/MeasureReport/s-other", "contract", _SAME, found=False, headers=_PATCH),
            *(
                Ask("PATCH", f"/fhir/MeasureReport/{world.run}-{one}", number, _SAME, (one,), headers=_PATCH)
                for number, one in enumerate(world.persons)
            ),
        ],
        ("PATCH", "/fhir/{type}"): [
            Ask("PATCH", "/fhir/MeasureReport?_id=written", "operators", _SAME, (world.persons[3],), headers=_PATCH),
            *(
                Ask("PATCH", f"/fhir/MeasureReport?_id={world.run}-{one}", number, _SAME, (one,), headers=_PATCH)
                for number, one in enumerate(world.persons)
            ),
        ],
        ("DELETE", "/fhir/{type}"): [],  # deleting nothing is no error: see the test below
    }


def _system(world: World) -> Rows:
    targets = [f"{kind}/{identity}" for kind, identity, _ in _targets(world)]
    words = tuple(world.persons)
    entries = [{"request": {"method": "GET", "url": url}} for url in (*targets, "Patient?_count=9", "Group?_count=9")]
    batch = {"resourceType": "Bundle", "type": "batch", "entry": entries[:40]}
    return {
        ("GET", "/fhir"): [
            Ask("GET", "/fhir?_type=Patient,Coverage,Group,Measure,MeasureReport&_count=3", found=False)
        ],
        ("POST", "/fhir/_search"): [
            Ask(
                "POST",
                "/fhir/_search",
                body="_type=Group,Coverage",
                headers={"Content-Type": "application/x-www-form-urlencoded"},
                found=False,
            )
        ],
        ("GET", "/fhir/_history"): [
            Ask("GET", "/fhir/_history?_count=1000"),
            Ask("GET", "/fhir/_history?_type=Encounter,Observation,Patient&_count=7"),
        ],
        ("POST", "/fhir"): [
            Ask("POST", "/fhir", body=batch, names=words),
            Ask("POST", "/fhir", body={**batch, "type": "transaction"}, names=words, found=False),
        ],
        ("POST", "/fhir/$import"): [
            Ask("POST", "/fhir/$import", body="{}", headers={"Content-Type": "application/fhir+ndjson"}, found=False)
        ],
    }


def _operations(world: World) -> Rows:
    person, names = world.persons[2], (world.persons[2],)
    found: Rows = {}
    for code in (
        "evaluate-measure",
        "evaluate",
        "care-gaps",
        "collect-data",
        "data-requirements",
        "ra.evaluate-measure",
    ):
        measure = f"measure={DIABETES}&" if code == "evaluate-measure" else f"measureId={DIABETES}&"
        more = "&status=open-gap&status=closed-gap" if code == "care-gaps" else ""
        about = code not in ("data-requirements", "ra.evaluate-measure")
        for instance in (False, True):
            path = (
                f"/fhir/Measure/{DIABETES + '/' if instance else ''}${code}?{'' if instance else measure}{PERIOD}{more}"
            )
            template = f"/fhir/Measure/{'{id}/' if instance else ''}${code}"
            asks = [Ask("GET", path, found=code != "care-gaps" and code != "ra.evaluate-measure")]
            if about:
                asks += [
                    Ask("GET", f"{path}&subject=Patient/{person}", 2, names=names),
                    Ask("GET", f"{path}&subject=Group/other", "other", names=()),
                    Ask("GET", f"{path}&organization=payer", found=False),
                ]
            found["GET", template] = asks
            found["POST", template] = [
                replace(one, method="POST", headers={"Content-Type": JSON}) for one in asks[1:3] or asks
            ]
    for template in ("/fhir/Measure/$stratify", "/fhir/Measure/{id}/$stratify"):
        path = f"{template.replace('{id}', DIABETES)}?{PERIOD}"
        asks = [Ask("GET", path, found=False), Ask("GET", f"{path}&subject=Group/other", "other", found=False)]
        found["GET", template] = asks
        found["POST", template] = [replace(one, method="POST", headers={"Content-Type": JSON}) for one in asks]
    for method in ("GET", "POST"):
        found[method, "/fhir/MeasureReport/$report"] = [
            Ask(method, f"/fhir/MeasureReport/$report?{PERIOD}&subject=Patient/{person}", names=names, found=False)
        ]
    found["GET", "/fhir/MeasureReport/{id}/$payment-rows"] = [
        Ask("GET", "/fhir/MeasureReport/s-other/$payment-rows", "contract", found=False)
    ]
    parameters = {"resourceType": "Parameters", "parameter": []}
    about_member = {"name": "patientReference", "valueReference": {"reference": f"Patient/{person}"}}
    asked = {"resourceType": "Parameters", "parameter": [about_member]}
    for code in ("member-add", "member-remove", "confirm-attribution-list", "attribution-status", "reconcile"):
        here = Ask("POST", f"/fhir/Group/other/${code}", "other", parameters, found=False)
        found["POST", f"/fhir/Group/{{id}}/${code}"] = [here]
    found["POST", "/fhir/Group/{id}/$attribution-status"] += [
        Ask("POST", "/fhir/Group/other/$attribution-status", "other", asked, names),
        Ask("POST", "/fhir/Group/aco/$attribution-status", None, asked, names, found=False),
    ]
    for code in ("submit-data", "submit-remark-data"):
        for template in (f"/fhir/Measure/${code}", f"/fhir/Measure/{{id}}/${code}"):
            path = template.replace("{id}", DIABETES)
            found["POST", template] = [Ask("POST", path, body=parameters, found=False)]
    remarked = {"resourceType": "MeasureReport", "id": f"{world.run}-{person}"}
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": remarked}]}
    asked = {"resourceType": "Parameters", "parameter": [{"name": "bundle", "resource": bundle}]}
    hidden = Ask("POST", "/fhir/Measure/$submit-remark-data", 2, asked, names, found=False)
    found["POST", "/fhir/Measure/$submit-remark-data"] += [hidden]
    for method, template in (
        ("GET", "/fhir/{resource_type}/{id}/$validate"),
        ("POST", "/fhir/{resource_type}/{id}/$validate"),
    ):
        body = {"resource_type": "Parameters"} if method == "POST" else None
        found[method, template] = [
            Ask(method, f"/fhir/Patient/{person}/$validate", 2, body, names, found=method == "GET"),
            Ask(method, "/fhir/Group/other/$validate", "other", body, found=method == "GET"),
        ]
    billed = {"resourceType": "Claim", "status": "draft", "use": "claim", "created": "2026-01-01", "id": "x"}
    billed |= {"patient": {"reference": f"Patient/{person}"}, "provider": {"display": "x"}, "type": {"text": "x"}}
    billed |= {"priority": {"text": "x"}, "insurance": [{"sequence": 1, "focal": True, "coverage": {"display": "x"}}]}
    found["POST", "/fhir/Claim/$check"] = [Ask("POST", "/fhir/Claim/$check", body=billed)]
    for method in ("GET", "POST"):
        found[method, "/fhir/ExplanationOfBenefit/$denials"] = [
            Ask(method, "/fhir/ExplanationOfBenefit/$denials?by=payer", headers={"Content-Type": JSON})
        ]
    found["POST", "/fhir/{resource_type}/$validate"] = [
        Ask("POST", "/fhir/Patient/$validate", body={"resourceType": "Patient", "id": person}, names=names)
    ]
    for method in ("GET", "POST"):
        every = {"Content-Type": JSON}
        found[method, "/fhir/Patient/$everything"] = [
            Ask(method, "/fhir/Patient/$everything?_count=50", headers=every, found=False)
        ]
        found[method, "/fhir/Patient/{id}/$everything"] = [
            Ask(method, f"/fhir/Patient/{one}/$everything", number, names=(one,), headers=every)
            for number, one in enumerate(world.persons)
        ]
        for code in ("$status", "$events"):
            here = f"/fhir/Subscription/told/{code}"
            found[method, f"/fhir/Subscription/{{id}}/{code}"] = [
                Ask(method, here, "operators", parameters if method == "POST" else None, found=False)
            ]
        found[method, "/fhir/Subscription/$status"] = [
            Ask(method, "/fhir/Subscription/$status", body=parameters if method == "POST" else None, found=False)
        ]
    return found


def _later(world: World) -> Rows:
    later = {"Prefer": "respond-async", "Accept": JSON}
    job = f"/fhir/$async/{world.job}"
    found: Rows = {
        ("GET", "/fhir/$async/{id}"): [Ask("GET", job, "operators")],
        ("GET", "/fhir/$async/{id}/{name}"): [Ask("GET", f"{job}/{world.file}", "operators")],
        ("DELETE", "/fhir/$async/{id}"): [Ask("DELETE", job, "operators", found=False)],
    }
    patients = [{"name": "patient", "valueReference": {"reference": f"Patient/{world.persons[2]}"}}]
    body = {"resourceType": "Parameters", "parameter": patients}
    named = (world.persons[2],)
    for path, of in (("", None), ("Patient/", None), ("Group/other/", "other"), ("Group/aco/", "aco")):
        template = f"/fhir/{'Group/{id}/' if path.startswith('Group') else path}$export"
        found.setdefault(("GET", template), []).append(Ask("GET", f"/fhir/{path}$export", of, headers=later))
        if path:
            asked = Ask("POST", f"/fhir/{path}$export", of, body, named, found=path != "Group/aco/", headers=later)
        else:
            empty = {"resourceType": "Parameters", "parameter": []}
            asked = Ask("POST", "/fhir/$export", None, empty, headers=later)
        found.setdefault(("POST", template), []).append(asked)
    for method, of in (("GET", "other"), ("POST", "other"), ("GET", "aco")):
        here = Ask(
            method, f"/fhir/Group/{of}/$davinci-data-export", of, body if method == "POST" else None, headers=later
        )
        named_here = replace(here, names=named if method == "POST" else ())
        found.setdefault((method, "/fhir/Group/{id}/$davinci-data-export"), []).append(named_here)
    return found


def _admin() -> Rows:
    """A wildcard means neither endpoints nor clients: nobody here is let in."""
    here, clients = "/admin/endpoints", "/admin/clients"
    client = {"client_id": "x", "scopes": "system/*.rs", "grants": None, "jwks_url": "https://x.example/jwks.json"}
    return {
        # the lists of limited clients: test_outreach_doors.py
        ("GET", "/outreach"): [Ask("GET", "/outreach", found=False)],
        ("POST", "/outreach/{item}"): [Ask("POST", "/outreach/x", body={"state": "contacted"}, found=False)],
        ("GET", clients): [Ask("GET", clients, found=False)],
        ("POST", clients): [Ask("POST", clients, body=client, found=False)],
        ("POST", "/admin/invitations"): [Ask("POST", "/admin/invitations", body={"name": "x"}, found=False)],
        ("GET", f"{clients}/{{client_id}}"): [Ask("GET", f"{clients}/operator", found=False)],
        ("PATCH", f"{clients}/{{client_id}}"): [Ask("PATCH", f"{clients}/operator", body={}, found=False)],
        ("DELETE", f"{clients}/{{client_id}}"): [Ask("DELETE", f"{clients}/operator", found=False)],
        ("POST", f"{clients}/{{client_id}}/approval"): [
            Ask("POST", f"{clients}/operator/approval", body={"scopes": "system/*.rs", "grants": None}, found=False)
        ],
        ("GET", here): [Ask("GET", here, found=False)],
        ("POST", here): [Ask("POST", here, body={"name": "x", "base_url": "https://x.example"}, found=False)],
        ("GET", f"{here}/{{name}}"): [Ask("GET", f"{here}/x", found=False)],
        ("PATCH", f"{here}/{{name}}"): [Ask("PATCH", f"{here}/x", body={}, found=False)],
        ("DELETE", f"{here}/{{name}}"): [Ask("DELETE", f"{here}/x", found=False)],
        ("POST", f"{here}/{{name}}/keys"): [Ask("POST", f"{here}/x/keys", body={}, found=False)],
        ("POST", f"{here}/{{name}}/check"): [Ask("POST", f"{here}/x/check", body={}, found=False)],
    }


# -- the tests -----------------------------------------------------------------------------------------------------


def _routes() -> set[tuple[str, str]]:
    """Routes of the OpenAPI document, those on each type as one."""
    of_type = re.compile(
        rf"^/fhir/(?:{'|'.join(SERVED)})(?=/_search$|/_history$|/{{id}}$|/{{id}}/_history$|/{{id}}/_history/{{vid}}$|$)"
    )
    paths: Mapping[str, Mapping[str, Any]] = create_app(new_gateway()).openapi()["paths"]
    return {
        (method.upper(), of_type.sub("/fhir/{type}", path)) for path, methods in paths.items() for method in methods
    }


def test_every_route_has_a_row() -> None:
    known = {*rows(World(["p0", "p1", "p2", "p3"], "run")), *OPEN, *ELSEWHERE}
    routes = _routes()
    assert routes - known == set(), "add a row for each new route"
    assert {one for one in known if one[1].startswith("/fhir")} - routes == set(), "rows of routes that are gone"


def test_every_operation_of_the_registry_has_a_row() -> None:
    asked = {path.rpartition("$")[2] for _, path in rows(World(["p0", "p1", "p2", "p3"], "run")) if "$" in path}
    registered = {one.code for served in SERVED.values() for one in served.operations}
    assert registered | {one.code for one in (*SYSTEM_OPERATIONS, *TYPE_OPERATIONS)} <= asked


def test_every_served_type_is_searched() -> None:
    asked = {ask.path.split("?")[0] for ask in rows(World(["p0", "p1", "p2", "p3"], "run"))["GET", "/fhir/{type}"]}
    assert {f"/fhir/{name}" for name in SERVED} <= asked


@pytest.mark.parametrize("client", OTHERS)
async def test_no_row_shows_what_is_hidden(face: Face, client: str) -> None:
    persons, lists = SEES[client]
    hidden = face.world.hidden(client)
    wrong: list[str] = []
    await face.enter(client)
    for (method, template), asks in rows(face.world).items():
        for ask in asks:
            answer = await face.ask(client, ask)
            where = f"{client}: {method} {template} ({ask.path}) -> {answer.status_code}"
            if answer.status_code >= 500:
                wrong.append(f"{where} {answer.text[:200]}")
                continue
            nothing = NOTHING | ({204} if method == "DELETE" else set())  # what is not there is as good as deleted
            if ask.of is not None and ask.of not in {*persons, *lists} and answer.status_code not in nothing:
                wrong.append(f"{where}: not the client's, yet answered")
            text = await face.text(client, answer)
            if answer.status_code == 401:
                wrong.append(f"{where}: the token has ended")
            leaks = sorted(word for word in hidden - set(ask.names) if word in text)
            if leaks:
                wrong.append(f"{where}: shows {leaks}")
    assert not wrong, "\n".join(wrong)


async def test_the_operator_finds_something_in_every_row(face: Face) -> None:
    wrong: list[str] = []
    await face.enter("operator")
    for (method, template), asks in rows(face.world).items():
        for ask in asks:
            if not ask.found:
                continue
            answer = await face.ask("operator", ask)
            text = await face.text("operator", answer)
            words = face.world.words.get(ask.of) if ask.of is not None else ()
            if answer.status_code >= 400:
                wrong.append(f"{method} {template} ({ask.path}) -> {answer.status_code}: {text[:160]}")
            elif words and "$" not in template and not any(word in text for word in words):
                wrong.append(f"{method} {template} ({ask.path}): nothing of {ask.of}")
    assert not wrong, "\n".join(wrong)


async def test_nothing_was_changed_by_those_who_may_not(face: Face) -> None:
    for client in SEES:
        await face.enter(client)
    for kind, identity in (("MeasureReport", "written"), ("MeasureReport", "s-other"), ("Subscription", "told")):
        deleting = Ask("DELETE", f"/fhir/{kind}?_id={identity}")
        for client in OTHERS:
            assert (await face.ask(client, deleting)).status_code < 500
        kept = await face.ask("operator", Ask("GET", f"/fhir/{kind}/{identity}/_history"))
        assert len(kept.json()["entry"]) == 1, (kind, kept.text)


async def test_nobody_without_a_token_is_let_in(face: Face) -> None:
    wrong = []
    for (method, template), asks in rows(face.world).items():
        for ask in asks[:1]:
            headers = dict(ask.headers) | ({"Content-Type": JSON} if "Content-Type" not in ask.headers else {})
            content = json.dumps(ask.body) if not isinstance(ask.body, str | None) else ask.body
            answer = await face.http.request(method, ask.path, headers=headers, content=content)
            if answer.status_code != 401 or "www-authenticate" not in answer.headers:
                wrong.append(f"{method} {template} ({ask.path}) -> {answer.status_code}")
    assert wrong == []
