"""A year of a contract: interim settlements, the final one, notice, a dispute, an amendment; nothing is ever edited."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fhir_gateway.cli.app import app
from fhir_gateway.contracts import Contract
from fhir_gateway.db.audience import EVERYONE
from fhir_gateway.errors import ConflictError, ContractError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.contract_versions import registered
from fhir_gateway.jobs.lists import Caller, Named, remove
from fhir_gateway.jobs.settle import settle, statement, statements_folder
from fhir_gateway.jobs.settlement_runs import (
    calendar_of,
    decide_dispute,
    finalise,
    notify,
    open_dispute,
    recompute,
    settled,
)
from fhir_gateway.jobs.what_if import project, what_if
from fhir_gateway.sandbox.population import generate
from tests.support.sandbox_contracts import contract_terms, pull_population, tins_of, write_contract

SPRING = datetime(2025, 8, 1, tzinfo=UTC)
AFTER = datetime(2026, 4, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("population") / "all"
    generate(folder, patients=120, seed=5, year=2025)
    return folder


@pytest.fixture
def gateway(population: Path, tmp_path: Path) -> Gateway:
    return pull_population(population, tmp_path / "gateway", lake_buckets=2)


@pytest.fixture
def terms(population: Path) -> dict[str, Any]:
    savings = {
        "kind": "shared_savings",
        "id": "ss",
        "pool": "total cost",
        "target": {"kind": "pmpm", "amount": "2000"},
        "rate": "0.5",
    }
    return contract_terms(
        "savings-2025", tins_of(population), hcp_lan="3B", title="Shared savings 2025", arrangements=[savings],
        attribution={"terms": "commercial-primary-care", "list_status": "open"},
        calendar={"interim": "semiannual", "interim_share": "0.5", "dispute_days": 45, "review_days": 30},
        distributions=[{"arrangement": "ss", "by": "tin", "weight": "member_months", "reserve": "0.1"}],
    )  # fmt: skip


def test_a_year_of_a_contract(gateway: Gateway, tmp_path: Path, terms: dict[str, Any]) -> None:
    contract = write_contract(tmp_path, terms)
    with pytest.raises(ContractError, match="no cut of this contract's"):
        settle(gateway, contract, now=SPRING, interim=date(2025, 3, 31))
    interim = settle(gateway, contract, now=SPRING, interim=date(2025, 6, 30))
    half = interim.settlement.total
    assert half > 0
    assert interim.run.state == "interim"
    assert interim.run.posted == (half / 2).quantize(Decimal("0.01"), rounding="ROUND_HALF_UP")
    assert interim.settlement.period == (date(2025, 1, 1), date(2025, 6, 30))

    final = settle(gateway, contract, now=AFTER)
    assert final.settlement.total > half
    assert final.run.kind == "final"
    assert final.run.posted == final.settlement.total - interim.run.posted
    assert sum(gateway.settlements.owed("savings-2025").values()) == final.settlement.total
    again = settle(gateway, contract, now=AFTER)
    assert again.run == final.run
    assert len(gateway.settlements.runs("savings-2025")) == 2

    shared = [line for line in final.settlement.lines if ".distribution." in line.id]
    assert len(shared) > 1
    assert sum(line.value or 0 for line in shared) == final.settlement.total

    for run in (interim.run, final.run):
        made = recompute(gateway, run.id)
        assert made.same, made.differing

    with pytest.raises(ConflictError, match="after its notice"):
        open_dispute(gateway, final.run.id, "ss.cost", "claims", Decimal(10), "Too high.", "provider", AFTER)
    notify(gateway, final.run.id, AFTER)
    due = calendar_of(gateway, final.run.id)
    assert due is not None
    assert (due.review, due.dispute, due.payment) == (date(2026, 5, 1), date(2026, 5, 16), date(2026, 5, 1))
    with pytest.raises(ConflictError, match="its review ends on 2026-05-01"):
        finalise(gateway, final.run.id, AFTER)
    with pytest.raises(NotFoundError, match="has no line"):
        open_dispute(gateway, final.run.id, "ss.nothing", "claims", Decimal(10), "Which?", "provider", AFTER)
    late = datetime(2026, 5, 17, tzinfo=UTC)
    with pytest.raises(ConflictError, match="until 2026-05-16"):
        open_dispute(gateway, final.run.id, "ss.cost", "claims", Decimal(10), "Too high.", "provider", late)

    dispute = open_dispute(
        gateway, final.run.id, "ss.members", "attribution", Decimal(500), "One was not ours.", "provider", AFTER
    )
    assert [line["id"] for line in dispute.evidence["lines"]] == ["ss.members"]
    with pytest.raises(ConflictError, match=r"1 dispute\(s\) about it are open"):
        finalise(gateway, final.run.id, late)
    group = gateway.resources.read("Group", "savings-2025").json()
    patient = group["member"][0]["entity"]["reference"]
    remove(gateway, "savings-2025", Named(patient=patient), Caller("payer", EVERYONE, "dispute"))
    decided = decide_dispute(
        gateway, dispute.id, "upheld", "He moved away.", "payer", datetime(2026, 5, 2, tzinfo=UTC), corrected=contract
    )
    assert decided.amendment is not None
    amendment, _, corrected = settled(gateway, decided.amendment)
    assert amendment.kind == "amendment"
    assert amendment.amends == final.run.id
    assert corrected.line("ss.members").value == (final.settlement.line("ss.members").value or 0) - 1
    assert decided.delta == amendment.posted == corrected.total - final.settlement.total
    assert gateway.settlements.run(final.run.id).state == "superseded"
    assert sum(gateway.settlements.owed("savings-2025").values()) == corrected.total
    assert gateway.settlements.dispute(dispute.id) == decided
    with pytest.raises(ConflictError, match="this dispute is upheld"):
        decide_dispute(gateway, dispute.id, "rejected", "No.", "payer", late)
    assert recompute(gateway, final.run.id).same  # what was settled then can still be made as of then

    notify(gateway, amendment.id, late)
    assert finalise(gateway, amendment.id, late, agreed=True).state == "final"


def test_an_amended_contract_is_a_new_version(gateway: Gateway, tmp_path: Path, terms: dict[str, Any]) -> None:
    contract = write_contract(tmp_path, terms)
    first = settle(gateway, contract, now=AFTER)
    terms["arrangements"][0]["rate"] = "0.6"
    write_contract(tmp_path, terms)
    with pytest.raises(ConflictError, match="an amendment is a new version"):
        settle(gateway, contract, now=AFTER)
    terms["version"] = "2"
    write_contract(tmp_path, terms)
    second = settle(gateway, contract, now=AFTER)
    exact = first.settlement.line("ss.payable").value or Decimal(0)
    assert second.settlement.line("ss.payable").value == exact / Decimal("0.5") * Decimal("0.6")
    assert second.run.posted == second.settlement.total - first.settlement.total
    assert [one["version"] for one in gateway.settlements.versions("savings-2025")] == ["1", "2"]
    assert registered(gateway, "savings-2025", "1").digest == first.contract.digest
    kept = statements_folder(gateway, "savings-2025") / f"{first.run.id}.json"
    assert kept.read_bytes() == statement(first.settlement)
    assert recompute(gateway, first.run.id).same
    assert Contract.load(contract).digest == second.contract.digest


def test_what_if_and_projection_keep_nothing(gateway: Gateway, tmp_path: Path, terms: dict[str, Any]) -> None:
    contract = write_contract(tmp_path, terms)
    settled_as_agreed = settle(gateway, contract, now=AFTER).settlement.total
    before = (gateway.settlements.runs(), gateway.resources.counts())
    other = {**terms, "id": "p4p-2025", "url": "https://payer.example/contracts/p4p-2025"}
    other["arrangements"] = [{**terms["arrangements"][0], "rate": "0.25"}]
    (tmp_path / "beside.json").write_text(json.dumps(other))
    found = what_if(
        gateway,
        contract,
        {"generous": {"arrangements.ss.rate": Decimal("0.75")}, "fewer claims": {"claims.truncation": 5000}},
        [str(tmp_path / "beside.json")],
        now=AFTER,
    )
    totals = {one.name: one.settlement.total for one in found}
    assert totals["as agreed"] == settled_as_agreed
    assert abs(totals["generous"] - settled_as_agreed * Decimal("1.5")) <= Decimal("0.01")
    assert totals["fewer claims"] > settled_as_agreed
    assert abs(totals["beside"] - settled_as_agreed / 2) <= Decimal("0.01")
    with pytest.raises(ContractError, match="there is none of that id"):
        what_if(gateway, contract, {"x": {"arrangements.none.rate": 1}}, now=AFTER)

    ahead = project(gateway, contract, date(2025, 9, 30), now=AFTER)
    assert ahead.months_left == 3
    assert ahead.paid + ahead.ibnr + ahead.to_come == ahead.cost
    assert ahead.ibnr >= 0
    assert ahead.cost_low <= ahead.cost <= ahead.cost_high
    assert ahead.total_at_low_cost >= ahead.total >= ahead.total_at_high_cost
    with pytest.raises(ContractError, match="its day lies in the period"):
        project(gateway, contract, date(2025, 12, 31), now=AFTER)
    assert (gateway.settlements.runs(), gateway.resources.counts()) == before


def test_the_prompt(gateway: Gateway, tmp_path: Path, terms: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_GATEWAY_LAKE_BUCKETS", "2")
    contract = write_contract(tmp_path, terms)
    data = str(gateway.settings.data_dir)

    def ask(*words: str) -> Any:
        answer = CliRunner().invoke(app, ["--json", "--data-dir", data, *words], catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
        return json.loads(answer.stdout) if answer.stdout.strip() else None

    assert ask("contract", "check", contract)[0]["kind"] == "shared_savings"
    run = ask("settle", contract, "--now", AFTER.isoformat())["report"]
    due = ask("contract", "notify", run, "--now", AFTER.isoformat())
    assert due["dispute"] == "2026-05-16"
    words = ("--reason", "claims", "--amount", "12.50", "--text", "Not ours.", "--now", AFTER.isoformat())
    dispute = ask("contract", "dispute", run, "ss.cost", *words)
    assert ask("contract", "disputes")[0]["state"] == "open"
    assert ask("contract", "decide", dispute["id"], "rejected", "--text", "It was.")["state"] == "rejected"
    assert ask("contract", "recompute", run)["same"] is True
    ask("contract", "finalise", run, "--agreed")
    (listed,) = ask("contract", "settlements")
    assert listed["state"] == "final"
    for name, start in (("s.pdf", b"%PDF"), ("s.csv", b"line,"), ("s.json", b"{")):
        ask("contract", "statement", run, "--out", str(tmp_path / name))
        assert (tmp_path / name).read_bytes().startswith(start)
    chart = str(tmp_path / "chart.svg")
    rows = ask("contract", "what-if", contract, "--set", "half:arrangements.ss.rate=0.25", "--chart", chart)
    assert [row["scenario"] for row in rows] == ["as agreed", "half"]
    assert "<svg" in Path(chart).read_text()
    assert Decimal(ask("contract", "project", contract, "--as-of", "2025-06-30")["cost"]) > 0
    assert ask("contract", "schema")["title"] == "Contract"
    refused = CliRunner().invoke(app, ["--data-dir", data, "contract", "what-if", contract, "--set", "half"])
    assert "--set is NAME:term.path=value" in str(refused.exception)
