"""Utilization of a lake at the prompt, in a contract's settlement, and before clients of one contract alone."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fhir_gateway.cli.app import app
from fhir_gateway.contracts import Contract
from fhir_gateway.db.audience import Audience
from fhir_gateway.errors import ContractError, InputError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.settle import settle
from fhir_gateway.jobs.settlement_runs import recompute
from fhir_gateway.jobs.utilization import compute, import_table, metric_outcomes, publish
from fhir_gateway.risk.utilization.reports import canonical
from fhir_gateway.sandbox.population import generate
from tests.support.sandbox_contracts import contract_terms, pull_population, tins_of, write_contract

YEAR = (date(2025, 1, 1), date(2025, 12, 31))
AFTER = datetime(2026, 4, 1, tzinfo=UTC)
VISITS = {
    "id": "visits",
    "metric": "office-visits-per-1000",
    "name": "Office visits per 1,000",
    "direction": "increase",
    "unit": "/(10*3.a)",
    "weight": 1,
    "scoring": {"kind": "threshold", "target": 1},
}


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("population") / "all"
    generate(folder, patients=120, seed=5, year=2025)
    return folder


@pytest.fixture(scope="module")
def data(population: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gateway")
    pull_population(population, folder)
    return folder


@pytest.fixture
def gateway(data: Path) -> Gateway:
    from fhir_gateway.config import Settings

    return Gateway(Settings(data_dir=data))


def run(data: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["utilization", *arguments], env={"FHIR_GATEWAY_DATA_DIR": str(data)})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_at_the_prompt(data: Path, tmp_path: Path) -> None:
    text = run(data, "report", "--period", "2025", "--by", "sex", "--metric", "ed-visits-per-1000", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["value"] for row in rows} >= {"", "female", "male"}
    assert sum(int(row["numerator"]) for row in rows if row["value"]) == int(rows[0]["numerator"])

    answer = json.loads(run(data, "report", "--period", "2025", "--format", "json", "--trend"))
    assert answer["period"] == ["2025-01-01", "2025-12-31"]
    assert answer["refused"]["leakage"] == "no network was given"
    assert {one["metric"] for one in answer["trend"]} >= {"paid-pmpm", "ed-visits-per-1000"}
    assert next(one for one in answer["trend"] if one["metric"] == "paid-pmpm")["completed"] is not None

    strict = json.loads(run(data, "report", "--period", "2025", "--format", "json", "--enrolled", "--min-age", "65"))
    stays = {
        stated: next(one["denominator"] for one in each["results"] if one["metric"] == "readmissions-30-day")
        for stated, each in (("all", answer), ("strict", strict))
    }
    assert stays["strict"] <= stays["all"]

    table = tmp_path / "nyu.csv"
    table.write_text("diagnosis,non_emergent,primary_care_treatable,avoidable\nR51.9,1,0,0\n")
    assert "ed-probabilities" in run(data, "import", str(table), "--form", "ed-probabilities")
    assert (
        "avoidable-ed-share" not in json.loads(run(data, "report", "--period", "2025", "--format", "json"))["refused"]
    )
    assert "Metrics of utilization" in run(data, "metrics")


def test_buckets_of_the_lake_add_up_to_the_whole(population: Path, tmp_path: Path) -> None:
    """Gateways of their own: what another test imported would be in one of them only."""
    gateway = pull_population(population, tmp_path / "several")
    whole = pull_population(population, tmp_path / "whole", lake_buckets=1)
    path = write_contract(tmp_path, contract_terms("visits-2025", tins_of(population), measures=[VISITS]))
    assert gateway.lake.buckets > 1
    for contract in (None, path):
        one, several = (
            compute(each, YEAR, contract=contract, dimensions=("sex", "age-band", "rendering"), trend=True)
            for each in (whole, gateway)
        )
        assert several.utilization.table.equals(one.utilization.table)
        assert several.trends == one.trends


def test_strata_of_any_dimension(gateway: Gateway, data: Path, tmp_path: Path) -> None:
    members = gateway.lake.members().to_pylist()
    given = tmp_path / "strata.csv"
    given.write_text(
        "member,dimension,value\n"
        + "".join(f"{m},region,{'north' if n % 2 else 'south'}\n" for n, m in enumerate(members))
    )
    text = run(
        data, "report", "--period", "2025", "--strata", str(given), "--metric", "member-months", "--format", "csv"
    )
    rows = {row["value"]: float(row["numerator"]) for row in csv.DictReader(io.StringIO(text))}
    assert rows["north"] + rows["south"] == rows[""]


def test_a_contract_weighs_a_metric(gateway: Gateway, population: Path, tmp_path: Path) -> None:
    path = write_contract(tmp_path, contract_terms("visits-2025", tins_of(population), measures=[VISITS]))
    settled = settle(gateway, path, now=AFTER)
    lines = {line.id: line for line in settled.settlement.lines}
    members = compute(gateway, YEAR, contract=path, dimensions=("attributed-tin", "rendering"))
    assert members.utilization.score("office-visits-per-1000") == lines["p4p.visits.score"].value
    assert lines["p4p.visits.score"].value is not None
    assert settled.settlement.total == 10000
    assert "leakage" not in members.utilization.refused
    assert recompute(gateway, settled.run.id).same

    measure = json.loads(gateway.resources.read("Measure", "visits-2025").body)
    assert measure["relatedArtifact"][0]["resource"] == canonical()

    parts = members.utilization.table.to_pylist()
    tins = [one for one in parts if (one["metric"], one["dimension"]) == ("member-months", "attributed-tin")]
    assert sum(one["numerator"] for one in tins) == members.utilization.score("member-months")


def test_terms_that_name_no_metric_are_refused(population: Path, tmp_path: Path) -> None:
    tins = tins_of(population)
    for change, problem in (
        ({"metric": "visits-to-the-moon"}, "no utilization metric"),
        ({"canonical": "https://example.org/Measure/x"}, "not both"),
        ({"metric": None}, "has a canonical, or a metric"),
    ):
        path = write_contract(tmp_path, contract_terms("wrong", tins, measures=[VISITS | change]))
        with pytest.raises(ContractError, match=problem):
            Contract.load(path)


def test_a_metric_that_is_refused_stops_the_settlement(gateway: Gateway, population: Path, tmp_path: Path) -> None:
    from fhir_gateway.jobs.attribute import attribute

    measures = [VISITS | {"metric": "avoidable-ed-share"}]
    path = write_contract(tmp_path, contract_terms("ed-2025", tins_of(population), measures=measures))
    attributed = attribute(gateway, path, now=AFTER)
    for table in (gateway.data_folder / "utilization-tables").glob("*"):
        table.unlink()
    with pytest.raises(ContractError, match="no table ed-probabilities was imported"):
        metric_outcomes(gateway, attributed, None)


def test_who_sees_which_report(gateway: Gateway, population: Path, tmp_path: Path) -> None:
    path = write_contract(tmp_path, contract_terms("seen-2025", tins_of(population), measures=[VISITS]))
    whole = publish(gateway, compute(gateway, YEAR), AFTER).report
    own = publish(gateway, compute(gateway, YEAR, contract=path), AFTER).report
    assert whole is not None
    assert own is not None
    both = {own, f"v{own[1:]}"}
    again = publish(gateway, compute(gateway, YEAR, contract=path), AFTER)
    assert again.report == own
    performance = json.loads(gateway.resources.read("MeasureReport", f"v{own[1:]}").body)
    assert gateway.validator.validate(performance).findings == []
    groups = {one["id"]: one for one in performance["group"]}
    assert groups["ed-visits-per-1000"]["code"]["coding"][0]["code"] == "ed-visit"
    assert "valueMoney" in groups["paid-pmpm"]["measureScore"]["extension"][0]
    assert not any("population" in one for one in performance["group"])
    assert performance["measure"] == "https://payer.example/contracts/seen-2025|1"
    for labels, seen in (
        (["contract:seen-2025"], both),
        (["contract:visits-2025"], set()),
        (["organization:111"], set()),
    ):
        view = gateway.resources.seen_by(Audience.of(labels))
        assert {whole, *both} & set(view.ids("MeasureReport")) == seen
        assert "utilization" in view.ids("Measure")
        for report in {whole, *both} - seen:
            with pytest.raises(NotFoundError):
                view.read("MeasureReport", report)
    assert {whole, *both} <= set(gateway.resources.ids("MeasureReport"))


def test_what_is_wrong_is_said(gateway: Gateway, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ends before it begins"):
        compute(gateway, (YEAR[1], YEAR[0]))
    with pytest.raises(InputError, match="no dimension shoe-size"):
        compute(gateway, YEAR, dimensions=("shoe-size",))
    with pytest.raises(InputError, match="only a contract attributes members"):
        compute(gateway, YEAR, dimensions=("attributed-tin",))
    with pytest.raises(InputError, match="no form of table"):
        import_table(gateway, Path(__file__), "spreadsheets")
    with pytest.raises(InputError, match="cannot be read"):
        import_table(gateway, tmp_path / "none.csv", "value-sets")
