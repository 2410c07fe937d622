"""D: Bulk Data export, of the system, of patients and of a list."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
from face import FHIR_JSON, Face

from checks import check, line
from fhir_gateway.lake.explain import issues

BULK = "Bulk Data 0.13.0"
ASYNC = {"Accept": FHIR_JSON, "Prefer": "respond-async"}
_MANIFESTS: dict[str, dict[str, Any]] = {}


def levels(face: Face) -> tuple[str, ...]:
    return "$export", "Patient/$export", f"Group/{face.group}/$export"


def kick_off(face: Face, path: str, **more: Any) -> str:
    """Start an export; returns where to poll."""
    answered = face.get(path, headers=ASYNC, **more)
    assert answered.status_code == 202, f"{path}: {answered.status_code} {answered.text[:200]}"
    return str(answered.headers["content-location"])


def end(face: Face, url: str) -> None:
    assert face.request("DELETE", url).status_code == 202


def manifest(face: Face, path: str) -> dict[str, Any]:
    """The manifest of a whole export; made once for each path, and left there for other checks."""
    if path not in _MANIFESTS:
        answered = face.finished(kick_off(face, path))
        assert answered.status_code == 200, answered.text[:200]
        assert "application/json" in answered.headers["content-type"]
        _MANIFESTS[path] = answered.json()
    return _MANIFESTS[path]


def files(face: Face, path: str) -> Iterator[tuple[str, httpx.Response]]:
    for entry in manifest(face, path)["output"]:
        yield entry["type"], face.get(entry["url"], headers={"Accept": "application/fhir+ndjson"})


def operations(face: Face) -> list[list[dict[str, Any]]]:
    rest = face.get("metadata", token=False).json()["rest"][0]
    return [
        rest.get("operation", []),
        *(one.get("operation", []) for one in rest["resource"] if one["type"] in ("Group", "Patient")),
    ]


@check("D1", BULK, "M", "the base and the files are behind TLS 1.2 or newer")
def transport(face: Face) -> None:
    assert all(url.startswith("https://") for url in (face.base, manifest(face, "$export")["output"][0]["url"]))
    for version, spoken in (("TLSv1", False), ("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)):
        assert face.speaks(ssl.TLSVersion[version]) is spoken, version


@check("D2", BULK, "M", "metadata lists operations on system, Group and Patient")
def listed(face: Face) -> None:
    found = operations(face)
    assert len(found) == 3
    assert all(found)


@check("D3", BULK, "O", "export is named with its definition, and the guide's statement is instantiated")
def named(face: Face) -> None:
    for one in operations(face):
        exports = [operation["definition"] for operation in one if operation["name"] == "export"]
        assert exports
        assert exports[0].startswith("http://hl7.org/fhir/uv/bulkdata/OperationDefinition/")
    told = face.get("metadata", token=False).json()
    assert any("bulk-data" in one for one in told.get("instantiates", ()))


@check("D4", BULK, "M", "without a token nothing starts")
def without_token(face: Face) -> None:
    for path in levels(face):
        assert face.get(path, headers=ASYNC, token=False).status_code in (400, 401), path


@check("D5", BULK, "M", "with a token it starts: 202")
def starts(face: Face) -> None:
    for path in levels(face):
        end(face, kick_off(face, path))


@check("D6", BULK, "M", "the answer says where to poll, absolutely")
def where(face: Face) -> None:
    url = kick_off(face, "Patient/$export")
    assert url.startswith("http")
    end(face, url)


@check("D7", BULK, "M", "polls answer 202 with whole seconds to wait until it is done")
def polls(face: Face) -> None:
    for path in levels(face):
        assert manifest(face, path)["output"]


@check("D8", BULK, "M", "the manifest has all members of version 2")
def members(face: Face) -> None:
    for path in levels(face):
        told = manifest(face, path)
        assert {"transactionTime", "request", "requiresAccessToken", "output", "error"} <= told.keys()


@check("D9", BULK, "M", "each output has type and address")
def outputs(face: Face) -> None:
    for path in levels(face):
        found = manifest(face, path)["output"]
        assert found
        assert all(one["type"] and one["url"].startswith("http") for one in found)


@check("D10", BULK, "M", "an export is cancelled: 202")
def cancelled(face: Face) -> None:
    end(face, kick_off(face, "$export"))


@check("D11", BULK, "M", "a cancelled export is gone: 404 with an OperationOutcome")
def gone(face: Face) -> None:
    url = kick_off(face, "$export")
    end(face, url)
    answered = face.get(url)
    assert answered.status_code == 404
    assert answered.json()["resourceType"] == "OperationOutcome"


@check("D12", BULK, "M", "three spellings of NDJSON")
def formats(face: Face) -> None:
    for name in ("application/fhir+ndjson", "application/ndjson", "ndjson"):
        end(face, kick_off(face, "Patient/$export", params={"_outputFormat": name}))


@check("D13", BULK, "M", "only what is new: _since")
def since(face: Face) -> None:
    end(face, kick_off(face, "Patient/$export", params={"_since": datetime.now(UTC).isoformat()}))


@check("D14", BULK, "M", "a file is refused without a token")
def file_without_token(face: Face) -> None:
    told = manifest(face, "Patient/$export")
    assert told["requiresAccessToken"] is True
    assert face.get(told["output"][0]["url"], token=False).status_code in (400, 401)


@check("D15", BULK, "S", "files are NDJSON and say so")
def file_type(face: Face) -> None:
    for _, file in files(face, "Patient/$export"):
        assert file.headers["content-type"].startswith("application/fhir+ndjson")


@check("D16", BULK, "M", "each line is a resource of the type; no empty line, no empty file")
def lines(face: Face) -> None:
    for path in levels(face):
        for kind, file in files(face, path):
            assert file.status_code == 200
            rows = file.text.split("\n")
            if not rows[-1]:
                rows.pop()
            assert rows, f"{path}: an empty file of {kind}"
            assert all(json.loads(row)["resourceType"] == kind for row in rows)


@check("D17", BULK, "M", "each resource is valid by R4")
def valid(face: Face) -> None:
    for path in levels(face):
        for kind, file in files(face, path):
            for row in file.text.splitlines():
                found = list(issues(json.loads(row), kind))
                assert not found, f"{kind}: {found[0].path} {found[0].rule}"


@check("D18", BULK, "M", "at least two patients")
def two_patients(face: Face) -> None:
    for path in levels(face):
        ids = {
            json.loads(row)["id"]
            for kind, file in files(face, path)
            if kind == "Patient"
            for row in file.text.splitlines()
        }
        assert len(ids) >= 2, path


line("D19", BULK, "M", "redirects of files are followed by the kit without the token")


@check("D20", BULK, "M", "sections A and B hold for the same server")
def smart(face: Face) -> None:
    from checks import LINES

    for id in ("A1", "A2", "A5", "A7", "A9", "B2", "B3", "B5", "B7", "B8", "B9"):
        function = LINES[id].function
        assert function is not None
        function(face)
