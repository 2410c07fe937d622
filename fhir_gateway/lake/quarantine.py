"""Lines that did not pass: kept as they came, with where and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fhir_gateway.lake.places import Place, opened

#: OperationOutcome issue type of each rule (https://hl7.org/fhir/R4/valueset-issue-type.html).
ISSUE_TYPES = {
    "not-json": "structure",
    "duplicate-key": "structure",
    "depth": "structure",
    "resource-type": "structure",
    "unknown-element": "structure",
    "type": "structure",
    "choice": "structure",
    "cardinality": "structure",
    "required": "required",
    "binding": "code-invalid",
    "format": "value",
}

_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("line", pa.int64()),
        ("resource_type", pa.string()),
        ("id", pa.string()),
        ("path", pa.string()),
        ("rule", pa.string()),
        ("message", pa.string()),
        ("raw", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True)
class QuarantinedLine:
    """One refused line. ``raw`` is the line's bytes; every other field is free of the line's values, but the id."""

    file: str
    line: int
    resource_type: str | None
    id: str | None
    path: str | None
    rule: str
    message: str
    raw: bytes

    def outcome(self) -> dict[str, Any]:
        """OperationOutcome saying file, line, path and rule, without values."""
        issue: dict[str, Any] = {
            "severity": "error",
            "code": ISSUE_TYPES.get(self.rule, "invalid"),
            "details": {"text": self.rule},
            "diagnostics": f"{self.file}:{self.line}: {self.message}",
        }
        if self.path:
            issue["expression"] = [self.path]
        return {"resourceType": "OperationOutcome", "issue": [issue]}


class QuarantineWriter:
    """Writes refused lines as they come, so that a pull of nothing but bad lines needs no memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, lines: Iterable[QuarantinedLine]) -> None:
        """Append lines to the file; it is only made when there is one."""
        rows = [asdict(line) for line in lines]
        if not rows:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, _SCHEMA, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
        self.count += len(rows)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def read_quarantine(path: Place) -> list[QuarantinedLine]:
    """Lines of a quarantine file."""
    return [QuarantinedLine(**row) for row in pq.read_table(opened(path), schema=_SCHEMA).to_pylist()]
