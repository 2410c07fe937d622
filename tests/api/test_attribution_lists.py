"""Lists reconciled by those who get them: ATR operations over HTTP, their status matrix, and who may do what."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.fernet import Fernet
from fhir_face import BASE, PUBLIC_URL, client_for, enter
from pydantic import SecretStr

from fhir_gateway.attribution import entries
from fhir_gateway.attribution.roster import NPI_SYSTEM, TIN_SYSTEM
from fhir_gateway.config import Settings
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app

pytestmark = pytest.mark.anyio

MEMBERS = "https://payer.example/members"
PERIOD = {"start": "2025-01-01", "end": "2025-12-31"}
#: Clients by grants; the last two may only read, and the last one only some.
GRANTS: dict[str, list[str] | None] = {
    "operator": None,
    "payer": ["contract:aco"],
    "practice": ["organization:111"],
    "stranger": ["organization:999"],
    "reader": None,
    "narrow": None,
}
SCOPES = {"reader": "system/*.rs", "narrow": "system/Group.r system/Patient.r"}


def _group(name: str, tins: list[str], members: list[dict[str, Any]], status: str) -> dict[str, Any]:
    extension = [{"url": entries.TERM, "valuePeriod": PERIOD}, {"url": entries.STATUS, "valueCode": status}]
    group: dict[str, Any] = {
        "resourceType": "Group",
        "id": name,
        "meta": {"profile": [f"{entries.ATR}atr-group"]},
        "extension": extension,
        "identifier": [{"system": "https://payer.example/contracts", "value": "aco"}]
        + [{"system": TIN_SYSTEM, "value": tin} for tin in tins],
        "active": True,
        "type": "person",
        "actual": True,
        "quantity": len(members),
        "managingEntity": {"reference": "Organization/payer"},
        "member": entries.next_version({entries.key(one): one for one in members}, [], status),
    }
    labels = [label("contract", "aco")] + ([label("organization", tins[0])] if len(tins) == 1 else [])
    return labelled(group, *labels)


def _entry(person: str, practice: str) -> dict[str, Any]:
    return entries.entry(f"Patient/{person}", {"reference": f"Organization/{practice}"}, f"Coverage/c-{person}", PERIOD)


def _resources(status: str) -> list[dict[str, Any]]:
    tin = {"one": "111", "two": "222", "other": "333"}
    resources: list[dict[str, Any]] = [{"resourceType": "Organization", "id": "payer", "name": "Plan"}]
    resources += [
        {"resourceType": "Organization", "id": name, "identifier": [{"system": TIN_SYSTEM, "value": number}]}
        for name, number in tin.items()
    ]
    for number, (name, practice) in enumerate({"amy": "one", "bob": "two", "eve": "other"}.items()):
        identifier = [{"system": NPI_SYSTEM, "value": f"100000000{number}"}]
        resources.append({"resourceType": "Practitioner", "id": name, "identifier": identifier})
        role = {"practitioner": {"reference": f"Practitioner/{name}"}}
        role["organization"] = {"reference": f"Organization/{practice}"}
        resources.append({"resourceType": "PractitionerRole", "id": f"role-{name}", **role})
    for number in range(1, 7):
        person = f"p{number}"
        identifier = [{"system": MEMBERS, "value": f"M-{number}"}]
        resources.append({"resourceType": "Patient", "id": person})
        coverage = {"beneficiary": {"reference": f"Patient/{person}"}, "period": PERIOD, "identifier": identifier}
        resources.append({"resourceType": "Coverage", "id": f"c-{person}", "status": "active", **coverage})
    one, two = [_entry("p1", "one"), _entry("p3", "one")], [_entry("p2", "two")]
    resources.append(_group("aco", ["111", "222"], one + two, status))
    resources.append(_group("aco-111", ["111"], one, status))
    resources.append(_group("aco-222", ["222"], two, status))
    return resources


class Story:
    """The face with clients of all kinds over a contract of two practices."""

    def __init__(self, http: httpx.AsyncClient, gateway: Gateway, headers: dict[str, Any]) -> None:
        self.http, self.gateway, self.headers = http, gateway, headers

    async def call(
        self, client: str, path: str, extra: dict[str, str] | None = None, **parameters: Any
    ) -> httpx.Response:
        named = [{"name": name, **_value(value)} for name, value in parameters.items()]
        body = {"resourceType": "Parameters"} | ({"parameter": named} if named else {})
        return await self.http.post(f"/fhir/{path}", json=body, headers={**self.headers[client], **(extra or {})})

    def list(self, name: str) -> dict[tuple[str, str], tuple[str, bool]]:
        """Change type and inactivity by patient and provider."""
        group = self.gateway.resources.read("Group", name).json()
        listed = group.get("member", ())
        assert group["quantity"] == sum(not one["inactive"] for one in listed)
        return {
            (key[0].removeprefix("Patient/"), key[1]): (
                entries.extension(one, entries.CHANGE_TYPE)["valueCode"],
                one["inactive"],
            )
            for one in listed
            for key in [entries.key(one)]
        }


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"valueReference": {"reference": value}}
    if "start" in value or "end" in value:
        return {"valuePeriod": value}
    return {"valueIdentifier": value}


def member_id(number: int) -> dict[str, str]:
    return {"system": MEMBERS, "value": f"M-{number}"}


def npi(number: int) -> dict[str, str]:
    return {"system": NPI_SYSTEM, "value": f"100000000{number}"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def story(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Story]:
    key = SecretStr(Fernet.generate_key().decode())
    gateway = Gateway(
        Settings(database_url=SecretStr("sqlite://"), encryption_key=key, public_url=PUBLIC_URL, data_dir=tmp_path)
    )
    gateway.resources.put_many(_resources(getattr(request, "param", "draft")))
    # p4 was seen by the first practice, p5 by nobody of the contract
    evidence = tmp_path / "attributions" / "aco" / "x"
    evidence.mkdir(parents=True)
    seen = pa.table({"member": ["p4"], "tin": ["111"], "npi": ["1000000000"]})
    pq.write_table(seen, evidence / "services.parquet")
    (evidence / "header.json").write_text(json.dumps({"lake_version": 1, "computed": "2026-01-01"}))
    app = create_app(gateway)
    async with client_for(app) as http:
        headers = {}
        for name, grants in GRANTS.items():
            scopes = SCOPES.get(name, "system/*.cruds")
            headers[name] = await enter(http, gateway, name, scopes, grants=grants)
        yield Story(http, gateway, headers)


async def test_a_list_is_discovered_by_identifier_without_its_members(story: Story) -> None:
    found = await story.http.get(
        f"/fhir/Group?identifier={TIN_SYSTEM}|111&_summary=true", headers=story.headers["practice"]
    )
    (entry,) = found.json()["entry"]
    assert entry["resource"]["id"] == "aco-111"
    assert "member" not in entry["resource"]
    assert "SUBSETTED" in [tag["code"] for tag in entry["resource"]["meta"]["tag"]]


async def test_a_member_is_added_to_both_lists_and_removed_from_both(story: Story) -> None:
    said = {
        "resourceType": "Provenance",
        "agent": [{"who": {"display": "Dr. Amy"}}],
        "reason": [{"text": "my patient"}],
    }
    added = await story.call(
        "practice",
        "Group/aco-111/$member-add",
        {"X-Provenance": json.dumps(said)},
        memberId=member_id(4),
        providerNpi=npi(0),
        attributionPeriod={"start": "2025-03-01"},
    )
    assert added.status_code == 200, added.text
    assert added.json()["issue"][0]["severity"] == "information"
    assert added.headers["ETag"] == 'W/"2"'
    assert added.headers["Content-Location"] == f"{BASE}/Group/aco-111/_history/2"
    for name in ("aco", "aco-111"):
        listed = story.list(name)
        assert listed["p4", "Practitioner/amy"] == ("new", False)
        assert listed["p1", "Organization/one"] == ("nochange", False)
    assert ("p4", "Practitioner/amy") not in story.list("aco-222")
    group = (await story.http.get("/fhir/Group/aco-111", headers=story.headers["practice"])).json()
    (entry,) = [one for one in group["member"] if one["entity"]["reference"] == "Patient/p4"]
    assert entry["period"] == {"start": "2025-03-01"}
    assert entries.extension(entry, entries.COVERAGE)["valueReference"] == {"reference": "Coverage/c-p4"}
    reference = entries.extension(entry, entries.DECISION)["valueReference"]["reference"]
    proof = (await story.http.get(f"/fhir/{reference}", headers=story.headers["practice"])).json()
    assert [one["who"] for one in proof["agent"]][1] == {"display": "Dr. Amy"}
    assert proof["agent"][0]["who"]["identifier"]["value"] == "practice"
    assert proof["reason"] == [{"text": "my patient"}]
    assert {one["reference"] for one in proof["target"]} == {"Group/aco", "Group/aco-111", "Patient/p4"}
    hidden = await story.http.get(f"/fhir/{reference}", headers=story.headers["stranger"])
    assert hidden.status_code == 404

    again = await story.call("practice", "Group/aco-111/$member-add", memberId=member_id(4), providerNpi=npi(0))
    assert (again.status_code, again.headers["ETag"]) == (200, 'W/"2"')  # nothing to change
    removed = await story.call("payer", "Group/aco/$member-remove", memberId=member_id(4), providerNpi=npi(0))
    assert removed.status_code == 200, removed.text
    for name in ("aco", "aco-111"):  # a draft keeps who left
        assert story.list(name)["p4", "Practitioner/amy"] == ("dropped", True)
    back = await story.call("practice", "Group/aco-111/$member-add", memberId=member_id(4), providerNpi=npi(0))
    assert back.status_code == 200, back.text
    assert story.list("aco")["p4", "Practitioner/amy"] == ("changed", False)
    acts = [(one.act, one.by, one.why) for one in story.gateway.decisions.standing("aco")]
    assert acts == [
        ("member-add", "practice", "my patient"),
        ("member-remove", "payer", None),
        ("member-add", "practice", None),
    ]


async def test_removal_by_member_takes_every_entry_and_by_provider_only_theirs(story: Story) -> None:
    added = await story.call(
        "operator", "Group/aco/$member-add", patientReference="Patient/p1", providerReference="Organization/two"
    )
    assert added.status_code == 200, added.text
    assert story.list("aco-222")["p1", "Organization/two"] == ("new", False)
    wrong = await story.call(
        "operator",
        "Group/aco/$member-remove",
        patientReference="Patient/p1",
        providerReference="Organization/two",
        coverageReference="Coverage/c-p2",
    )
    assert wrong.status_code == 422
    one = await story.call(
        "operator",
        "Group/aco/$member-remove",
        patientReference="Patient/p1",
        providerReference=f"{BASE}/Practitioner/bob",
    )
    assert one.status_code == 200, one.text  # Bob's practice is whom the entry names
    assert story.list("aco")["p1", "Organization/two"] == ("dropped", True)
    assert story.list("aco")["p1", "Organization/one"] == ("nochange", False)
    rest = await story.call("operator", "Group/aco/$member-remove", patientReference="Patient/p1")
    assert rest.status_code == 200
    assert story.list("aco-111")["p1", "Organization/one"] == ("dropped", True)


@pytest.mark.parametrize("story", ["open"], indirect=True)
async def test_who_is_removed_from_an_open_list_leaves_it(story: Story) -> None:
    removed = await story.call("practice", "Group/aco-111/$member-remove", memberId=member_id(1))
    assert removed.status_code == 200, removed.text
    assert story.list("aco") == {
        ("p2", "Organization/two"): ("nochange", False),
        ("p3", "Organization/one"): ("nochange", False),
    }
    assert story.list("aco-111") == {("p3", "Organization/one"): ("nochange", False)}


@pytest.mark.parametrize("story", ["final"], indirect=True)
async def test_a_final_list_takes_no_changes(story: Story) -> None:
    add = {"memberId": member_id(4), "providerNpi": npi(0)}
    for code, parameters in (("member-add", add), ("member-remove", {"memberId": member_id(1)})):
        answer = await story.call("operator", f"Group/aco/${code}", **parameters)
        assert answer.status_code == 409
        assert answer.json()["issue"][0]["code"] == "business-rule"
    confirmed = await story.call("operator", "Group/aco/$confirm-attribution-list")
    assert (confirmed.status_code, confirmed.headers["ETag"]) == (201, 'W/"1"')


async def test_confirming_makes_a_list_final_without_who_left(story: Story) -> None:
    await story.call("practice", "Group/aco-111/$member-remove", memberId=member_id(1))
    confirmed = await story.call("practice", "Group/aco-111/$confirm-attribution-list")
    assert confirmed.status_code == 201, confirmed.text
    assert story.list("aco-111") == {("p3", "Organization/one"): ("nochange", False)}
    assert entries.status_of(story.gateway.resources.read("Group", "aco-111").json()) == "final"
    assert entries.status_of(story.gateway.resources.read("Group", "aco").json()) == "draft"
    late = await story.call("payer", "Group/aco/$member-add", memberId=member_id(4), providerNpi=npi(0))
    assert late.status_code == 409  # the practice's list would change too
    other = await story.call("operator", "Group/aco/$member-add", memberId=member_id(5), providerNpi=npi(1))
    assert other.status_code == 200, other.text
    everything = await story.call("payer", "Group/aco/$confirm-attribution-list")
    assert everything.status_code == 201
    assert entries.status_of(story.gateway.resources.read("Group", "aco-222").json()) == "final"


async def test_a_client_adds_nobody_whose_data_it_should_not_see(story: Story) -> None:
    """Being listed shows a person's data; who could list anybody could read everybody."""
    said = []
    for number in (5, 99):  # one whom the practice never saw, one who is not there
        answer = await story.call(
            "practice", "Group/aco-111/$member-add", memberId=member_id(number), providerNpi=npi(0)
        )
        assert answer.status_code == 422
        said.append(answer.json()["issue"][0]["diagnostics"])
    assert said[0] == said[1]
    by_id = await story.call(
        "practice", "Group/aco-111/$member-add", patientReference="Patient/p5", providerReference="Practitioner/amy"
    )
    assert by_id.status_code == 422
    payer = await story.call("payer", "Group/aco/$member-add", memberId=member_id(5), providerNpi=npi(0))
    assert payer.status_code == 422
    assert (
        await story.call("operator", "Group/aco/$member-add", memberId=member_id(5), providerNpi=npi(0))
    ).status_code == 200


