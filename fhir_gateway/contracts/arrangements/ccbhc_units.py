"""Person days and person months with a qualifying service: counted in columns, out of claim lines or encounter rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from fhir_gateway.contracts.arrangements.facts import AMOUNT
from fhir_gateway.contracts.service_categories import one_of
from fhir_gateway.errors import ContractError

#: Columns of claim lines that are looked at.
LINE_COLUMNS = ("service_from", "procedure", "tin", "denied", "allowed", "paid")
#: A row per encounter; ``crisis`` names a crisis service (without a rate of its own it is a service like others),
#: ``population`` overrides the table of populations.
ENCOUNTERS_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), False),
        pa.field("day", pa.date32(), False),
        pa.field("crisis", pa.string()),
        pa.field("population", pa.string()),
        pa.field("cost", AMOUNT),
    ]
)
#: Who belongs to a special population, from when until when (both days belong to it; no end: still).
POPULATIONS_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), False),
        pa.field("population", pa.string(), False),
        pa.field("start", pa.date32(), False),
        pa.field("end", pa.date32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where services come from: claim lines, or encounters when they are given; of these members, in this period."""

    lines: pa.Table
    encounters: pa.Table | None
    populations: pa.Table | None
    members: pa.Table | None
    period: tuple[date, date]


@dataclass(frozen=True, slots=True)
class Rules:
    """What qualifies, and how it is counted."""

    monthly: bool
    services: Sequence[str]
    crisis_services: Mapping[str, str]
    covered: Sequence[str]
    per_diem_codes: Sequence[str]
    tins: Sequence[str]
    rated: Sequence[str]
    crises: Sequence[str]
    crisis_with_standard: bool
    outlier: Decimal | None


@dataclass(frozen=True, slots=True)
class Units:
    """Units by population and by crisis service, and amounts beside them."""

    standard: Mapping[str, int]
    crisis: Mapping[str, int]
    outlier_cost: Decimal
    outlier_months: int
    per_diem_paid: Decimal
    per_diem_lines: int
    service_paid: Decimal
    service_lines: int


_MINE = """
CREATE TABLE mine AS
SELECT _member AS member, service_from AS day, procedure, coalesce(allowed, 0) AS cost, coalesce(paid, 0) AS paid
FROM lines
WHERE service_from BETWEEN $start AND $end AND NOT coalesce(denied, FALSE) AND list_contains($tins, tin)
  AND ($everybody OR _member IN (SELECT member FROM members))
"""
_ENCOUNTERED = """
CREATE TABLE services AS
SELECT member, day, CASE WHEN list_contains($crises, crisis) THEN crisis END AS crisis, population,
  coalesce(cost, 0) AS cost
FROM encounters
WHERE day BETWEEN $start AND $end AND ($everybody OR member IN (SELECT member FROM members))
"""
#: The population of a unit is that of its first day with a service; of two on a day, the one that began later.
_UNITS = """
CREATE TABLE units AS
WITH dated AS (
  SELECT *, CASE WHEN $monthly THEN date_trunc('month', day)::DATE ELSE day END AS unit FROM services
), placed AS (
  SELECT dated.member, unit, crisis, day,
    coalesce(arg_max(p.population, (p.start, p.population)), any_value(dated.population)) AS listed,
    any_value(dated.population) AS stated
  FROM dated LEFT JOIN populations p
    ON p.member = dated.member AND dated.day >= p.start AND dated.day <= coalesce(p."end", DATE '9999-12-31')
  GROUP BY dated.member, unit, crisis, day
)
SELECT member, unit, count(crisis) > 0 AS has_crisis, bool_or(crisis IS NULL) AS has_other,
  arg_min(coalesce(stated, listed, ''), (day, coalesce(stated, listed, ''))) AS population
FROM placed GROUP BY member, unit
"""


