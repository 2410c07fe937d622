"""Being written."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.contract.public_tables.report import Report


def check(paths: Sequence[Path]) -> Iterator[Report]:
    """Reports of the files."""
    raise NotImplementedError