@pytest.mark.parametrize(
    ("client", "path", "status"),
    [
        ("practice", "Group/aco", 404),
        ("practice", "Group/aco-222", 404),
        ("stranger", "Group/aco-111", 404),
        ("stranger", "Group/never-was", 404),
        ("reader", "Group/aco", 403),
    ],
)
@pytest.mark.parametrize("code", ["member-add", "member-remove", "confirm-attribution-list"])
async def test_others_lists_do_not_exist_and_reading_is_not_writing(
    story: Story, client: str, path: str, status: int, code: str
) -> None:
    parameters = {
        "member-add": {"memberId": member_id(4), "providerNpi": npi(0)},
        "member-remove": {"memberId": member_id(1)},
        "confirm-attribution-list": {},
    }[code]
    answer = await story.call(client, f"{path}/${code}", **parameters)
    assert answer.status_code == status, answer.text
    assert answer.json()["resourceType"] == "OperationOutcome"
    assert story.gateway.decisions.all("aco") == []


async def test_attribution_status_shows_one_member(story: Story) -> None:
    answer = await story.call("practice", "Group/aco-111/$attribution-status", memberId=member_id(1))
    assert answer.status_code == 200, answer.text
    bundle = answer.json()
    found = {one["resource"]["resourceType"]: one["resource"] for one in bundle["entry"]}
    assert set(found) == {"Group", "Patient", "Coverage", "Organization"}
    assert [one["entity"]["reference"] for one in found["Group"]["member"]] == ["Patient/p1"]
    narrow = await story.call("narrow", "Group/aco-111/$attribution-status", memberId=member_id(1))
    kinds = [one["resource"]["resourceType"] for one in narrow.json()["entry"]]
    assert kinds == ["Group", "Patient"]  # what its scopes do not cover does not come along
    for number in (2, 99):
        other = await story.call("practice", "Group/aco-111/$attribution-status", memberId=member_id(number))
        assert other.status_code == 422


