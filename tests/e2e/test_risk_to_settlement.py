"""From the lake to a payment adjusted by risk: our scores, and those of another model."""

from __future__ import annotations

import csv
import io
from decimal import Decimal as D
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fhir_gateway.cli.app import app
from fhir_gateway.contracts import Contract
from fhir_gateway.errors import ContractError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.payment_rows import payment_rows
from fhir_gateway.jobs.risk import score_members
from fhir_gateway.jobs.risk_imports import import_file
from fhir_gateway.jobs.risk_tables import score_tables
from fhir_gateway.jobs.settle import SettlementReport, settle
from fhir_gateway.jobs.settlement_runs import recompute
from tests.support.risk_lake import SYSTEM, lake_of, person

CONTRACT = """
id = "cap-2026"
url = "https://example.org/Measure/cap-2026"
version = "1"
title = "Capitation by risk"
identifier = { system = "https://example.org/contracts", value = "C-1" }
line_of_business = "medicare"
hcp_lan = "4A"
payer = { name = "Payer", identifier = { system = "urn:payer", value = "1" } }
period = { start = 2026-01-01, end = 2026-12-31 }
attribution = { terms = "commercial-primary-care", selections_from = ["generalPractitioner"] }
claims = { paid_through = 2027-03-31 }
tables = { rates = { path = "rates.csv" }, risk_scores = { risk = RISK } }

[provider]
name = "Provider"
entity = "practice"
identifier = { system = "http://hl7.org/fhir/sid/us-npi", value = "1234567893" }
npis = ["1234567893"]

[[arrangements]]
kind = "capitation"
id = "cap"
pool = "capitation"
risk = { normalise = "none", missing = 1 }
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    return lake_of(tmp_path_factory.mktemp("capitation"))


TARGET = """
[[arrangements]]
kind = "shared_savings"
id = "savings"
pool = "savings"
rate = 0.5
target = { kind = "pmpm", amount = 100, risk = { scores = "risk_scores", cap = 0.5, floor = 0.9 } }
"""


def contract(folder: Path, risk: str) -> Path:
    (folder / "rates.csv").write_text("cell,rate\nall,100\n")
    path = folder / "contract.toml"
    path.write_text(CONTRACT.replace("RISK", risk))
    return path


def test_a_capitation_is_paid_by_the_scores_of_the_lake(gateway: Gateway, tmp_path: Path) -> None:
    path = contract(tmp_path, '{ model = "CMS-HCC", year = 2026 }')
    settled = settle(gateway, str(path))
    run = score_members(gateway, "CMS-HCC", 2026).run
    scores = {row["member"]: row["score"] for row in run.table("scores").to_pylist()}
    assert scores[person(gateway, "a")] == D("0.912")
    assert scores[person(gateway, "d")] is None  # end-stage renal disease: another model's, here the contract's 1
    months = D(12)
    expected = sum((score if score is not None else D(1)) * 100 * months for score in scores.values())
    assert settled.settlement.total == expected
    assert settled.settlement.stamps["risk.risk_scores"] == f"CMS-HCC 2026 {run.id}"
    again = settle(gateway, str(path))
    assert again.report == settled.report


def test_imported_scores_of_another_model_pay_in_the_same_way(gateway: Gateway, tmp_path: Path) -> None:
    path = contract(tmp_path, '{ model = "ACG", year = 2026 }')
    path.write_text(path.read_text().replace("cap-2026", "acg-2026"))
    with pytest.raises(ContractError, match="no scores of ACG for 2026 were imported"):
        settle(gateway, str(path))
    rows = [f"M-{name},{SYSTEM},ACG,13.0,2026-01-01,2026-12-31,{score}" for name, score in (("a", 2), ("b", "0.5"))]
    head = "member_id,member_system,model,version,period_start,period_end,normalised"
    (tmp_path / "acg.csv").write_text("\n".join([head, *rows]) + "\n")
    import_file(gateway, tmp_path / "acg.csv", "scores", by="tester")
    settled = settle(gateway, str(path))
    assert settled.settlement.total == (D(2) + D("0.5") + 3) * 100 * 12

    # a later import pays from then on; what was settled is made again, and shown row by row, as of then
    (tmp_path / "acg.csv").write_text("\n".join([head, f"{rows[0].removesuffix(',2')},4", rows[1]]) + "\n")
    rows_then = payment_rows(gateway, settled.report).table
    import_file(gateway, tmp_path / "acg.csv", "scores", by="tester")
    made = recompute(gateway, settled.report)
    assert made.same, made.differing
    assert payment_rows(gateway, settled.report).table.equals(rows_then)
    later = settle(gateway, str(path))
    assert later.settlement.total == (D(4) + D("0.5") + 3) * 100 * 12
    assert later.run.posted == 2 * 100 * 12
    assert recompute(gateway, settled.report).same
    assert recompute(gateway, later.report).same


def test_what_is_posted_is_the_table_of_the_next_cycle(gateway: Gateway, tmp_path: Path) -> None:
    stated = (
        contract(tmp_path, '{ model = "CMS-HCC", year = 2026 }')
        .read_text()
        .replace("tables = {", 'tables = { capitation_posted = { path = "posted.csv" },')
    )

    def cycle(day: str, name: str) -> SettlementReport:
        path = tmp_path / f"{name}.toml"
        path.write_text(stated.replace("cap-2026", name) + f"retro = {{ cycle = {day}, window_months = 12 }}\n")
        report = settle(gateway, str(path))
        out = ["contract", "audit", report.report, "--posted", "--out", str(tmp_path / "posted.csv")]
        assert CliRunner().invoke(app, ["--data-dir", str(gateway.settings.data_dir), *out]).exit_code == 0
        return report

    (tmp_path / "posted.csv").write_text("member,month,rule,cell,quantity,rate,factor,cycle\n")
    first = cycle("2026-12-01", "cap-2026-12")
    assert first.settlement.total > 0
    posted = list(csv.DictReader(io.StringIO((tmp_path / "posted.csv").read_text())))
    assert sum(D(row["quantity"]) * D(row["rate"]) * D(row["factor"]) for row in posted) == first.settlement.total
    assert cycle("2027-01-01", "cap-2027-01").settlement.total == 0
    (tmp_path / "rates.csv").write_text("cell,rate\nall,110\n")
    assert cycle("2027-02-01", "cap-2027-02").settlement.total > 0
    again = list(csv.DictReader(io.StringIO((tmp_path / "posted.csv").read_text())))
    assert again[: len(posted)] == posted  # never edited
    assert {row["cycle"] for row in again} == {"2026-12-01", "2027-02-01"}
    assert recompute(gateway, first.report).same


def test_a_target_is_adjusted_by_the_change_of_the_scores(gateway: Gateway, tmp_path: Path) -> None:
    path = contract(tmp_path, '{ model = "CMS-HCC", year = 2026, previous = 2025 }')
    head = CONTRACT.replace('{ rates = { path = "rates.csv" }, risk_scores', "{ risk_scores").partition(
        "[[arrangements]]"
    )[0]
    head = head.replace("cap-2026", "target-2026")
    path.write_text(head.replace("RISK", '{ model = "CMS-HCC", year = 2026, previous = 2025 }') + TARGET)
    settled = settle(gateway, str(path)).settlement
    now, before = (
        {row["member"]: row["score"] for row in score_members(gateway, "CMS-HCC", year).run.table("scores").to_pylist()}
        for year in (2026, 2025)
    )
    both = [name for name, score in now.items() if score is not None and before.get(name) is not None]
    assert len(both) == 4
    ratio = sum(now[name] for name in both) / sum(before[name] for name in both)
    assert settled.line("savings.risk-ratio").value == pytest.approx(ratio)
    assert "risk.risk_scores.previous" in settled.stamps
    path.write_text(path.read_text().replace(", previous = 2025", ""))
    with pytest.raises(ContractError, match="no member of the list has a score and a previous one"):
        settle(gateway, str(path))


def test_a_contract_is_known_by_the_scores_it_names(gateway: Gateway, tmp_path: Path) -> None:
    path = contract(tmp_path, '{ model = "CMS-HCC", year = 2026 }')
    one = Contract.load(path)
    path.write_text(path.read_text().replace("year = 2026 }", "year = 2025 }"))
    assert Contract.load(path).digest != one.digest
    other = path.read_text().replace("{ risk = {", '{ path = "x.csv", risk = {')
    path.write_text(other)
    with pytest.raises(ContractError, match=r"tables.risk_scores: needs one of path, risk and lake"):
        Contract.load(path)
    path.write_text(CONTRACT.replace('{ path = "rates.csv" }', '{ risk = { model = "ACG", year = 2026 } }').replace(
        "RISK", '{ model = "ACG", year = 2026 }'))  # fmt: skip
    with pytest.raises(ContractError, match=r"tables.rates.risk: the table is not of members"):
        Contract.load(path)


BUNDLE = """
[[arrangements]]
kind = "team"
id = "team"
pool = "surgical episodes"
performance_year = 1
track = 3
quality_score = 60
gmlos = "days"
price = { kind = "given", table = "prices", discounted = true }
multipliers = "risk_multipliers"
"""


def test_capitation_target_and_bundle_take_the_same_scores(gateway: Gateway, tmp_path: Path) -> None:
    """One run of scores is the capitation's table, the benchmark's and the bundle's, under the names that each has."""
    (tmp_path / "days.csv").write_text("drg,gmlos\n470,1.7\n")
    (tmp_path / "prices.csv").write_text("price_group,price\n470,28000\n")
    kept = '{ model = "CMS-HCC", year = 2026 }'
    path = contract(tmp_path, kept)
    more = f'risk_multipliers = {{ risk = {kept} }}, days = {{ path = "days.csv" }}, prices = {{ path = "prices.csv" }}'
    path.write_text(
        path.read_text().replace(f"{{ risk = {kept} }} }}", f"{{ risk = {kept} }}, {more} }}") + TARGET + BUNDLE
    )
    found, stamps = score_tables(gateway, Contract.load(str(path)), gateway.lake.version)
    run = score_members(gateway, "CMS-HCC", 2026).run
    scored = {row["member"]: row["score"] for row in run.table("scores").to_pylist() if row["score"] is not None}
    assert {table: set(found[table].column_names) & {"score", "multiplier"} for table in found} == {
        "risk_scores": {"score"},
        "risk_multipliers": {"multiplier"},
    }
    for name, column in (("risk_scores", "score"), ("risk_multipliers", "multiplier")):
        assert dict(zip(*(found[name][one].to_pylist() for one in ("member", column)), strict=True)) == scored
    assert len(set(stamps.values())) == 1
    assert run.id in stamps["risk.risk_multipliers"]
