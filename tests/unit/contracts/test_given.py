"""Tables and documents that contracts are made of: every form reads the same, every mistake is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest

from fhir_gateway.contracts import ARRANGEMENTS, Contract, SettlementInputs
from fhir_gateway.contracts.arrangements import ArrangementTerms, Needs, arrangement
from fhir_gateway.contracts.arrangements.facts import AMOUNT
from fhir_gateway.contracts.documents import read_document
from fhir_gateway.contracts.given import read_table
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.contracts.terms import MeasureTerms
from fhir_gateway.errors import ContractError

SCHEMA = pa.schema([pa.field("tier", pa.string(), nullable=False), ("rate", AMOUNT), ("since", pa.date32())])


def written(folder: Path, text: str, name: str = "rates.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_keeps_decimals_and_leaves_out_other_columns(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "note,rate,tier\nx,600.10,3\ny,,4\n"), SCHEMA, "rates")
    assert table.to_pylist() == [
        {"tier": "3", "rate": Decimal("600.10"), "since": None},
        {"tier": "4", "rate": None, "since": None},
    ]


@pytest.mark.parametrize(
    ("text", "line", "rule"),
    [
        ("tier,rate\n3,1\n,2\n", 3, "column tier is empty"),
        ("tier,rate\n3,abc-secret\n", 2, "column rate is not a decimal number of at most 8 places"),
        ("tier,rate\n3,0.123456789\n", 2, "column rate is not a decimal number of at most 8 places"),
        ("tier,since\n3,2025-02-30\n", 2, "column since is not a date (YYYY-MM-DD)"),
        ("rate\n3\n", None, "column tier: is missing"),
        ("tier,tier\n3,3\n", None, "column tier: is there twice"),
        ("tier,rate\n3\n", None, "equally long rows"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path: Path, text: str, line: int | None, rule: str) -> None:
    with pytest.raises(ContractError) as refused:
        read_table(written(tmp_path, text), SCHEMA, "rates")
    assert rule in str(refused.value)
    assert refused.value.location.line == line
    assert refused.value.location.file == str(tmp_path / "rates.csv")
    assert "secret" not in str(refused.value)


def test_toml_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    toml = written(tmp_path, 'rate = 0.1\nday = 2025-01-01\nwords = ["a"]\n', "c.toml")
    yaml = written(tmp_path, "rate: 0.1\nday: 2025-01-01\nwords: [a]\n", "c.yaml")
    assert read_document(toml) == read_document(yaml)
    stated = read_document(written(tmp_path, '{"rate": 0.1, "words": ["a"]}', "c.json"))
    assert stated == {"rate": Decimal("0.1"), "words": ["a"]}
    assert isinstance(stated["rate"], Decimal)


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("c.yaml", "a: 1\na: 2\n", "the key 'a' is there twice"),
        ("c.json", '{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ("c.json", '{"a": NaN}', "NaN is not a number"),
        ("c.yaml", "a: [1\n", "not YAML"),
        ("c.toml", "a = ", "not TOML"),
        ("c.yaml", "- 1\n", "a mapping of terms"),
        ("c.txt", "a", "a contract is a file of"),
    ],
)
def test_what_is_wrong_with_a_document_is_named(tmp_path: Path, name: str, text: str, rule: str) -> None:
    with pytest.raises(ContractError, match=rule):
        read_document(written(tmp_path, text, name))


@pytest.fixture
def rated() -> Any:
    """An arrangement that looks at a table, for the time of a test."""

    @arrangement("rated")
    class Rated(ArrangementTerms):
        """Pays the first rate."""

        kind: Literal["rated"]

        def stream(self) -> str:
            """A fee."""
            return "ccf"

        def uses_quality(self) -> bool:
            """No."""
            return False

        def problems(self) -> list[str]:
            """None."""
            return []

        def needs(self) -> Needs:
            """Rates."""
            return Needs(tables={"rates": SCHEMA})

        def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
            """The first rate."""
            rate = inputs.columns().table("rates")["rate"][0].as_py()
            ledger.pay(ledger.add("rate", rate, "Rate", "as given", self.where), "Rate", self.where, "ccf")

    yield Rated
    del ARRANGEMENTS["rated"]


def test_a_table_is_part_of_the_contract(
    tmp_path: Path, contract_terms: Callable[..., dict[str, Any]], rated: type[ArrangementTerms]
) -> None:
    stated = contract_terms(
        arrangements=[{"kind": "rated", "id": "r", "pool": "fees"}], tables={"rates": {"path": "rates.csv"}}
    )
    written(tmp_path, "tier,rate\n3,600\n")
    first = Contract.of(stated, tmp_path)
    assert first.given["rates"].table["rate"].to_pylist() == [Decimal(600)]
    written(tmp_path, "tier,rate\n3,601\n")
    assert Contract.of(stated, tmp_path).digest != first.digest


def test_tables_that_lack_or_that_nobody_looks_at_are_refused(
    contract_terms: Callable[..., dict[str, Any]], rated: type[ArrangementTerms]
) -> None:
    with pytest.raises(ContractError, match="needs a table 'rates', and tables has none"):
        Contract.of(contract_terms(arrangements=[{"kind": "rated", "id": "r", "pool": "fees"}]))
    with pytest.raises(ContractError, match=r"tables.more: no arrangement looks at it"):
        Contract.of(contract_terms(tables={"more": {"path": "more.csv"}}))


def test_the_same_contract_in_json(tmp_path: Path, contract_terms: Callable[..., dict[str, Any]]) -> None:
    path = written(tmp_path, json.dumps(contract_terms(), default=str), "contract.json")
    stated = Contract.load(path)
    assert stated.dates == Contract.of(contract_terms()).dates


def test_a_contract_without_arrangements_is_refused_once(contract_terms: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ContractError, match="arrangements: there is none"):
        Contract.of(contract_terms(arrangements=[]))
    with pytest.raises(ContractError) as refused:
        Contract.of(contract_terms(arrangements=[{"kind": "none-such"}]))
    assert "there is no such payment arrangement" in str(refused.value)
    assert "at least 1 item" not in str(refused.value)
