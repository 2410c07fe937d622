"""One contract with every arrangement that pays by performance: from its documents and tables to a VBPR report."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from vbpr_rules import check_performance_report

from fhir_gateway.contracts import Contract, Exposure, MeasureScore, Settlement, SettlementInputs, settle, vbpr
from fhir_gateway.contracts.arrangements import Facts
from fhir_gateway.contracts.arrangements.facts import PEOPLE_SCHEMA
from fhir_gateway.errors import ContractError
from fhir_gateway.lake.claims import LINE_SCHEMA

D = Decimal
TERMS = """
id = "performance"
url = "https://example.org/fhir/Measure/performance"
version = "1"
title = "Everything that pays by performance"
identifier = { system = "https://example.org/contracts", value = "C-9" }
line_of_business = "medicaid"
hcp_lan = "2C"
payer = { name = "Plan", identifier = { system = "urn:payer", value = "1" } }
attribution = { terms = "mssp-primary-care-2024" }
claims = { paid_through = 2026-03-31 }

[provider]
name = "Clinic"
entity = "clinic"
identifier = { system = "urn:oid:2.16.840.1.113883.4.4", value = "100000001" }
tins = ["100000001"]

[period]
start = 2025-01-01
end = 2025-12-31

[[measures]]
id = "control"
canonical = "https://example.org/Measure/control|1"
name = "Control"
direction = "increase"
weight = 1.0
scoring = { kind = "linear", threshold = 0.4, target = 0.8 }

[[measures]]
id = "deciles"
canonical = "https://example.org/Measure/deciles|1"
name = "Deciles"
direction = "increase"
status = "reporting-only"
scoring = { kind = "decile", deciles = [{ decile = 5, at = 0.5 }, { decile = 10, at = 0.7 }] }

[[arrangements]]
kind = "pay_for_performance"
id = "p4p"
pool = "a"
measures = ["control"]
budget = { kind = "percent_of_premium", amount = 0.02, premium = 500000 }
gates = { conditions = [{ measure = "deciles", at_least = 0.6 }], effect = "pro_rate" }

[[arrangements]]
kind = "hospital_vbp"
id = "vbp"
pool = "b"
hospital = "H1"
year = 2025

[arrangements.rules]
year = 2025
trust = "M"
source = "agreed"
withhold = 0.02
min_domains = 1
domains = [{ id = "all", titles = [], weight = 1, measures = ["HAI-1"] }]

[[arrangements]]
kind = "readmissions"
id = "hrrp"
pool = "c"
hospital = "H1"
year = 2025
modifier = 0.9652

[[arrangements]]
kind = "hospital_acquired_conditions"
id = "hac"
pool = "d"
hospital = "H1"
year = 2025
payments = 400000
conditions_table = "acquired"

[[arrangements]]
kind = "mips"
id = "mips"
pool = "e"
measures = ["deciles"]
year = 2025
covered_services = 80000
promoting_interoperability = 1
improvement_activities = 1

[[arrangements]]
kind = "ccbhc"
id = "pps"
pool = "f"
model = "PPS-1"
rates = { standard = 245.10 }
services = ["90834"]
tins = ["100000001"]

[[arrangements]]
kind = "outcome_rate_card"
id = "card"
pool = "g"
cap = 10000
card = [{ outcome = "housed", tariff = 7500, counterfactual = "deadweight", deadweight = 0.2 }]

[[arrangements]]
kind = "scorecard"
id = "score"
pool = "h"
measures = ["control"]
preferred = { at_least = 0.5, amount = 1, per = "member" }
damages = [{ condition = { measure = "control", at_least = 0.65 }, amount = 100, step = 0.01 }]

[[arrangements]]
kind = "medical_loss_ratio"
id = "mlr"
pool = "i"
market = "individual"
year = 2025

[[arrangements]]
kind = "provider_mlr"
id = "provider"
pool = "j"
target = 0.85
revenue = 1000000
gains = [{ share = 0.5 }]

