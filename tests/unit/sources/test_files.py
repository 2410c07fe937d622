"""Files and folders become a pull: told by content, text kept, outcomes left out."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.errors import InputError
from fhir_gateway.sources.files import stage_files
from fhir_gateway.sources.models import StagedPull

PATIENT = {"resourceType": "Patient", "id": "1"}


def contents(pull: StagedPull) -> dict[str, list[str]]:
    return {file.name: file.path.read_text(encoding="utf-8").splitlines() for file in pull.files}


def test_ndjson_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "in" / "deep" / "Whatever.ndjson.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(json.dumps(PATIENT).encode()))
    (tmp_path / "in" / "README.md").write_text("not data")
    (tmp_path / "in" / ".hidden.ndjson").write_text("{}")
    (tmp_path / "in" / "empty.ndjson").touch()
    pull = stage_files([tmp_path / "in"], "here", tmp_path / "split")
    assert (pull.source, pull.kind, pull.transaction_time) == ("here", "files", None)
    assert [(file.name, file.path == path, file.resource_type) for file in pull.files] == [
        ("deep/Whatever.ndjson.gz", True, None),
        ("empty.ndjson", False, None),
    ]
    assert not (tmp_path / "split").exists()


@pytest.mark.parametrize("bundle_type", ["collection", "searchset", "transaction", "batch"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_bundle_becomes_its_resources_with_their_text(
    tmp_path: Path, bundle_type: str, indent: int | None, zipped: bool
) -> None:
    text = json.dumps(
        {
            "resourceType": "Bundle",
            "type": bundle_type,
            "entry": [
                {"fullUrl": "urn:uuid:1", "resource": {**PATIENT, "name": [{"text": 'a "b" \\ é'}]}},
                {"request": {"method": "GET", "url": "Patient/2"}},
                {"resource": {"resourceType": "OperationOutcome"}, "search": {"mode": "outcome"}},
                {"search": {"mode": "match"}, "resource": {"resourceType": "Observation", "value": "@"}},
            ],
        },
        indent=indent,
    ).replace('"@"', "1.00")
    path = tmp_path / "bundle.json"
    path.write_bytes(gzip.compress(text.encode()) if zipped else b"\xef\xbb\xbf" + text.encode())
    pull = stage_files([path], "s", tmp_path / "split")
    ((name, lines),) = contents(pull).items()
    assert name == "bundle.json"
    assert [json.loads(line) for line in lines] == [
        {**PATIENT, "name": [{"text": 'a "b" \\ é'}]},
        {"resourceType": "Observation", "value": 1.0},
    ]
    assert "1.00" in lines[1]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (json.dumps(PATIENT, indent=1), [PATIENT]),
        (json.dumps({"resourceType": "Bundle", "type": "collection"}), []),
        (json.dumps({"resourceType": "Bundle", "type": "collection", "entry": []}, indent=1), []),
        (
            json.dumps({"resourceType": "Bundle", "id": "d", "type": "document", "entry": []}),
            [{"resourceType": "Bundle", "id": "d", "type": "document", "entry": []}],
        ),
    ],
)
def test_other_json_files(tmp_path: Path, text: str, lines: list[object]) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    (found,) = contents(stage_files([path], "s", tmp_path / "split")).values()
    assert [json.loads(line) for line in found] == lines


def test_a_file_that_deletes_is_refused_not_half_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    entries = [{"resource": PATIENT}, {"request": {"method": "DELETE", "url": "Patient/a"}}]
    path.write_text(json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}))
    with pytest.raises(InputError, match="import"):
        stage_files([path], "s", tmp_path / "split")


def test_what_is_wrong_with_a_bundle_is_left_to_validation(tmp_path: Path) -> None:
    """Nothing is dropped: an entry that is no object comes as a line, a Bundle that cannot be split comes whole."""
    path = tmp_path / "x.json"
    entries = [7, None, {"resource": 5}, {"resource": PATIENT, "search": 1}, {"fullUrl": "urn:uuid:1"}]
    path.write_text(json.dumps({"resourceType": "Bundle", "type": "batch", "entry": entries}))
    (lines,) = contents(stage_files([path], "s", tmp_path / "split")).values()
    assert lines == ["7", "null", "5", json.dumps(PATIENT)]
    for broken in ({"type": ["batch"]}, {"type": "batch", "entry": 5}, {"type": "batch", "entry": {"resource": {}}}):
        path.write_text(json.dumps({"resourceType": "Bundle"} | broken))
        (lines,) = contents(stage_files([path], "s", tmp_path / "split")).values()
        assert lines == [path.read_text()]


@pytest.mark.parametrize(
    "text",
    [
        '{"resourceType": "Patient", "extension": @}',
        '{"resourceType": "Bundle", "type": "batch", "entry": [{"resource": {"extension": @}}]}',
    ],
)
def test_json_too_deep_to_read_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text.replace("@", "[" * 100_000 + "]" * 100_000))
    (lines,) = contents(stage_files([path], "s", tmp_path / "split")).values()
    assert lines == [path.read_text()]


def test_bundles_line_by_line(tmp_path: Path) -> None:
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": [{"resource": PATIENT}]}
    path = tmp_path / "bundles.ndjson"
    path.write_text("\n".join(json.dumps(line) for line in (bundle, PATIENT, bundle)) + "\n{broken\n")
    (lines,) = contents(stage_files([path], "s", tmp_path / "split")).values()
    assert lines == [json.dumps(PATIENT)] * 3 + ["{broken"]


def test_a_json_file_that_is_not_json_is_one_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{\n "resourceType": "Patient",\n "id": \xff\n')
    (file,) = stage_files([path], "s", tmp_path / "split").files
    assert len(file.path.read_bytes().splitlines()) == 1
    assert b"\xff" in file.path.read_bytes()


def test_the_same_files_are_the_same_pull(tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    path.write_text("{}")
    first = stage_files([path], "s", tmp_path / "a")
    assert stage_files([path], "s", tmp_path / "b").id == first.id
    assert stage_files([path], "t", tmp_path / "b").id != first.id
    path.write_text("{} ")
    assert stage_files([path], "s", tmp_path / "b").id != first.id


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such file or folder"):
        stage_files([tmp_path / "absent"], "s", tmp_path / "split")
    with pytest.raises(InputError, match="no files named"):
        stage_files([tmp_path], "s", tmp_path / "split")


def test_a_truncated_gzip_bundle_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "b.json.gz"
    text = json.dumps({"resourceType": "Bundle", "type": "batch", "entry": [{"resource": PATIENT}] * 500})
    path.write_bytes(gzip.compress(text.replace("}, {", "},\n{").encode())[:-9])
    with pytest.raises(InputError, match=r"b\.json\.gz: the gzip file is truncated"):
        stage_files([path], "s", tmp_path / "split")


def test_zip_archives_are_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/Patient.ndjson", '{"resourceType":"Patient","id":"one"}\n')
        archive.writestr("../../outside.ndjson", '{"resourceType":"Patient","id":"two"}\n')
        archive.writestr("readme.txt", "not data")
    (tmp_path / "folder").mkdir()
    (tmp_path / "export.zip").rename(tmp_path / "folder" / "export.zip")
    pull = stage_files([tmp_path / "folder"], "s", tmp_path / "staging")
    assert sorted(file.name for file in pull.files) == ["export.zip/a/Patient.ndjson", "export.zip/outside.ndjson"]
    assert not (tmp_path.parent / "outside.ndjson").exists()
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4nothing")
    with pytest.raises(InputError, match="damaged or encrypted"):
        stage_files([tmp_path / "broken.zip"], "s", tmp_path / "other")


@pytest.mark.parametrize("bundle_type", ["transaction", "collection"])
def test_references_to_entries_of_a_bundle_lead_to_them(tmp_path: Path, bundle_type: str) -> None:
    first, second = "0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0", "7d3151bd-1cbf-4d64-b04d-cd9187a4c6e1"
    request = {"method": "POST", "url": "Patient", "ifNoneExist": "identifier=1"}

    def observation(identity: str, subject: str) -> dict[str, Any]:
        code = {"text": f"urn:uuid:{first}"}
        return {"resourceType": "Observation", "id": identity, "code": code, "subject": {"reference": subject}}

    entries = [
        {"resource": observation("o1", f"urn:uuid:{first}"), "request": {"method": "POST", "url": "Observation"}},
        {"fullUrl": f"urn:uuid:{first}", "resource": {"resourceType": "Patient"}, "request": request},
        {"fullUrl": f"urn:uuid:{second}", "resource": {"resourceType": "Patient", "id": "p2"}, "request": request},
        {"resource": observation("o2", f"urn:uuid:{second}")},
        {"resource": observation("o3", "Patient?identifier=urn:x|1")},
        {"resource": observation("o4", "urn:uuid:elsewhere")},
    ]
    bundle = {"resourceType": "Bundle", "type": bundle_type, "entry": entries}
    path = tmp_path / "bundle.json"
    path.write_bytes(
        json.dumps(bundle).encode() if bundle_type == "transaction" else json.dumps(bundle, indent=1).encode()
    )
    (staged,) = stage_files([path], "clinic", tmp_path / "staged").files
    found = [json.loads(line) for line in staged.path.read_text().splitlines()]
    assert [one["id"] for one in found] == ["o1", first, "p2", "o2", "o3", "o4"]
    subjects = [one["subject"]["reference"] for one in found if "subject" in one]
    assert subjects == [f"Patient/{first}", "Patient/p2", "Patient?identifier=urn:x|1", "urn:uuid:elsewhere"]
    assert found[0]["code"]["text"] == f"urn:uuid:{first}"


def test_what_is_not_utf_8_in_a_bundle_comes_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    start = b'{"resourceType": "Bundle", "type": "collection", "entry": [{"resource": '
    path.write_bytes(
        start + b'{"resourceType": "Patient", "id": "\xff"}}, {"resource": {"resourceType": "Patient", "x": NaN}}]}'
    )
    (staged,) = stage_files([path], "clinic", tmp_path / "staged").files
    first, second = staged.path.read_bytes().splitlines()
    assert b'"\xff"' in first
    assert b"NaN" in second
