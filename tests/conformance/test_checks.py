"""Every line of the sheet of public test kits, against a running gateway (``make conformance`` prints the table)."""

from __future__ import annotations

from collections.abc import Iterator

import checks
import page
import pytest
from face import Face, running

LINES = checks.all_checks()
#: Lines of the sheet by section; a new line of the sheet is a new check.
SHEET = {"A": 9, "B": 9, "C": 4, "D": 20, "E": 6, "F": 18, "G": 5, "H": 6, "I": 6, "J": 9}


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Face]:
    with running(tmp_path_factory.mktemp("conformance")) as running_face:
        yield running_face


def test_each_line_of_the_sheet_is_registered_once() -> None:
    expected = [f"{section}{number}" for section, count in SHEET.items() for number in range(1, count + 1)]
    assert sorted(one.id for one in LINES) == sorted(expected)
    assert set(checks.reasons()) <= set(expected)


def test_the_page_says_where_we_stand() -> None:
    """Write it anew with ``python -m tests.conformance --page``."""
    assert page.PAGE.read_text(encoding="utf-8") == page.current()


@pytest.mark.parametrize("one", LINES, ids=lambda one: one.id)
def test_line(face: Face, one: checks.Check) -> None:
    (result,) = checks.run([one], face)
    assert result.accounted, f"{result.outcome}: {result.reason}"
    if result.outcome != "passed":
        pytest.skip(f"{result.outcome}: {result.reason}")