[tables]
hospitals = { path = "hospitals.csv" }
rates = { path = "rates.csv" }
conditions = { path = "conditions.csv" }
acquired = { path = "acquired.csv" }
outcomes = { path = "outcomes.csv" }
experience = { path = "experience.csv" }
"""
TABLES = {
    "hospitals": "hospital,base,dual_proportion\nH1,1000000,0.1\nH2,500000,0.9\n",
    "rates": "hospital,measure,threshold,benchmark,performance\nH1,HAI-1,0,10,4\nH2,HAI-1,0,10,2\n",
    "conditions": "hospital,condition,discharges,predicted,expected,payment_ratio,median\n"
    "H1,HF,681,10.597,10,0.0363,0.9875\nH2,HF,30,9,10,0.05,0.9875\n",
    "acquired": "hospital,measure,value\nH1,CDI,2\nH2,CDI,1\nH3,CDI,1\nH4,CDI,1\nH5,CDI,1\n",
    "outcomes": "person,outcome,window,occurred,verified,verifier,evidence\n"
    "p1,housed,2025,2025-05-01,2025-06-01,city,doc-1\np2,housed,2025,2025-05-01,,,\n",
    "experience": "year,claims,premium,taxes,member_months,quality_improvement,net_transfers\n"
    "2025,121250,200000,15000,1080000,0,17500\n",
}
#: What each arrangement pays, worked out by hand from the terms above.
PAID = {
    "p4p": D("5000.00"),  # 2% of 500,000, half of the way from 0.4 to 0.8, gate met
    "vbp": D("4000.00"),  # 30,000 withheld; bases x 40 and x 20 share it 4 : 1, less 20,000
    "hrrp": D("-2500.00"),  # factor 0.9975, as published for a hospital with these numbers
    "hac": D("-4000.00"),  # the worst of five
    "mips": D("-2396.00"),  # 5.5 points of 60 x 55% (cost is missing) + 45 = 50.0417: -9% x 24.9583 / 75
    "pps": D("490.20"),  # two days
    "card": D("6000.00"),  # one verified, less a fifth
    "score": D("-400.00"),  # 100 members, less five begun steps of a hundred
    "mlr": D("9250.00"),  # 45 CFR 158.240(c)(2)
    "provider": D("25000.00"),  # half of 850,000 - 800,000
}


@pytest.fixture
def contract(tmp_path: Path) -> Contract:
    for name, text in TABLES.items():
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    path = tmp_path / "contract.toml"
    path.write_text(TERMS, encoding="utf-8")
    return Contract.load(path)


@pytest.fixture
def inputs(contract: Contract) -> SettlementInputs:
    visit = {"procedure": "90834", "tin": "100000001", "denied": False, "allowed": D(0), "paid": D(0)}
    days = [date(2025, 3, 3), date(2025, 3, 3), date(2025, 3, 4)]
    rows = [visit | {"_member": "m1", "service_from": day} for day in days]
    names = ["_member", *contract.needs().lines]
    lines = pa.Table.from_pylist(rows, schema=pa.schema([LINE_SCHEMA.field(name) for name in dict.fromkeys(names)]))
    months = pa.schema([("member", pa.string()), ("month", pa.date32()), ("months", pa.decimal128(28, 8))])
    facts = Facts(
        period=contract.dates,
        lines=lines,
        people=pa.Table.from_pylist([{"member": "m1"}], schema=PEOPLE_SCHEMA),
        months=months.empty_table(),
        baseline_months=months.empty_table(),
        tables={name: one.table for name, one in contract.given.items()},
    )
    cost = D(800_000)
    return SettlementInputs(
        Exposure(100, D(1_200), cost, cost, cost, 0),
        {"control": MeasureScore(60, 100, D("0.6")), "deciles": MeasureScore(60, 100, D("0.6"))},
        facts=facts,
    )


def test_every_arrangement_pays_what_was_worked_out(contract: Contract, inputs: SettlementInputs) -> None:
    settlement = settle(contract, inputs)
    assert {line.arrangement: line.amount for line in settlement.payable()} == PAID
    assert settlement.total == sum(PAID.values())
    assert settle(contract, inputs).to_dict() == settlement.to_dict()
    assert Settlement.from_dict(settlement.to_dict()) == settlement
    for name in PAID:
        assert settlement.explain(f"{name}.payable")


def test_the_report_keeps_to_vbpr(contract: Contract, inputs: SettlementInputs) -> None:
    report = vbpr.performance_report(
        settle(contract, inputs), contract, report_id="r1", issued=datetime(2026, 4, 1, tzinfo=UTC)
    )
    assert check_performance_report(report, vbpr.measure(contract)) == []


def test_a_changed_table_is_another_contract(contract: Contract, tmp_path: Path) -> None:
    table = tmp_path / "hospitals.csv"
    table.write_text(TABLES["hospitals"].replace("500000", "500001"), encoding="utf-8")
    assert Contract.load(tmp_path / "contract.toml").digest != contract.digest
    table.write_text("hospital\nH1\n", encoding="utf-8")
    with pytest.raises(ContractError, match=r"tables\.hospitals: column base: is missing"):
        Contract.load(tmp_path / "contract.toml")
