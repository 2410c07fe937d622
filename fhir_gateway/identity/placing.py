"""Work out anew who is who around some patients, and write what is different: persons, changes, reviews.

Everything that changes persons comes through here: patients that arrive, decisions, and matches of the linkage.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa
from sqlalchemy.engine import Connection

from fhir_gateway.identity import store
from fhir_gateway.identity.partition import LINKAGE, partition

# A person's id is the hash of its first patient, so that a patient id that is only referred to already has one.
PERSON = "'p' || left(sha256({source} || chr(31) || {id}), 16)"

_ARRIVING = """
CREATE TEMP TABLE changed AS
SELECT coalesce(s.number, $first + row_number() OVER (PARTITION BY s.number IS NULL ORDER BY i.id) - 1) AS number,
    i.id, i.birth_date, i.gender, i.fingerprint, s.number IS NOT NULL AS known, s.person
FROM incoming i LEFT JOIN stored s USING (id) WHERE i.fingerprint IS DISTINCT FROM s.fingerprint;

CREATE TEMP TABLE changed_key AS
SELECT c.number, k.system, k.key FROM incoming_key k JOIN changed c USING (id);
"""

_NOBODY_ARRIVES = """
CREATE TEMP TABLE changed (number BIGINT, id VARCHAR, birth_date VARCHAR, gender VARCHAR, fingerprint VARCHAR,
    known BOOLEAN, person VARCHAR);

CREATE TEMP TABLE changed_key (number BIGINT, system VARCHAR, key VARCHAR);
"""

_TOGETHER = """
CREATE TEMP TABLE patient AS
SELECT number, source, id, person, birth_date, gender FROM near_patient WHERE number NOT IN (SELECT number FROM changed)
UNION ALL SELECT number, $source, id, person, birth_date, gender FROM changed;

CREATE TEMP TABLE key AS
SELECT number, system, key FROM near_key WHERE number NOT IN (SELECT number FROM changed)
UNION ALL SELECT number, system, key FROM changed_key;
"""

# A component keeps the person whose first patient it holds, of several the one assigned first. Else the person comes
# back that once was there and whose first patient it holds; else it is a new person.
_PERSONS = f"""
CREATE TEMP TABLE owner AS
SELECT c.component, n.person, n.living,
    row_number() OVER (PARTITION BY c.component ORDER BY n.living DESC, n.born, n.person) AS rank
FROM near_person n JOIN component c ON c.number = n.anchor;

CREATE TEMP TABLE outcome AS
WITH named AS (
    SELECT c.component, arg_min(p.number, (p.source, p.id)) AS anchor,
        {PERSON.format(source="min((p.source, p.id))[1]", id="min((p.source, p.id))[2]")} AS person
    FROM patient p JOIN component c USING (number) GROUP BY c.component
)
SELECT n.component, n.anchor, coalesce(o.person, n.person) AS person, o.living IS NOT TRUE AS made
FROM named n LEFT JOIN owner o ON o.component = n.component AND o.rank = 1;

CREATE TEMP TABLE placed AS
SELECT p.number, p.person AS before, o.person AS person
FROM patient p JOIN component USING (number) JOIN outcome o USING (component);

CREATE TEMP TABLE merge AS
SELECT o.person, r.person AS other FROM owner r JOIN outcome o USING (component) WHERE r.rank > 1 AND r.living;
"""  # noqa: S608  # made of the constant above

_CHANGES = f"""
SELECT 'merge' AS kind, m.person, m.other, string_agg(DISTINCT l.system, ', ' ORDER BY l.system) AS reason,
    max(l.evidence) AS evidence, to_json(any_value(w.patients))::VARCHAR AS patients
