"""What a pull hands to the lake, and the ledger the lake hands back. Plain values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PullKind = Literal["bulk", "search", "files", "persons", "replay"]
"""``persons`` brings no files: the lake follows the crosswalk (``Lake.reassign``)."""


@dataclass(frozen=True, slots=True)
class StagedFile:
    """One local file of FHIR resources as NDJSON, optionally gzipped (seen by its first bytes, not its name).

    ``name`` is what errors and ledgers show: never a URL with its query. ``resource_type`` is what the sender promised
    (None: nothing, any type goes); ``expected_count`` is the sender's count of lines, None when it gave none.
    """

    path: Path
    name: str
    resource_type: str | None = None
    expected_count: int | None = None


@dataclass(frozen=True, slots=True)
class StagedPull:
    """All files of one pull. ``id`` names the pull for good: committing it a second time changes nothing."""

    id: str
    source: str
    kind: PullKind
    transaction_time: str | None
    files: tuple[StagedFile, ...]


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """Where the lines of one resource type went.

    Lines whose type cannot be told (not JSON, unknown type) count under the type their file promised, or ``None``.
    ``manifest_count`` is the sum of the sender's counts, None when it gave none for these files. ``rows_deleted``
    counts stored rows that the sender said are gone; they are no lines and so not in the balance.
    """

    resource_type: str | None
    manifest_count: int | None
    lines_read: int
    rows_stored: int
    rows_replaced: int
    rows_unchanged: int
    rows_quarantined: int
    rows_deleted: int = 0

    @property
    def balanced(self) -> bool:
        """Every line is accounted for, and there are as many lines as the sender counted."""
        accounted = self.rows_stored + self.rows_replaced + self.rows_unchanged + self.rows_quarantined
        return self.lines_read == accounted and self.manifest_count in (None, self.lines_read)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The account of one pull, an entry per resource type."""

    pull_id: str
    source: str
    entries: tuple[LedgerEntry, ...]

    @property
    def balanced(self) -> bool:
        """All entries balance."""
        return all(entry.balanced for entry in self.entries)
