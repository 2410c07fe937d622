"""What is stored under a canonical, in which version, in force when."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.db.engine import create_engine
from fhir_gateway.db.migrate import upgrade
from fhir_gateway.errors import ConfigurationError, ConflictError, InputError, TerminologyError
from fhir_gateway.terminology.reading import read_resources
from fhir_gateway.terminology.store import TerminologyStore

URL = "http://vs/diabetes"


def value_set(version: str | None = "1", *codes: str, url: str = URL, **more: Any) -> dict[str, Any]:
    listed = [{"system": "http://icd10", "code": code} for code in codes or ("E11.9",)]
    found = {"resourceType": "ValueSet", "url": url, "status": "active", "expansion": {"contains": listed}, **more}
    return found | ({"version": version} if version else {})


def code_system(version: str, *codes: str, start: str | None = None, end: str | None = None) -> dict[str, Any]:
    extension = {
        "url": "http://hl7.org/fhir/StructureDefinition/resource-effectivePeriod",
        "valuePeriod": {"start": start, "end": end},
    }
    concepts = [{"code": code, "concept": [{"code": f"{code}.1"}]} for code in codes]
    found = {"resourceType": "CodeSystem", "url": "http://icd10", "version": version, "concept": concepts}
    return found | {"content": "complete", "extension": [extension]}


@pytest.fixture
def store() -> Iterator[TerminologyStore]:
    engine = create_engine("sqlite://")
    upgrade(engine)
    moments = iter(range(10**6))
    yield TerminologyStore(engine, clock=lambda: datetime(2026, 1, 1, 0, 0, next(moments) % 60, tzinfo=UTC))
    engine.dispose()


def test_the_same_content_again_changes_nothing(store: TerminologyStore) -> None:
    first = store.put([("a.json", value_set())])
    again = store.put([("b.json", dict(reversed(value_set().items())))])
    assert (first.stored, again.unchanged) == ((f"{URL}|1",), (f"{URL}|1",))
    (entry,) = store.entries()
    assert (entry.canonical, entry.origin, entry.codes) == (f"{URL}|1", "a.json", 1)


def test_other_content_of_a_version_is_refused_or_replaces_and_both_are_kept(store: TerminologyStore) -> None:
    store.put([("a.json", value_set())])
    with pytest.raises(ConflictError, match=r"http://vs/diabetes\|1 is stored with another content"):
        store.put([("b.json", value_set("1", "E10")), ("c.json", value_set("2"))])
    assert [one.version for one in store.entries()] == ["1"]  # all or none
    assert store.put([("b.json", value_set("1", "E10"))], replace=True).replaced == (f"{URL}|1",)
    found = store.find("ValueSet", f"{URL}|1")
    assert found is not None
    assert found[1]["expansion"]["contains"][0]["code"] == "E10"
    assert [one.replaced_at is None for one in store.entries()] == [False, True]
    store.put([("a.json", value_set())], replace=True)
    assert [one.replaced_at is None for one in store.entries()].count(True) == 1
    found = store.find("ValueSet", URL)
    assert found is not None
    assert found[1]["expansion"]["contains"][0]["code"] == "E11.9"


def test_the_version_in_force_on_a_day_counts(store: TerminologyStore) -> None:
    for version, start, end in (("2024", 2024, 2024), ("2025", 2025, 2025), ("2025-b", 2025, 2025)):
        store.put([("x", value_set(version))], effective=(date(start, 1, 1), date(end, 12, 31)))

    def version_on(day: date | None, reference: str = URL) -> str:
        entry = store.entry("ValueSet", reference, day)
        assert entry is not None
        return entry.version

    assert version_on(date(2024, 6, 30)) == "2024"
    assert version_on(date(2025, 1, 1)) == "2025-b"
    assert version_on(None) == "2025-b"
    assert version_on(date(2030, 1, 1), f"{URL}|2024") == "2024"  # a version that is named counts at any time
    with pytest.raises(TerminologyError, match="in force on 2023-01-01; stored in version 2024"):
        store.entry("ValueSet", URL, date(2023, 1, 1))
    with pytest.raises(TerminologyError, match="is not stored; stored in version"):
        store.entry("ValueSet", f"{URL}|9")
    assert store.entry("ValueSet", "http://vs/other") is None
    assert store.set_effective(f"{URL}|2024", date(2023, 1, 1), None) == 1
    assert version_on(date(2023, 1, 1)) == "2024"


def test_undated_content_is_always_in_force_and_yields_to_dated(store: TerminologyStore) -> None:
    store.put([("x", value_set("9"))])
    store.put([("x", value_set("1"))], effective=(date(2025, 1, 1), None))
    for day, version in ((date(2024, 1, 1), "9"), (date(2025, 1, 1), "1")):
        entry = store.entry("ValueSet", URL, day)
        assert entry is not None
        assert entry.version == version


def test_a_code_valid_in_2022_only(store: TerminologyStore) -> None:
    store.put(
        [
            ("icd", code_system("2022", "E11", "U09", start="2021-10-01", end="2022-09-30")),
            ("icd", code_system("2023", "E11", start="2022-10-01", end="2023")),
        ]
    )
    valid = {
        (code, day): store.lookup("http://icd10", code, date.fromisoformat(day)) is not None
        for code in ("U09.1", "E11")
        for day in ("2022-06-01", "2023-12-31")
    }
    assert valid == {
        ("U09.1", "2022-06-01"): True,
        ("U09.1", "2023-12-31"): False,
        ("E11", "2022-06-01"): True,
        ("E11", "2023-12-31"): True,
    }
    with pytest.raises(TerminologyError, match="in force on 2024-01-01"):
        store.lookup("http://icd10", "E11", date(2024, 1, 1))


@pytest.mark.parametrize(
    ("resource", "message"),
    [
        ({"resourceType": "ValueSet", "version": "1"}, "has no url"),
        (value_set(expansion={"total": 3, "contains": [{"system": "s", "code": "c"}]}), "1 of 3 codes"),
    ],
)
def test_what_cannot_be_used_is_refused(store: TerminologyStore, resource: dict[str, Any], message: str) -> None:
    with pytest.raises(TerminologyError, match=message):
        store.put([("x.json", resource)])
    with pytest.raises(ConfigurationError, match="ends before"):
        store.put([("x.json", value_set())], effective=(date(2025, 1, 1), date(2024, 1, 1)))
    assert store.entries() == []


def package_file(path: Path, files: dict[str, Any]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_packages_lines_bundles_and_folders_are_read(tmp_path: Path) -> None:
    package_file(
        tmp_path / "us.tgz",
        {
            "package/package.json": {"name": "us.vs", "version": "1.2.0"},
            "package/.index.json": {"files": []},
            "package/ValueSet-a.json": value_set(url="http://a"),
            "package/example/ValueSet-b.json": {"resourceType": "Patient", "id": "x"},
            "other/ValueSet-c.json": value_set(url="http://c"),
        },
    )
    lines = "\n".join(json.dumps(value_set(url=f"http://{n}")) for n in range(2))
    (tmp_path / "more.ndjson.gz").write_bytes(gzip.compress(lines.encode()))
    bundle = {"resourceType": "Bundle", "entry": [{"resource": value_set(url="http://d")}, {"fullUrl": "urn:x"}]}
    (tmp_path / "bundle.json").write_text(json.dumps(bundle))
    found = [(origin, one["url"]) for origin, one in read_resources(tmp_path) if one["resourceType"] == "ValueSet"]
    assert found == [
        ("bundle.json", "http://d"),
        ("more.ndjson.gz", "http://0"),
        ("more.ndjson.gz", "http://1"),
        ("us.vs#1.2.0", "http://a"),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"{"),
        ("a.ndjson", b'{"resourceType": "ValueSet"}\nx'),
        ("a.tgz", b"no"),
        ("a.json.gz", b"\x1f\x8b"),
        ("a.csv", b""),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        list(read_resources(tmp_path / name))
