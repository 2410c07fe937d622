"""kill -9 during an import: the sender repeats what it sent, and the lake has it whole and once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fhir_gateway.auth.assertion import client_assertion, public_key_set
from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.push import push
from fhir_gateway.server.imports import source_name
from fhir_gateway.sources.endpoint import generate_key
from fhir_gateway.sources.files import stage_files
from fhir_gateway.sources.push import read_push
from tests.support.backend_client import ASSERTION_TYPE
from tests.support.chaos import content
from tests.support.moments import HELD
from tests.support.serving import free_port, serving
from tests.support.waiting import HANG, until

PEOPLE = 120


#: When the process is killed, in the order of an import: when such a file is there.
MOMENTS = {
    "half the body is here": "staging/import-*/upload.*",
    "it is staged": "staging/files-*/staged.json",
    "the commit began": "lake/_lake/scratch/*",
    "a table was written": "lake/*/_delta_log/*.json",
    "the lake has it": "lake/_lake/v00000001.json",
}
HALF = "half the body is here"


def _created() -> list[dict[str, Any]]:
    """Entries whose ids we give: what is taken in twice by mistake is there twice."""
    people = [
        {
            "fullUrl": f"urn:uuid:p{number}",
            "resource": {"resourceType": "Patient", "gender": "female", "identifier": [{"value": f"m{number}"}]},
            "request": {"method": "POST", "url": "Patient"},
        }
        for number in range(PEOPLE)
    ]
    seen = [
        {
            "resource": {
                "resourceType": "Observation",
                "status": "final",
                "code": {"text": "weight"},
                "subject": {"reference": f"urn:uuid:p{number % PEOPLE}"},
                "valueQuantity": {"value": number / 8},
            },
            "request": {"method": "POST", "url": "Observation"},
        }
        for number in range(3 * PEOPLE)
    ]
    return people + seen


def _lines() -> bytes:
    return b"\n".join(
        json.dumps({"resourceType": "Patient", "id": f"p{number}", "identifier": [{"value": str(number)}]}).encode()
        for number in range(PEOPLE)
    )


BODIES = {
    "application/fhir+json": json.dumps(
        {"resourceType": "Bundle", "type": "transaction", "entry": _created()}
    ).encode(),
    "application/fhir+ndjson": _lines(),
}


class Sender:
    """Sends one body until it is answered, however often the server is gone meanwhile."""

    def __init__(self, gateway: Gateway, url: str, kind: str) -> None:
        self._url, self._kind = url, kind
        self._key = generate_key("ES384").as_dict(private=True) | {"kid": "k", "alg": "ES384"}
        gateway.authorization.register_client("clinic", scopes="system/*.cud", jwks=public_key_set(self._key))
        self.refused = 0
        self.gone_on = threading.Event()

    def headers(self) -> dict[str, str]:
        token = f"{self._url}/auth/token"
        form = {
            "grant_type": "client_credentials",
            "scope": "system/*.cud",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": client_assertion("clinic", token, self._key, "ES384"),
        }
        return {
            "Authorization": f"Bearer {httpx.post(token, data=form, timeout=HANG).json()['access_token']}",
            "Content-Type": self._kind,
        }

    def in_halves(self, headers: dict[str, str]) -> None:
        """Send the body, the second half when told to, and mind nothing: the server will be killed."""

        def pieces() -> Iterator[bytes]:
            body = BODIES[self._kind]
            yield body[: len(body) // 2]
            self.gone_on.wait()
            yield body[len(body) // 2 :]

        try:
            httpx.post(f"{self._url}/fhir/$import", content=pieces(), headers=headers, timeout=HANG)
        except httpx.TransportError:
            self.refused += 1

    def until_answered(self) -> dict[str, Any]:
        deadline = time.monotonic() + HANG
        while True:
            answer = httpx.post(
                f"{self._url}/fhir/$import", content=BODIES[self._kind], headers=self.headers(), timeout=HANG
            )
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                return found
            assert answer.status_code == 409, answer.text  # what was begun is gone on with
            assert time.monotonic() < deadline
            time.sleep(0.2)


def _quiet(folder: Path, kind: str) -> dict[str, list[dict[str, Any]]]:
    """What the lake holds when nobody is killed."""
    gateway = Gateway(Settings(data_dir=folder, lake_buckets=2))
    source = source_name("clinic")
    drafts = gateway.staging_folder / "import-quiet"
    drafts.mkdir(parents=True)
    path = drafts / "upload.ndjson"
    path.write_bytes(BODIES[kind] if kind.endswith("ndjson") else "\n".join(read_push(BODIES[kind]).lines).encode())
    push(gateway, stage_files([path], source, drafts), drafts)
    return content(gateway)


@pytest.mark.parametrize(
    ("kind", "moment"),
    [
        *(("application/fhir+json", moment) for moment in MOMENTS),
        ("application/fhir+ndjson", "a table was written"),
    ],
)
def test_a_killed_import_is_whole_and_once_when_it_is_sent_again(tmp_path: Path, kind: str, moment: str) -> None:
    folder, port = tmp_path / "data", free_port()
    url = f"http://127.0.0.1:{port}"
    gateway = Gateway(Settings(data_dir=folder, public_url=url, lake_buckets=2))
    sender = Sender(gateway, url, kind)
    with serving(folder, port, held_at=(MOMENTS[moment], "fhir_gateway/jobs/push.py"), LAKE_BUCKETS="2") as server:
        sending = threading.Thread(target=sender.in_halves, args=(sender.headers(),))
        sending.start()
        if moment == HALF:
            until(lambda: any(path.stat().st_size for path in folder.glob(MOMENTS[moment])))
        else:
            sender.gone_on.set()
            until((tmp_path / HELD).exists)
        server.kill()
        server.wait(HANG)
        sender.gone_on.set()
        sending.join(HANG)
    assert sender.refused, "the kill came too late to show anything"
    with serving(folder, port, LAKE_BUCKETS="2"):
        answer = sender.until_answered()
        assert len(answer.get("entry", ())) == (0 if kind.endswith("ndjson") else 4 * PEOPLE)
        again = sender.until_answered()
    assert content(gateway) == _quiet(tmp_path / "quiet", kind)
    (version,) = gateway.lake.versions()
    assert version.ledger.balanced
    assert gateway.pulls.get(version.pull_id).state == "committed"
    assert gateway.resources.counts()["Patient"] == PEOPLE
    assert not list(gateway.staging_folder.iterdir())
    assert again["resourceType"] == answer["resourceType"]
