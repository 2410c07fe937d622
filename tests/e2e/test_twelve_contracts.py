"""Twelve contracts, one of each kind of arrangement, from raw FHIR to statements that another script derives again."""

from __future__ import annotations

import ast
import copy
import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.contracts.statement_forms import statement_csv
from fhir_gateway.contracts.steps import steps
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.payment_rows import as_csv, payment_rows
from fhir_gateway.jobs.settle import SettlementReport, settle, statement
from fhir_gateway.jobs.settlement_runs import recompute
from fhir_gateway.reports.forms import write
from fhir_gateway.reports.statement import statement as statement_document
from fhir_gateway.sandbox.population import generate
from tests.contract import rederive
from tests.contract.rederive.__main__ import main, read
from tests.contract.rederive.findings import findings
from tests.contract.rederive.rows import row_findings
from tests.contract.vbpr_rules import check_contract, check_performance_report, extensions
from tests.support.sandbox_contracts import pull_population, tins_of
from tests.support.twelve_contracts import ARRANGEMENTS, write_contracts
from tests.support.unordered import shuffled

NOW = datetime(2026, 4, 1, tzinfo=UTC)
Document = dict[str, Any]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    folder = tmp_path_factory.mktemp("twelve")
    generate(folder / "population", patients=150, seed=11, year=2025)
    return pull_population(folder / "population", folder / "gateway", lake_buckets=2)


@pytest.fixture(scope="module")
def contracts(gateway: Gateway) -> dict[str, Path]:
    """Path of the contract of each kind."""
    folder = gateway.data_folder.parent
    measure = json.loads((gateway.measure_package("ed-visits-per-1000") / "measure.json").read_text())["url"]
    tins = tins_of(folder / "population")
    return write_contracts(folder / "contracts", tins, measure, gateway.lake.members().to_pylist())


@pytest.fixture(scope="module")
def settled(gateway: Gateway, contracts: dict[str, Path]) -> Callable[[str], SettlementReport]:
    """The settlement of each kind's contract, made when it is first asked for."""
    made: dict[str, SettlementReport] = {}

    def settlement(kind: str) -> SettlementReport:
        if kind not in made:
            made[kind] = settle(gateway, str(contracts[kind]), now=NOW)
        return made[kind]

    return settlement


@pytest.fixture
def derivable(
    contracts: dict[str, Path], settled: Callable[[str], SettlementReport]
) -> Callable[[str], tuple[Document, Document]]:
    """Contract and statement of a kind as documents, to be tampered with."""

    def documents(kind: str) -> tuple[Document, Document]:
        return read(contracts[kind]), json.loads(statement(settled(kind).settlement), parse_float=Decimal)

    return documents


@pytest.mark.parametrize("kind", ARRANGEMENTS)
def test_from_raw_fhir_to_a_statement(
    kind: str, gateway: Gateway, settled: Callable[[str], SettlementReport], contracts: dict[str, Path], tmp_path: Path
) -> None:
    report = settled(kind)
    settlement, contract = report.settlement, report.contract
    assert settlement.total, "the terms are chosen so that money moves"
    assert report.run.posted == settlement.total

    measure = gateway.resources.read("Measure", contract.id).json()
    served = gateway.resources.read("MeasureReport", report.report).json()
    references = [one["reference"] for one in served.get("evaluatedResource", ())]
    quality = {one: gateway.resources.read("MeasureReport", one.partition("/")[2]).json() for one in references}
    assert check_contract(measure) == []
    assert check_performance_report(served, measure, quality) == []
    assert bool(quality) == bool(contract.measures)
    groups = {group["id"]: group for group in served["group"]}
    for line in settlement.payable():
        money = extensions(groups[line.id]["measureScore"], "alternate-measurescore")[0]["valueMoney"]
        assert Decimal(str(money["value"])) == line.amount == settlement.total
        assert money["currency"] == contract.currency
    legal = gateway.resources.read("Contract", contract.id).json()
    assert legal["term"][0]["type"]["coding"][0]["code"] == kind.replace("_", "-")
    assert legal["supportingInfo"][0]["reference"] == f"Measure/{measure['id']}"

    stated = tmp_path / "statement.json"
    stated.write_bytes(statement(settlement))
    assert json.loads(stated.read_bytes())["total"] == str(settlement.total)
    rows = list(csv.DictReader(io.StringIO(statement_csv(settlement).decode(), newline="")))
    assert [row["line"] for row in rows] == [line.id for line in settlement.lines]
    assert sum(Decimal(row["amount"]) for row in rows if row["amount"]) == settlement.total
    people = statement_document(settlement, contract, report.run.id, report.run.state)
    assert write(people, "pdf").startswith(b"%PDF-")

    made = recompute(gateway, report.run.id)
    assert made.same, made.differing
    assert statement(made.settlement) == stated.read_bytes()

    parts = [line.value for line in settlement.lines if line.id.startswith("pay.distribution.")]
    assert bool(parts) == bool(contract.distributions)
    assert not parts or sum(part for part in parts if part is not None) == settlement.total
    assert main([str(contracts[kind]), str(stated)]) == 0


