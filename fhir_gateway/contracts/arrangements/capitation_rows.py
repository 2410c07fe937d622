"""Capitation as rows: each member month with its cell, rate and factor; add-ons; kick payments; what was posted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution import ledger
from fhir_gateway.contracts.arrangements.capitation_terms import (
    POSTED_SCHEMA,
    AddOn,
    GeoTerms,
    KickPayment,
    RetroTerms,
    RiskTerms,
)
from fhir_gateway.contracts.audit import AMOUNT, AUDIT_SCHEMA, connect, newest, places, text
from fhir_gateway.contracts.cells import CellTerms, find_cells
from fhir_gateway.contracts.events import spaced_events
from fhir_gateway.contracts.service_categories import matching
from fhir_gateway.errors import ContractError

ONE, ZERO = Decimal(1), Decimal(0)


@dataclass(frozen=True, slots=True)
class Risk:
    """What risk adjustment did: mean score by member months, base of normalisation, sums without and with it."""

    mean: Decimal
    base: Decimal
    unadjusted: Decimal
    interim: Decimal
    keeps_sum: bool


def price(
    tables: Mapping[str, pa.Table],
    months: pa.Table,
    people: pa.Table,
    cells: CellTerms,
    geo: GeoTerms | None,
    risk: RiskTerms | None,
    add_ons: Sequence[AddOn],
    where: str,
) -> tuple[pa.Table, Risk | None]:
    """Audit rows of rates (rule ``base``) and add-ons of all member months."""
    with connect(months=months, people=people.select(["member", "birth_date", "gender"])) as connection:
        connection.register("rates", tables[cells.table])
        if cells.attributes:
            connection.register("member_attributes", tables[cells.attributes_table])
        find_cells(connection, cells, f"{where}.cells")
        _geo(connection, tables, geo, where)
        found = _risk(connection, tables, risk, where)
        selects = [
            "SELECT member, month, 'base' AS rule, cell, months AS quantity, coalesce(rate, 0) AS rate, factor,"
            " amount_of(months, coalesce(rate, 0), factor) AS amount,"
            " CASE WHEN cell IS NULL THEN 'unpaid' ELSE 'paid' END AS status,"
            " CASE WHEN cell IS NULL THEN 'no-cell' END AS reason FROM factored"
        ]
        values: dict[str, Any] = {}
        for number, add_on in enumerate(add_ons):
            condition = "months > 0"
            for name, value in sorted(add_on.where.items()):
                values[f"a{number}_{name}"] = value
                condition += f" AND {text(name)} = $a{number}_{name}"
            values[f"pmpm{number}"] = places(add_on.pmpm)
            selects.append(
                f"SELECT member, month, 'add-on.{add_on.id}', cell, months, $pmpm{number}::DECIMAL(28, 8), 1,"  # noqa: S608
                f" amount_of(months, $pmpm{number}, 1), 'paid', NULL FROM factored WHERE {condition}"
            )
        rows = connection.sql(" UNION ALL ".join(selects), params=values).to_arrow_table()
    return rows.cast(AUDIT_SCHEMA), found


def _geo(
    connection: duckdb.DuckDBPyConnection, tables: Mapping[str, pa.Table], geo: GeoTerms | None, where: str
) -> None:
    """Create the view ``placed``: ``celled`` with ``geo``."""
    if geo is None or geo.attribute is None:
        factor = ONE if geo is None or geo.factor is None else geo.factor
        connection.execute(
            f"CREATE TEMP VIEW placed AS SELECT *, {places(factor):f}::DECIMAL(28, 8) AS geo FROM celled"  # noqa: S608 a number
        )
        return
    connection.register("areas", tables[geo.table])
    area = f"c.{text(geo.attribute)} = a.area"
    twice, without = connection.execute(
        "SELECT (SELECT count(*) - count(DISTINCT area) FROM areas),"  # noqa: S608
        f" (SELECT count(*) FROM celled c ANTI JOIN areas a ON {area} WHERE c.cell IS NOT NULL)"
    ).fetchall()[0]
    if twice:
        raise ContractError(f"{where}.geo: tables.{geo.table}: an area is there twice")
    if without:
        raise ContractError(f"{where}.geo: tables.{geo.table}: there are member months whose area has no factor")
    connection.execute(
        "CREATE TEMP VIEW placed AS SELECT c.*, coalesce(a.factor, 1)::DECIMAL(28, 8) AS geo"  # noqa: S608
        f" FROM celled c LEFT JOIN areas a ON {area}"
    )


def _risk(
    connection: duckdb.DuckDBPyConnection, tables: Mapping[str, pa.Table], risk: RiskTerms | None, where: str
) -> Risk | None:
    """Create ``factored``: member months with the product of geography and risk as ``factor``."""
    if risk is None:
        connection.execute("CREATE TEMP VIEW factored AS SELECT *, geo::DECIMAL(38, 16) AS factor FROM placed")
        return None
    connection.register("scores", tables[risk.table])
    _one_score(connection, risk, where)
    score = "t.score"
    if risk.change_cap is not None:
        low, high = (
            f"(t.previous * {places(edge):f}::DECIMAL(10, 8))::DECIMAL(28, 8)"
            for edge in (ONE - risk.change_cap, ONE + risk.change_cap)
        )
        score = f"CASE WHEN t.previous IS NULL THEN t.score ELSE least(greatest(t.score, {low}), {high}) END"
    connection.execute(
        f"""
        CREATE TEMP TABLE scored AS SELECT m.*, coalesce({score}, $missing)::DECIMAL(28, 8) AS score
        FROM {newest(connection, "placed", "scores", "m.month", "month", risk.lag_months)}
        """,  # noqa: S608 numbers are spliced in
        {"missing": None if risk.missing is None else places(risk.missing)},
    )
    connection.execute("DROP VIEW placed; DROP TABLE celled")  # a row per member month
    neutral, interim = risk.normalise == "budget_neutral", places(risk.interim_factor or ONE)
    at_interim = f"amount_of(months, rate, (geo * {interim:f}::DECIMAL(28, 8))::DECIMAL(38, 16))"
    without, months, weighted, unadjusted, adjusted, before = connection.execute(
        f"""
        SELECT count(*) FILTER (score IS NULL), coalesce(sum(months), 0), coalesce(sum(months * score), 0),
          coalesce(sum(amount_of(months, rate, geo)), 0),
          coalesce(sum({"amount_of(months, rate, geo) * score" if neutral else "0"}), 0),
          coalesce(sum({at_interim if risk.interim_factor is not None else "0"}), 0)
        FROM scored WHERE cell IS NOT NULL
        """  # noqa: S608 a number
    ).fetchall()[0]
    if without:
        raise ContractError(f"{where}.risk: tables.{risk.table}: there are members without a score")
    base = risk.reference or ONE
    if neutral and unadjusted:
        if not adjusted:
            raise ContractError(f"{where}.risk: tables.{risk.table}: all scores are zero, nothing can keep the sum")
        base = adjusted / unadjusted
    inverse = interim if risk.stage == "interim" else (ONE / base).quantize(Decimal("1e-16"))
    score = "1" if risk.stage == "interim" else "score"
    connection.execute(
        f"CREATE TEMP VIEW factored AS SELECT *, ((geo * coalesce({score}, 1)::DECIMAL(28, 8))::DECIMAL(38, 16)"  # noqa: S608
        f" * {inverse:f}::DECIMAL(22, 16))::DECIMAL(38, 16) AS factor FROM scored"
    )
    return Risk(weighted / months if months else ONE, base, unadjusted, before, neutral and risk.stage == "final")


def _one_score(connection: duckdb.DuckDBPyConnection, risk: RiskTerms, where: str) -> None:
    twice = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM scores GROUP BY member, month HAVING count(*) > 1)"
    ).fetchall()[0][0]
    if twice:
        raise ContractError(f"{where}.risk: tables.{risk.table}: a member has two scores of one month")


def kick_rows(
    lines: pa.Table, months: pa.Table, kicks: Sequence[KickPayment], period: tuple[date, date]
) -> pa.Table | None:
    """Audit rows of kick payments: events of members in a month that counts. Earlier events hold later ones back."""
    if not kicks:
        return None
    tables = []
    with connect(lines=lines, months=months) as connection:
        for number, kick in enumerate(kicks):
            values: dict[str, Any] = {}
            condition = matching(kick, values, "k")
            connection.execute(
                f"CREATE TEMP TABLE events{number} AS SELECT DISTINCT _member AS member, service_from AS day FROM lines"  # noqa: S608
                f" WHERE NOT denied AND service_from <= $end AND {condition}",
                {**values, "end": period[1]},
            )
            tables.append(
                connection.sql(
                    f"""
                    SELECT member, month, 'kick.{kick.id}' AS rule, NULL::VARCHAR AS cell, 1 AS quantity,
                      $amount::DECIMAL(28, 8) AS rate, 1 AS factor, $amount::DECIMAL(28, 8) AS amount,
                      'paid' AS status, NULL::VARCHAR AS reason
                    FROM ({spaced_events(f"events{number}", ("member",), kick.every_months)}) JOIN months USING (member)
                    WHERE month = date_trunc('month', day) AND months > 0 AND day BETWEEN $start AND $end
                    """,  # noqa: S608 the id is checked by its terms
                    params={"amount": places(kick.amount), "start": period[0], "end": period[1]},
                )
                .to_arrow_table()
                .cast(AUDIT_SCHEMA)
            )
    return pa.concat_tables(tables)


def post_differences(rows: pa.Table, posted: pa.Table, retro: RetroTerms) -> pa.Table:
    """Audit rows of this cycle: what differs from what was posted, at the rate of its month (the member-month ledger).

    A rate, cell or factor that changed is taken back and posted anew. What was flagged as too late before is not
    flagged again.
    """
    cells = ["cell", "rate", "factor"]
    keys = ["member", "month", *cells]
    found = []
    rows = rows.filter(pc.equal(rows["status"], "paid"))
    rules = sorted({*rows["rule"].unique().to_pylist(), *posted["rule"].unique().to_pylist()})
    for rule in rules:
        now = _of_rule(rows, rule, keys)
        history = _history(posted.filter(pc.equal(posted["rule"], rule)), keys)
        new = ledger.post(history, now, retro.cycle, retro.window_months)
        found.append(new.append_column("rule", pa.array([rule] * new.num_rows, pa.string())))
    if not found:
        return AUDIT_SCHEMA.empty_table()
    with connect(posted_now=pa.concat_tables(found)) as connection:
        return (
            connection.sql(
                """
                SELECT member, month, rule, cell,
                  CASE WHEN kind = 'outside_window' THEN outside ELSE months END AS quantity, rate, factor,
                  CASE WHEN kind = 'outside_window' THEN 0 ELSE amount_of(months, rate, factor) END AS amount,
                  CASE kind WHEN 'original' THEN 'paid' ELSE kind END AS status,
                  CASE kind WHEN 'adjustment' THEN 'retroactive' WHEN 'outside_window' THEN 'retro-window' END AS reason
                FROM posted_now ORDER BY rule, member, month, quantity
                """
            )
            .to_arrow_table()
            .cast(AUDIT_SCHEMA)
        )


def posted_with(posted: pa.Table, rows: pa.Table, cycle: date) -> pa.Table:
    """What is posted after a cycle (:data:`POSTED_SCHEMA`): all rows of before, and those of the cycle that count."""
    new = rows.filter(pc.not_equal(rows["status"], "unpaid"))
    new = new.append_column("cycle", pa.repeat(pa.scalar(cycle, pa.date32()), new.num_rows))
    schema = pa.schema([field.with_nullable(True) for field in POSTED_SCHEMA])
    return pa.concat_tables([posted.select(schema.names).cast(schema), new.select(schema.names).cast(schema)])


def _history(posted: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Rows of earlier cycles as the member-month ledger has them."""
    late = pc.fill_null(pc.equal(posted["status"], "outside_window"), False)
    nothing = pa.repeat(ZERO, posted.num_rows).cast(AMOUNT)
    columns = {name: posted[name] for name in keys}
    columns["months"] = pc.if_else(late, nothing, posted["quantity"])
    columns["outside"] = pc.if_else(late, posted["quantity"], nothing)
    columns["cycle"] = posted["cycle"]
    columns["kind"] = pc.if_else(late, pa.scalar("outside_window"), pa.scalar("original"))
    return pa.table(columns)


def _of_rule(table: pa.Table, rule: str, keys: Sequence[str]) -> pa.Table:
    chosen = table.filter(pc.equal(table["rule"], rule))
    return chosen.select([*keys, "quantity"]).rename_columns([*keys, "months"])