FROM merge m JOIN (
    SELECT y.person, l.system, t.evidence
    FROM link l JOIN placed x ON x.number = l.a JOIN placed y ON y.number = l.b
    LEFT JOIN matched t ON l.system = '{LINKAGE}' AND t.a = l.a AND t.b = l.b
    WHERE x.before IS DISTINCT FROM y.before AND x.person = y.person
) l USING (person)
LEFT JOIN (
    SELECT before, person, list(number ORDER BY number) AS patients FROM placed GROUP BY before, person
) w ON w.before = m.other AND w.person = m.person
GROUP BY m.person, m.other
UNION ALL
SELECT 'split', before, person, 'nothing links its patients any longer', NULL, to_json(list(number ORDER BY number))
FROM placed WHERE before <> person AND (person, before) NOT IN (SELECT (person, other) FROM merge)
GROUP BY before, person
ORDER BY ALL
"""  # noqa: S608  # made of the constants above

_REVIEWS = """
WITH found AS (
    SELECT 'birthDate' AS rule, system, a, b FROM pair WHERE birth_differs AND NOT apart
    UNION SELECT 'gender', system, a, b FROM pair WHERE gender_differs AND NOT apart
    UNION SELECT 'chain', system, a, b FROM dropped
), named AS (
    SELECT f.rule, f.system, x.source, x.id AS patient_id, y.source AS other_source, y.id AS other_patient_id,
        2 AS patients, '' AS key
    FROM found f JOIN patient x ON x.number = f.a JOIN patient y ON y.number = f.b
    JOIN component c ON c.number = f.a JOIN component d ON d.number = f.b WHERE c.component <> d.component
    UNION ALL
    SELECT 'shared-identifier', system, source, NULL, NULL, NULL, patients, key FROM overshared
)
SELECT left(sha256(concat_ws(chr(31), rule, system, source, coalesce(patient_id, ''), coalesce(other_source, ''),
    coalesce(other_patient_id, ''), key)), 32) AS digest, * EXCLUDE (key)
FROM named ORDER BY digest
"""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes persons, and why, for their history; nobody: a rule does, and says why itself."""

    by: str | None = None
    reason: str | None = None


def arriving(work: duckdb.DuckDBPyConnection, connection: Connection) -> int:
    """Find who of ``incoming`` is new or changed (against ``stored``); returns how many."""
    first, _ = store.next_numbers(connection)
    run(work, _ARRIVING, first=first)
    return int(column(work, "SELECT count(*) FROM changed", pa.int64())[0].as_py())


def nobody_arrives(work: duckdb.DuckDBPyConnection) -> None:
    """Make the tables that :func:`arriving` makes, empty."""
    run(work, _NOBODY_ARRIVES)


def place(
    work: duckdb.DuckDBPyConnection,
    connection: Connection,
    *,
    now: str,
    max_per_source: int,
    source: str = "",
    around: pa.Array | None = None,
    actor: Actor | None = None,
) -> None:
    """Place the ``changed`` patients of ``source`` and those numbered in ``around``, with all linked to them."""
    _, born = store.next_numbers(connection)
    known = column(work, "SELECT number FROM changed WHERE known", pa.int64())
    keys = column(work, "SELECT DISTINCT key FROM changed_key", pa.string())
    seeds = known if around is None else pa.concat_arrays([known, around.cast(pa.int64())])
    near = store.neighbourhood(connection, seeds, keys)
    for name, rows in (
        ("near_patient", near.patients),
        ("near_key", near.keys),
        ("near_person", near.persons),
        ("decided", near.decided),
        ("matched", near.matched),
    ):
        work.register(name, rows)
    run(work, _TOGETHER, source=source)
    partition(work, max_per_source)
    run(work, _PERSONS)

    placed = table(
        work,
        "SELECT number, '' AS source, id, p.person, birth_date, gender, fingerprint "
        "FROM changed JOIN placed p USING (number) ORDER BY number",
    )
    placed = placed.set_column(1, "source", pa.array([source] * len(placed), pa.string()))
    store.replace_patients(connection, placed, table(work, "SELECT number, key, system FROM changed_key"), known)
    moved = "SELECT number, person FROM placed WHERE before <> person AND number NOT IN (SELECT number FROM changed)"
    store.move_patients(connection, table(work, moved))
    made = table(work, f"SELECT person, anchor, {born} AS born FROM outcome WHERE made")  # noqa: S608  # an integer
    store.write_persons(connection, made, table(work, "SELECT person, other FROM merge"))
    actor = actor or Actor()
    changes = [
        row | {"changed_at": now, "by": actor.by, "reason": actor.reason or row["reason"]}
        for row in table(work, _CHANGES).to_pylist()
    ]
    store.write_changes(connection, changes)
    store.write_reviews(connection, table(work, _REVIEWS), now)
    looked_at = table(work, "SELECT DISTINCT source, id FROM patient")
    store.close_reviews(connection, looked_at, table(work, f"SELECT digest FROM ({_REVIEWS})")["digest"])  # noqa: S608


def run(work: duckdb.DuckDBPyConnection, script: str, **parameters: object) -> None:
    """Execute the statements of a script, each with the parameters that it names."""
    for statement in script.split(";\n"):
        if statement.strip():
            work.execute(statement, {name: value for name, value in parameters.items() if f"${name}" in statement})


def table(work: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """The rows of a query."""
    return work.sql(query).to_arrow_table()


def column(work: duckdb.DuckDBPyConnection, query: str, arrow_type: pa.DataType) -> pa.Array:
    """The one column of a query."""
    return table(work, query).column(0).combine_chunks().cast(arrow_type)