#: What the way to each payment begins with.
BEGINNINGS = {
    "pay_for_performance": "pay.pool",
    "shared_savings": "pay.target",
    "mssp": "pay.target",
    "aco_reach": "pay.benchmark",
    "capitation": "pay.cell.1.paid",
    "risk_pool": "pay.fund",
    "case_rate": "pay.case.1",
    "care_management_fee": "pay.fee.1",
    "ccbhc": "pay.due",
    "outcome_rate_card": "pay.housing.paid",
    "provider_mlr": "pay.revenue",
    "bundle_retrospective": "pay.medical.medical.prices",
}


@pytest.mark.parametrize("kind", ARRANGEMENTS)
def test_the_way_to_a_payment_begins_at_its_benchmark_and_adds_up(
    kind: str, settled: Callable[[str], SettlementReport]
) -> None:
    settlement = settled(kind).settlement
    values = {line.id: line.value for line in settlement.lines}
    for line in settlement.payable():
        found = steps(settlement, line)
        assert found[0].line == BEGINNINGS[kind]
        assert (found[0].before, found[0].after) == (0, values[found[0].line])
        assert [one.before for one in found[1:]] == [one.after for one in found[:-1]]
        assert sum(one.change for one in found) == found[-1].after == line.amount
        assert {one.line for one in found} <= set(values)


def test_the_script_shares_no_code_with_the_product() -> None:
    files = sorted(Path(rederive.__file__).parent.glob("*.py"))
    assert len(files) > 5
    tree = ast.Module([node for one in files for node in ast.parse(one.read_text(encoding="utf-8")).body], [])
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." * node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = {
        "__future__",
        "collections.abc",
        "csv",
        "decimal",
        "fractions",
        "json",
        "pathlib",
        "re",
        "sys",
        "tomllib",
    }
    own = {name for name in imported if name.startswith("tests.contract.rederive")}
    assert imported - own <= allowed | {"tomllib", "typing", "yaml"}
    assert not {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & {"__import__", "exec", "eval"}


@pytest.mark.parametrize("kind", ARRANGEMENTS)
def test_every_number_that_was_tampered_with_is_found(
    kind: str, derivable: Callable[[str], tuple[Document, Document]]
) -> None:
    """A value that rests on others, an amount, a part: each alone is found; so is a given one that others rest on."""
    contract, stated = derivable(kind)
    assert list(findings(contract, stated)) == []
    rested_on = {one for line in stated["lines"] for one in line["because"]}
    tried = 0
    for number, line in enumerate(stated["lines"]):
        for field in ("value", "amount"):
            if line[field] is None or (not line["because"] and line["id"] not in rested_on):
                continue
            other = copy.deepcopy(stated)
            other["lines"][number][field] = str(Decimal(line[field]) * Decimal("1.0001") + Decimal("0.01"))
            assert list(findings(contract, other)), f"{line['id']} {field}"
            tried += 1
    assert tried > 4
    assert any("total" in one for one in findings(contract, stated | {"total": "1.00"}))


@pytest.mark.parametrize("kind", ARRANGEMENTS)
def test_lines_without_a_rule_and_lines_left_out_are_found(
    kind: str, derivable: Callable[[str], tuple[Document, Document]]
) -> None:
    contract, stated = derivable(kind)
    strange = copy.deepcopy(stated)
    strange["lines"].insert(-1, strange["lines"][-1] | {"id": "pay.unheard-of"})
    found = list(findings(contract, strange))
    assert any(one.startswith("pay.unheard-of: there is no rule") for one in found)
    rested_on = {one for line in stated["lines"] for one in line["because"]}
    for number, line in enumerate(stated["lines"]):
        if line["because"]:
            fewer = stated | {"lines": [one for n, one in enumerate(stated["lines"]) if n != number]}
            seen = list(findings(contract, fewer))
            for_the_reader = line["id"] not in rested_on and ".distribution." not in line["id"]  # such as a PMPM
            assert seen or (for_the_reader and line["amount"] is None), line["id"]


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("pay_for_performance", ["budget", "amount"], "2.6"),
        ("shared_savings", ["rate"], "0.6"),
        ("shared_savings", ["cap"], "0.2"),
        ("shared_savings", ["target", "amount"], 401),
        ("mssp", ["target", "amount"], 401),
        ("aco_reach", ["benchmark", "amount"], 399),
        ("capitation", ["withhold", "part"], "0.06"),
        ("capitation", ["add_ons", 0, "pmpm"], 4),
        ("risk_pool", ["corridor", "losses", 0, "share"], "0.4"),
        ("risk_pool", ["individual", "coinsurance"], "0.8"),
        ("care_management_fee", ["fees", 0, "pmpm"], 7),
        ("ccbhc", ["rates", "standard"], "245.11"),
        ("outcome_rate_card", ["card", 0, "tariff"], 7501),
        ("outcome_rate_card", ["card", 0, "deadweight"], "0.25"),
        ("provider_mlr", ["target"], "0.86"),
        ("provider_mlr", ["gains", 1, "share"], "0.3"),
        ("bundle_retrospective", ["loss_share"], "0.4"),
    ],
)
def test_terms_that_were_tampered_with_are_found(
    kind: str, path: list[Any], value: Any, derivable: Callable[[str], tuple[Document, Document]]
) -> None:
    contract, stated = derivable(kind)
    place = contract["arrangements"][0]
    for step in path[:-1]:
        place = place[step]
    assert place[path[-1]] != value
    place[path[-1]] = value
    assert list(findings(contract, stated))


