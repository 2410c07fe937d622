"""Stories of senders: NDJSON and Bundles pushed to us, authorized, limited, and refused line by line."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, authorize, client_for, register
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.pull import run
from fhir_gateway.jobs.push import push, tidy
from fhir_gateway.r4.models import parse
from fhir_gateway.server.app import create_app
from fhir_gateway.server.imports import source_name
from fhir_gateway.sources.files import stage_files

NDJSON = {"Content-Type": "application/fhir+ndjson"}
JSON = {"Content-Type": "application/fhir+json"}


def patient(number: int, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": f"p{number}", "gender": "female", "birthDate": "1970-01-01", **more}


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    key = SecretStr(Fernet.generate_key().decode())
    settings = Settings(
        data_dir=tmp_path, encryption_key=key, public_url=PUBLIC_URL, lake_buckets=1, import_max_bytes=20_000
    )
    return Gateway(settings)


def lines(*resources: dict[str, Any]) -> bytes:
    return "\n".join(json.dumps(one) for one in resources).encode()


class Sender:
    def __init__(self, gateway: Gateway, name: str, scopes: str) -> None:
        self.gateway, self.name, self.scopes = gateway, name, scopes
        self.key = register(gateway, name, scopes)

    async def __aenter__(self) -> Sender:
        self.http = client_for(create_app(self.gateway))
        self.token = await authorize(self.http, self.name, self.key, self.scopes)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def send(self, body: bytes, headers: dict[str, str], status: int = 200) -> dict[str, Any]:
        answered = await self.http.post("/fhir/$import", content=body, headers={**self.token, **headers})
        assert answered.status_code == status, answered.text
        found: dict[str, Any] = answered.json()
        return found


def bundle(kind: str, *entries: Any) -> bytes:
    return json.dumps({"resourceType": "Bundle", "type": kind, "entry": entries}).encode()


def put(resource: dict[str, Any]) -> dict[str, Any]:
    return {"resource": resource, "request": {"method": "PUT", "url": f"{resource['resourceType']}/{resource['id']}"}}


def observation(subject: str, **more: Any) -> dict[str, Any]:
    code = {"text": "urn:uuid:aa stays in text"}
    return {"resourceType": "Observation", "status": "final", "code": code, "subject": {"reference": subject}, **more}


def post(resource: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"resource": resource, "request": {"method": "POST", "url": resource["resourceType"]}, **more}


def ledger(parameters: dict[str, Any], kind: str, count: str) -> int:
    for one in parameters["parameter"]:
        parts = {part["name"]: part for part in one.get("part", [])}
        if one["name"] == "ledger" and parts["type"]["valueString"] == kind:
            return int(parts[count]["valueInteger"])
    return 0


def responses(answer: dict[str, Any]) -> list[dict[str, Any]]:
    assert (answer["resourceType"], answer["type"]) == ("Bundle", "transaction-response")
    parse(answer)
    return [one["response"] for one in answer["entry"]]


def outcome(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    found = [one["resource"] for one in parameters["parameter"] if one["name"] == "outcome"]
    issues: list[dict[str, Any]] = found[0]["issue"]
    return issues


def test_ndjson_and_bundles_go_the_way_of_every_pull(gateway: Gateway) -> None:
    async def story() -> AsyncIterator[None] | None:
        async with Sender(gateway, "clinic", "system/*.cu") as sender:
            body = lines(patient(1), patient(2), patient(3, gender="no such code"))
            answer = await sender.send(gzip.compress(body), {**NDJSON, "Content-Encoding": "gzip"})
            refused = [one for one in outcome(answer) if one["severity"] == "error"]
            assert len(refused) == 1
            assert refused[0]["expression"] == ["Patient.gender"]
            assert "no such code" not in json.dumps(answer)
            assert outcome(await sender.send(body, NDJSON))[-1]["diagnostics"] == "2 resources are here"
            entries = [{"resource": patient(n), "request": {"method": "PUT", "url": f"Patient/p{n}"}} for n in (2, 4)]
            for kind in ("transaction", "collection"):
                await sender.send(bundle(kind, *entries), JSON)
        return None

    anyio.run(story)
    stored = gateway.lake.read("Patient", ["id"])
    assert sorted(stored["id"].to_pylist()) == ["p1", "p2", "p4"]
    assert set(stored["_source"].to_pylist()) == {source_name("clinic")}


def test_a_transaction_is_stored_whole_or_not_at_all(gateway: Gateway) -> None:
    async def story() -> None:
        async with Sender(gateway, "clinic", "system/*.cud") as sender:
            entries = [put(patient(1)), put(patient(2, gender="no such code")), put(patient(3, birthDate="soon"))]
            said = await sender.send(bundle("transaction", *entries), JSON, 422)
            named = [one["expression"] for one in said["issue"][:2]]
            assert named == [["Bundle.entry[1].resource.gender"], ["Bundle.entry[2].resource.birthDate"]]
            assert said["issue"][0]["details"]["text"] == "binding"
            assert "no such code" not in json.dumps(said)
            assert gateway.lake.version == 0
            for kind in ("batch", "collection"):
                answer = await sender.send(bundle(kind, *entries), JSON)
                assert ledger(answer, "Patient", "lines-read") == 3
                assert ledger(answer, "Patient", "rows-quarantined") == 2
                assert outcome(answer)[0]["expression"] == ["Bundle.entry[1].resource.gender"]

    anyio.run(story)
    assert gateway.lake.read("Patient", ["id"])["id"].to_pylist() == ["p1"]


def test_creates_get_ids_and_references_follow(gateway: Gateway) -> None:
    person = {"resourceType": "Patient", "gender": "female"}
    sent = bundle(
        "transaction",
        post(observation("urn:uuid:aa"), fullUrl="urn:uuid:bb"),
        post(person, fullUrl="urn:uuid:aa"),
        put(patient(7)) | {"fullUrl": "https://clinic.example/fhir/Patient/p7"},
        post(observation("https://clinic.example/fhir/Patient/p7", id="o7")),
    )

    async def story() -> None:
        async with Sender(gateway, "clinic", "system/*.cud") as sender:
            for times in range(2):
                answered = responses(await sender.send(sent, JSON))
                assert [one["status"] for one in answered] == [("200 OK" if times else "201 Created")] * 4
            given = [one["location"].removesuffix("/_history/1") for one in answered]
            assert given[2:] == ["Patient/p7", "Observation/o7"]
            assert {one["etag"] for one in answered} == {'W/"1"'}
            rows = gateway.lake.read("Observation", ["_raw"])
            read = {one["id"]: one for one in map(json.loads, rows["_raw"].to_pylist())}
            first = read[given[0].removeprefix("Observation/")]
            assert first["subject"]["reference"] == given[1]
            assert first["code"]["text"] == "urn:uuid:aa stays in text"
            assert read["o7"]["subject"]["reference"] == "Patient/p7"

    anyio.run(story)
    assert len(gateway.lake.read("Patient", ["id"])) == 2


def test_deletions_are_applied_and_may_be_taken_back(gateway: Gateway) -> None:
    gone = {"request": {"method": "DELETE", "url": "Patient/p1"}}

    async def story() -> None:
        async with Sender(gateway, "clinic", "system/*.cud") as sender:
            for _ in range(2):  # what comes again after something else is no repetition
                await sender.send(lines(patient(1), patient(2)), NDJSON)
                assert len(gateway.lake.read("Patient", ["id"])) == 2
                answer = await sender.send(bundle("transaction", gone, put(patient(3))), JSON)
                assert [one["status"] for one in responses(answer)] == ["204 No Content", "201 Created"]
                assert "location" not in responses(answer)[0]
                assert sorted(gateway.lake.read("Patient", ["id"])["id"].to_pylist()) == ["p2", "p3"]
                await sender.send(bundle("batch", {"request": {"method": "DELETE", "url": "Patient/p3"}}), JSON)
                assert gateway.lake.read("Patient", ["id"])["id"].to_pylist() == ["p2"]

    anyio.run(story)


def conditional(**request: str) -> dict[str, Any]:
    return {"resource": patient(2), "request": {"method": "POST", "url": "Patient", **request}}


def known(number: int, *values: str, **more: Any) -> dict[str, Any]:
    return patient(number, identifier=[{"system": "urn:mrn", "value": value} for value in values], **more)


@pytest.mark.parametrize(
    ("entries", "path", "rule"),
    [
        ([{"request": {"method": "GET", "url": "Patient/p1"}}], "[0].request.method", "method"),
        ([put(patient(1)), conditional(ifNoneExist="name=x")], "[1].request.ifNoneExist", "conditional"),
        ([conditional(ifNoneExist="")], "[0].request.ifNoneExist", "conditional"),
        ([conditional(ifNoneExist="identifier=urn:mrn|")], "[0].request.ifNoneExist", "conditional"),
        ([conditional(ifMatch='W/"1"')], "[0].request.ifMatch", "conditional"),
        (
            [conditional(method="PUT", url="Patient?identifier=1", ifNoneExist="_id=1")],
            "[0].request.ifNoneExist",
            "conditional",
        ),
        ([conditional(method="PUT", url="Group?identifier=1")], "[0].request.url", "url"),
        ([{"request": {"method": "DELETE", "url": "Patient?x=1"}}], "[0].request.url", "conditional"),
        ([{"request": {"method": "DELETE", "url": "Patient"}}], "[0].request.url", "url"),
        ([{"resource": patient(1), "request": {"method": "PUT", "url": "Patient/p2"}}], "[0].resource.id", "id"),
        ([{"resource": patient(1), "request": {"method": "PUT", "url": "Group/p1"}}], "[0].request.url", "url"),
        ([{"resource": patient(1), "request": {"method": "POST", "url": "Patient/p1"}}], "[0].request.url", "url"),
        ([{"request": {"method": "PUT", "url": "Patient/p1"}}], "[0].resource", "required"),
        ([put(patient(1)), put(patient(1))], "[1].resource.id", "duplicate"),
        ([put(patient(1)), {"request": {"method": "DELETE", "url": "Patient/p1"}}], "[1]", "duplicate"),
        ([post(observation("urn:uuid:nobody"))], "[0].resource", "reference"),
        ([post(observation("Patient?identifier=1"))], "[0].resource", "reference"),
        ([post(observation("Patient?name=1"))], "[0].resource", "conditional"),
        ([post(observation("Provenance?identifier=1"))], "[0].resource", "conditional"),
        ([post(observation("Nothing?identifier=1"))], "[0].resource", "conditional"),
    ],
)
def test_what_a_transaction_may_not_ask(gateway: Gateway, entries: list[Any], path: str, rule: str) -> None:
    async def story() -> None:
        async with Sender(gateway, "clinic", "system/*.cud") as sender:
            said = await sender.send(bundle("transaction", *entries), JSON, 400)
            assert said["issue"][0]["expression"] == [f"Bundle.entry{path}"]
            assert f"[{rule}]" in said["issue"][0]["diagnostics"]
            assert "urn:mrn" not in json.dumps(said)

    anyio.run(story)
    assert gateway.lake.version == 0


def test_conditions_find_what_this_sender_has_stored(gateway: Gateway) -> None:
    """R4, 3.1.0.8.1 and 3.1.0.7.1: none, one, several; another sender's resources are nobody's match."""
    new = {"resourceType": "Patient", "gender": "male"}

    async def story() -> None:
        async with Sender(gateway, "other", "system/*.cud") as other:
            await other.send(lines(known(9, "A")), NDJSON)
        async with Sender(gateway, "clinic", "system/*.cud") as sender:
            await sender.send(lines(known(1, "A", "Z"), known(2, "B"), known(3, "B")), NDJSON)

            async def transact(*entries: Any, status: int = 200) -> Any:
                answer = await sender.send(bundle("transaction", *entries), JSON, status)
                return responses(answer) if status == 200 else answer["issue"][0]

            create = {"method": "POST", "url": "Patient"}
            one, none, _ = await transact(
                {
                    "resource": new,
                    "request": {**create, "ifNoneExist": "identifier=urn:mrn|A"},
                    "fullUrl": "urn:uuid:a",
                },
                {
                    "resource": new | {"identifier": [{"value": "N"}]},
                    "request": {**create, "ifNoneExist": "Patient?identifier=N"},
                },
                post(observation("urn:uuid:a", id="o1")),
            )
            assert (one["status"], one["location"].rpartition("/_history")[0]) == ("200 OK", "Patient/p1")
            assert none["status"] == "201 Created"
            refused = await transact(
                {"resource": new, "request": {**create, "ifNoneExist": "identifier=B"}}, status=412
            )
            assert (refused["code"], refused["expression"]) == (
                "multiple-matches",
                ["Bundle.entry[0].request.ifNoneExist"],
            )
            both = "identifier=urn:mrn|A&identifier=Z,Y&_id=p1,p2"
            (found,) = await transact({"resource": new, "request": {**create, "ifNoneExist": both}})
            assert found["status"] == "200 OK"

            def update(query: str, resource: dict[str, Any]) -> dict[str, Any]:
                return {"resource": resource, "request": {"method": "PUT", "url": f"Patient?{query}"}}

            same, fresh, own = await transact(
                update("identifier=urn:mrn|A", {**known(1, "A"), "gender": "other"}),
                update("identifier=C", {"resourceType": "Patient", "identifier": [{"value": "C"}]}),
                update("identifier=urn:mrn%7CD", known(4, "D")),
            )
            assert [one["status"] for one in (same, fresh, own)] == ["200 OK", "201 Created", "201 Created"]
            assert own["location"].startswith("Patient/p4/")
            assert (await transact(update("identifier=B", new), status=412))["code"] == "multiple-matches"
            assert "[id]" in (await transact(update("identifier=D", known(8, "D")), status=400))["diagnostics"]

            await transact(
                post(observation("Patient?identifier=urn:mrn|D", id="o2")),
                post(observation("Patient?identifier=urn:mrn|E", id="o3")),
                put(known(5, "E")),
            )
            gone = {"request": {"method": "DELETE", "url": "Patient/p3"}}
            await transact(post(observation("Patient?identifier=B", id="o4")), status=412)
            await transact(post(observation("Patient?identifier=B", id="o4")), gone)

    anyio.run(story)
    rows = gateway.lake.read("Observation", ["_raw"])["_raw"].to_pylist()
    subjects = {one["id"]: one["subject"]["reference"] for one in map(json.loads, rows)}
    assert subjects == {"o1": "Patient/p1", "o2": "Patient/p4", "o3": "Patient/p5", "o4": "Patient/p2"}
    mine = gateway.lake.read("Patient", ["_raw"]).to_pylist()
    genders = {row["id"]: json.loads(row["_raw"]).get("gender") for row in mine if "clinic" in row["_source"]}
    assert genders["p1"] == "other"
    assert len(genders) == 6


def test_what_a_process_that_died_left_is_removed_or_gone_on_with(gateway: Gateway, tmp_path: Path) -> None:
    """Bodies half received go; what was taken in and not committed is a job; what is under way is left alone."""
    for name in ("import-dead", "import-alive"):
        (gateway.staging_folder / name).mkdir(parents=True)
        (gateway.staging_folder / name / "upload.ndjson").write_bytes(lines(patient(1)))
    with hold(gateway, "import-alive"):
        tidy(gateway)
    assert [path.name for path in gateway.staging_folder.iterdir()] == ["import-alive"]
    source = source_name("clinic")
    staged = stage_files([gateway.staging_folder / "import-alive" / "upload.ndjson"], source, tmp_path / "split")
    with pytest.raises(KilledError):
        push(Killed(gateway), staged, gateway.staging_folder / "import-alive")  # type: ignore[arg-type]
    assert gateway.lake.version == 0
    with hold(gateway, f"pull-{source}"):
        tidy(gateway)
    assert JobBook(gateway).find(staged.id) is None
    tidy(gateway)
    tidy(gateway)
    assert JobBook(gateway).job(staged.id).state == "waiting"
    assert run(gateway, staged.id).ledger.entries[0].rows_stored == 1
    assert list(gateway.staging_folder.iterdir()) == []


class KilledError(Exception):
    """Stands for kill -9."""


class Killed:
    """A gateway whose process dies when it opens the lake to commit."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def __getattr__(self, name: str) -> Any:
        if name == "persons":
            raise KilledError
        return getattr(self._gateway, name)