async def test_if_match_keeps_others_changes(story: Story) -> None:
    add = {"memberId": member_id(4), "providerNpi": npi(0)}
    fresh = await story.call("operator", "Group/aco/$member-add", {"If-Match": 'W/"1"'}, **add)
    assert (fresh.status_code, fresh.headers["ETag"]) == (200, 'W/"2"')
    stale = await story.call("operator", "Group/aco/$member-remove", {"If-Match": 'W/"1"'}, memberId=member_id(4))
    assert stale.status_code == 412
    assert story.list("aco")["p4", "Practitioner/amy"] == ("new", False)


@pytest.mark.parametrize(
    ("code", "parameters", "status"),
    [
        ("member-add", {"memberId": member_id(1)}, 400),
        ("member-add", {"memberId": member_id(1), "providerReference": "Practitioner/amy"}, 400),
        ("member-add", {"patientReference": "Observation/p1", "providerReference": "Practitioner/amy"}, 400),
        (
            "member-add",
            {"patientReference": "https://x.example/Patient/p1", "providerReference": "Practitioner/amy"},
            400,
        ),
        ("member-add", {"memberId": {"value": "M-4"}, "providerNpi": npi(2)}, 422),  # works for somebody else
        ("member-add", {"memberId": member_id(4), "providerNpi": npi(7)}, 422),
        ("member-add", {"memberId": member_id(4), "providerNpi": npi(0), "attributionPeriod": {"end": "2025"}}, 400),
        (
            "member-add",
            {
                "memberId": member_id(4),
                "providerNpi": npi(0),
                "attributionPeriod": {"start": "2025-02", "end": "2025-01"},
            },
            400,
        ),
        ("member-remove", {"providerNpi": npi(0)}, 400),
        ("member-remove", {"memberId": member_id(4)}, 422),
        ("member-remove", {"memberId": member_id(1), "providerNpi": npi(1)}, 422),
        ("attribution-status", {}, 400),
        ("confirm-attribution-list", {"memberId": member_id(1)}, 400),
    ],
)
async def test_wrong_calls_are_refused_with_a_reason(
    story: Story, code: str, parameters: dict[str, Any], status: int
) -> None:
    answer = await story.call("operator", f"Group/aco/${code}", **parameters)
    assert answer.status_code == status, answer.text
    (issue,) = answer.json()["issue"]
    assert issue["diagnostics"]
    assert "M-" not in answer.text
    assert story.gateway.decisions.all("aco") == []


