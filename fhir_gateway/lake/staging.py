"""First half of a commit: read every line of a pull once, check it, and lay the valid ones down by type.

What passed is spilled to Arrow files and mapped back, so memory does not grow with the pull.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from fhir_gateway.errors import LedgerError, Location
from fhir_gateway.lake.columns import instants, patient_ids, version_numbers
from fhir_gateway.lake.lines import read_lines
from fhir_gateway.lake.quarantine import QuarantinedLine, QuarantineWriter
from fhir_gateway.lake.validate import CheckedGroup, Shapes, check, collector_off
from fhir_gateway.r4 import spec
from fhir_gateway.sources.models import LedgerEntry, StagedFile, StagedPull

#: Called after each batch with a resource type and how many of its lines are done.
Progress = Callable[[str, int], None]

_SPILL_BYTES = 1 << 21
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


class StagedRows:
    """Checked resources of one type: rows of ``_SCHEMA``, written to a file and mapped back."""

    def __init__(self, resource_type: str, folder: Path) -> None:
        self.resource_type = resource_type
        self._path = folder / f"{resource_type}.arrow"
        self._writer = pa.ipc.new_file(str(self._path), _SCHEMA)
        self._table: pa.Table | None = None
        self._orders: list[int] = []
        self._raw: list[bytes] = []
        self._texts: dict[str, list[str | None]] = {name: [] for name in ("id", "reference", "updated", "version")}
        self._size = 0

    def add(self, lines: list[bytes], resources: list[Any], first: int) -> None:
        """Take resources whose positions in the pull start at ``first``."""
        metas = [resource.get("meta") for resource in resources]
        self._orders.extend(range(first, first + len(lines)))
        self._texts["id"].extend([resource["id"] for resource in resources])
        self._texts["updated"].extend([meta.get("lastUpdated") if meta else None for meta in metas])
        self._texts["version"].extend([meta.get("versionId") if meta else None for meta in metas])
        self._texts["reference"].extend(_references(self.resource_type, resources))
        self._raw.extend(lines)
        self._size += sum(map(len, lines))
        if self._size >= _SPILL_BYTES:
            self._spill()

    def _spill(self) -> None:
        texts = {name: pa.array(values, pa.string()) for name, values in self._texts.items()}
        columns = [
            pa.array(self._orders, pa.int64()),
            texts["id"],
            texts["id"] if self.resource_type == "Patient" else patient_ids(texts["reference"]),
            instants(texts["updated"]),
            version_numbers(texts["version"]),
            pa.array(self._raw, pa.binary()).view(pa.string()),  # parsing has checked that it is UTF-8
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
        self._orders, self._raw, self._size = [], [], 0
        self._texts = {name: [] for name in self._texts}

    def table(self) -> pa.Table:
        """All rows; no more can be added."""
        if self._table is None:
            if self._raw:
                self._spill()
            self._writer.close()
            self._table = pa.ipc.open_file(pa.memory_map(str(self._path))).read_all()
        return self._table


def _references(resource_type: str, resources: list[Any]) -> list[str | None]:
    name = spec.patient_element(resource_type)
    if name is None or resource_type == "Patient":
        return [None] * len(resources)
    if spec.type_definition(resource_type).elements[name].is_list:
        found = ([r.get("reference") or "" for r in resource.get(name, ())] for resource in resources)
        return [next((text for text in texts if "Patient/" in text), None) for texts in found]
    return [subject.get("reference") if (subject := resource.get(name)) else None for resource in resources]


@dataclass
class StagedLines:
    """What reading a pull gave: rows and the columns they fill by type, and counts by type."""

    rows: dict[str, StagedRows]
    shapes: Shapes
    read: dict[str | None, int]
    quarantined: dict[str | None, int]
    manifest: dict[str | None, int | None]

    def entry(self, resource_type: str | None, stored: int, replaced: int, unchanged: int, deleted: int) -> LedgerEntry:
        """Ledger entry of a type, once it is known where its rows went."""
        return LedgerEntry(
            resource_type=resource_type,
            manifest_count=self.manifest.get(resource_type),
            lines_read=self.read.get(resource_type, 0),
            rows_stored=stored,
            rows_replaced=replaced,
            rows_unchanged=unchanged,
            rows_quarantined=self.quarantined.get(resource_type, 0),
            rows_deleted=deleted,
        )


def stage(pull: StagedPull, folder: Path, quarantine: QuarantineWriter, progress: Progress | None) -> StagedLines:
    """Read, check and lay down all lines of ``pull``; InputError or LedgerError when a file is not as promised."""
    staged = StagedLines({}, Shapes(), {}, {}, _manifest_counts(pull))
    order = 0
    with collector_off():
        for file in pull.files:
            lines = 0
            for groups, refused in _checked(file, staged.shapes):
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


def _checked(file: StagedFile, shapes: Shapes) -> Iterator[tuple[list[CheckedGroup], list[QuarantinedLine]]]:
    for batch in read_lines(file):
        yield check(batch.lines, batch.numbers, file.resource_type, file.name, shapes)


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
