"""Reading a few members from files that are held open: as reading everything and filtering."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from fhir_gateway.lake.few import rows_of_few
from fhir_gateway.lake.reading import Only, stored_rows
from fhir_gateway.lake.store import Lake
from fhir_gateway.sources.models import StagedFile, StagedPull

COLUMNS = ["_raw", "code.coding.code", "status", "valueString", "bodySite.text"]


class Persons:
    """Every patient is a person."""

    def assign(self, source: str, patients: Any) -> Any:
        return patients["id"].combine_chunks()

    def lookup(self, source: str, patient_ids: Any) -> Any:
        return patient_ids


def observation(number: int, text: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"o{number:04}",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": f"c{number % 7}"}]},
        "subject": {"reference": f"Patient/p{number % 20}"},
        "valueString": text,
    }


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A first pull, one that adds, and one that changes and deletes."""
    folder = tmp_path_factory.mktemp("few")
    made = Lake.open(folder / "lake", buckets=2)
    pulls: list[tuple[list[dict[str, Any]], dict[str, set[str]]]] = [
        ([observation(n, "first") for n in range(600)], {}),
        ([observation(n, "second") for n in range(600, 640)], {}),
        ([observation(3, "third"), observation(620, "third")], {"Observation": {"o0023"}}),
    ]
    for number, (observations, gone) in enumerate(pulls, 1):
        patients = [{"resourceType": "Patient", "id": f"p{n}"} for n in range(20)] if number == 1 else []
        files = []
        for name, rows in (("Patient", patients), ("Observation", observations)):
            path = folder / f"{name}-{number}.ndjson"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            files.append(StagedFile(path, path.name, name, None))
        made.commit(StagedPull(f"pull-{number}", "a", "files", None, tuple(files)), Persons(), deletions=gone)
    return made


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("members", [["p3"], ["p0", "p19", "p4"], ["nobody"]])
def test_rows_of_few_members_are_those_of_a_full_read(
    lake: Lake, version: int, sparse: bool, members: list[str]
) -> None:
    some = pa.array(members)
    for _ in range(2):  # what is kept of the first time serves the second
        found = lake.read("Observation", COLUMNS, version=version, members=some, sparse=sparse)
        every = lake.read("Observation", COLUMNS, version=version, sparse=sparse)
        wanted = every.filter(pc.is_in(every["_member"], value_set=some))
        assert found.num_rows == wanted.num_rows
        for name in found.column_names:
            assert found[name].combine_chunks().equals(wanted[name].combine_chunks())
        if found.num_rows:
            assert found.column_names == wanted.column_names


def test_what_nothing_fills_is_left_out_of_a_table_without_rows(lake: Lake) -> None:
    nobody = pa.array(["nobody"])
    assert "status" in lake.read("Observation", COLUMNS, members=nobody).column_names
    sparse = lake.read("Observation", COLUMNS, members=nobody, sparse=True)
    assert sparse.column_names == ["_source", "id", "_member", "_bucket", "_last_updated", "_raw"]


def test_a_member_is_found_in_any_row_group(tmp_path: Path) -> None:
    table = pa.table({"_member": [f"p{n // 4:03}" for n in range(400)], "n": list(range(400))})
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path, row_group_size=30)
    only = Only("_member", pa.array(["p007", "p090", "p099"]))
    (found,) = rows_of_few([(path, 5)], table.schema, only)
    assert found.equals(stored_rows(path, 5, table.schema, only))
    assert found["n"].to_pylist() == [*range(28, 32), *range(360, 364), *range(396, 400)]
