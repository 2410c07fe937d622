"""Reading only rows that have one of some codes: as reading all and filtering, whatever happened to the rows since."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.lake.store import Lake
from fhir_gateway.sources.models import StagedFile, StagedPull

COLUMNS = ["code.coding.system", "code.coding.code", "category.coding.code", "status", "valueString"]


class Patients:
    """Every patient is a person."""

    def assign(self, source: str, patients: Any) -> Any:
        return patients["id"].combine_chunks()

    def lookup(self, source: str, patient_ids: Any) -> Any:
        return patient_ids


def observation(number: int, *codes: str, category: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "resourceType": "Observation",
        "id": f"o{number:05}",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code} for code in codes]}
        if codes
        else {"text": "?"},
        "subject": {"reference": f"Patient/p{number % 40}"},
        "valueString": f"said {number}",
    }
    return made | ({"category": [{"coding": [{"code": category}]}]} if category else {})


def commit(lake: Lake, folder: Path, number: int, observations: list[dict[str, Any]], gone: Any = None) -> None:
    patients = [{"resourceType": "Patient", "id": f"p{n}"} for n in range(40)] if number == 1 else []
    files = []
    for name, rows in (("Patient", patients), ("Observation", observations)):
        path = folder / f"{name}-{number}.ndjson"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append(StagedFile(path, path.name, name, None))
    lake.commit(StagedPull(f"pull-{number}", "a", "files", None, tuple(files)), Patients(), deletions=gone)


def coded_ids(table: pa.Table, codes: set[str], categories: set[str]) -> set[str]:
    found = set()
    for row in table.select(["id", "code", "category"]).to_pylist():
        mine = {c["code"] for c in (row["code"] or {}).get("coding") or ()}
        kinds = {c["code"] for k in row["category"] or () for c in k["coding"] or ()}
        if mine & codes or kinds & categories:
            found.add(row["id"])
    return found


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Observations, of which a second pull changes codes both ways and a third deletes one."""
    folder = tmp_path_factory.mktemp("coded")
    made = Lake.open(folder / "lake", buckets=3)
    first = [observation(n, f"c{n % 50}", *(["extra"] if n % 97 == 0 else [])) for n in range(2000)]
    first += [observation(3000), observation(3001, "c1", category="lab"), observation(3002, "c2", category="vital")]
    commit(made, folder, 1, first)
    commit(made, folder, 2, [observation(7, "other"), observation(8, "c7")])
    commit(made, folder, 3, [], {"Observation": {"o00057"}})
    return made


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are read as large ones are."""
    monkeypatch.setattr("fhir_gateway.lake.tables.FEW_ROWS", 0)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("members", [None, ["p1", "p7", "p17"]])
@pytest.mark.parametrize(
    ("codes", "categories"), [({"c7"}, set()), ({"c7", "extra"}, {"lab"}), (set(), {"vital"}), ({"nowhere"}, set())]
)
def test_rows_with_a_code_are_those_of_a_full_read(
    lake: Lake, version: int, members: list[str] | None, codes: set[str], categories: set[str]
) -> None:
    some = None if members is None else pa.array(members)
    every = lake.read("Observation", COLUMNS, version=version, members=some)
    wanted = coded_ids(every, codes, categories)
    coded = {"code.coding.code": frozenset(codes), "category.coding.code": frozenset(categories)}
    found = lake.read("Observation", COLUMNS, version=version, members=some, coded=coded)
    assert wanted <= set(found["id"].to_pylist())
    kept = [i for i, one in enumerate(every["id"].to_pylist()) if one in set(found["id"].to_pylist())]
    assert found.equals(every.take(pa.array(kept, pa.int64())))  # the same values, in the same order
    if version == 1:  # nothing is superseded: exactly those
        assert len(kept) == len(wanted)


def test_a_path_that_no_file_has_finds_nothing(lake: Lake) -> None:
    assert lake.read("Observation", ["status"], coded={"method.coding.code": frozenset({"c7"})}).num_rows == 0


def test_a_process_that_reads_does_not_load_the_compiler() -> None:
    asked = "import sys, fhir_gateway.measures.run, fhir_gateway.lake.store; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
