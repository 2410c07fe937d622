"""What people ask of a kept attribution, over the sandbox population: by the jobs and at the prompt."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from fhir_gateway.attribution.ledger import state
from fhir_gateway.attribution.ledger_store import MonthLedger
from fhir_gateway.cli import main
from fhir_gateway.errors import ConflictError, InputError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import roster_evidence, rosters, selections
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.attribution_runs import evidence_runs
from fhir_gateway.sandbox.population import generate
from tests.support.sandbox_contracts import contract_terms, pull_population, tins_of, write_contract

NOW = datetime(2026, 4, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """Three contracts over one population: all practices but one, the first two practices, and a roster."""
    folder = tmp_path_factory.mktemp("evidence-population") / "all"
    generate(folder, patients=120, seed=11, year=2025)
    gateway = pull_population(folder, tmp_path_factory.mktemp("evidence"))
    tins = tins_of(folder)
    for name, chosen, terms, priority in (
        ("aco", tins[:-1], "commercial-primary-care", 2),
        ("small", tins[:2], "commercial-five-passes", 1),
        ("pmpm", tins[:1], "payer-roster", 3),
    ):
        attribution = {"terms": terms, "list_status": "draft", "priority": priority, "exclusive_group": "one"}
        stated = contract_terms(name, chosen, attribution=attribution)
        stated["provider"]["entity"] = name
        write_contract(gateway.data_folder / "contracts", stated, name)
    attribute(gateway, "aco", now=NOW)
    return gateway


@pytest.fixture
def command(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Run ``fhir-gateway --json`` with these arguments; its JSON, or the exit code of a failure."""

    def run(*arguments: str) -> Any:
        data = str(gateway.settings.data_dir)
        monkeypatch.setattr(sys, "argv", ["fhir-gateway", "--data-dir", data, "--json", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        out = captured.out
        return code or (json.loads(out) if out else None)

    return run


def of(gateway: Gateway, contract: str) -> list[str]:
    report = roster_evidence.kept(gateway, contract)
    members: list[str] = report.members.to_pylist()
    return members


def test_a_run_says_by_which_rules_it_was_made(gateway: Gateway) -> None:
    ((_, header),) = evidence_runs(gateway, "aco")
    assert (header["terms"], header["rivals"]) == ("commercial-primary-care|1", "single")
    assert header["period"] == ["2025-01-01", "2025-12-31"]


def test_a_member_is_explained_to_the_line(gateway: Gateway, command: Callable[..., Any]) -> None:
    report = roster_evidence.kept(gateway, "aco")
    table = report.attribution.table
    by_claims = table.filter(
        pc.and_(pc.equal(table["entity"], "aco"), pc.equal(table["step"], "primary care, 12 months"))
    )
    row = by_claims.to_pylist()[0]
    found = command("roster", "explain", "aco", row["member"])
    assert found["member"]["entity"] == "aco"
    assert found["candidates"][0]["competitor"] == "aco"
    start, end = found["member"]["window_start"], found["member"]["window_end"]
    pcp = {*report.attribution.terms.groups["pcp"].codes, *report.attribution.terms.groups["npp"].codes}
    counted = [
        Decimal(one["allowed"]) for one in found["lines"]
        if one["reason"] is None and one["competitor"] == "aco" and start <= one["day"] <= end
        and one["specialty"] in pcp
    ]  # fmt: skip
    assert sum(counted) == row["amount"]
    assert {one["reason"] for one in found["lines"]} - {None}  # some did not count, and it says why
    assert command("roster", "explain", "aco", "nobody") == 4


def test_what_the_payer_lists_otherwise_has_a_reason(
    gateway: Gateway, command: Callable[..., Any], tmp_path: Path
) -> None:
    report = roster_evidence.kept(gateway, "aco")
    table = report.attribution.table
    tin = report.contract.provider.tins[0]
    numbers = {
        f"Patient/{one['id']}": one["identifier"][0]["value"]
        for one in (gateway.resources.read("Patient", name).json() for name in table["member"].to_pylist())
    }
    rows = table.to_pylist()
    other = next(one for one in rows if one["entity"] and one["entity"] != "aco")
    idle = next(one for one in rows if one["reason"] == "no-services")
    mine = [one for one in rows if one["entity"] == "aco"]
    lines = [(numbers[f"Patient/{one['member']}"], one["tin"]) for one in mine[1:]]
    lines += [
        (numbers[f"Patient/{other['member']}"], tin),
        (numbers[f"Patient/{idle['member']}"], "999999999"),
        ("X-1", tin),
    ]
    roster = tmp_path / "roster.csv"
    roster.write_text("member_id,provider_tin\n" + "".join(f"{number},{of}\n" for number, of in lines))
    found = command("roster", "reconcile", "aco", "--csv", str(roster), "--contract", "aco")
    said = {one["member"] or one["named"]: (one["finding"], one["reason"]) for one in found["differences"]}
    assert said["X-1"] == ("unknown-member", "unknown-member")
    assert said[idle["member"]] == ("only-theirs", "tin-roster")
    assert said[other["member"]][0] == "only-theirs"
    assert said[other["member"]][1] in (
        "plurality",
        "near-miss",
        "tie",
        "no-claims",
        "specialty",
        "code-list",
        "other-lines",
    )
    assert said[mine[0]["member"]][0] == "only-ours"
    theirs = rosters.of_csv(gateway, roster.read_bytes())
    assert roster_evidence.reasons(gateway, "aco", rosters.compare(gateway, "aco", theirs)).num_rows == len(said)


def test_near_misses_and_leakage(gateway: Gateway, command: Callable[..., Any]) -> None:
    everybody = command("roster", "near", "aco", "--within", "1", "--amount", "0")
    some = command("roster", "near", "aco", "--within", "0.2", "--amount", "10")
    assert {one["member"] for one in some} <= {one["member"] for one in everybody}
    assert all(Decimal(one["gap"]) == Decimal(one["winner_amount"]) - Decimal(one["amount"]) for one in everybody)
    assert command("roster", "near", "aco", "--amount", "much") == 2
    found = command("roster", "leakage", "aco")
    inside, outside = Decimal(found["inside"]), Decimal(found["outside"])
    assert inside > outside > 0
    assert Decimal(found["share"]) == outside / (inside + outside)
    assert sum(Decimal(one["allowed"]) for one in found["providers"]) == outside


def test_selections_are_loaded_used_and_withdrawn(
    gateway: Gateway, command: Callable[..., Any], tmp_path: Path
) -> None:
    before = attribute(gateway, "small", now=NOW)
    outside = sorted(set(gateway.lake.members().to_pylist()) - set(before.members.to_pylist()))[0]
    covered = before.attribution.table.filter(pc.is_null(before.attribution.table["reason"]))["member"].to_pylist()
    outside = next(one for one in sorted(covered) if one not in before.members.to_pylist())
    number = gateway.resources.read("Patient", outside).json()["identifier"][0]["value"]
    tin = before.contract.provider.tins[0]
    file = tmp_path / "pcp.csv"
    file.write_text(f"member_id,provider_tin,start\n{number},{tin},2025-01-10\nX-9,{tin},\n")
    loaded = command("roster", "select", str(file), "--kind", "member_selected_pcp", "--contract", "small")
    assert (loaded["selections"], loaded["unknown"]) == (1, 1)
    after = attribute(gateway, "small", now=NOW)
    assert set(after.members.to_pylist()) == {*before.members.to_pylist(), outside}
    found = command("roster", "churn", "small")
    assert (found["stayed"], found["churn"]) == (found["before"], "0")
    assert [(one["member"], one["change"]) for one in found["changes"]] == [(outside, "came")]
    against = command("roster", "churn", "small", "--before", "aco")
    assert against["before"] == 0
    assert command("roster", "churn", "small", "--before", "nothing") == 4
    (listed,) = command("roster", "selections", "--contract", "small")
    assert (listed["batch"], listed["withdrawn"]) == (loaded["batch"], None)
    command("roster", "deselect", loaded["batch"])
    with pytest.raises(ConflictError):
        gateway.selections.withdraw(loaded["batch"], "somebody", NOW)
    with pytest.raises(NotFoundError):
        gateway.selections.withdraw("nothing", "somebody", NOW)
    assert attribute(gateway, "small", now=NOW).members.to_pylist() == before.members.to_pylist()


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("member_id,provider_tin\nM-1,1\n", "friend", "kind is one of"),
        ("provider_tin\n1\n", "roster", "member_id must be there"),
        ("member_id,colour\nM-1,red\n", "roster", "columns are"),
        ("member_id,provider_tin,start\nM-1,1,yesterday\n", "roster", "start is a day"),
        ("member_id,provider_tin\nM-1,\n", "roster", "names a TIN or an NPI"),
        ("member_id,provider_tin\n,1\n", "roster", "no member_id"),
        ("member_id,provider_tin\nM-1,1,2\n", "roster", "not CSV"),
    ],
)
def test_wrong_selections_are_refused(gateway: Gateway, content: str, kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        selections.load(gateway, content.encode(), kind, name="file.csv", by="somebody")


def test_several_contracts_claim_and_one_keeps(gateway: Gateway, command: Callable[..., Any]) -> None:
    attribute(gateway, "small", now=NOW)
    found = command("roster", "overlap", "aco", "small")
    both = set(of(gateway, "aco")) & set(of(gateway, "small"))
    assert {one["member"] for one in found} == both
    assert both
    assert {(one["contract"], one["kept"], one["lost_to"]) for one in found} == {
        ("small", True, None),
        ("aco", False, "small"),
    }
    with pytest.raises(NotFoundError):
        roster_evidence.overlapping(gateway, ["pmpm", "small"])


def test_months_are_posted_and_adjusted(gateway: Gateway, command: Callable[..., Any], tmp_path: Path) -> None:
    report = attribute(gateway, "pmpm", now=NOW)
    assert report.members.to_pylist() == []
    table = roster_evidence.kept(gateway, "aco").attribution.table
    people = table.filter(pc.equal(table["months"], 12))["member"].to_pylist()[:2]
    tin = report.contract.provider.tins[0]
    numbers = [gateway.resources.read("Patient", one).json()["identifier"][0]["value"] for one in people]
    file = tmp_path / "roster.csv"

    def load(*lines: str) -> str:
        file.write_text("member_id,provider_tin,start,end\n" + "".join(f"{one}\n" for one in lines))
        return str(command("roster", "select", str(file), "--kind", "roster", "--contract", "pmpm")["batch"])

    first = load(f"{numbers[0]},{tin},2025-01-01,", f"{numbers[1]},{tin},2025-02-01,")
    attribute(gateway, "pmpm", now=NOW)
    posted = {one["kind"]: one["rows"] for one in command("roster", "months", "pmpm", "--cycle", "2025-03-01")}
    assert posted == {"adjustment": 3, "original": 2}
    ledger = MonthLedger(gateway.data_folder / "months" / "pmpm")
    rows = ledger.rows()
    assert rows is not None
    assert rows.schema.names == ["member", "month", "tin", "newborn", "months", "outside", "cycle", "kind"]
    command("roster", "deselect", first)
    load(f"{numbers[0]},{tin},2025-01-01,")
    attribute(gateway, "pmpm", now=NOW)
    command("roster", "months", "pmpm", "--cycle", "2025-04-01")
    rows = ledger.rows()
    assert rows is not None
    stands = {(one["member"], one["month"]): one["months"] for one in state(rows).to_pylist()}
    assert sum(months for (member, _), months in stands.items() if member == people[1]) == 0
    assert stands[people[0], date(2025, 4, 1)] == 1
    assert command("roster", "months", "pmpm", "--cycle", "soon") == 2
