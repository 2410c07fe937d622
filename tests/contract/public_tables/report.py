"""What matched: a tally per quantity, with the rows that did not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class NotSuchATable(Exception):
    """The file is not a table of the programme; the message names the file and what is missing."""


class Difference(NamedTuple):
    """A row whose published number is not what was computed."""

    row: str
    computed: str
    published: str


@dataclass
class Tally:
    """One quantity over all rows that publish it."""

    matched: int = 0
    total: int = 0
    differences: list[Difference] = field(default_factory=list)

    def add(self, row: str, agrees: bool, computed: object, published: object) -> None:
        """Count a row."""
        self.total += 1
        if agrees:
            self.matched += 1
        else:
            self.differences.append(Difference(row, str(computed), str(published)))


@dataclass
class Report:
    """The quantities of one file, in the order they were first counted or found absent."""

    title: str
    tallies: dict[str, Tally] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)  # quantity -> what the file lacks for it
    unread: list[tuple[str, str]] = field(default_factory=list)  # row -> why nothing was computed from it

    def tally(self, quantity: str) -> Tally:
        """The tally of a quantity."""
        return self.tallies.setdefault(quantity, Tally())

    def lacks(self, quantity: str, why: str) -> None:
        """A quantity that this file cannot be asked about."""
        self.absent[quantity] = why

    def skip(self, row: str, why: str) -> None:
        """A row that is reported instead of guessed."""
        self.unread.append((row, why))

    def render(self, limit: int) -> str:
        """The report as text: `quantity matched/total`, and at most ``limit`` differences of each."""
        lines = [f"== {self.title}"]
        for quantity, tally in self.tallies.items():
            lines.append(f"{quantity}: {tally.matched}/{tally.total}")
            lines += [
                f"  {row}: computed {computed}, published {published}"
                for row, computed, published in tally.differences[:limit]
            ]
            if 0 < limit < len(tally.differences):
                lines.append(f"  ... and {len(tally.differences) - limit} more")
        lines += [f"{quantity}: not in file ({why})" for quantity, why in self.absent.items()]
        if self.unread:
            lines.append(f"rows not computed: {len(self.unread)}")
            lines += [f"  {row}: {why}" for row, why in self.unread[:limit]]
        return "\n".join(lines)

    @staticmethod
    def whole(reports: Sequence[Report]) -> Report:
        """All files together."""
        total = Report(f"all {len(reports)} files")
        for report in reports:
            for quantity, tally in report.tallies.items():
                mine = total.tally(quantity)
                mine.matched += tally.matched
                mine.total += tally.total
            total.unread += report.unread
        return total


def lacking(needed: Iterable[str], present: Iterable[str]) -> list[str]:
    """Names of columns that are needed and not there."""
    there = set(present)
    return [name for name in needed if name not in there]
