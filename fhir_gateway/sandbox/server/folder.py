"""The resources of a folder, found by type, id, patient and time of change; the bytes stay in the files.

Per resource about 70 bytes are kept in memory: id, file and line, last change, and the row of its patient.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.r4.spec import patient_element
from fhir_gateway.sandbox.server.lines import NO_RESOURCES, StoredFile, describe, open_files

Rows = npt.NDArray[np.int64]

#: ``updated`` of a resource without ``meta.lastUpdated``.
UNKNOWN_TIME = np.iinfo(np.int64).min
#: Id of the Group of all patients that every sandbox has.
ALL_PATIENTS = "all"

_WRITE_ROWS = 20_000
_NOTHING = NO_RESOURCES.append_column("file", pa.array([], pa.int16()))


@dataclass(frozen=True, slots=True)
class TypeIndex:
    """Resources of one type, sorted by id; arrays are parallel, a *row* is a position in them."""

    ids: pa.StringArray
    file: npt.NDArray[np.int16]
    line: npt.NDArray[np.int32]
    updated: npt.NDArray[np.int64]  # epoch µs
    patient: npt.NDArray[np.int32]  # row in the Patient index, -1 for none

    def __len__(self) -> int:
        return len(self.line)

    def row(self, resource_id: str) -> int | None:
        """Row of that id, None when there is none."""
        at = self.position(resource_id)
        return at if at < len(self) and self.ids[at].as_py() == resource_id else None

    def position(self, resource_id: str) -> int:
        """Row of that id or, when absent, of the next greater one."""
        return bisect_left(self.ids, resource_id, key=lambda scalar: scalar.as_py())


class ResourceFolder:
    """A folder of NDJSON, indexed once at the start. ``spool`` is a scratch folder that outlives it."""

    def __init__(self, folder: Path, spool: Path) -> None:
        self._files = open_files(folder, spool)
        rows = pa.concat_tables([_numbered(describe(file), n) for n, file in enumerate(self._files)] or [_NOTHING])
        self._synthetic_file = len(self._files)
        everyone = _all_patients(rows)
        if everyone is not None:
            self._files.append(everyone)
            rows = pa.concat_tables([rows, _numbered(describe(everyone), self._synthetic_file)])
        self._types = _index(rows)
        del rows
        pa.default_memory_pool().release_unused()  # scanning takes several times what the index keeps

    @property
    def types(self) -> tuple[str, ...]:
        """Resource types that can be read here, sorted (Group always, for the Group of all patients)."""
        return tuple(sorted(self._types))

    def index(self, resource_type: str) -> TypeIndex:
        """The index of a type; KeyError when the folder has none of it."""
        return self._types[resource_type]

    def read(self, resource_type: str, row: int) -> bytes:
        """The resource's bytes as stored, without the line end."""
        index = self._types[resource_type]
        stored: bytes = self._files[index.file[row]].lines[int(index.line[row])].as_py()
        return stored.strip()

    def exportable(self, resource_type: str) -> Rows:
        """Rows of a type that lie in the folder (the Group of all patients does not)."""
        return np.flatnonzero(self._types[resource_type].file != self._synthetic_file)

    def members(self, group_row: int) -> Rows:
        """Rows of the patients in a Group; those it names that are not here are left out."""
        index = self._types["Group"]
        patients = self._types.get("Patient")
        if patients is None:
            return np.zeros(0, np.int64)
        if index.file[group_row] == self._synthetic_file:
            return np.arange(len(patients), dtype=np.int64)
        group: dict[str, Any] = json.loads(self.read("Group", group_row))
        return self.patient_rows(
            str(member.get("entity", {}).get("reference", ""))
            for member in group.get("member", [])
            if not member.get("inactive", False)
        )

    def patient_rows(self, references: Iterable[str]) -> Rows:
        """Rows of the patients that the references (``Patient/1`` or ``1``) name, sorted; unknown ones are left out."""
        patients = self._types.get("Patient")
        if patients is None:
            return np.zeros(0, np.int64)
        names = pa.array([reference.rpartition("Patient/")[2] for reference in references], pa.string())
        found = pc.drop_null(pc.index_in(names, value_set=patients.ids))
        return np.unique(found.to_numpy()).astype(np.int64)

    def write(self, resource_type: str, rows: Rows, sink: BinaryIO) -> Iterator[int]:
        """Write the resources of ``rows`` to ``sink`` as NDJSON, in the order of the files; yields counts."""
        index = self._types[resource_type]
        order = np.lexsort((index.line[rows], index.file[rows]))
        file, line = index.file[rows][order], index.line[rows][order]
        for number in np.unique(file):
            start, stop = np.searchsorted(file, [number, number + 1])
            for at in range(start, stop, _WRITE_ROWS):
                chosen = line[at : min(at + _WRITE_ROWS, stop)]
                _write_lines(self._files[number].lines, chosen, sink)
                yield len(chosen)