def test_measures_and_distributions_that_were_tampered_with_are_found(
    derivable: Callable[[str], tuple[Document, Document]],
) -> None:
    contract, stated = derivable("pay_for_performance")
    for change in (
        {"measures": [contract["measures"][0] | {"weight": "0.9"}]},
        {"measures": [contract["measures"][0] | {"scoring": {"kind": "linear", "threshold": 1900, "target": 0}}]},
        {"distributions": [contract["distributions"][0] | {"reserve": "0.2"}]},
        {"distributions": [contract["distributions"][0] | {"weight": "equal"}]},
        {"distributions": []},
    ):
        assert list(findings(contract | change, stated)), change


@pytest.mark.parametrize("kind", ["capitation", "case_rate", "care_management_fee"])
def test_rows_of_payments_by_member_month_are_derived_too(
    kind: str,
    gateway: Gateway,
    settled: Callable[[str], SettlementReport],
    contracts: dict[str, Path],
    derivable: Callable[[str], tuple[Document, Document]],
    tmp_path: Path,
) -> None:
    report = settled(kind)
    content = as_csv(payment_rows(gateway, report.report).table)
    (tmp_path / "rows.csv").write_bytes(content)
    (tmp_path / "statement.json").write_bytes(statement(report.settlement))
    assert main([str(contracts[kind]), str(tmp_path / "statement.json"), str(tmp_path / "rows.csv")]) == 0
    contract, stated = derivable(kind)
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    paid = next(number for number, row in enumerate(rows) if row["status"] == "paid")
    for column in ("quantity", "rate", "amount"):
        other = copy.deepcopy(rows)
        other[paid][column] = str(Decimal(other[paid][column]) + 1)
        assert list(row_findings(contract, stated, other, contracts[kind].parent)), column
    fewer = [row for number, row in enumerate(rows) if number != paid]
    assert list(row_findings(contract, stated, fewer, contracts[kind].parent))


@pytest.mark.parametrize("kind", ARRANGEMENTS)
def test_the_order_of_rows_changes_no_byte(
    kind: str,
    gateway: Gateway,
    settled: Callable[[str], SettlementReport],
    contracts: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = statement(settled(kind).settlement)
    for seed in (1, 2):
        with shuffled(monkeypatch, seed):
            again = settle(gateway, str(contracts[kind]), now=NOW)
        assert statement(again.settlement) == expected


def test_as_a_command(
    contracts: dict[str, Path],
    settled: Callable[[str], SettlementReport],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stated = json.loads(statement(settled("shared_savings").settlement))
    (tmp_path / "good.json").write_text(json.dumps(stated))
    capped = next(line for line in stated["lines"] if line["id"] == "pay.capped")
    capped["value"] = "56200.01"
    (tmp_path / "bad.json").write_text(json.dumps(stated))
    contract = str(contracts["shared_savings"])
    assert main([contract, str(tmp_path / "good.json")]) == 0
    assert f"all {len(stated['lines'])} lines follow" in capsys.readouterr().out
    assert main([contract, str(tmp_path / "bad.json")]) == 1
    assert "pay.capped: 56200.01, derived 56200" in capsys.readouterr().out
    assert main([]) == 2
