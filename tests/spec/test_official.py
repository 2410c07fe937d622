"""The official CQL tests: every one passes, or is excluded with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.spec import official


@pytest.mark.shared
def test_official_cql_tests(shared: Path) -> None:
    outcomes = official.run(json.loads((shared / "data" / "cql-tests.json").read_text(encoding="utf-8")))
    assert official.surprises(outcomes) == []
    passed = sum(result == "pass" for result in outcomes.values())
    assert passed / len(outcomes) >= 0.98


def test_surprises_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official, "excluded", lambda: {"S.known": "why", "S.cured": "why", "S.gone": "why"})
    assert official.surprises({"S.good": "pass", "S.known": "got 1", "S.cured": "pass", "S.bad": "got 2"}) == [
        "S.bad: got 2",
        "S.cured passes although it is excluded",
        "S.gone is excluded but not among the tests",
    ]


def test_every_exclusion_has_a_reason() -> None:
    assert all(len(reason) > 20 for reason in official.excluded().values())