def count_units(sources: Sources, rules: Rules) -> Units:
    """Each person and day (or month) once, whoever of the clinic's organizations served, however many services."""
    start, end = sources.period
    window = {"start": start, "end": end, "everybody": sources.members is None}
    with duckdb.connect() as connection:
        connection.register("lines", sources.lines)
        connection.register("members", sources.members if sources.members is not None else _empty("member"))
        populations = sources.populations
        connection.register("populations", POPULATIONS_SCHEMA.empty_table() if populations is None else populations)
        connection.execute(_MINE, window | {"tins": list(rules.tins)})
        if sources.encounters is not None:
            connection.register("encounters", sources.encounters)
            connection.execute(_ENCOUNTERED, window | {"crises": list(rules.crises)})
        else:
            _claimed(connection, rules)
        connection.execute(_UNITS, {"monthly": rules.monthly})
        return _fetch(connection, rules)


def _claimed(connection: duckdb.DuckDBPyConnection, rules: Rules) -> None:
    """Create ``services`` out of claim lines; of the crisis services that a code is of, the first counts."""
    values: dict[str, Any] = {}
    whens = []
    for number, (code, crisis) in enumerate(rules.crisis_services.items()):
        whens.append(f"WHEN {one_of('procedure', [code], values, 'crisis')} THEN $name{number}")
        values[f"name{number}"] = crisis
    crisis = f"CASE {' '.join(whens)} END" if whens else "NULL::VARCHAR"
    connection.execute(
        f"""
        CREATE TABLE services AS
        SELECT member, day, crisis, NULL::VARCHAR AS population, cost
        FROM (SELECT *, {crisis} AS crisis FROM mine)
        WHERE {one_of("procedure", rules.services, values, "service")} OR crisis IS NOT NULL
        """,  # noqa: S608 codes are parameters
        values,
    )


def _fetch(connection: duckdb.DuckDBPyConnection, rules: Rules) -> Units:
    standard = connection.execute(
        """
        SELECT CASE WHEN list_contains($rated, population) THEN population ELSE 'standard' END AS name, count(*)
        FROM units WHERE has_other AND ($both OR NOT has_crisis) GROUP BY name
        """,
        {"rated": list(rules.rated), "both": rules.crisis_with_standard},
    ).fetchall()
    crisis = connection.execute(
        """
        SELECT crisis, count(DISTINCT (member, CASE WHEN $monthly THEN date_trunc('month', day)::DATE ELSE day END))
        FROM services WHERE crisis IS NOT NULL GROUP BY crisis
        """,
        {"monthly": rules.monthly},
    ).fetchall()
    outlier = connection.execute(
        """
        SELECT coalesce(sum(cost - $threshold), 0)::DECIMAL(38, 8), count(*) FROM (
          SELECT sum(cost) AS cost FROM services GROUP BY member, date_trunc('month', day)
        ) WHERE cost > $threshold
        """,
        {"threshold": None if rules.outlier is None else rules.outlier.quantize(Decimal("1e-8"))},
    ).fetchone()
    paid = [_paid(connection, codes) for codes in (rules.per_diem_codes, rules.covered)]
    if outlier is None:
        raise ContractError("units: nothing could be counted")
    (per_diem, per_diem_lines), (service, service_lines) = paid
    return Units(
        standard=dict(standard),
        crisis=dict(crisis),
        outlier_cost=outlier[0],
        outlier_months=outlier[1],
        per_diem_paid=per_diem,
        per_diem_lines=per_diem_lines,
        service_paid=service,
        service_lines=service_lines,
    )


def _paid(connection: duckdb.DuckDBPyConnection, codes: Sequence[str]) -> tuple[Decimal, int]:
    values: dict[str, Any] = {}
    row = connection.execute(
        "SELECT coalesce(sum(paid), 0)::DECIMAL(38, 8), count(*) FROM mine"  # noqa: S608 codes are parameters
        f" WHERE {one_of('procedure', codes, values, 'paid')} AND paid <> 0",
        values,
    ).fetchone()
    if row is None:
        raise ContractError("units: nothing could be counted")
    return row[0], row[1]


def _empty(name: str) -> pa.Table:
    return pa.table({name: pa.array([], pa.string())})