@pytest.mark.parametrize(
    "header", ["no json", "[]", '{"resourceType":"Provenance"}', '{"resourceType":"Provenance","agent":[1]}']
)
async def test_a_provenance_that_is_none_is_refused(story: Story, header: str) -> None:
    answer = await story.call(
        "operator", "Group/aco/$member-add", {"X-Provenance": header}, memberId=member_id(4), providerNpi=npi(0)
    )
    assert answer.status_code == 400


def roster(*members: tuple[int, str, str]) -> dict[str, Any]:
    """A payer's roster: member numbers, TINs and first days."""
    entry = [
        {
            "extension": [
                {
                    "url": entries.PROVIDER,
                    "valueReference": {"identifier": {"system": TIN_SYSTEM, "value": tin}, "type": "Organization"},
                }
            ],
            "entity": {"identifier": member_id(number)},
            "period": {"start": start, "end": "2025-12-31"},
        }
        for number, tin, start in members
    ]
    return {"resourceType": "Group", "type": "person", "actual": True, "member": entry}


async def reconciled(story: Story, client: str, path: str, *parameters: dict[str, Any]) -> httpx.Response:
    body = {"resourceType": "Parameters", "parameter": list(parameters)}
    return await story.http.post(f"/fhir/{path}/$reconcile", json=body, headers=story.headers[client])


