"""Nothing lost, nothing twice: the real command line is killed at every step, and among faults of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.sources.vendors import Mode
from tests.support.chaos import PULL, ChaoticSource, Field, chaos, check, field_of, quiet_content, resources
from tests.support.moments import Moment


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    return quiet_content(tmp_path_factory.mktemp("quiet"), resources())


@pytest.fixture
def field(tmp_path: Path) -> Any:
    source = ChaoticSource()
    source.files = resources()
    with field_of(tmp_path, source) as field:
        yield field


@pytest.mark.parametrize(("mode", "seed"), [("bulk", 1), ("bulk", 2), ("search", 3)])
def test_faults_at_five_percent_and_three_kills(tmp_path: Path, mode: Mode, seed: int) -> None:
    chaos(tmp_path, seed, mode=mode)


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


MOMENTS = {
    "a file is here": Moment("staging/*/*.ndjson"),
    "the export is finished": Moment("staging/*/export.json"),
    "all is staged": Moment("staging/*/staged.json"),
    "the commit began": Moment("lake/_lake/scratch/*"),
    "a table was written": Moment("lake/*/_delta_log/*.json"),
    "the lake has it": Moment("lake/_lake/v00000001.json"),
    "the commit is done": Moment(step="commit"),
    "it is published": Moment(step="publish"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_at_any_step_costs_no_second_export(field: Field, expected: dict[str, Any], moment: str) -> None:
    assert field.kill_at(MOMENTS[moment], *PULL)
    under_way = len(field.source.files) - len(list(field.folder.glob("data/staging/*/*.ndjson")))
    field.finish(*PULL)
    assert field.source.kickoffs == 1
    served = [one.path for one in field.source.requests("file")]
    lost = under_way if moment == "a file is here" else 0
    assert lost < len(field.source.files) <= len(served) <= len(field.source.files) + lost
    check(field, expected)
