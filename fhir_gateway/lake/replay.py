"""Refused lines checked again: after a rule or the terminology changed, or with a line set right by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path

from fhir_gateway.lake.lines import LineBlock
from fhir_gateway.lake.quarantine import QuarantinedLine, QuarantineWriter
from fhir_gateway.lake.staging import Progress, StagedLines
from fhir_gateway.lake.texts import Texts

_BATCH_LINES = 1000

#: Lines set right, by file name and line number.
Edits = Mapping[tuple[str, int], bytes]


@dataclass(frozen=True, slots=True)
class Replay:
    """The refused ``lines`` of lake version ``version``, taken in again as they are or as ``edits`` say."""

    version: int
    lines: Sequence[QuarantinedLine]
    edits: Edits = field(default_factory=dict)

    def stage(self, folder: Path, texts: Texts, quarantine: QuarantineWriter, progress: Progress | None) -> StagedLines:
        """As :func:`fhir_gateway.lake.staging.stage`; what is refused again keeps its file and line number."""
        staged = StagedLines(folder, {}, texts)
        order = 0
        for name, promised, lines in self._batches():
            given = [self.edits.get((line.file, line.line), line.raw).replace(b"\n", b" ") for line in lines]
            block = LineBlock(b"".join(text + b"\n" for text in given), 0, len(given))
            scanned = staged.scan(block, promised, name, order)
            refused = [replace(line, line=lines[line.line].line) for line in scanned.refused]
            staged.take(replace(scanned, refused=refused), quarantine, progress)
            order += scanned.places
        staged.close()
        return staged

    def _batches(self) -> Iterator[tuple[str, str | None, list[QuarantinedLine]]]:
        """Lines that are checked together, with their file and the type they must have; an edited line has any."""
        for (name, promised), lines in groupby(self.lines, self._file_and_type):
            while batch := list(islice(lines, _BATCH_LINES)):
                yield name, promised, batch

    def _file_and_type(self, line: QuarantinedLine) -> tuple[str, str | None]:
        return line.file, None if (line.file, line.line) in self.edits else line.resource_type
