"""Which services of an episode count, and for how much."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from episode_parts import YEAR, definition, found, line, lines, stay

from fhir_gateway.contracts.episodes import (
    EPISODE_SCHEMA,
    GMLOS_SCHEMA,
    STANDARDISATION_SCHEMA,
    CostTables,
    Definition,
    Sources,
    services,
    shipped_definition,
)
from fhir_gateway.contracts.episodes.caps import Cap, applied, bounds
from fhir_gateway.contracts.episodes.definition import Service
from fhir_gateway.errors import ContractError

D = Decimal
ANCHOR = stay("a", "c", "03-01", "03-04", 20000, "470")  # window to 3 April


def table(schema: pa.Schema, *rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=pa.schema([field.with_nullable(True) for field in schema]))


def days(**by_drg: str) -> CostTables:
    rows = [{"drg": name.removeprefix("d"), "gmlos": D(value)} for name, value in by_drg.items()]
    return CostTables(gmlos=table(GMLOS_SCHEMA, *rows))


def test_services_count_by_their_first_day() -> None:
    (one,) = found(
        ANCHOR,
        line("a", "before", "02-28", 1),
        line("a", "first", "03-01", 10),
        line("a", "last", "04-03", 100),
        line("a", "after", "04-04", 1000),
        line("b", "other", "03-05", 10000),
    )
    assert dict(one["costs"]) == {"anchor": 20000, "other": 110}
    assert (one["services"], one["spending"], one["prorated"]) == (3, 20110, 20110)


def test_per_diem_counts_the_days_inside() -> None:
    # 25 March to 14 April are 20 days, of which those to 3 April (10) are inside
    (one,) = found(ANCHOR, line("a", "s", "03-25", 3000, thru="04-14", bill_type="211", claim_type="inpatient"))
    assert dict(one["costs"])["snf"] == 1500
    assert (one["spending"], one["prorated"]) == (23000, 21500)


@pytest.mark.parametrize(("thru", "counted"), [("04-03", 3000), ("04-04", 3000), ("04-05", D("2727.27272727"))])
def test_per_diem_at_the_edge(thru: str, counted: Decimal) -> None:
    (one,) = found(ANCHOR, line("a", "s", "03-25", 3000, thru=thru, bill_type="211", claim_type="inpatient"))
    assert dict(one["costs"])["snf"] == counted


def test_interim_claims_of_a_nursing_facility_count_each_for_itself() -> None:
    (one,) = found(
        ANCHOR,
        line("a", "s1", "03-10", 2100, thru="03-31", bill_type="212", claim_type="inpatient"),
        line("a", "s2", "04-01", 1000, thru="04-11", bill_type="213", claim_type="inpatient"),
        line("a", "s3", "04-12", 900, thru="04-20", bill_type="214", claim_type="inpatient"),
    )
    assert dict(one["costs"])["snf"] == 2100 + 300  # of the second 1 to 3 April


def test_home_health_by_days_of_its_period() -> None:
    (over,) = found(ANCHOR, line("a", "h", "03-20", 3000, thru="04-18", bill_type="329", claim_type="outpatient"))
    assert dict(over["costs"])["home-health"] == 1500  # 15 of 30 days
    (within,) = found(ANCHOR, line("a", "h", "03-20", 3000, thru="03-28", bill_type="329", claim_type="outpatient"))
    assert dict(within["costs"])["home-health"] == 3000


def test_readmission_by_geometric_mean_length_of_stay() -> None:
    claim = stay("a", "r", "04-02", "04-12", 10000, "871")
    (short,) = found(ANCHOR, claim, tables=days(d871="5.0"))
    assert dict(short["costs"])["readmission"] == 6000  # (2 days + 1) / 5
    (whole,) = found(ANCHOR, claim, tables=days(d871="2.9"))
    assert dict(whole["costs"])["readmission"] == 10000
    (inside,) = found(ANCHOR, stay("a", "r", "03-25", "04-02", 10000, "871"))  # nothing to cut, no days needed
    assert dict(inside["costs"])["readmission"] == 10000


def test_readmission_without_days_is_an_error() -> None:
    with pytest.raises(ContractError, match="1 stays run over the end of an episode, and their 1 MS-DRGs have no row"):
        found(ANCHOR, stay("a", "r", "04-02", "04-12", 10000, "871"), tables=days(d470="2.0"))


def test_days_hold_for_their_year() -> None:
    rows = (
        {"drg": "871", "gmlos": D(5), "start": date(2025, 10, 1), "end": date(2026, 3, 31)},
        {"drg": "871", "gmlos": D(6), "start": date(2026, 4, 1)},
    )
    tables = CostTables(gmlos=table(GMLOS_SCHEMA, *rows))
    (one,) = found(ANCHOR, stay("a", "r", "04-02", "04-12", 10000, "871"), tables=tables)
    assert dict(one["costs"])["readmission"] == 5000


def test_exclusions_by_drg_category_and_drug() -> None:
    excluded = [
        {"id": "trauma", "match": {"mdc": ["24"]}},
        {"id": "oncology", "match": {"drg": ["054-055"]}},
        {"id": "factors", "match": {"procedure": ["J7190"]}, "anchor": True},
        {"id": "implants", "match": {"revenue_code": ["0278"]}},
    ]
    (one,) = found(
        ANCHOR,
        stay("a", "c", "03-01", "03-04", 500, "470", procedure="J7190"),
        stay("a", "c", "03-01", "03-04", 700, "470", revenue_code="278"),  # of the anchor: counts
        stay("a", "r1", "03-15", "03-17", 9000, "956"),
        stay("a", "r2", "03-20", "03-22", 8000, "54"),
        stay("a", "r3", "03-25", "03-27", 7000, "871"),
        exclusions=excluded,
    )
    assert dict(one["excluded"]) == {"factors": 500, "oncology": 8000, "trauma": 9000}
    assert dict(one["costs"]) == {"anchor": 20700, "readmission": 7000}
    assert one["readmissions"] == 1


def test_negative_amounts_take_off() -> None:
    (one,) = found(ANCHOR, line("a", "p", "03-10", 300), line("a", "p2", "03-11", -120))
    assert one["actual"] == 20180
    (cut,) = found(ANCHOR, line("a", "s", "03-25", -3000, thru="04-05", bill_type="211", claim_type="inpatient"))
    assert dict(cut["costs"])["snf"] == D("-2727.27272727")


def test_complications_and_spending_afterwards() -> None:
    (one,) = found(
        ANCHOR,
        stay("a", "r1", "03-15", "03-17", 9000, "862"),
        stay("a", "r2", "04-10", "04-12", 4000, "862"),
        line("a", "p", "04-20", 60),
        line("a", "q", "05-04", 7000),
        complications=[{"drg": ["862-863"]}],
        post_days=30,
    )
    assert (one["complications"], one["after_window"], one["after_complications"]) == (9000, 4060, 4000)


def test_standard_prices() -> None:
    rows = (
        {"factor": D("0.8"), "tin": "100000001"},
        {"factor": D("0.5"), "tin": "100000001", "category": "anchor"},
        {"factor": D("0.1"), "tin": "100000001", "category": "anchor", "end": date(2025, 12, 31)},
    )
    tables = CostTables(standardisation=table(STANDARDISATION_SCHEMA, *rows))
    (one,) = found(ANCHOR, line("a", "p", "03-10", 100), line("a", "x", "03-10", 7, tin="9"), tables=tables)
    assert dict(one["costs"]) == {"anchor": 10000, "other": 87}
    assert (one["spending"], one["actual"]) == (20107, 10087)


def test_milestones_within_their_days() -> None:
    stated = [
        {"id": "intake", "match": {"procedure": ["H0001"]}, "last": 0, "share": D("0.2")},
        {"id": "retained", "match": {"procedure": ["H0004", "H0005"]}, "first": 25, "last": 35, "share": D("0.8")},
    ]
    opened = {"triggers": [{"family": "SUD", "match": {"procedure": ["H0001"]}}], "window": {"days": 90}}
    rows = found(
        line("a", "1", "03-01", 90, procedure="H0001"),
        line("a", "2", "03-28", 60, procedure="H0004"),
        line("b", "1", "03-01", 90, procedure="H0001"),
        line("b", "2", "03-10", 60, procedure="H0004"),
        milestones=stated,
        **opened,
    )
    assert [row["milestones"] for row in rows] == [["intake", "retained"], ["intake"]]


def test_service_lines_are_evidence() -> None:
    rows = (
        ANCHOR,
        line("a", "p", "03-10", 100),
        stay("a", "t", "03-12", "03-13", 5000, "956"),
        line("a", "q", "04-10", 30),
    )
    made = definition(exclusions=[{"id": "trauma", "match": {"mdc": ["24"]}}], post_days=10)
    with duckdb.connect() as connection:
        evidence = services(connection, made, Sources(lines(*rows)), {"performance": YEAR}).to_pylist()
    assert [(row["claim"], row["category"], row["part"], row["exclusion"]) for row in evidence] == [
        ("c", "anchor", "window", None),
        ("p", "other", "window", None),
        ("q", "other", "after", None),
        ("t", "readmission", "excluded", "trauma"),
    ]


def test_medicare_categories() -> None:
    medicare = shipped_definition("team")
    (one,) = found(
        ANCHOR,
        line("a", "1", "03-05", 1, claim_type="inpatient", bill_type="111", revenue_code="0118"),
        line("a", "2", "03-06", 2, claim_type="inpatient", bill_type="211"),
        line("a", "3", "03-07", 4, claim_type="outpatient", bill_type="329"),
        line("a", "4", "03-08", 8, claim_type="outpatient", bill_type="811"),
        stay("a", "5", "03-09", "03-10", 16, "871"),
        line("a", "6", "03-11", 32, claim_type="outpatient", bill_type="131"),
        line("a", "7", "03-12", 64, procedure="E0143"),
        line("a", "8", "03-13", 128, procedure="J1100"),
        line("a", "9", "03-14", 256, procedure="99213"),
        line("a", "0", "03-15", 512, claim_type="pharmacy"),  # Part D is no part of it
        services=[service.model_dump() for service in medicare.services],
    )
    names = ("rehabilitation", "skilled-nursing", "home-health", "hospice", "readmission", "outpatient", "equipment")
    expected = {name: 2**n for n, name in enumerate((*names, "part-b-drugs", "professional"))}
    assert dict(one["costs"]) == expected | {"anchor": 20000}


def test_unknown_list_of_services() -> None:
    with pytest.raises(ValueError, match="there is no list 'other' \\(there are commercial, medicare\\)"):
        Definition.model_validate(definition().model_dump() | {"services": "other"})
    commercial = Definition.model_validate(definition().model_dump() | {"services": "commercial"})
    assert isinstance(commercial.services[0], Service)


def capped(costs: list[int], cap: Cap, given: pa.Table | None = None) -> list[Decimal]:
    rows = [stay(f"m{n:03}", f"c{n}", "03-01", "03-04", cost, "470") for n, cost in enumerate(costs)]
    table_ = pa.Table.from_pylist(found(*rows), schema=EPISODE_SCHEMA)
    with duckdb.connect() as connection:
        found_ = applied(connection, table_, bounds(connection, table_, cap, given), cap)
    amounts: list[Decimal] = found_["capped"].to_pylist()
    return amounts


def test_caps_by_percentile() -> None:
    costs = [n * 100 for n in range(1, 201)]
    amounts = capped(costs, Cap(kind="percentile", low=D("0.01"), high=D("0.99")))
    assert (min(amounts), max(amounts)) == (200, 19800)
    assert sum(amount != cost for amount, cost in zip(amounts, costs, strict=True)) == 3


def test_caps_by_deviations() -> None:
    # mean 200, standard deviation of the population 300: at two of them 800
    amounts = capped([100] * 9 + [1100], Cap(kind="deviations", deviations=D(2)))
    assert amounts == [100] * 9 + [800]


def test_caps_as_given() -> None:
    assert capped([100, 900], Cap(kind="amount", high_amount=D(500))) == [100, 500]
    schema = pa.schema([("price_group", pa.string()), ("low", pa.decimal128(28, 8)), ("high", pa.decimal128(28, 8))])
    rows = [{"low": D(1)}, {"price_group": "470", "low": D(200), "high": D(700)}]
    given = pa.Table.from_pylist(rows, schema=schema)
    assert capped([100, 900], Cap(kind="table", table="caps"), given) == [200, 700]


def test_caps_that_contradict_themselves() -> None:
    assert Cap(kind="percentile").problems("cap") == ["cap.high: is needed for percentile"]
    assert Cap(kind="table").problems("cap") == ["cap.table: is needed for table"]
    assert Cap(kind="percentile", low=D("0.9"), high=D("0.1")).problems("cap") == ["cap.low: not below high"]
