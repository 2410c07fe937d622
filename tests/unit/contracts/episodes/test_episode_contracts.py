"""Payments by episode within a contract: loaded with its tables, settled, reported."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from arrangement_parts import MONTHS
from contract_parts import exposure
from episode_parts import line, lines, stay

from fhir_gateway.contracts import Contract, SettlementInputs, settle, vbpr
from fhir_gateway.contracts.arrangements import Facts
from fhir_gateway.contracts.arrangements.episode_terms import EpisodeTerms
from fhir_gateway.contracts.arrangements.facts import PEOPLE_SCHEMA
from fhir_gateway.errors import ContractError

TEAM = {
    "kind": "team", "id": "team", "pool": "surgical episodes", "performance_year": 1, "track": 3, "quality_score": 60,
    "gmlos": "days", "price": {"kind": "given", "table": "prices", "discounted": True},
    "multipliers": "risks", "normalisation": {"cap": "0.05"},
}  # fmt: skip
TABLES = {name: {"path": f"{name}.csv"} for name in ("days", "prices", "risks")}


def load(contract_terms: Callable[..., dict[str, Any]], folder: Path, **changes: Any) -> Contract:
    (folder / "days.csv").write_text("drg,gmlos\n470,1.7\n871,4.8\n")
    (folder / "prices.csv").write_text("price_group,price\n470,28000\n")
    (folder / "risks.csv").write_text("member,multiplier\na,1.1\nb,0.95\n")
    stated = contract_terms(
        period={"start": date(2026, 1, 1), "end": date(2026, 12, 31)},
        claims={"paid_through": date(2027, 3, 31)},
        arrangements=[TEAM | changes],
        tables=TABLES,
        rounding="cent",
    )
    return Contract.of(stated, folder)


def columns(contract: Contract, *rows: dict[str, Any]) -> SettlementInputs:
    people = [{"member": member} for member in sorted({row["_member"] for row in rows} - {"stranger"})]
    facts = Facts(
        period=contract.dates,
        lines=lines(*rows),
        people=pa.Table.from_pylist(people, schema=PEOPLE_SCHEMA),
        months=MONTHS.empty_table(),
        baseline_months=MONTHS.empty_table(),
        tables={name: one.table for name, one in contract.given.items()},
    )
    return SettlementInputs(exposure("0"), {}, facts=facts)


def test_contract_settles_and_reports(contract_terms: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    contract = load(contract_terms, tmp_path)
    rows = [
        stay("a", "1", "03-01", "03-04", 24000, "470"),
        line("a", "2", "03-10", "310.55"),
        stay("b", "3", "05-01", "05-03", 21000, "470"),
        stay("stranger", "4", "05-01", "05-03", 99000, "470"),
    ]
    settlement = settle(contract, columns(contract, *rows))
    # the mean multiplier is 1.025: normalised by its inverse, which is within 5 %
    assert settlement.line("team.normalisation").value == Decimal("0.9756097561")
    assert settlement.line("team.target").value == Decimal("56000.00000014")
    assert settlement.line("team.difference").value == Decimal("10689.45000014")
    # at most 20 % of targets, less the part that quality did not earn: 4 %
    assert settlement.total == Decimal("10261.87")
    assert settlement.line("team.not-standing").value == 0
    made = contract.arrangements[0]
    assert isinstance(made, EpisodeTerms)
    for evidence in (made.episodes(columns(contract, *rows)), made.services(columns(contract, *rows))):
        assert "4" not in evidence["anchor" if "anchor" in evidence.column_names else "claim"].to_pylist()
    assert "Targets: 56000.00000014 USD" in settlement.explain("team.payable")
    report = vbpr.performance_report(settlement, contract, report_id="r", issued=datetime(2027, 4, 1, 12, tzinfo=UTC))
    codes = [group["code"]["coding"][0]["code"] for group in report["group"]]
    assert codes == [
        *("eligible-member", "performance-qip", "readmission", "cost-target", "adjusted-paid-claim", "variance-cost"),
        "shared-saving-deficit",
    ]
    assert settle(contract, columns(contract, *reversed(rows))) == settlement


def test_contradictions_are_refused_at_load(contract_terms: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"arrangements\.team: needs a table 'spans', and tables has none"):
        load(contract_terms, tmp_path, eligibility="spans")
    with pytest.raises(ContractError, match=r"arrangements\.team\.track: track 1 exists in performance years 1 to 3"):
        load(contract_terms, tmp_path, track=1, performance_year=4)
    with pytest.raises(ContractError, match=r"arrangements\.team\.measures: it pays by quality and has no measure"):
        load(contract_terms, tmp_path, quality_score=None)
    with pytest.raises(ContractError, match="there is no list 'medicaid'"):
        load(
            contract_terms,
            tmp_path,
            episode={"triggers": [{"family": "x", "match": {}}], "window": {"days": 3}, "services": "medicaid"},
        )
