"""First half of a commit: read every line of a pull once, check it, and lay the valid ones down by type.

What passed is spilled to Arrow files and mapped back, so memory does not grow with the pull.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from fhir_gateway.errors import LedgerError, Location
from fhir_gateway.lake.columns import instants, patient_ids, patient_reference, version_numbers, widen
from fhir_gateway.lake.lines import read_lines
from fhir_gateway.lake.quarantine import QuarantinedLine, QuarantineWriter
from fhir_gateway.lake.validate import CheckedGroup, check, collector_off
from fhir_gateway.r4 import spec
from fhir_gateway.sources.models import LedgerEntry, StagedFile, StagedPull

#: Called after each batch with a resource type and how many of its lines are done.
Progress = Callable[[str, int], None]

_SPILL_BYTES = 1 << 24
_SCHEMA = pa.schema(
    [
        ("_order", pa.int64()),  # position in the pull
        ("id", pa.string()),
        ("_patient", pa.string()),
        ("_last_updated", pa.timestamp("us", "UTC")),
        ("_version", pa.int64()),
        ("_raw", pa.string()),
    ]
)


@dataclass
class StagedRows:
    """Checked resources of one type: rows of ``_SCHEMA``, mapped from files, and the paths they fill."""

    resource_type: str
    folder: Path
    shape: dict[str, Any] = field(default_factory=dict)
    _files: int = 0
    _tables: list[pa.Table] = field(default_factory=list)
    _raw: list[bytes] = field(default_factory=list)
    _heads: dict[str, list[Any]] = field(default_factory=lambda: {"order": [], "id": [], "ref": [], "at": [], "ver": []})
    _size: int = 0

    def add(self, lines: list[bytes], resources: list[Any], first: int) -> None:
        """Take resources whose positions in the pull start at ``first``."""
        heads = self._heads
        metas = [resource.get("meta") for resource in resources]
        heads["order"].extend(range(first, first + len(lines)))
        heads["id"].extend([resource["id"] for resource in resources])
        heads["at"].extend([meta.get("lastUpdated") if meta else None for meta in metas])
        heads["ver"].extend([meta.get("versionId") if meta else None for meta in metas])
        heads["ref"].extend(_references(self.resource_type, resources))
        self._raw.extend(lines)
        self._size += sum(map(len, lines))
        widen(self.shape, resources, spec.column_structure(self.resource_type))
        if self._size >= _SPILL_BYTES:
            self._spill()

    def _spill(self) -> None:
        texts = {name: pa.array(values, pa.string()) for name, values in self._heads.items() if name != "order"}
        patients = texts["id"] if self.resource_type == "Patient" else patient_ids(texts["ref"])
        columns = [
            pa.array(self._heads["order"], pa.int64()),
            texts["id"],
            patients,
            instants(texts["at"]),
            version_numbers(texts["ver"]),
            pa.array(self._raw, pa.binary()).cast(pa.string()),
        ]
        path = self.folder / f"{self.resource_type}-{self._files}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            writer.write_table(pa.table(columns, schema=_SCHEMA))
        self._tables.append(pa.ipc.open_file(pa.memory_map(str(path))).read_all())
        self._files += 1
        self._raw, self._size = [], 0
        self._heads = {name: [] for name in self._heads}

    def table(self) -> pa.Table:
        """All rows so far."""
        if self._raw:
            self._spill()
        return pa.concat_tables(self._tables) if self._tables else _SCHEMA.empty_table()


def _references(resource_type: str, resources: list[Any]) -> list[str | None]:
    name = patient_reference(resource_type)
    if name is None or resource_type == "Patient":
        return [None] * len(resources)
    if spec.type_definition(resource_type).elements[name].is_list:
        found = ([r.get("reference") or "" for r in resource.get(name, ())] for resource in resources)
        return [next((text for text in texts if "Patient/" in text), None) for texts in found]
    return [subject.get("reference") if (subject := resource.get(name)) else None for resource in resources]


@dataclass
class StagedLines:
    """What reading a pull gave: rows by type, counts by type, refused lines in ``quarantine``."""

    rows: dict[str, StagedRows]
    read: dict[str | None, int]
    quarantined: dict[str | None, int]
    manifest: dict[str | None, int | None]

    def entry(self, resource_type: str | None, stored: int, replaced: int, unchanged: int) -> LedgerEntry:
        """Ledger entry of a type, once it is known where its rows went."""
        return LedgerEntry(
            resource_type=resource_type,
            manifest_count=self.manifest.get(resource_type),
            lines_read=self.read.get(resource_type, 0),
            rows_stored=stored,
            rows_replaced=replaced,
            rows_unchanged=unchanged,
            rows_quarantined=self.quarantined.get(resource_type, 0),
        )


def stage(pull: StagedPull, folder: Path, quarantine: QuarantineWriter, progress: Progress | None) -> StagedLines:
    """Read, check and lay down all lines of ``pull``; InputError or LedgerError when a file is not what was promised."""
    staged = StagedLines({}, {}, {}, _manifest_counts(pull))
    order = 0
    with collector_off():
        for file in pull.files:
            lines = 0
            for groups, refused in _checked(file):
                quarantine.add(refused)
                for line in refused:
                    staged.quarantined[line.resource_type] = staged.quarantined.get(line.resource_type, 0) + 1
                    _count(staged, line.resource_type, 1, progress)
                for group in groups:
                    rows = staged.rows.get(group.resource_type)
                    if rows is None:
                        rows = staged.rows[group.resource_type] = StagedRows(group.resource_type, folder)
                    rows.add(group.lines, group.resources, order)
                    order += len(group.lines)
                    _count(staged, group.resource_type, len(group.lines), progress)
                    lines += len(group.lines)
                lines += len(refused)
            if file.expected_count not in (None, lines):
                message = f"the sender counted {file.expected_count} resources, the file has {lines}"
                raise LedgerError(message, location=Location(file.name, rule="manifest-count"))
            if lines == 0:
                staged.read.setdefault(file.resource_type, 0)
    return staged


def _checked(file: StagedFile) -> Iterator[tuple[list[CheckedGroup], list[QuarantinedLine]]]:
    for batch in read_lines(file):
        yield check(batch.lines, batch.numbers, file.resource_type, file.name)


def _count(staged: StagedLines, resource_type: str | None, lines: int, progress: Progress | None) -> None:
    staged.read[resource_type] = staged.read.get(resource_type, 0) + lines
    if progress is not None:
        progress(resource_type or "unknown", staged.read[resource_type])


def _manifest_counts(pull: StagedPull) -> dict[str | None, int | None]:
    """Sum of the sender's counts by promised type; None when it left out the count of any such file."""
    unpromised = any(file.resource_type is None for file in pull.files)
    counts: dict[str | None, int | None] = {}
    for file in pull.files:
        if file.resource_type is None:
            continue
        before = counts.get(file.resource_type, 0)
        known = before is not None and file.expected_count is not None and not unpromised
        counts[file.resource_type] = (before or 0) + (file.expected_count or 0) if known else None
    return counts
