"""Patients to persons: connected components over shared identifiers.

The partition is a function of the patients and their match keys alone, whatever order they came in:

1. A key that more than ``max_per_source`` patients of one source share links nobody.
2. A key shared by two patients whose birthDate or gender contradict links nobody; the pairs go to review.
3. Persons are the connected components of the links that remain.
4. Where such a component still holds a contradiction (a patient without birthDate between two that differ), only
   links between patients of the same birthDate and gender remain in it; the others go to review.

A birthDate contradicts another when neither is a prefix of the other: ``1950`` agrees with ``1950-03``. An absent or
``unknown`` gender agrees with any.
"""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_PAIRS = """
CREATE TEMP TABLE overshared AS
SELECT k.key, min(k.system) AS system, p.source, count(*) AS patients
FROM key k JOIN patient p USING (number) GROUP BY k.key, p.source HAVING count(*) > $max_per_source;

CREATE TEMP TABLE pair AS
SELECT a.number AS a, b.number AS b, a.key, a.system,
    (starts_with(p.birth_date, q.birth_date) OR starts_with(q.birth_date, p.birth_date)) IS FALSE AS birth_differs,
    (p.gender <> q.gender) IS TRUE AS gender_differs,
    p.birth_date IS NOT DISTINCT FROM q.birth_date AND p.gender IS NOT DISTINCT FROM q.gender AS same
FROM key a JOIN key b ON a.key = b.key AND a.number < b.number
JOIN patient p ON p.number = a.number JOIN patient q ON q.number = b.number
WHERE a.key NOT IN (SELECT key FROM overshared);

CREATE TEMP TABLE link AS
SELECT a, b, system, same FROM pair
WHERE key NOT IN (SELECT key FROM pair WHERE birth_differs OR gender_differs);
"""

_CONTRADICTORY = """
WITH longest AS (
    SELECT component, arg_max(birth_date, length(birth_date)) AS birth_date, count(DISTINCT gender) AS genders
    FROM patient JOIN component USING (number) GROUP BY component
)
SELECT DISTINCT c.component
FROM component c JOIN longest l USING (component) JOIN patient p USING (number)
WHERE l.genders > 1 OR NOT starts_with(l.birth_date, p.birth_date)
"""


def partition(connection: duckdb.DuckDBPyConnection, max_per_source: int) -> None:
    """Create the table ``component(number, component)`` from ``patient`` and ``key``.

    Reads ``patient(number, source, id, birth_date, gender)`` and ``key(number, system, key)``. Leaves behind
    ``overshared(key, system, source, patients)``, ``pair`` and ``link(a, b, system, same)`` for reports, and
    ``dropped(a, b, system)``: the links that rule 4 took away.
    """
    for statement in _PAIRS.split(";\n"):
        if statement.strip():
            connection.execute(statement, {"max_per_source": max_per_source} if "$max" in statement else {})
    numbers = connection.execute("SELECT number FROM patient ORDER BY number").fetchnumpy()["number"]
    _components(connection, numbers, "SELECT a, b FROM link")
    connection.execute(f"CREATE TEMP TABLE contradictory AS {_CONTRADICTORY}")
    connection.execute(
        "CREATE TEMP TABLE dropped AS SELECT DISTINCT a, b, system FROM link JOIN component ON number = a "
        "WHERE NOT same AND component IN (SELECT component FROM contradictory)"
    )
    if connection.execute("SELECT count(*) FROM dropped").fetchone() != (0,):
        _components(
            connection,
            numbers,
            "SELECT a, b FROM link JOIN component ON number = a "
            "WHERE same OR component NOT IN (SELECT component FROM contradictory)",
        )


def _components(connection: duckdb.DuckDBPyConnection, numbers: NDArray[np.int64], links: str) -> None:
    ends = connection.execute(links).fetchnumpy()
    rows, columns = np.searchsorted(numbers, ends["a"]), np.searchsorted(numbers, ends["b"])
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(len(numbers), len(numbers)))
    _, labels = connected_components(graph.tocsr(), directed=False)
    connection.register("labelled", pa.table({"number": numbers, "component": labels.astype(np.int64)}))
    connection.execute("CREATE OR REPLACE TEMP TABLE component AS SELECT * FROM labelled")
    connection.unregister("labelled")
