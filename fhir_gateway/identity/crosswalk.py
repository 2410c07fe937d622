"""Says which person a source's patient is: the lake's ``PersonAssigner``, kept in the control plane."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fhir_gateway.db.engine import snapshot, transaction
from fhir_gateway.identity import store
from fhir_gateway.identity.identifiers import read_identifiers
from fhir_gateway.identity.models import IdentityRules, PersonChange, Review
from fhir_gateway.identity.partition import partition

_LOCK = "identity"

# A person's id is the hash of its first patient, so that a patient id that is only referred to already has one.
_PERSON = "'p' || left(sha256({source} || chr(31) || {id}), 16)"

_NEIGHBOURHOOD = """
CREATE TEMP TABLE changed AS
SELECT coalesce(s.number, $first + row_number() OVER (PARTITION BY s.number IS NULL ORDER BY i.id) - 1) AS number,
    i.id, i.birth_date, i.gender, i.fingerprint, s.number IS NOT NULL AS known, s.person
FROM incoming i LEFT JOIN stored s USING (id) WHERE i.fingerprint IS DISTINCT FROM s.fingerprint;

CREATE TEMP TABLE changed_key AS
SELECT c.number, k.system, k.key FROM incoming_key k JOIN changed c USING (id);
"""

_MERGED = """
CREATE TEMP TABLE patient AS
SELECT number, source, id, person, birth_date, gender FROM near_patient WHERE number NOT IN (SELECT number FROM changed)
UNION ALL SELECT number, $source, id, person, birth_date, gender FROM changed;

CREATE TEMP TABLE key AS
SELECT number, system, key FROM near_key WHERE number NOT IN (SELECT number FROM changed)
UNION ALL SELECT number, system, key FROM changed_key;
"""

# A component keeps the person whose first patient it holds, of several the one assigned first; else it is a new person.
_PERSONS = f"""
CREATE TEMP TABLE owner AS
SELECT c.component, n.person, row_number() OVER (PARTITION BY c.component ORDER BY n.born, n.person) AS rank
FROM near_person n JOIN component c ON c.number = n.anchor;

CREATE TEMP TABLE outcome AS
WITH named AS (
    SELECT c.component, arg_min(p.number, (p.source, p.id)) AS anchor,
        {_PERSON.format(source="min((p.source, p.id))[1]", id="min((p.source, p.id))[2]")} AS person
    FROM patient p JOIN component c USING (number) GROUP BY c.component
)
SELECT n.component, n.anchor, coalesce(o.person, n.person) AS person, o.person IS NULL AS made
FROM named n LEFT JOIN owner o ON o.component = n.component AND o.rank = 1;

CREATE TEMP TABLE placed AS
SELECT p.number, p.person AS before, o.person AS person
FROM patient p JOIN component USING (number) JOIN outcome o USING (component);

CREATE TEMP TABLE merge AS
SELECT o.person, r.person AS other FROM owner r JOIN outcome o USING (component) WHERE r.rank > 1;
"""  # noqa: S608  # made of the constant above

_CHANGES = """
SELECT 'merge' AS kind, m.person, m.other, string_agg(DISTINCT l.system, ', ' ORDER BY l.system) AS reason
FROM merge m JOIN (
    SELECT y.person, l.system FROM link l JOIN placed x ON x.number = l.a JOIN placed y ON y.number = l.b
    WHERE x.before IS DISTINCT FROM y.before AND x.person = y.person
) l USING (person)
GROUP BY m.person, m.other
UNION ALL
SELECT DISTINCT 'split', before, person, 'identifiers no longer link its patients'
FROM placed WHERE before <> person AND (person, before) NOT IN (SELECT (person, other) FROM merge)
ORDER BY ALL
"""

_REVIEWS = """
WITH found AS (
    SELECT 'birthDate' AS rule, system, a, b FROM pair WHERE birth_differs
    UNION SELECT 'gender', system, a, b FROM pair WHERE gender_differs
    UNION SELECT 'chain', system, a, b FROM dropped
), named AS (
    SELECT f.rule, f.system, x.source, x.id AS patient_id, y.source AS other_source, y.id AS other_patient_id,
        2 AS patients, '' AS key
    FROM found f JOIN patient x ON x.number = f.a JOIN patient y ON y.number = f.b
    UNION ALL
    SELECT 'shared-identifier', system, source, NULL, NULL, NULL, patients, key FROM overshared
)
SELECT left(sha256(concat_ws(chr(31), rule, system, source, coalesce(patient_id, ''), coalesce(other_source, ''),
    coalesce(other_patient_id, ''), key)), 32) AS digest, * EXCLUDE (key)
