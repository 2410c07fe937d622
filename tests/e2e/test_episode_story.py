"""Bundles from raw FHIR to a settlement: pulled, attributed, episodes found, settled, reported, recomputed."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from fhir_gateway.contracts.arrangements.episode_terms import EpisodeTerms
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.settle import inputs_of, settle
from fhir_gateway.jobs.settlement_runs import recompute
from fhir_gateway.sandbox.population import generate
from tests.support.sandbox_contracts import contract_terms, pull_population, tins_of, write_contract

AFTER = datetime(2026, 4, 1, tzinfo=UTC)
STAYS = ["065", "190", "193", "280", "291", "378", "470", "603", "683", "690", "871"]


def contract(folder: Path, tins: list[str]) -> str:
    """A retrospective bundle of 30 days after any of the stays, at one price, both ways up to a tenth."""
    (folder / "prices.csv").write_text("price_group,price\n" + "".join(f"{drg},9500\n" for drg in STAYS))
    bundle = {
        "kind": "bundle_retrospective",
        "id": "bundle",
        "pool": "stays",
        "episode": {
            "triggers": [{"family": "stays", "match": {"claim_type": ["inpatient"], "drg": STAYS}}],
            "window": {"days": 30},
            "services": "commercial",
            "amount": "allowed",
        },
        "price": {"kind": "given", "table": "prices", "discounted": True},
        "limit": {"gain": "0.1", "loss": "0.1"},
    }
    stated = contract_terms(
        "bundles-2025", tins, hcp_lan="3B", arrangements=[bundle], calendar={"interim": "semiannual"},
        attribution={"terms": "commercial-primary-care", "list_status": "open"},
        tables={"prices": {"path": "prices.csv"}},
    )  # fmt: skip
    return write_contract(folder, stated)


def test_bundles_from_claims_to_a_statement(tmp_path: Path) -> None:
    population = tmp_path / "population"
    generate(population, patients=150, seed=7, year=2025)
    gateway = pull_population(population, tmp_path / "gateway", lake_buckets=2)
    name = contract(tmp_path, tins_of(population))

    final = settle(gateway, name, now=AFTER)
    made = final.contract.arrangements[0]
    assert isinstance(made, EpisodeTerms)
    inputs = inputs_of(gateway, attribute(gateway, name, now=AFTER), {})
    rows = made.episodes(inputs).to_pylist()
    standing = [row for row in rows if row["reason"] is None]
    assert len(standing) > 3
    roster = set(inputs.columns().people["member"].to_pylist())
    assert {row["member"] for row in standing} <= roster

    # the amount again, from the evidence alone
    for row in standing:
        assert row["target"] == 9500
        assert row["actual"] == sum(dict(row["costs"]).values())
        assert (row["window_end"] - row["anchor_end"]).days == 30
    difference = sum((row["target"] - row["capped"] for row in standing), Decimal(0))
    most = Decimal(950) * len(standing)
    assert final.settlement.line("bundle.episodes").value == len(standing)
    assert final.settlement.line("bundle.difference").value == difference
    assert final.settlement.total == max(-most, min(most, difference)).quantize(Decimal("0.01"), "ROUND_HALF_UP")
    # and the costs again, from the claim lines below
    services = made.services(inputs).to_pylist()
    for row in standing:
        mine = [one for one in services if one["episode"] == row["episode"] and one["part"] == "window"]
        assert sum((one["standardised"] for one in mine), Decimal(0)) == row["actual"]

    assert recompute(gateway, final.run.id).same
    half = settle(gateway, name, now=AFTER, interim=date(2025, 6, 30))
    note = half.settlement.line("bundle.not-standing").formula
    done = [row for row in standing if row["window_end"] <= date(2025, 6, 30)]
    assert half.settlement.line("bundle.episodes").value == len(done), note