def test_bundles_are_read_whole_and_so_are_smaller(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhir_gateway.server.imports.MOST_BUNDLE_BYTES", 500)
    deep = b'{"resourceType": "Bundle", "type": "batch", "entry": [{"resource": ' + b"[" * 1000 + b"]" * 1000 + b"}]}"

    async def story() -> None:
        async with Sender(gateway, "clinic", "system/*.cud") as sender:
            people = [patient(number) for number in range(20)]
            await sender.send(bundle("collection", *map(put, people)), JSON, 413)
            await sender.send(lines(*people), NDJSON)
            await sender.send(b"\xef\xbb\xbf" + bundle("batch", put(patient(1))), JSON)
            monkeypatch.undo()
            await sender.send(deep, JSON, 400)
            await sender.send(bundle("collection", 7, None, {"resource": 5}, {"fullUrl": "urn:uuid:1"}), JSON)

    anyio.run(story)


def test_a_collection_says_who_its_entries_are(gateway: Gateway) -> None:
    person = {"resourceType": "Patient", "gender": "female"}
    sent = bundle(
        "collection",
        {"fullUrl": "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0", "resource": person},
        {"fullUrl": "https://clinic.example/fhir/Patient/p7", "resource": person},
    )

    async def story() -> None:
        async with Sender(gateway, "clinic", "system/*.cud") as sender:
            await sender.send(sent, JSON)

    anyio.run(story)
    stored = sorted(gateway.lake.read("Patient", ["id"])["id"].to_pylist())
    assert stored == ["0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0", "p7"]


def test_what_is_refused_before_anything_is_stored(gateway: Gateway) -> None:
    async def story() -> None:
        async with Sender(gateway, "narrow", "system/Patient.cu system/Patient.rs") as sender:
            observation = {"resourceType": "Observation", "id": "o", "status": "final", "code": {"text": "x"}}
            said = await sender.send(lines(patient(1), observation), NDJSON, 403)
            assert "system/Observation.cu" in said["issue"][0]["diagnostics"]
            await sender.send(b"", NDJSON, 400)
            await sender.send(b"x", {"Content-Type": "text/csv"}, 415)
            await sender.send(b"x", {**NDJSON, "Content-Encoding": "br"}, 415)
            await sender.send(b"x" * 20_001, NDJSON, 413)
            await sender.send(gzip.compress(b"x" * 10**7), {**NDJSON, "Content-Encoding": "gzip"}, 413)
            await sender.send(b"not gzip", {**NDJSON, "Content-Encoding": "gzip"}, 400)
            await sender.send(gzip.compress(lines(patient(1)))[:-9], {**NDJSON, "Content-Encoding": "gzip"}, 400)
            await sender.send(b"{", JSON, 400)
            entry = {"request": {"method": "DELETE", "url": "Patient/p1"}}
            said = await sender.send(bundle("transaction", entry), JSON, 403)
            assert "system/Patient.d" in said["issue"][0]["diagnostics"]
            sender.token = {}
            await sender.send(lines(patient(1)), NDJSON, 401)
        async with Sender(gateway, "reader", "system/*.rs") as reader:
            await reader.send(lines(patient(1)), NDJSON, 403)

    anyio.run(story)
    assert gateway.lake.version == 0


def test_senders_cannot_take_each_others_names() -> None:
    names = {source_name(one) for one in ("a", "A", "a ", "ä", "x" * 300, "x" * 299, "https://a/b")}
    assert len(names) == 7
    assert all(len(name) <= 32 for name in names)
