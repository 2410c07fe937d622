"""Nothing lost, nothing twice: the real command line is killed at every step, and among faults of every kind."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.chaos import ChaoticSource, Field, chaos, check, field_of, quiet_content, resources

PULL = ("pull", "ehr", "--mode", "bulk")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    return quiet_content(tmp_path_factory.mktemp("quiet"), resources())


@pytest.fixture
def field(tmp_path: Path) -> Any:
    source = ChaoticSource()
    source.files = resources()
    with field_of(tmp_path, source) as field:
        yield field


@pytest.mark.parametrize("seed", [1, 2])
def test_faults_at_five_percent_and_three_kills(tmp_path: Path, seed: int) -> None:
    chaos(tmp_path, seed)


def test_a_kill_at_any_request_goes_on_with_the_same_export(field: Field, expected: dict[str, Any]) -> None:
    """One pull, killed at its first request, at the next one that is new, and so on through the whole protocol."""
    number = 1
    while field.kill_at_request(number, *PULL):
        number += 1
    # the process of each kill asked again for what it needs; so the later kills are further on
    assert {"smart", "token", "kickoff", "poll", "file"} <= set(field.kills)
    check(field, expected)
    # a kick-off whose answer never came may have been accepted: the one case in which there is a second export
    assert field.source.kickoffs == field.kills.count("kickoff") + 1
    for name in field.source.files:
        asked = [one for one in field.source.requests("file") if one.path.endswith(name)]
        assert len(asked) <= 1 + field.kills.count("file"), name


def _exists(pattern: str) -> Callable[[Field], bool]:
    return lambda field: any((field.folder / "data").glob(pattern))


def _stepped(name: str) -> Callable[[Field], bool]:
    def due(field: Field) -> bool:
        path = field.folder / "data" / "jobs.db"
        if not path.exists():
            return False
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0) as connection:
                found = connection.execute("SELECT 1 FROM operation_outputs WHERE function_name = ?", (name,))
                return found.fetchone() is not None
        except sqlite3.OperationalError:  # locked, or not made yet
            return False

    return due


MOMENTS = {
    "a file is here": _exists("staging/*/*.ndjson"),
    "the export is finished": _exists("staging/*/export.json"),
    "all is staged": _exists("staging/*/staged.json"),
    "the commit began": _exists("lake/_lake/scratch/*"),
    "a table was written": _exists("lake/*/_delta_log/*.json"),
    "the lake has it": _exists("lake/_lake/v00000001.json"),
    "the commit is done": _stepped("commit"),
    "it is published": _stepped("publish"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_at_any_step_costs_no_second_export(field: Field, expected: dict[str, Any], moment: str) -> None:
    due = MOMENTS[moment]
    field.kill_when(lambda: due(field), *PULL)
    field.finish(*PULL)
    assert field.source.kickoffs == 1
    served = [one.path for one in field.source.requests("file")]
    assert len(served) <= len(field.source.files) + 1
    if moment != "a file is here":
        assert len(served) == len(field.source.files)
    check(field, expected)