def findings(answer: httpx.Response) -> dict[str, str]:
    """What differs, by how the roster calls the member."""
    found = {}
    for one in answer.json()["parameter"]:
        if one["name"] == "difference":
            parts = {part["name"]: part for part in one["part"]}
            found[parts["named"]["valueString"]] = parts["finding"]["valueCode"]
    return found


async def test_the_payers_roster_is_compared_for_who_asks(story: Story) -> None:
    theirs = roster(
        (1, "111", "2025-01-01"), (2, "111", "2025-01-01"), (3, "111", "2025-04-01"), (6, "111", "2025-01-01")
    )
    answer = await reconciled(story, "operator", "Group/aco", {"name": "roster", "resource": theirs})
    assert answer.status_code == 200, answer.text
    assert findings(answer) == {"M-2": "different-provider", "M-3": "different-period", "M-6": "only-theirs"}
    (count,) = [one for one in answer.json()["parameter"] if one["name"] == "count"]
    assert {part["name"]: part["valueInteger"] for part in count["part"]}["same"] == 1
    # to the practice members of others are unknown, whether they are here or not
    mine = await reconciled(story, "practice", "Group/aco-111", {"name": "roster", "resource": theirs})
    assert findings(mine) == {"M-2": "unknown-member", "M-3": "different-period", "M-6": "unknown-member"}
    csv = f"member_id,member_system,provider_tin\nM-1,{MEMBERS},111\nM-99,{MEMBERS},111\n"
    table = await reconciled(story, "practice", "Group/aco-111", {"name": "csv", "valueString": csv})
    assert findings(table) == {"M-99": "unknown-member", "Patient/p3": "only-ours"}
    assert story.gateway.resources.read("Group", "aco").version == 1