FROM named ORDER BY digest
"""


class Crosswalk:
    """Patients to persons, identifiers first; implements ``lake.persons.PersonAssigner``.

    Matching is deterministic and explained in :mod:`fhir_gateway.identity.partition`. A person keeps its id when more
    sources arrive; when two persons turn out to be one, the one assigned first survives and the merge is recorded.
    Only new and changed patients, and those linked to them, are looked at. One assignment runs at a time.
    """

    def __init__(
        self,
        engine: Engine,
        rules: IdentityRules | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._rules = rules or IdentityRules()
        self._clock = clock

    def assign(self, source: str, patients: pa.Table) -> pa.Array:
        """Return the persons of these Patient rows (``id, identifier, birthDate, gender``), one string per row."""
        ids = patients["id"].combine_chunks().cast(pa.string())
        with duckdb.connect() as work, transaction(self._engine, lock=_LOCK) as connection:
            read_identifiers(work, patients, self._rules)
            work.register("stored", store.patients_of(connection, source, pc.unique(ids)))
            first, born = store.next_numbers(connection)
            _run(work, _NEIGHBOURHOOD, first=first)
            if _column(work, "SELECT count(*) FROM changed", pa.int64())[0].as_py():
                self._place(work, connection, source, born)
        return self.lookup(source, ids)

    def lookup(self, source: str, patient_ids: pa.Array) -> pa.Array:
        """Return the persons of patient ids of a source, one string per row.

        An id that was never assigned gets the person it will have if it arrives alone; nothing is stored.
        """
        ids = patient_ids.combine_chunks() if isinstance(patient_ids, pa.ChunkedArray) else patient_ids
        with snapshot(self._engine) as connection:
            stored = store.patients_of(connection, source, pc.unique(ids))
        found = stored["person"].combine_chunks().take(pc.index_in(ids, value_set=stored["id"].combine_chunks()))
        return pc.coalesce(found, _provisional(source, ids)) if found.null_count else found

    def patients(self, person: str) -> list[tuple[str, str]]:
        """Return the (source, patient id) pairs behind a person, sorted; empty for a person that is not in use."""
        columns = (store.PATIENT.c.source, store.PATIENT.c.patient_id)
        with snapshot(self._engine) as connection:
            rows = connection.execute(sa.select(*columns).where(store.PATIENT.c.person == person).order_by(*columns))
            return [(row.source, row.patient_id) for row in rows]

    def surviving(self, person: str) -> str:
        """Return the person that ``person`` was merged into, or itself."""
        with snapshot(self._engine) as connection:
            while True:
                statement = sa.select(store.PERSON.c.merged_into).where(store.PERSON.c.person == person)
                merged_into = connection.scalar(statement)
                if merged_into is None:
                    return person
                person = merged_into

    def changes(self) -> list[PersonChange]:
        """Return all merges and splits of persons, oldest first."""
        table = store.CHANGE
        with snapshot(self._engine) as connection:
            rows = connection.execute(sa.select(table).order_by(table.c.id))
            return [PersonChange(row.kind, row.person, row.other, row.reason, row.changed_at) for row in rows]

    def reviews(self) -> list[Review]:
        """Return the links that were not made, for a person to decide."""
        names = [name for name in store.REVIEW.c.keys() if name != "digest"]  # noqa: SIM118  # a column collection
        with snapshot(self._engine) as connection:
            rows = connection.execute(
                sa.select(store.REVIEW).order_by(store.REVIEW.c.noticed_at, store.REVIEW.c.digest)
            )
            return [Review(**{name: getattr(row, name) for name in names}) for row in rows]

    def _place(self, work: duckdb.DuckDBPyConnection, connection: Connection, source: str, born: int) -> None:
        known = _column(work, "SELECT number FROM changed WHERE known", pa.int64())
        keys = _column(work, "SELECT DISTINCT key FROM changed_key", pa.string())
        patients, pairs, persons = store.neighbourhood(connection, known, keys)
        work.register("near_patient", patients)
        work.register("near_key", pairs)
        work.register("near_person", persons)
        _run(work, _MERGED, source=source)
        partition(work, self._rules.max_per_source)
        _run(work, _PERSONS)

        placed = _table(
            work,
            "SELECT number, '' AS source, id, p.person, birth_date, gender, fingerprint "
            "FROM changed JOIN placed p USING (number) ORDER BY number",
        )
        placed = placed.set_column(1, "source", pa.array([source] * len(placed), pa.string()))
        store.replace_patients(connection, placed, _table(work, "SELECT number, key, system FROM changed_key"), known)
        moved = (
            "SELECT number, person FROM placed WHERE before <> person AND number NOT IN (SELECT number FROM changed)"
        )
        store.move_patients(connection, _table(work, moved))
        made = _table(work, f"SELECT person, anchor, {born} AS born FROM outcome WHERE made")  # noqa: S608  # an integer
        store.write_persons(connection, made, _table(work, "SELECT person, other FROM merge"))
        now = self._clock().isoformat()
        store.write_changes(connection, _table(work, _CHANGES), now)
        store.write_reviews(connection, _table(work, _REVIEWS), now)


def _run(work: duckdb.DuckDBPyConnection, script: str, **parameters: object) -> None:
    for statement in script.split(";\n"):
        if statement.strip():
            work.execute(statement, {name: value for name, value in parameters.items() if f"${name}" in statement})


def _provisional(source: str, ids: pa.Array) -> pa.Array:
    person = _PERSON.format(source="$source", id="id")
    with duckdb.connect() as work:
        work.register("asked", pa.table({"id": ids, "row": np.arange(len(ids))}))
        query = f"SELECT {person} AS person FROM asked ORDER BY row"  # noqa: S608  # made of the constant above
        return work.sql(query, params={"source": source}).to_arrow_table()["person"].combine_chunks()


def _table(work: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    return work.sql(query).to_arrow_table()


def _column(work: duckdb.DuckDBPyConnection, query: str, arrow_type: pa.DataType) -> pa.Array:
    return _table(work, query).column(0).combine_chunks().cast(arrow_type)
