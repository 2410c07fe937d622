"""One contract of each arrangement in the documentation: it loads, and settles the demo's population."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from fhir_gateway.contracts import ARRANGEMENTS, Contract
from fhir_gateway.demo.steps import Steps
from fhir_gateway.demo.tour import Options, open_gateway, run
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.settle import settle

DOCS = Path(__file__).parents[2] / "docs" / "use"
EXAMPLES = {path.stem: path for path in sorted((DOCS / "contracts").glob("*.yaml"))}
#: Their tables name made-up persons, who are nobody in the population.
OF_NOBODY = {"case_rate"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    options = Options(tmp_path_factory.mktemp("examples"), patients=400)
    made = open_gateway(options)
    run(made, options, Steps(Console(quiet=True)))
    yield made
    made.engine.dispose()


def test_there_is_one_of_each_arrangement_and_the_page_names_it() -> None:
    assert set(EXAMPLES) == set(ARRANGEMENTS)
    page = (DOCS / "write-a-contract.md").read_text("utf-8")
    named = re.findall(r"^\| \[`(\w+)`\]\(contracts/(\w+)\.yaml\) \|", page, re.MULTILINE)
    assert [one for one, file in named if one != file] == []
    assert sorted(one for one, _ in named) == sorted(ARRANGEMENTS)


def test_every_table_belongs_to_an_example() -> None:
    named = {one.path for path in EXAMPLES.values() for one in Contract.load(path).tables.values()}
    assert named == {path.name for path in (DOCS / "contracts").glob("*.csv")}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_example_settles(gateway: Gateway, kind: str) -> None:
    contract = Contract.load(EXAMPLES[kind])
    assert [one.kind for one in contract.arrangements] == [kind]
    settlement = settle(gateway, str(EXAMPLES[kind]), now=datetime(2026, 4, 1, tzinfo=UTC)).settlement
    assert list(settlement.payable())
    assert (settlement.total == 0) == (kind in OF_NOBODY)