@pytest.mark.parametrize(
    ("client", "path", "parameters", "status"),
    [
        ("practice", "Group/aco", [{"name": "csv", "valueString": "member_id\nM-1\n"}], 404),
        ("stranger", "Group/aco-111", [{"name": "csv", "valueString": "member_id\nM-1\n"}], 404),
        ("practice", "Group/aco-111", [{"name": "source", "valueString": "payer"}], 403),
        ("operator", "Group/aco", [], 400),
        ("operator", "Group/aco", [{"name": "csv", "valueString": "name\nx\n"}], 400),
        ("operator", "Group/aco", [{"name": "csv", "valueString": "member_id,ssn\nM-1,1\n"}], 400),
        ("operator", "Group/aco", [{"name": "csv", "valueString": "member_id\nM-1,2,3\n"}], 400),
        ("operator", "Group/aco", [{"name": "csv", "valueString": ""}], 400),
        ("operator", "Group/aco", [{"name": "roster", "resource": {"resourceType": "Patient"}}], 400),
        ("operator", "Group/aco", [{"name": "roster", "resource": {"resourceType": "Group", "member": [1]}}], 400),
        (
            "operator",
            "Group/aco",
            [{"name": "csv", "valueString": "member_id\nM-1\n"}, {"name": "x", "valueString": "y"}],
            400,
        ),
    ],
)
async def test_wrong_rosters_are_refused(
    story: Story, client: str, path: str, parameters: list[dict[str, Any]], status: int
) -> None:
    answer = await reconciled(story, client, path, *parameters)
    assert answer.status_code == status, answer.text
    assert answer.json()["resourceType"] == "OperationOutcome"
    assert "M-1" not in answer.text
