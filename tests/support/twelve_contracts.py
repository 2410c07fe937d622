"""Twelve contracts over a sandbox population, one of each kind of arrangement, as files with the tables they need."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.sandbox_contracts import contract_terms

ED_VISITS = {
    "id": "ed",
    "name": "ED visits",
    "direction": "decrease",
    "unit": "/(10*3.a)",
    "weight": 1,
    "scoring": {"kind": "linear", "threshold": 2000, "target": 0},
}
PMPM = {"kind": "pmpm", "amount": 400}
BANDS = [{"through": 0.1, "share": 0.5}, {"share": 0.25}]

#: Arrangement terms by kind; numbers are invented so that money moves.
ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "pay_for_performance": {"budget": {"kind": "per_member_month", "amount": 2.5}, "cap": 5000},
    "shared_savings": {
        "target": PMPM,
        "corridor": {"kind": "fixed", "msr": 0.02, "mlr": 0.02},
        "rate": 0.5,
        "quality": {"mode": "multiplicative"},
        "losses": {"rate": 0.3, "limit": 0.04},
        "cap": 0.1,
    },
    "mssp": {"performance_year": 2024, "level": "EN", "target": PMPM, "election": 0},
    "aco_reach": {
        "performance_year": 2024,
        "risk": "global",
        "benchmark": {"amount": 400, "per": "member_month"},
    },
    "capitation": {"add_ons": [{"id": "coordination", "pmpm": 3}], "withhold": {"part": 0.05}},
    "risk_pool": {"fund": PMPM, "corridor": {"losses": BANDS}, "individual": {"attachment": 20000, "coinsurance": 0.9}},
    "case_rate": {
        "rates": [{"tier": "low", "rate": 60}, {"tier": "high", "rate": 90}],
        "min_contacts": 1,
        "contacts": {"procedure": ["99202-99215"]},
        "tier_change": "prorate",
    },
    "care_management_fee": {"fees": [{"pmpm": 6}]},
    "ccbhc": {"model": "PPS-1", "rates": {"standard": 245.10}, "services": ["99212-99215"], "members": "attributed"},
    "outcome_rate_card": {
        "card": [{"outcome": "housing", "tariff": 7500, "counterfactual": "deadweight", "deadweight": 0.2}],
        "cap": 20000,
    },
    "provider_mlr": {"target": 0.85, "revenue_pmpm": 420, "gains": BANDS, "losses": BANDS},
    "bundle_retrospective": {
        "population": "all",
        "episode": {
            "triggers": [
                {"family": "medical", "match": {"drg": ["871", "193", "291", "690", "683", "065"]}, "price": "medical"}
            ],
            "window": {"days": 30},
            "services": "commercial",
        },
        "price": {"kind": "given", "table": "prices", "discounted": True},
        "gain_share": 0.5,
        "loss_share": 0.5,
    },
}


def write_contracts(folder: Path, tins: list[str], measure: str, members: list[str]) -> dict[str, Path]:
    """A file for each kind, and the tables it needs; ``members`` are persons of the lake."""
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, Iterable[Mapping[str, Any]]] = {
        "rates": [
            {"cell": "child", "rate": "120.25", "age_through": 17},
            {"cell": "adult", "rate": "210.50", "age_from": 18, "age_through": 64},
            {"cell": "senior", "rate": "480.75", "age_from": 65},
        ],
        "assessments": [{"member": member, "tier": "low", "effective_from": "2024-12-01"} for member in members]
        + [{"member": member, "tier": "high", "effective_from": "2025-04-11"} for member in members[::3]],
        "outcomes": [
            {
                "person": member,
                "outcome": "housing",
                "window": "2025",
                "occurred": "2025-06-01",
                "verified": "2025-06-20",
                "verifier": "county",
                "evidence": f"letter {number}",
            }
            for number, member in enumerate(members[:3])
        ],
        "prices": [{"price_group": "medical", "price": "5250"}],
    }
    for name, rows in tables.items():
        _write_table(folder / f"{name}.csv", list(rows))
    wanted = {"capitation": ["rates"], "case_rate": ["assessments"], "outcome_rate_card": ["outcomes"]}
    wanted["bundle_retrospective"] = ["prices"]
    found = {}
    for number, (kind, terms) in enumerate(ARRANGEMENTS.items()):
        quality = kind in ("pay_for_performance", "shared_savings", "mssp", "aco_reach", "capitation")
        mine = {"tins": tins} if kind in ("ccbhc", "case_rate") else {}
        shares = {"arrangement": "pay", "by": "tin", "weight": "member_months", "reserve": 0.1}
        stated = {
            **contract_terms(f"{kind.replace('_', '-')}-2025", tins, hcp_lan="3B"),
            "claims": {"paid_through": "2026-03-31", "truncation": 50000},
            "measures": [{**ED_VISITS, "canonical": measure}] if quality else [],
            "tables": {name: {"path": f"{name}.csv"} for name in wanted.get(kind, [])},
            "distributions": [shares] if kind != "bundle_retrospective" else [],
            "arrangements": [{"kind": kind, "id": "pay", "pool": kind, **terms, **mine}],
        }
        path = folder / f"{kind}{('.json', '.yaml')[number % 2]}"
        path.write_text(json.dumps(stated) if path.suffix == ".json" else yaml.safe_dump(stated), encoding="utf-8")
        found[kind] = path
    return found


def _write_table(path: Path, rows: list[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
