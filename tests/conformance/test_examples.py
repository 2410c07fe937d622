"""The checker over the examples that guides publish: it finds their known defects and nothing else."""

from __future__ import annotations

import tomllib
from pathlib import Path

import examples
import pytest
from installed import GUIDES, install

from fhir_gateway.conformance.validator import Validator


@pytest.fixture(scope="module")
def validator(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Validator:
    return install(shared / "data", tmp_path_factory.mktemp("guides"))


@pytest.mark.shared
@pytest.mark.parametrize("folder", GUIDES)
def test_examples_have_their_known_defects_and_nothing_else(
    validator: Validator, shared: Path, folder: str, record_property: pytest.RecordProperty
) -> None:
    number, found = examples.findings(validator, shared / "data" / "ig-examples", folder)
    expected = examples.known(folder)
    print(f"{folder}: {number} examples, {found.total()} findings, all known")
    record_property("examples", number)
    assert found - expected == {}, "found and not known"
    assert expected - found == {}, "known and no longer found"


def test_each_known_defect_has_its_reason() -> None:
    for defect in tomllib.loads(examples.KNOWN.read_text(encoding="utf-8"))["defect"]:
        assert defect["reason"]
        assert defect["files"]
        assert all(name.split("/")[0] in GUIDES for name in defect["files"])
