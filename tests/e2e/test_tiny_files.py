"""Thousands of files of one line: taken in whole, with few descriptors and level memory."""

from __future__ import annotations

from pathlib import Path

from tests.support.tiny_files import pull_tiny_files


def test_two_thousand_files_of_one_line(tmp_path: Path) -> None:
    told = pull_tiny_files(tmp_path, 2_000)
    assert told.rows == told.persons == 2_000
    assert told.descriptors is None or told.descriptors < 250
    assert told.grown_mb < 400