def _all_patients(rows: pa.Table) -> StoredFile | None:
    """The Group of all patients as a file of one line; None when the folder has a Group of that id itself."""
    groups = rows["id"].filter(pc.equal(rows["type"], "Group"))
    if pc.index(groups, pa.scalar(ALL_PATIENTS)).as_py() >= 0:
        return None
    patients = rows["id"].filter(pc.equal(rows["type"], "Patient"))
    group = {
        "resourceType": "Group",
        "id": ALL_PATIENTS,
        "type": "person",
        "actual": True,
        "name": "All patients",
        "quantity": pc.count_distinct(patients).as_py(),
    }
    return StoredFile(
        "(all patients)", pa.array([json.dumps(group, separators=(",", ":")).encode()], pa.large_binary())
    )


def _numbered(rows: pa.Table, file: int) -> pa.Table:
    return rows.append_column("file", pa.array(np.full(len(rows), file, np.int16)))


def _index(rows: pa.Table) -> dict[str, TypeIndex]:
    types: dict[str, TypeIndex] = {}
    # Patient first, as the others refer to its rows.
    names = sorted(rows["type"].unique().to_pylist(), key=lambda name: (name != "Patient", name))
    for name in names:
        part = _newest(rows.filter(pc.equal(rows["type"], name)))
        ids = part["id"].combine_chunks()
        if name == "Patient":
            patient = np.arange(len(ids), dtype=np.int32)
        elif "Patient" in types and patient_element(name) is not None:
            found = pc.index_in(part["patient"], value_set=types["Patient"].ids)
            patient = pc.fill_null(found, -1).to_numpy().astype(np.int32, copy=False)
        else:
            patient = np.full(len(ids), -1, np.int32)
        types[name] = TypeIndex(
            ids, part["file"].to_numpy(), part["line"].to_numpy(), part["updated"].to_numpy(), patient
        )
    return types


def _newest(part: pa.Table) -> pa.Table:
    """Sort by id and keep, of several resources with one id, the one changed last (a server has only that one)."""
    part = part.set_column(
        part.schema.get_field_index("updated"), "updated", pc.fill_null(part["updated"], UNKNOWN_TIME)
    )
    keys = [(name, "ascending") for name in ("id", "updated", "file", "line")]
    part = part.take(pc.sort_indices(part, sort_keys=keys)).combine_chunks()
    ids = part["id"]
    last = np.append(pc.not_equal(ids[:-1], ids[1:]).to_numpy(), True).astype(bool)
    return part if last.all() else part.filter(pa.array(last)).combine_chunks()


def _write_lines(lines: pa.LargeBinaryArray, chosen: npt.NDArray[np.int32], sink: BinaryIO) -> None:
    contiguous = int(chosen[-1]) - int(chosen[0]) + 1 == len(chosen)
    part = lines.slice(int(chosen[0]), len(chosen)) if contiguous else lines.take(pa.array(chosen))
    offsets = np.frombuffer(part.buffers()[1], np.int64)[part.offset : part.offset + len(part) + 1]
    content = memoryview(part.buffers()[2])[offsets[0] : offsets[-1]]
    sink.write(content)
    if content[-1] != ord("\n"):  # the last line of a file may lack its end
        sink.write(b"\n")
