"""Published populations: every resource stored or quarantined with a reason, and the ledger balances."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path

import orjson
import pytest

from fhir_gateway.lake.store import Lake
from fhir_gateway.sources.files import stage_files
from tests.support.lake_pulls import People

pytestmark = pytest.mark.shared

_SAMPLE = 1500  # lines of each file of a big population


@pytest.mark.parametrize("name", ["bulk-data-server-100", "sample-bulk-10", "generated-sample-data-r4"])
def test_a_synthea_population_goes_in_whole(
    lake: Lake, people: People, shared: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "population"
    folder.mkdir()
    expected = 0
    for file in sorted((shared / "data" / "synthea" / name).glob("*.ndjson.gz")):
        with gzip.open(file) as lines:
            taken = list(islice(lines, _SAMPLE))
        (folder / file.name).write_bytes(gzip.compress(b"".join(taken), 1))
        expected += len(taken)
    ledger = lake.commit(stage_files([folder], name, tmp_path / "split"), people)
    assert ledger.balanced
    assert sum(entry.lines_read for entry in ledger.entries) == expected > 1000
    assert sum(entry.rows_stored for entry in ledger.entries) == expected
    assert lake.quarantined() == []
    assert sum(lake.read(resource_type).num_rows for resource_type in lake.types()) == expected


def test_published_measure_cases_go_in_but_for_what_breaks_r4(
    lake: Lake, people: People, shared: Path, tmp_path: Path
) -> None:
    """All published cases hold 36 resources in 19,589 that break R4: of the kinds below, and blanks in references."""
    folder = tmp_path / "cases"
    folder.mkdir()
    case_files = sorted((shared / "data" / "ecqm" / "dqm2025").glob("CMS1[02]*/cases.ndjson.gz"))
    for number, file in enumerate(case_files):
        bundle = b',"type":"collection","entry":['
        with gzip.open(file) as lines, (folder / f"{number}.ndjson").open("wb") as target:
            for line in lines:
                resources = line[line.index(b'"resources":[') + len(b'"resources":[') : line.index(b'],"expected"')]
                entries = b",".join(b'{"resource":' + r + b"}" for r in _split(resources))
                target.write(b'{"resourceType":"Bundle"' + bundle + entries + b"]}\n")
    ledger = lake.commit(stage_files([folder], "cases", tmp_path / "split"), people)
    assert ledger.balanced
    assert sum(entry.rows_stored for entry in ledger.entries) > 500
    assert {(line.path, line.rule) for line in lake.quarantined()} <= {
        ("Task.intent", "required"),
        ("Claim.provider", "required"),
        ("Claim.diagnosis[0].diagnosis[x]", "required"),
        ("Coverage.payor", "required"),
        ("Patient.extension[0].url", "format"),
    }


def _split(array: bytes) -> list[bytes]:
    return [orjson.dumps(resource) for resource in orjson.loads(b"[" + array + b"]")]
