"""Checks a batch of claims by all edits at once: each edit is one query over the columns of the whole batch.

What is found of a claim depends on the claim and on what is told beside it, not on the batch: other claims of the batch
count as the claims of the history do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files

import duckdb
import numpy as np
import pyarrow as pa

from fhir_gateway.claim_edits.columns import CLAIM_SCHEMA
from fhir_gateway.claim_edits.grounds import GROUNDS
from fhir_gateway.claim_edits.models import (
    ATTRIBUTED_SCHEMA,
    CHECKED_SCHEMA,
    COVERAGE_SCHEMA,
    DENIED_SCHEMA,
    FINDING_SCHEMA,
    PATIENT_SCHEMA,
    UNCHECKED_SCHEMA,
    UNCLEAN,
    Checked,
    Context,
    Edit,
)
from fhir_gateway.claim_edits.registry import chosen
from fhir_gateway.claim_edits.tables import TableStore
from fhir_gateway.lake.claims import DIRECTORY_SCHEMA, macros


@cache
def _sections() -> Mapping[str, str]:
    text = files(__package__).joinpath("claims.sql").read_text(encoding="utf-8")
    return {name.strip(): body for name, body in (part.split("\n", 1) for part in text.split("-- section:")[1:])}


def check(
    claims: pa.Table,
    context: Context | None = None,
    tables: TableStore | None = None,
    names: Iterable[str] | None = None,
    threads: int = 1,
) -> Checked:
    """Check claims (:data:`CLAIM_SCHEMA`) by the edits that ``names`` mean, by default all.

    Rows of the answer are numbered as ``claims`` is; findings are sorted by claim, edit and path. Keeps nothing: any
    thread may call it.
    """
    context = context or Context()
    edits = chosen(names)
    with duckdb.connect(config={"threads": threads}) as connection:
        used = _prepare(connection, claims, context, tables)
        absent = _find_lacking(connection, edits)
        connection.execute("CREATE TABLE finding (rid BIGINT, edit VARCHAR, path VARCHAR, other VARCHAR)")
        for edit in edits:
            if absent.isdisjoint(_hard(edit)):
                _find(connection, edit)
        return _answer(connection, edits, used)


def _prepare(
    connection: duckdb.DuckDBPyConnection, claims: pa.Table, context: Context, tables: TableStore | None
) -> Sequence[str]:
    past = CLAIM_SCHEMA.empty_table() if context.history is None else context.history
    # of a claim that is sent anew, what it says now counts
    both = pa.concat_tables([claims.select(CLAIM_SCHEMA.names), past.select(CLAIM_SCHEMA.names)])
    rows = both.append_column("rid", pa.array(np.arange(both.num_rows, dtype=np.int64)))
    current = np.arange(both.num_rows) < claims.num_rows
    connection.register("given_rows", rows.append_column("current", pa.array(current)))
    connection.execute(
        "CREATE VIEW claim_rows AS SELECT * FROM given_rows"
        " WHERE current OR key NOT IN (SELECT key FROM given_rows WHERE current AND key IS NOT NULL)"
    )
    for name, table, schema in (
        ("directory_rows", context.directory, DIRECTORY_SCHEMA),
        ("patients", context.patients, PATIENT_SCHEMA),
        ("coverages", context.coverages, COVERAGE_SCHEMA),
        ("attributed", context.attributed, ATTRIBUTED_SCHEMA),
        ("denied", context.denied, DENIED_SCHEMA),
    ):
        connection.register(name, schema.empty_table() if table is None else table)
    connection.execute(
        "CREATE TABLE directory AS SELECT reference, min(npi) AS npi, min(tin) AS tin FROM directory_rows GROUP BY 1"
    )
    connection.execute("CREATE TABLE submission AS SELECT ?::DATE AS day", [context.submitted])
    for name, known in (("attribution", context.attributed), ("history", context.history)):
        connection.execute(f"SET VARIABLE {name} = {known is not None}")
    connection.execute(macros())
    connection.execute(_sections()["macros"])
    used = (tables or TableStore(None)).attach(connection)
    connection.execute(_sections()["claims"])
    connection.execute(
        "CREATE TABLE days AS SELECT DISTINCT c.rid, coalesce(l.service_from, c.period_from) AS day"
        " FROM c LEFT JOIN l USING (rid)"
    )
    return used


def _find_lacking(connection: duckdb.DuckDBPyConnection, edits: Sequence[Edit]) -> set[str]:
    """Write down which claims lack which grounds; returns the grounds that every claim lacks."""
    connection.execute("CREATE TABLE lacking (rid BIGINT, ground VARCHAR)")
    for name in dict.fromkeys(["claim", *(one for edit in edits for one in edit.needs)]):
        query = f"INSERT INTO lacking SELECT DISTINCT rid, ? FROM ({GROUNDS[name].lacking})"  # noqa: S608  # our own
        connection.execute(query, [name])
    absent = connection.execute(
        "SELECT ground FROM lacking GROUP BY ground HAVING count(*) = (SELECT count(*) FROM claim WHERE current)"
    )
    return {name for (name,) in absent.fetchall()}


def _hard(edit: Edit) -> list[str]:
    return ["claim", *(name for name in edit.needs if not GROUNDS[name].partial)]


def _find(connection: duckdb.DuckDBPyConnection, edit: Edit) -> None:
    """Findings of an edit, but for claims that lack a ground of it and days on which it does not hold."""
    first, last = edit.effective
    query = f"""
        INSERT INTO finding SELECT DISTINCT f.rid, ?, f.path, f.other FROM ({edit.query}) f JOIN c USING (rid)
        WHERE f.rid NOT IN (SELECT rid FROM lacking WHERE list_contains(?, ground))
          AND coalesce(c.period_from >= ?, TRUE) AND coalesce(c.period_from <= ?, TRUE)"""  # noqa: S608  # our own queries
    connection.execute(query, [edit.id, _hard(edit), first, last])


def _answer(connection: duckdb.DuckDBPyConnection, edits: Sequence[Edit], used: Sequence[str]) -> Checked:
    unclean = [edit.id for edit in edits if edit.severity in UNCLEAN]
    claims = connection.sql(
        """
        SELECT rid, key, member, npi AS provider, coalesce(insurers[1], focal.coverage.display) AS payer,
          line_count AS lines, rid NOT IN (SELECT rid FROM finding WHERE list_contains(?, edit)) AS clean
        FROM claim WHERE current ORDER BY rid""",
        params=[unclean],
    ).to_arrow_table()
    order = {edit.id: number for number, edit in enumerate(edits)}
    connection.register("edit_order", pa.table({"edit": [*order], "n": pa.array(order.values(), pa.int64())}))
    findings = connection.sql(
        "SELECT rid, edit, path, other FROM finding JOIN edit_order USING (edit) ORDER BY rid, n, path, other"
    ).to_arrow_table()
    unchecked = connection.sql("SELECT rid, ground FROM lacking ORDER BY rid, ground").to_arrow_table()
    return Checked(
        claims.cast(CHECKED_SCHEMA), findings.cast(FINDING_SCHEMA), unchecked.cast(UNCHECKED_SCHEMA), tuple(used)
    )
