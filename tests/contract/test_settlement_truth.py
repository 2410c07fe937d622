"""The synthetic population knows its own truth: claim lines and attribution must find the same numbers."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from fhir_gateway.attribution import COVERAGE_COLUMNS, AttributionTerms, attribute
from fhir_gateway.contracts import Contract, MeasureScore, collect, settle
from fhir_gateway.lake import claims
from fhir_gateway.r4.spec import column_structure
from fhir_gateway.sandbox.population import generate

YEAR = (date(2025, 1, 1), date(2025, 12, 31))
DEMO = Path(__file__).parents[2] / "fhir_gateway" / "demo" / "contracts"


class Folder:
    """NDJSON of one source, read as a lake gives it; members are the source's patients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(
        self,
        resource_type: str,
        columns: Any = None,
        bucket: int | None = None,
        version: int | None = None,
        members: pa.Array | None = None,
    ) -> pa.Table:
        structure = column_structure(resource_type)
        names = list(dict.fromkeys(name.partition(".")[0] for name in columns))  # a path is of its column
        wanted: dict[str, Any] = {name: structure[name] for name in names}
        wanted |= {"id": "VARCHAR", "patient": {"reference": "VARCHAR"}, "beneficiary": {"reference": "VARCHAR"}}
        texts = [
            line
            for path in sorted(self.folder.glob(f"{resource_type}.*ndjson"))
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
        picked = ", ".join(f'x."{name}" AS "{name}"' for name in names)
        with duckdb.connect() as connection:
            connection.register("texts", pa.table({"raw": pa.array(texts, pa.string())}))
            return connection.sql(
                f"SELECT regexp_extract(coalesce(x.patient.reference, x.beneficiary.reference), '[^/]+$') AS _member,"  # noqa: S608
                f" 'payer' AS _source, x.id AS id, NULL::TIMESTAMPTZ AS _last_updated, {picked}"
                f" FROM (SELECT json_transform(raw, '{json.dumps(wanted)}') AS x FROM texts)"
            ).to_arrow_table()


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("population") / "people"
    generate(folder, patients=400, seed=3, year=2025)
    return folder


@pytest.fixture(scope="module")
def truth(population: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((population / "summary.json").read_text(encoding="utf-8"))["truth"]
    return loaded


@pytest.fixture(scope="module")
def lines(population: Path) -> pa.Table:
    return claims.claims(Folder(population / "payer"))


@pytest.fixture(scope="module")
def coverage(population: Path) -> pa.Table:
    return Folder(population / "payer").read("Coverage", COVERAGE_COLUMNS)


def test_net_cost_and_versions(lines: pa.Table, truth: dict[str, Any]) -> None:
    with duckdb.connect() as connection:
        connection.register("lines", lines)
        found = connection.sql(
            "SELECT claim_type, sum(allowed) * 100, sum(paid) * 100 FROM lines"
            " WHERE counts AND service_from BETWEEN DATE '2025-01-01' AND DATE '2025-12-31' GROUP BY ALL"
        ).fetchall()
        reversals = connection.sql("SELECT count(DISTINCT eob) FROM lines WHERE version_status = 'reversal'").fetchall()
    assert {kind: allowed for kind, allowed, _ in found} == truth["allowed"]
    assert {kind: paid for kind, _, paid in found} == truth["paid"]
    assert reversals == [(truth["reversed"],)]


def test_plurality(lines: pa.Table, coverage: pa.Table, truth: dict[str, Any]) -> None:
    shipped = AttributionTerms.load("commercial-primary-care")
    terms = shipped.model_copy(update={"passes": shipped.passes[:1], "tie_break": ()})
    table = attribute(lines, coverage, terms, YEAR).table.to_pylist()
    winners: dict[str, int] = {}
    for row in table:
        if row["entity"]:
            winners[row["entity"].removeprefix("tin:")] = winners.get(row["entity"].removeprefix("tin:"), 0) + 1
    assert winners == truth["attributed"]
    assert sum(row["reason"] == "tie" for row in table) == truth["tied"]
    assert sum(row["months"] for row in table) == truth["member_months"]


@pytest.mark.parametrize("path", sorted(DEMO.glob("*.toml")), ids=lambda path: path.stem)
def test_demo_contracts_settle_on_it(path: Path, lines: pa.Table, coverage: pa.Table) -> None:
    contract = Contract.load(path)
    assert contract.attribution_terms is not None
    attribution = attribute(lines, coverage, contract.attribution_terms, contract.dates, contract.participants)
    rates = {"1": Decimal("0.3"), "/(10*3.a)": Decimal(220)}
    outcomes = {m.canonical: MeasureScore(30, 100, rates[m.unit]) for m in contract.measures}
    inputs = collect(contract, attribution, lines, outcomes, coverage)
    assert inputs.exposure.members == len(attribution.members_of(contract.provider.entity)) > 50
    settlement = settle(contract, inputs)
    assert settlement.total == sum(line.amount for line in settlement.payable() if line.amount is not None)
