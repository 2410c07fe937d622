"""Commits whose rows are worked on a part after the other: the outcome is that of doing all at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_gateway.lake.parting import matched
from fhir_gateway.lake.staging import id_words
from fhir_gateway.lake.store import Lake
from fhir_gateway.sources.models import StagedFile, StagedPull
from tests.support.lake_pulls import Line, People, line_bytes, observation, patient


@dataclass(frozen=True)
class Step:
    """A pull of a source, or its refused lines set right; before it, who is the same person."""

    source: str
    lines: list[Line]
    deletions: Mapping[str, list[str]] = field(default_factory=dict)
    same: Mapping[tuple[str, str], str] = field(default_factory=dict)
    mend: Line | None = None


_IDS = st.sampled_from([f"{i}" for i in range(6)])
_META = st.fixed_dictionaries(
    {},
    optional={
        "lastUpdated": st.sampled_from(["2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"]),
        "versionId": st.sampled_from(["1", "2", "10", "x"]),
    },
)
_PATIENTS = st.builds(lambda i, meta, active: patient(i, meta=meta, active=active), _IDS, _META, st.booleans())
_OBSERVATIONS = st.builds(
    lambda i, who, meta, value: observation(f"o{i}", who, meta=meta, valueString=value),
    _IDS,
    st.sampled_from(["Patient/0", "Patient/1", "Patient/7", "Group/1"]),
    _META,
    st.sampled_from("xy"),
)
_ORGANIZATIONS = st.builds(lambda i, name: {"resourceType": "Organization", "id": i, "name": name}, _IDS, _IDS)
_GOOD = st.one_of(_PATIENTS, _OBSERVATIONS, _OBSERVATIONS, _ORGANIZATIONS)
_REFUSED = st.one_of(
    st.just("{"),
    _GOOD.map(lambda line: {name: value for name, value in line.items() if name != "id"}),
    _GOOD.map(lambda line: line | {"nonsense": 1}),
)
_STEPS = st.builds(
    Step,
    st.sampled_from("ab"),
    st.lists(st.one_of(_GOOD, _GOOD, _GOOD, _REFUSED), max_size=16),
    st.fixed_dictionaries(
        {},
        optional={
            "Patient": st.lists(_IDS, max_size=3),
            "Observation": st.lists(_IDS.map(lambda i: f"o{i}"), max_size=4),
        },
    ),
    st.dictionaries(st.tuples(st.sampled_from("ab"), _IDS), st.sampled_from(["one", "two"]), max_size=3),
    st.none() | _GOOD,
)


def outcome(folder: Path, steps: list[Step]) -> Any:
    """Every ledger, what each version reads, all rows ever written, and what is in quarantine."""
    folder.mkdir()
    lake, people, ledgers, reads = Lake.open(folder / "lake", buckets=3), People(), [], []
    pulls = []
    for number, step in enumerate(steps):
        people.same.update(step.same)
        path = folder / f"{number}.ndjson"
        path.write_bytes(b"".join(line_bytes(line) + b"\n" for line in step.lines))
        pull = StagedPull(f"p{number}", step.source, "files", None, (StagedFile(path, path.name),))
        ledgers.append(lake.commit(pull, people, None, step.deletions))
        pulls.append(pull.id)
        if step.mend is not None:  # lines of the first pull that has refused ones, long after it
            mended = next((one for one in pulls if lake.quarantined(one)), None)
            if mended is not None:
                refused = lake.quarantined(mended)
                ledgers.append(lake.replay(mended, people, {(refused[0].file, refused[0].line): line_bytes(step.mend)}))
        lake.reassign(people)
        reads.append({name: lake.read(name, ["_raw", "_seq"]).to_pylist() for name in lake.types()})
    written = {
        name: Counter(json.dumps(row, default=str) for row in lake.history(name, columns=["_raw", "_hash"]).to_pylist())
        for name in lake.types()
    }
    assert all(ledger is not None and ledger.balanced for ledger in ledgers)
    return ledgers, reads, written, lake.quarantined(), lake.members().to_pylist()


@given(st.lists(_STEPS, min_size=2, max_size=4))
@settings(max_examples=15)
def test_rows_in_parts_come_out_as_all_at_once(tmp_path_factory: pytest.TempPathFactory, steps: list[Step]) -> None:
    """Duplicates, older and newer versions, deletions, replays, moves, rows without ids: with parts of two rows too."""
    folder = tmp_path_factory.mktemp("parts")
    whole = outcome(folder / "whole", steps)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fhir_gateway.lake.parting.PART_ROWS", 2)
        patched.setattr("fhir_gateway.lake.parting._BITS", 1)
        for module in ("staging", "placing", "moving"):
            patched.setattr(f"fhir_gateway.lake.{module}._HELD_BYTES", 1)
        for module in ("tables", "commit", "moving"):
            patched.setattr(f"fhir_gateway.lake.{module}.FEW_IDS", 0)
        assert outcome(folder / "parts", steps) == whole


@pytest.mark.parametrize("count", [0, 1, 8, 9, 1000])
def test_rows_of_an_id_meet_in_one_part(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, a part has no more than fit; and all with one id are in one, though they do not fit."""
    monkeypatch.setattr("fhir_gateway.lake.parting.PART_ROWS", 8)
    monkeypatch.setattr("fhir_gateway.lake.parting._BITS", 2)
    ours = pa.table({"id": [f"i{i}" for i in range(count)]})
    theirs = pa.table({"id": [f"i{i}" for i in range(0, 2 * count, 2)] + ["i0"] * 20})
    met: dict[str, int] = {}
    parts = 0
    for one, other in matched(lambda: [ours], lambda: [theirs], theirs.num_rows, tmp_path / "parts"):
        there = Counter(other["id"].to_pylist() if other is not None else [])
        ids = one["id"].to_pylist()
        assert met.keys().isdisjoint(ids)
        met.update({i: there[i] for i in ids})
        assert len(ids) <= 8
        assert "i0" in there or there.total() <= 8
        parts += 1
    assert met == {f"i{i}": (i % 2 == 0) + 20 * (i == 0) for i in range(count)}
    assert parts >= count / 8
    assert not list(tmp_path.rglob("*.arrow"))


def test_ids_that_are_not_there_have_a_hash() -> None:
    assert [len(words) for words in id_words(pa.array([], pa.string()))] == [0, 0, 0]
    assert len(np.unique(id_words(pa.array([None, None], pa.string()))[2])) == 1
