"""Episodes of a population: one table, a row per anchor, those that do not stand with the reason."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from datetime import date
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from fhir_gateway.contracts.episodes.construct import Sources, construct
from fhir_gateway.contracts.episodes.costs import CostTables, add_costs, service_lines
from fhir_gateway.contracts.episodes.definition import AMOUNT, Definition, Initiator

#: A row per candidate whose day falls into one of the periods.
#:
#: ``episode`` numbers all candidates of the run by member, anchor start and claim; ``period`` is the label of its
#: period; ``anchor`` the claim group of the anchor; ``entity`` the initiator (``all`` when the terms name none; null at
#: others'); ``ours`` is false of members who are not on the list and of others' anchors. ``reason`` is null when it
#: stands (:data:`construct.REASONS`), ``first`` the first of the anchors that are one episode, or the episode that this
#: one is a readmission of. Money: ``spending`` as claims say it, ``prorated`` cut at the window's end, ``actual`` at
#: standard prices; ``costs`` is ``actual`` by category, ``excluded`` what was left out by exclusion (as claims say it),
#: ``complications`` the part of ``actual`` that is potentially avoidable, ``after_window`` the spending of the days
#: after the window, ``after_complications`` the avoidable part of that. ``milestones`` are the ids of those reached.
#: Money and counts are null for candidates that are not whole.
EPISODE_SCHEMA = pa.schema(
    [
        ("episode", pa.int64()),
        ("period", pa.string()),
        ("member", pa.string()),
        ("anchor", pa.string()),
        ("family", pa.string()),
        ("price_group", pa.string()),
        ("entity", pa.string()),
        ("npi", pa.string()),
        ("tin", pa.string()),
        ("organization", pa.string()),
        ("anchor_start", pa.date32()),
        ("anchor_end", pa.date32()),
        ("window_start", pa.date32()),
        ("window_end", pa.date32()),
        ("died", pa.date32()),
        ("ours", pa.bool_()),
        ("reason", pa.string()),
        ("first", pa.int64()),
        ("services", pa.int64()),
        ("readmissions", pa.int64()),
        ("milestones", pa.list_(pa.string())),
        ("spending", AMOUNT),
        ("prorated", AMOUNT),
        ("actual", AMOUNT),
        ("complications", AMOUNT),
        ("after_window", AMOUNT),
        ("after_complications", AMOUNT),
        ("costs", pa.map_(pa.string(), AMOUNT)),
        ("excluded", pa.map_(pa.string(), AMOUNT)),
    ]
)

_EPISODES = """
WITH reached AS (
  SELECT s.number, list(DISTINCT m.id ORDER BY m.id) AS milestones
  FROM (SELECT number, window_start, day, unnest(milestone) AS milestone FROM service_line WHERE part = 'window') s
  JOIN milestones m ON m.milestone = s.milestone AND s.day - s.window_start BETWEEN m.first AND m.last
  GROUP BY s.number
)
SELECT e.number AS episode, p.period, e.member, e.claim AS anchor, e.family, e.price_group, e.entity, e.npi, e.tin,
  e.organization, e.anchor_start, e.anchor_end, e.window_start, e.window_end, e.died,
  e.in_population AND e.entity IS NOT NULL AS ours, e.reason, e.first, c.services,
  c.readmissions, CASE WHEN c.number IS NOT NULL THEN coalesce(r.milestones, []) END AS milestones, {money},
  CASE WHEN c.number IS NOT NULL THEN coalesce(c.costs, MAP([]::VARCHAR[], []::DECIMAL(28, 8)[])) END AS costs,
  CASE WHEN c.number IS NOT NULL THEN coalesce(c.excluded, MAP([]::VARCHAR[], []::DECIMAL(28, 8)[])) END AS excluded
FROM episode e JOIN periods p ON e.{day} BETWEEN p.opened AND p.closed
LEFT JOIN cost c USING (number) LEFT JOIN reached r USING (number)
ORDER BY episode, period
"""
_MONEY = ("spending", "prorated", "actual", "complications", "after_window", "after_complications")


def episodes(
    connection: duckdb.DuckDBPyConnection,
    definition: Definition,
    sources: Sources,
    periods: Mapping[str, tuple[date, date]],
    tables: CostTables | None = None,
    initiators: tuple[Initiator, ...] = (),
) -> pa.Table:
    """Episodes (:data:`EPISODE_SCHEMA`) of each period; both days belong to it.

    ``connection`` is one to be made of tables, used for nothing before.
    """
    _run(connection, definition, sources, periods, tables, initiators)
    connection.register(
        "periods",
        pa.table(
            {
                "period": pa.array(periods, pa.string()),
                "opened": pa.array([first for first, _ in periods.values()], pa.date32()),
                "closed": pa.array([last for _, last in periods.values()], pa.date32()),
            }
        ),
    )
    milestones = definition.milestones
    connection.register(
        "milestones",
        pa.table(
            {
                "milestone": pa.array(range(len(milestones)), pa.int32()),
                "id": pa.array([one.id for one in milestones], pa.string()),
                "first": pa.array([one.first for one in milestones], pa.int32()),
                "last": pa.array([one.last for one in milestones], pa.int32()),
            }
        ),
    )
    money = ", ".join(
        f"CASE WHEN c.number IS NOT NULL THEN coalesce(c.{name}, 0) END::DECIMAL(28, 8) AS {name}" for name in _MONEY
    )
    query = _EPISODES.format(money=money, day=definition.period_day)
    return connection.sql(query).to_arrow_table().cast(EPISODE_SCHEMA).combine_chunks()


def services(
    connection: duckdb.DuckDBPyConnection,
    definition: Definition,
    sources: Sources,
    periods: Mapping[str, tuple[date, date]],
    tables: CostTables | None = None,
    initiators: tuple[Initiator, ...] = (),
) -> pa.Table:
    """The claim lines below :func:`episodes` of the same arguments (:data:`~.costs.SERVICE_SCHEMA`)."""
    _run(connection, definition, sources, periods, tables, initiators)
    return service_lines(connection)


def _run(
    connection: duckdb.DuckDBPyConnection,
    definition: Definition,
    sources: Sources,
    periods: Mapping[str, tuple[date, date]],
    tables: CostTables | None,
    initiators: tuple[Initiator, ...],
) -> None:
    span = min(first for first, _ in periods.values()), max(last for _, last in periods.values())
    construct(connection, definition, sources, span, initiators)
    add_costs(connection, definition, tables or CostTables())


def standing(table: pa.Table, period: str | None = None) -> pa.Table:
    """Episodes that stand, of a period."""
    found = table.filter(pc.and_(table["reason"].is_null(), table["entity"].is_valid()))
    return found if period is None else found.filter(pc.equal(found["period"], period))


def digest(table: pa.Table) -> str:
    """SHA-256 of a table of episodes: what a settlement line says it was computed from."""
    plain = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    text = io.BytesIO()
    csv.write_csv(table.select(plain), text)
    return hashlib.sha256(text.getvalue()).hexdigest()


def costs_by_category(table: pa.Table) -> dict[str, Decimal]:
    """Sums of ``costs`` over episodes that stand, by category."""
    with duckdb.connect() as connection:
        connection.register("episodes", table)
        rows = connection.sql(
            "SELECT entry.key, sum(entry.value)::VARCHAR"
            " FROM (SELECT unnest(map_entries(costs)) AS entry FROM episodes) GROUP BY 1 ORDER BY 1"
        ).fetchall()
    return {name: Decimal(amount) for name, amount in rows}
