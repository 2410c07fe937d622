"""The ways around: chains, reverse chains, includes, history and bundles tell a client nothing of what is not its own.

Every probe is asked twice, with a value that holds for something hidden and with one that holds for nothing: a client
that can tell the answers apart has learnt something.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
from fhir_face import BASE, PUBLIC_URL, client_for, enter, new_gateway

from fhir_gateway.db.audience import label, labelled
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app
from tests.support.backend_client import lasting

pytestmark = pytest.mark.anyio

HIDDEN = {"p3", "cov-p3", "aco", "c-aco", "s-aco", "gone-p3"}
GRANTS: dict[str, tuple[list[str] | None, str]] = {
    "operator": (None, "system/*.cruds"),
    "practice": (["organization:111"], "system/*.cruds"),
    "narrow": (None, "system/Group.rs system/Organization.rs"),
}


def group(list_id: str, persons: list[str], *labels: dict[str, str], **more: Any) -> dict[str, Any]:
    member = [{"entity": {"reference": f"Patient/{one}"}, "inactive": False} for one in persons]
    listed = {"resourceType": "Group", "id": list_id, "type": "person", "actual": True, "member": member, **more}
    return labelled(listed, *labels)


def coverage(person: str, payor: str = "payer", **more: Any) -> dict[str, Any]:
    beneficiary = {"reference": f"Patient/{person}"}
    payors = [{"reference": f"Organization/{payor}"}]
    found = {"resourceType": "Coverage", "id": f"cov-{person}", "status": "active", "payor": payors}
    return {**found, "beneficiary": beneficiary, **more}


def settlement() -> list[dict[str, Any]]:
    measure = {"resourceType": "Measure", "id": "c-aco", "url": "http://x/c-aco", "status": "active", "title": "Secret"}
    report = {
        "resourceType": "MeasureReport",
        "id": "s-aco",
        "status": "complete",
        "type": "summary",
        "measure": "http://x/c-aco",
        "period": {"start": "2025-01-01", "end": "2025-12-31"},
        "evaluatedResource": [{"reference": "Patient/p3"}, {"reference": "Patient/p1"}],
    }
    return [labelled(one, label("contract", "aco")) for one in (measure, report)]


class Face:
    def __init__(self, gateway: Gateway, http: httpx.AsyncClient, headers: dict[str, Any]) -> None:
        self.gateway, self.http, self.headers = gateway, http, headers

    async def get(self, client: str, path: str) -> httpx.Response:
        return await self.http.get(f"/fhir/{path}", headers=self.headers[client])

    async def everything(self, client: str, path: str) -> tuple[set[str], str]:
        """Names of all resources on all pages, and the text of all pages."""
        found: set[str] = set()
        text = ""
        url: str | None = f"{BASE}/{path}"
        while url:
            answer = await self.http.get(url, headers=self.headers[client])
            assert answer.status_code == 200, answer.text
            bundle = answer.json()
            found |= {one["fullUrl"].rpartition("/")[2] for one in bundle.get("entry", ()) if "fullUrl" in one}
            text += answer.text
            url = next((one["url"] for one in bundle["link"] if one["relation"] == "next"), None)
        return found, text


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def face(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Face]:
    gateway = Gateway(new_gateway().settings.model_copy(update={"data_dir": tmp_path_factory.mktemp("data")}))
    persons = [
        {"resourceType": "Patient", "id": f"p{number}", "gender": gender, "name": [{"family": f"Family{number}"}]}
        for number, gender in ((1, "female"), (2, "male"), (3, "other"))
    ]
    gateway.resources.put_many(
        [
            {"resourceType": "Organization", "id": "payer", "name": "Payer"},
            {"resourceType": "Organization", "id": "secret-payer", "name": "Elsewhere"},
            *persons,
            coverage("p1"),
            coverage("p2"),
            coverage("p3", "secret-payer"),
            coverage("p3") | {"id": "gone-p3"},
            coverage("p1") | {"id": "gone-p1"},
            group("aco", ["p1", "p2", "p3"], label("contract", "aco"), name="Secret list"),
            group("mine", ["p1", "p2"], label("organization", "111"), name="My list"),
            group("moved", ["p3"], label("organization", "222"), name="Before"),
            *settlement(),
        ]
    )
    store = gateway.resources
    # a list that was another's and is the client's now; a coverage that was another person's; a person who left
    store.put(group("moved", ["p1"], label("organization", "111"), name="After"))
    store.put(coverage("p3") | {"id": "cov-p1"})
    store.put(coverage("p1"))
    store.put(group("mine", ["p1"], label("organization", "111"), name="My list"))
    for one in ("gone-p3", "gone-p1"):
        store.delete("Coverage", one)
    async with client_for(create_app(gateway)) as http:
        headers = {}
        for name, (grants, scopes) in GRANTS.items():
            headers[name] = await enter(http, gateway, name, scopes, grants=grants)
        lasting(gateway)
        yield Face(gateway, http, headers)


#: Probes with ``@`` for a value, one that holds for something hidden, and what the operator finds by it.
PROBES = [
    ("Organization?_has:Coverage:payor:beneficiary.family=@", "Family3", {"secret-payer"}),
    ("Organization?_has:Coverage:payor:_id=@", "cov-p3", {"secret-payer"}),
    (
        "Organization?_has:Coverage:payor:beneficiary:Patient._has:Group:member:name=@",
        "Secret",
        {"payer", "secret-payer"},
    ),
    ("Patient?_has:Group:member:name=@", "Secret", {"p1", "p2", "p3"}),
    ("Patient?_has:Coverage:beneficiary:payor:Organization.name=@", "Elsewhere", {"p3"}),
    ("Group?member:Patient.family=@", "Family3", {"aco"}),
    ("Group?member:Patient.gender:not=@", "other", {"aco", "mine", "moved"}),
    ("Group?member:Patient._has:Coverage:beneficiary:_id=@", "cov-p3", {"aco"}),
    ("MeasureReport?measure.title=@", "Secret", {"s-aco"}),
    ("MeasureReport?evaluated-resource:Patient.family=@", "Family3", {"s-aco"}),
    ("Coverage?beneficiary:Patient.family=@", "Family3", {"cov-p3"}),
    ("Coverage?beneficiary:Patient._has:Group:member:name=@", "Secret", {"cov-p1", "cov-p2", "cov-p3"}),
    ("Measure?_has:MeasureReport:measure:_id=@", "s-aco", None),
]


@pytest.mark.parametrize(("query", "value", "operators"), PROBES)
async def test_chains_match_only_on_what_the_client_sees(
    face: Face, query: str, value: str, operators: set[str] | None
) -> None:
    if operators is None:  # by url: there is no reverse chain for those, whoever asks
        assert {(await face.get(one, query.replace("@", value))).status_code for one in GRANTS} <= {400, 403}
        return
    assert (await face.everything("operator", query.replace("@", value)))[0] == operators
    if ":not=" in query:
        hidden, _ = await face.everything("practice", query.replace("@", value))
        assert hidden == {"mine", "moved"}
        return
    hidden, text = await face.everything("practice", query.replace("@", value))
    nothing, other = await face.everything("practice", query.replace("@", "Nothing"))
    assert hidden == nothing == set()
    assert text.replace(value, "Nothing") == other, "not even a total differs"


@pytest.mark.parametrize(
    "query",
    [
        "Patient?_revinclude=Coverage:beneficiary&_revinclude:iterate=Group:member",
        "Patient?_revinclude=Group:member&_include:iterate=Group:member&_revinclude:iterate=Coverage:patient",
        "Organization?_revinclude=Coverage:payor&_include:iterate=Coverage:beneficiary",
        "Organization?_revinclude=Coverage:payor&_revinclude:iterate=MeasureReport:evaluated-resource",
        "Group?_include=Group:member&_revinclude:iterate=Coverage:beneficiary&_revinclude:iterate=Group:member",
        "Patient?_revinclude=MeasureReport:evaluated-resource&_include:iterate=MeasureReport:measure",
        "Patient?_revinclude=MeasureReport:patient&_include:iterate=MeasureReport:evaluated-resource",
        "Measure?_revinclude=MeasureReport:measure",
        "Coverage?_include=Coverage:beneficiary&_revinclude:iterate=Group:member&_include:iterate=Group:member",
        "Coverage/_history",
        "Group/_history",
        "Patient/_history",
        "MeasureReport/_history",
        "Measure/_history",
        "_history?_count=3",
        "_history?_at=2020",
        "?_type=Patient,Coverage,Group,MeasureReport&_count=2",
        "?_lastUpdated=gt2000",
    ],
)
async def test_what_is_sent_along_and_what_was_is_the_clients_own(face: Face, query: str) -> None:
    found, text = await face.everything("practice", query)
    assert not found & (HIDDEN | {"p2", "cov-p2"}), "what is hidden, and who left the list"
    for word in ("Family3", "Family2", "Secret", '"Before"', "cov-p3"):
        assert word not in text, word
    everything, _ = await face.everything("operator", query)
    assert found <= everything | {"mine"}


async def test_the_operator_does_see_it_all(face: Face) -> None:
    """That the probes above could have found something."""
    found, text = await face.everything(
        "operator", "Patient?_revinclude=Coverage:beneficiary&_revinclude:iterate=Group:member"
    )
    assert {"p3", "cov-p3"} <= found
    found, text = await face.everything("operator", "_history?_count=3")
    assert found >= HIDDEN
    for word in ("Family3", "Secret", "Before"):
        assert word in text
    found, _ = await face.everything("operator", "Measure?_revinclude=MeasureReport:measure")
    assert found == {"c-aco", "s-aco"}
    found, _ = await face.everything(
        "operator", "Organization?_id=secret-payer&_revinclude=Coverage:payor&_include:iterate=Coverage:beneficiary"
    )
    assert found == {"secret-payer", "cov-p3", "p3"}


async def test_versions_before_a_resource_was_the_clients_are_not_shown(face: Face) -> None:
    versions = (await face.get("practice", "Group/moved/_history")).json()["entry"]
    assert [one["resource"]["name"] for one in versions] == ["After"]
    assert (await face.get("practice", "Group/moved/_history/1")).status_code == 404
    assert (await face.get("operator", "Group/moved/_history/1")).json()["name"] == "Before"
    owners = (await face.get("practice", "Coverage/cov-p1/_history")).json()["entry"]
    assert [one["resource"]["meta"]["versionId"] for one in owners] == ["3", "1"]
    assert (await face.get("practice", "Coverage/cov-p1/_history/2")).status_code == 404


async def test_what_was_visible_once_is_not_any_more(face: Face) -> None:
    for path in ("Patient/p2", "Coverage/cov-p2", "Patient/p2/_history", "Coverage/cov-p2/_history/1"):
        assert (await face.get("practice", path)).status_code == 404, path


async def test_deletions_are_told_to_those_who_saw_it(face: Face) -> None:
    mine = (await face.get("practice", "Coverage/gone-p1/_history")).json()["entry"]
    assert [one["request"]["method"] for one in mine] == ["DELETE", "POST"]
    assert (await face.get("practice", "Coverage/gone-p1")).status_code == 410
    for path in ("Coverage/gone-p3", "Coverage/gone-p3/_history", "Coverage/gone-p3/_history/2"):
        hidden, absent = await face.get("practice", path), await face.get("practice", path.replace("gone-p3", "never"))
        assert hidden.status_code == 404
        assert hidden.json() == absent.json()


async def test_guessed_ids_are_told_apart_nowhere(face: Face) -> None:
    for path in ("Patient/@/_history", "Patient/@/_history/1", "Group/@/_history", "MeasureReport/@/_history"):
        for guess in ("p3", "aco", "s-aco"):
            hidden = await face.get("practice", path.replace("@", guess))
            absent = await face.get("practice", path.replace("@", "never-was"))
            assert (hidden.status_code, hidden.json()) == (404, absent.json())


async def test_bundles_reach_no_further_than_requests(face: Face) -> None:
    asked = ["Patient/p3", "Coverage/cov-p3", "Group/aco/_history", "Group?member:Patient.family=Family3", "_history"]
    entries = [{"request": {"method": "GET", "url": one}} for one in asked]
    entries.append({"request": {"method": "DELETE", "url": "MeasureReport/s-aco"}})
    for kind in ("batch", "transaction"):
        body = orjson.dumps({"resourceType": "Bundle", "type": kind, "entry": entries})
        headers = {**face.headers["practice"], "Content-Type": "application/fhir+json"}
        answer = await face.http.post("/fhir", content=body, headers=headers)
        assert [one["response"]["status"][:3] for one in answer.json()["entry"]] == [
            "404",
            "404",
            "404",
            "200",
            "200",
            "204",
        ]
        for word in ("Family3", "Secret", "cov-p3"):
            assert word not in answer.text.replace("member%3APatient.family=Family3", ""), word
    assert (await face.get("operator", "MeasureReport/s-aco")).status_code == 200


async def test_conditional_writes_probe_nothing(face: Face) -> None:
    report = {
        "resourceType": "MeasureReport",
        "status": "complete",
        "type": "summary",
        "measure": "http://x/mine",
        "period": {"start": "2025-01-01", "end": "2025-12-31"},
    }
    headers = {**face.headers["practice"], "Content-Type": "application/fhir+json"}
    for criteria in ("_id=s-aco", "measure.title=Secret", "evaluated-resource:Patient.family=Family3"):
        made = await face.http.post("/fhir/MeasureReport", json=report, headers={**headers, "If-None-Exist": criteria})
        assert made.status_code == 201, "what it does not see does not stop it"
        done = await face.http.delete(f"/fhir/MeasureReport?{criteria}", headers=headers)
        assert done.status_code == 204
    assert (await face.get("operator", "MeasureReport/s-aco")).status_code == 200


async def test_chains_and_includes_need_scopes(face: Face) -> None:
    refused = (
        "Group?member:Patient.family=Family1",
        "Organization?_has:Coverage:payor:status=active",
        "Group?managing-entity.name=x&member:Patient.gender=male",
        "Group?member:Patient._has:Coverage:beneficiary:_id=cov-p1",
        "?_type=Patient",
        "Patient/_history",
        "Patient/p1/_history",
    )
    for query in refused:
        answer = await face.get("narrow", query)
        assert (answer.status_code, answer.json()["issue"][0]["code"]) == (403, "forbidden"), query
    found, _ = await face.everything("narrow", "Group?_include=Group:member&_revinclude=MeasureReport:subject")
    assert found == {"aco", "mine", "moved"}
    found, _ = await face.everything("narrow", "_history")
    assert found == {"aco", "mine", "moved", "payer", "secret-payer"}
    found, _ = await face.everything("narrow", "?_count=2")
    assert found == {"aco", "mine", "moved", "payer", "secret-payer"}


async def test_a_next_link_shows_its_bearer_only_what_is_theirs(face: Face) -> None:
    for path in ("_history?_count=1", "Coverage/_history?_count=1", "?_type=Patient,Coverage&_count=1"):
        bundle = (await face.get("operator", path)).json()
        following = next(one["url"] for one in bundle["link"] if one["relation"] == "next")
        found, text = await face.everything(
            "practice", following.removeprefix(f"{PUBLIC_URL}/fhir/").removeprefix(f"{BASE}")
        )
        assert not found & HIDDEN
        assert "Family3" not in text
