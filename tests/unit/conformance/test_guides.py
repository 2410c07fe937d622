"""Guides: installing them, and the lock of what they demand."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.conformance.definitions import Definitions
from fhir_gateway.conformance.guides import add_guide, differences, digest, guides, locked
from fhir_gateway.errors import ConfigurationError

URL = "https://guide.example/StructureDefinition/thing"
PROFILE: dict[str, Any] = {
    "resourceType": "StructureDefinition",
    "url": URL,
    "version": "0.9.0",
    "type": "Group",
    "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Group",
    "differential": {"element": [{"id": "Group.name", "path": "Group.name", "min": 1, "short": "Its name"}]},
}


def packed(path: Path, version: str = "1.0.0", **files: Any) -> Path:
    contents = {"package.json": {"name": "guide.example", "version": version}, **files}
    with tarfile.open(path, "w:gz") as archive:
        for name, body in contents.items():
            data = json.dumps(body).encode()
            entry = tarfile.TarInfo(name if "/" in name else f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_a_package_is_installed_and_found_by_both_of_its_versions(tmp_path: Path) -> None:
    files = {"StructureDefinition-thing.json": PROFILE, "package/example/Group-x.json": {"resourceType": "Group"}}
    guide = add_guide(packed(tmp_path / "g.tgz", **files), tmp_path / "guides")
    assert (str(guide), guide.definitions) == ("guide.example#1.0.0", 1)
    add_guide(packed(tmp_path / "g2.tgz", "1.1.0", **files), tmp_path / "guides")
    assert [str(one) for one in guides(tmp_path / "guides")] == ["guide.example#1.0.0", "guide.example#1.1.0"]
    found = Definitions.of(None, tmp_path / "guides")
    versions = {version: found.find(f"{URL}|{version}") for version in ("0.9.0", "1.0.0", "1.1.0", "2.0.0")}
    assert versions["2.0.0"] is None
    assert [one.package_version for one in versions.values() if one] == ["1.1.0", "1.0.0", "1.1.0"]


def test_a_folder_is_installed_under_a_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "thing.json").write_text(json.dumps(PROFILE))
    (source / "broken.json").write_text("{")
    with pytest.raises(ConfigurationError, match="give name#version"):
        add_guide(source, tmp_path / "guides")
    assert add_guide(source, tmp_path / "guides", "guide.example#2.0.0").definitions == 1
    assert not list((tmp_path / "guides").glob(".*"))


@pytest.mark.parametrize("name", ["../x#1", "x#", "#1"])
def test_names_that_are_no_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError):
        add_guide(packed(tmp_path / "g.tgz", **{"StructureDefinition-t.json": PROFILE}), tmp_path / "guides", name)


def test_members_of_a_package_cannot_leave_its_folder(tmp_path: Path) -> None:
    files = {"package/../../../evil.json": PROFILE, "StructureDefinition-thing.json": PROFILE}
    assert add_guide(packed(tmp_path / "g.tgz", **files), tmp_path / "guides").definitions == 1
    assert sorted(path.name for path in tmp_path.rglob("evil*")) == []


@pytest.mark.parametrize("content", [b"no archive", b""])
def test_what_is_no_package_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "g.tgz").write_bytes(content)
    with pytest.raises(ConfigurationError):
        add_guide(tmp_path / "g.tgz", tmp_path / "guides")


def test_the_digest_is_of_the_rules_not_of_texts() -> None:
    said = {**PROFILE, "version": "1.0.0", "description": "other", "date": "2026-01-01"}
    said["differential"] = {"element": [{**PROFILE["differential"]["element"][0], "short": "another text"}]}
    assert digest(said) == digest(PROFILE)
    said["differential"] = {"element": [{**PROFILE["differential"]["element"][0], "min": 0}]}
    assert digest(said) != digest(PROFILE)


def test_the_lock_names_what_is_installed_and_says_what_differs(tmp_path: Path) -> None:
    add_guide(packed(tmp_path / "g.tgz", **{"StructureDefinition-t.json": PROFILE}), tmp_path / "guides")
    lock = {
        "guides": [
            {"package": "guide.example", "version": "1.0.0", "canonical": "https://guide.example", "whole": True}
        ]
    }
    written = locked(lock, Definitions.of(None, tmp_path / "guides"))
    assert written["guides"][0]["definitions"] == {URL: digest(PROFILE)}
    assert differences(written, Definitions.of(None, tmp_path / "guides")) == []
    other = {**PROFILE, "type": "List"}
    add_guide(packed(tmp_path / "g.tgz", **{"StructureDefinition-t.json": other}), tmp_path / "guides")
    assert differences(written, Definitions.of(None, tmp_path / "guides")) == [f"{URL}|1.0.0"]
