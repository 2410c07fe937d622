"""Patients to persons: connected components over shared identifiers, decisions, and probable matches.

The partition is a function of the patients, their match keys, the decisions and the matches alone, whatever order they
came in:

1. A key that more than ``max_per_source`` patients of one source share links nobody.
2. A key shared by two patients whose birthDate or gender contradict links nobody; the pairs go to review.
3. Patients that somebody decided are one person are linked, and no longer contradict each other. Between patients that
   somebody decided are different persons there is no link.
4. Persons are the connected components of the links that remain. A probable match links as an identifier does, unless
   the two contradict each other.
5. Where such a component still holds a contradiction (a patient without birthDate between two that differ) or two that
   are decided to be different, its weaker links go, in this order, until it holds none: probable matches; identifiers
   shared by patients of different birthDate or gender; all identifiers. What went is for review.

A birthDate contradicts another when neither is a prefix of the other: ``1950`` agrees with ``1950-03``. An absent or
``unknown`` gender agrees with any. Patients decided to be one agree with whomever one of them agrees with.
"""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

#: Names under which links that are no identifiers stand among the systems.
DECIDED, LINKAGE = "decision", "linkage"

_BIRTH_DIFFERS = "(starts_with({x}.birth_date, {y}.birth_date) OR starts_with({y}.birth_date, {x}.birth_date)) IS FALSE"
_BIRTH = _BIRTH_DIFFERS.format(x="p", y="q")
_GENDER = "(p.gender <> q.gender) IS TRUE"

_PAIRS = f"""
CREATE TEMP TABLE overshared AS
SELECT k.key, min(k.system) AS system, p.source, count(*) AS patients
FROM key k JOIN patient p USING (number) GROUP BY k.key, p.source HAVING count(*) > $max_per_source;

CREATE TEMP TABLE apart AS
SELECT DISTINCT least(x.circle, y.circle) AS x, greatest(x.circle, y.circle) AS y
FROM decided d JOIN circle x ON x.number = d.a JOIN circle y ON y.number = d.b WHERE d.verdict = 'different';

CREATE TEMP TABLE pair AS
SELECT a.number AS a, b.number AS b, a.key, a.system, {_BIRTH} AS birth_differs, {_GENDER} AS gender_differs,
    p.birth_date IS NOT DISTINCT FROM q.birth_date AND p.gender IS NOT DISTINCT FROM q.gender AS same, false AS apart
FROM key a JOIN key b ON a.key = b.key AND a.number < b.number
JOIN patient p ON p.number = a.number JOIN patient q ON q.number = b.number
WHERE a.key NOT IN (SELECT key FROM overshared);

CREATE TEMP TABLE probable AS
SELECT m.a, m.b FROM matched m JOIN patient p ON p.number = m.a JOIN patient q ON q.number = m.b
WHERE NOT {_BIRTH} AND NOT {_GENDER};
"""  # noqa: S608  # made of the constants above

# Only where somebody decided something: what was decided is no contradiction, and circles are compared as wholes.
_DECIDED = f"""
CREATE TEMP TABLE agreeing AS
SELECT DISTINCT x.circle AS x, y.circle AS y
FROM pair d JOIN circle dx ON dx.number = d.a JOIN circle dy ON dy.number = d.b
JOIN circle x ON x.circle = dx.circle JOIN circle y ON y.circle = dy.circle
JOIN patient p ON p.number = x.number JOIN patient q ON q.number = y.number
WHERE (d.birth_differs OR d.gender_differs) AND (dx.circle = dy.circle OR NOT ({_BIRTH} OR {_GENDER}));

UPDATE pair SET birth_differs = false, gender_differs = false
FROM circle x, circle y
WHERE x.number = pair.a AND y.number = pair.b AND (x.circle, y.circle) IN (SELECT (x, y) FROM agreeing);

UPDATE pair SET apart = true
FROM circle x, circle y
WHERE x.number = pair.a AND y.number = pair.b
    AND (least(x.circle, y.circle), greatest(x.circle, y.circle)) IN (SELECT (x, y) FROM apart);

DELETE FROM probable WHERE EXISTS (
    SELECT 1 FROM circle x, circle y WHERE x.number = probable.a AND y.number = probable.b
    AND (least(x.circle, y.circle), greatest(x.circle, y.circle)) IN (SELECT (x, y) FROM apart)
);
"""  # noqa: S608  # made of the constants above

# `trust` says in which order links go where they contradict each other: the least first.
_LINKS = f"""
CREATE TEMP TABLE link AS
SELECT a, b, system, CASE WHEN same THEN 2 ELSE 1 END AS trust FROM pair
WHERE NOT apart AND key NOT IN (SELECT key FROM pair WHERE (birth_differs OR gender_differs) AND NOT apart)
UNION ALL SELECT a, b, '{LINKAGE}', 0 FROM probable
UNION ALL SELECT a, b, '{DECIDED}', 3 FROM decided WHERE verdict = 'same';

CREATE TEMP TABLE dropped (a BIGINT, b BIGINT, system VARCHAR);
"""  # noqa: S608  # made of the constants above

_CONFLICTS = f"""
CREATE OR REPLACE TEMP TABLE conflict AS
WITH longest AS (
    SELECT component, arg_max(birth_date, length(birth_date)) AS birth_date, count(DISTINCT gender) AS genders
    FROM patient JOIN component USING (number) GROUP BY component
), suspect AS (
    SELECT DISTINCT c.component
    FROM component c JOIN longest l USING (component) JOIN patient p USING (number)
    WHERE l.genders > 1 OR NOT starts_with(l.birth_date, p.birth_date)
), together AS (
    SELECT c.component, p.number, p.birth_date, p.gender, z.circle
    FROM suspect JOIN component c USING (component) JOIN patient p USING (number) JOIN circle z USING (number)
), contradictory AS (
    SELECT p.component FROM together p JOIN together q ON p.component = q.component AND p.circle < q.circle
    GROUP BY p.component, p.circle, q.circle HAVING bool_and({_BIRTH} OR {_GENDER})
)
SELECT component FROM contradictory
UNION SELECT x.component FROM apart d JOIN component x ON x.number = d.x JOIN component y ON y.number = d.y
WHERE x.component = y.component
"""  # noqa: S608  # made of the constants above


def partition(connection: duckdb.DuckDBPyConnection, max_per_source: int) -> None:
    """Create the table ``component(number, component)``.

    Reads ``patient(number, source, id, birth_date, gender)``, ``key(number, system, key)``, ``decided(a, b, verdict)``
    and ``matched(a, b)``, whose ends are all in ``patient``. Leaves behind ``overshared(key, system, source,
    patients)``, ``pair`` and ``link(a, b, system, trust)`` for reports, and ``dropped(a, b, system)``: the links that
    rule 5 took away.
    """
    numbers = connection.execute("SELECT number FROM patient ORDER BY number").fetchnumpy()["number"]
    # a circle is named after its first patient, so that `apart` can be looked up among patients
    _components(connection, "circle", numbers, "SELECT a, b FROM decided WHERE verdict = 'same'", named=True)
    _run(connection, _PAIRS, max_per_source=max_per_source)
    if connection.execute("SELECT count(*) FROM decided").fetchall() != [(0,)]:
        _run(connection, _DECIDED)
    _run(connection, _LINKS)
    _components(connection, "component", numbers, "SELECT a, b FROM link")
    for trust in range(3):
        connection.execute(_CONFLICTS)
        if connection.execute("SELECT count(*) FROM conflict").fetchall() == [(0,)]:
            return
        weak = f"trust = {trust} AND a IN (SELECT number FROM component SEMI JOIN conflict USING (component))"  # noqa: S608
        connection.execute(f"INSERT INTO dropped SELECT DISTINCT a, b, system FROM link WHERE {weak}")  # noqa: S608
        connection.execute(f"DELETE FROM link WHERE {weak}")  # noqa: S608
        _components(connection, "component", numbers, "SELECT a, b FROM link")


def _run(connection: duckdb.DuckDBPyConnection, script: str, **parameters: object) -> None:
    for statement in script.split(";\n"):
        if statement.strip():
            used = {name: value for name, value in parameters.items() if f"${name}" in statement}
            connection.execute(statement, used)


def _components(
    connection: duckdb.DuckDBPyConnection, name: str, numbers: NDArray[np.int64], links: str, *, named: bool = False
) -> None:
    """Make the table ``name(number, name)`` of connected components; ``named``: each by its smallest number."""
    ends = connection.execute(links).fetchnumpy()
    rows, columns = np.searchsorted(numbers, ends["a"]), np.searchsorted(numbers, ends["b"])
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(len(numbers), len(numbers)))
    _, labels = connected_components(graph.tocsr(), directed=False)
    if named and len(numbers):
        _, first = np.unique(labels, return_index=True)  # numbers are sorted: the first is the smallest
        labels = numbers[first][labels]
    connection.register("labelled", pa.table({"number": numbers, name: labels.astype(np.int64)}))
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM labelled")  # noqa: S608
    connection.unregister("labelled")
