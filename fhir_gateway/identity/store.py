"""The crosswalk from patients to persons in the control plane.

Kept in SQL and not in the lake because it changes row by row under one writer at a time, must survive together with
its history, and is small: a row per patient and per identifier, no clinical content (ADR 0022).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_gateway.identity.tables import CHANGE, DECISION, KEY, MATCH, PATIENT, PERSON, REVIEW

#: What the present assignment may touch; temporary tables of the connection.
_REACHED_KEY = sa.Table(
    "identity_reached_key", sa.MetaData(), sa.Column("key", sa.String, primary_key=True), prefixes=["TEMPORARY"]
)
_REACHED_PATIENT = sa.Table(
    "identity_reached_patient",
    sa.MetaData(),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    prefixes=["TEMPORARY"],
)

PATIENT_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("source", pa.string()),
        ("id", pa.string()),
        ("person", pa.string()),
        ("birth_date", pa.string()),
        ("gender", pa.string()),
        ("fingerprint", pa.string()),
    ]
)
KEY_SCHEMA = pa.schema([("number", pa.int64()), ("system", pa.string()), ("key", pa.string())])
PERSON_SCHEMA = pa.schema(
    [("person", pa.string()), ("anchor", pa.int64()), ("born", pa.int64()), ("living", pa.bool_())]
)
_PERSONS_SCHEMA = pa.schema([("id", pa.string()), ("person", pa.string())])
#: Rows that are Python's objects at a time.
_AT_A_TIME = 1 << 14
_PLACED_SCHEMA = pa.schema([("_source", pa.string()), ("_patient", pa.string()), ("_member", pa.string())])
DECIDED_SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("verdict", pa.string())])
MATCHED_SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("evidence", pa.string())])

_PATIENT_COLUMNS = (
    PATIENT.c.number,
    PATIENT.c.source,
    PATIENT.c.patient_id,
    PATIENT.c.person,
    PATIENT.c.birth_date,
    PATIENT.c.gender,
    PATIENT.c.fingerprint,
)
_NUMBERED = sa.select(PATIENT.c.number, PATIENT.c.source, PATIENT.c.patient_id)
_SLICE = 10_000  # ids in one statement


def arrow(rows: Sequence[Any], schema: pa.Schema) -> pa.Table:
    """Return SQL rows as an Arrow table."""
    # column by column: zip(*rows) would hold an iterator for each row, which takes several times as long
    columns = [pa.array(list(map(itemgetter(at), rows)), one.type) for at, one in enumerate(schema)]
    return pa.table(columns, schema=schema)


def patients_of(connection: Connection, source: str, ids: pa.Array) -> pa.Table:
    """Return the stored patients of a source among ``ids`` (distinct)."""
    return _among(connection, _PATIENT_COLUMNS, source, ids, PATIENT_SCHEMA)


def assigned(connection: Connection, source: str, ids: pa.Array) -> pa.Table:
    """Return the persons (``id``, ``person``) of the patients of :func:`patients_of`, for less."""
    return _among(connection, (PATIENT.c.patient_id, PATIENT.c.person), source, ids, _PERSONS_SCHEMA)


def mark(connection: Connection) -> str:
    """How far the crosswalk is: its last patient, who that is, and its last change of persons."""
    last = connection.execute(_NUMBERED.order_by(PATIENT.c.number.desc()).limit(1)).first()
    change = connection.scalar(sa.select(sa.func.max(CHANGE.c.id))) or 0
    number, who = (last.number, _named(last.source, last.patient_id)) if last else (0, "")
    return f"{number}.{change}.{who}"


def placed_since(connection: Connection, mark: str | None) -> pa.Table | None:
    """Patients (``_source``, ``_patient``, ``_member``) who are new since a mark, or of a person that changed since.

    Every move from one person to another is a change of both. None for a mark that this crosswalk did not give.
    """
    if mark is None:
        return None
    number, change, who = mark.split(".")
    last = connection.execute(_NUMBERED.where(PATIENT.c.number == int(number))).first()
    newest = connection.scalar(sa.select(sa.func.max(CHANGE.c.id))) or 0
    named = _named(last.source, last.patient_id) if last else ""
    if named != who or newest < int(change) or (last is None and int(number)):
        return None
    later = CHANGE.c.id > int(change)
    changed = sa.union(sa.select(CHANGE.c.person).where(later), sa.select(CHANGE.c.other).where(later))
    some = sa.select(PATIENT.c.source, PATIENT.c.patient_id, PATIENT.c.person)
    rows = connection.execute(
        sa.union(some.where(PATIENT.c.number > int(number)), some.where(PATIENT.c.person.in_(changed))),
        execution_options={"yield_per": _AT_A_TIME},
    )
    parts = [arrow(part, _PLACED_SCHEMA) for part in rows.partitions()]  # as Python's they are ten times as large
    return pa.concat_tables([_PLACED_SCHEMA.empty_table(), *parts])


def _named(source: str, patient: str) -> str:
    """Who a patient is, without saying it."""
    return hashlib.sha256(f"{source}\x1f{patient}".encode()).hexdigest()[:16]


def _among(
    connection: Connection, columns: Sequence[sa.Column[Any]], source: str, ids: pa.Array, schema: pa.Schema
) -> pa.Table:
    """By name, some at a time: what a pull asks is not to grow with all who are known of its source."""
    own = sa.select(*columns).where(PATIENT.c.source == source)
    found = [schema.empty_table()]
    for at in range(0, len(ids), _SLICE):
        some = ids.slice(at, _SLICE).to_pylist()
        found.append(arrow(connection.execute(own.where(PATIENT.c.patient_id.in_(some))).all(), schema))
    return pa.concat_tables(found)


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Patients, with everything that links them or keeps them apart, and the persons they are or once began."""

    patients: pa.Table
    keys: pa.Table
    persons: pa.Table
    decided: pa.Table
    matched: pa.Table


def neighbourhood(connection: Connection, numbers: pa.Array, keys: pa.Array) -> Neighbourhood:
    """Return these patients and all who are linked to them or to ``keys``.

    Links are followed however far they go; a connected set of patients is small, whatever the size of the crosswalk.
    """
    for table, column, values in ((_REACHED_KEY, "key", keys), (_REACHED_PATIENT, "number", numbers)):
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table.name}")
        table.create(connection, checkfirst=False)
        if len(values):
            connection.execute(sa.insert(table), [{column: value} for value in pc.unique(values).to_pylist()])
    reached_keys, reached_patients = sa.select(_REACHED_KEY.c.key), sa.select(_REACHED_PATIENT.c.number)
    # NOT EXISTS and not NOT IN: PostgreSQL makes an anti join of the first and, of a large second, a nested loop.
    known_key = sa.exists().where(_REACHED_KEY.c.key == KEY.c.key)

    def patients_from(column: sa.Column[Any], *conditions: sa.ColumnElement[bool]) -> sa.Insert:
        known = sa.exists().where(_REACHED_PATIENT.c.number == column)
        return sa.insert(_REACHED_PATIENT).from_select(
            ["number"], sa.select(column).where(*conditions, ~known).distinct()
        )

    same = (DECISION.c.verdict == "same", DECISION.c.revoked_at.is_(None))
    more_patients = [
        patients_from(KEY.c.number, KEY.c.key.in_(reached_keys)),
        patients_from(DECISION.c.b, DECISION.c.a.in_(reached_patients), *same),
        patients_from(DECISION.c.a, DECISION.c.b.in_(reached_patients), *same),
        patients_from(MATCH.c.b, MATCH.c.a.in_(reached_patients), MATCH.c.linked),
        patients_from(MATCH.c.a, MATCH.c.b.in_(reached_patients), MATCH.c.linked),
    ]
    more_keys = sa.insert(_REACHED_KEY).from_select(
        ["key"],
        sa.select(KEY.c.key).where(KEY.c.number.in_(reached_patients), ~known_key).distinct(),
    )

    def added(statement: sa.Insert) -> bool:
        # Drivers need not count what INSERT ... SELECT inserts unless told to.
        return connection.execute(statement.execution_options(preserve_rowcount=True)).rowcount > 0

    while any(added(statement) for statement in [*more_patients, more_keys]):
        pass
    here = PATIENT.c.number.in_(reached_patients)
    patients = connection.execute(sa.select(*_PATIENT_COLUMNS).where(here)).all()
    pairs = connection.execute(
        sa.select(KEY.c.number, KEY.c.system, KEY.c.key).where(KEY.c.number.in_(reached_patients))
    ).all()
    living = PERSON.c.person.in_(sa.select(PATIENT.c.person).where(here))
    persons = connection.execute(
        sa.select(PERSON.c.person, PERSON.c.anchor, PERSON.c.born, living).where(
            sa.or_(living, PERSON.c.anchor.in_(reached_patients))
        )
    ).all()
    decided = connection.execute(
        sa.select(DECISION.c.a, DECISION.c.b, DECISION.c.verdict).where(
            DECISION.c.a.in_(reached_patients), DECISION.c.b.in_(reached_patients), DECISION.c.revoked_at.is_(None)
        )
    ).all()
    matched = connection.execute(
        sa.select(MATCH.c.a, MATCH.c.b, MATCH.c.evidence).where(MATCH.c.a.in_(reached_patients), MATCH.c.linked)
    ).all()
    connection.exec_driver_sql(f"DROP TABLE {_REACHED_KEY.name}")
    connection.exec_driver_sql(f"DROP TABLE {_REACHED_PATIENT.name}")
    return Neighbourhood(
        arrow(patients, PATIENT_SCHEMA),
        arrow(pairs, KEY_SCHEMA),
        arrow([(person, anchor, born, bool(alive)) for person, anchor, born, alive in persons], PERSON_SCHEMA),
        arrow(decided, DECIDED_SCHEMA),
        arrow(matched, MATCHED_SCHEMA),
    )


def everybody(connection: Connection) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Return all patients, keys, and decisions that hold."""
    patients = connection.execute(sa.select(*_PATIENT_COLUMNS)).all()
    keys = connection.execute(sa.select(KEY.c.number, KEY.c.system, KEY.c.key)).all()
    holding = sa.select(DECISION.c.a, DECISION.c.b, DECISION.c.verdict).where(DECISION.c.revoked_at.is_(None))
    decided = connection.execute(holding).all()
    return arrow(patients, PATIENT_SCHEMA), arrow(keys, KEY_SCHEMA), arrow(decided, DECIDED_SCHEMA)


def persons_of(connection: Connection, numbers: set[int]) -> dict[int, str]:
    """Return the persons of patients by their number."""
    found: dict[int, str] = {}
    wanted = sorted(numbers)
    for start in range(0, len(wanted), _SLICE):
        some = wanted[start : start + _SLICE]
        rows = connection.execute(sa.select(PATIENT.c.number, PATIENT.c.person).where(PATIENT.c.number.in_(some)))
        found |= {row.number: row.person for row in rows}
    return found


def replace_matches(connection: Connection, linked: pa.Table, model: str) -> list[int]:
    """Keep these matches (``a, b, weight, evidence``) and no others; returns the patients whose matches changed."""
    old = {(row.a, row.b): row.weight for row in connection.execute(sa.select(MATCH.c.a, MATCH.c.b, MATCH.c.weight))}
    new = {(row["a"], row["b"]): row for row in linked.to_pylist()}
    connection.execute(sa.delete(MATCH))
    if new:
        connection.execute(sa.insert(MATCH), [row | {"linked": True, "model": model} for row in new.values()])
    return sorted({number for pair in old.keys() ^ new.keys() for number in pair})


def close_linkage_reviews(connection: Connection, found: set[str]) -> None:
    """Close the open reviews of the linkage that it no longer finds."""
    open_ones = sa.select(REVIEW.c.digest).where(REVIEW.c.status == "open", REVIEW.c.rule == "linkage")
    _set_status(connection, [one for one in connection.scalars(open_ones) if one not in found], "closed")


def next_numbers(connection: Connection) -> tuple[int, int]:
    """Return the first free patient number and the number of this assignment."""
    patient = connection.scalar(sa.select(sa.func.max(PATIENT.c.number))) or 0
    born = connection.scalar(sa.select(sa.func.max(PERSON.c.born))) or 0
    return patient + 1, born + 1


def replace_patients(connection: Connection, patients: pa.Table, keys: pa.Table, known: pa.Array) -> None:
    """Write patients with their keys; those whose number is in ``known`` replace what is stored."""
    rows = [
        {
            "number": row["number"],
            "source": row["source"],
            "patient_id": row["id"],
            "person": row["person"],
            "birth_date": row["birth_date"],
            "gender": row["gender"],
            "fingerprint": row["fingerprint"],
        }
        for row in patients.to_pylist()
    ]
    old = set(known.to_pylist())
    if old:
        of_number = sa.bindparam("of_number", type_=sa.BigInteger)
        changed = [{"of_number": number} for number in old]
        connection.execute(sa.delete(KEY).where(KEY.c.number == of_number), changed)
        connection.execute(
            sa.update(PATIENT)
            .where(PATIENT.c.number == of_number)
            .values({name: sa.bindparam(name) for name in ("person", "birth_date", "gender", "fingerprint")}),
            [{"of_number": row["number"]} | row for row in rows if row["number"] in old],
        )
    fresh = [row for row in rows if row["number"] not in old]
    if fresh:
        connection.execute(sa.insert(PATIENT), fresh)
    if len(keys):
        connection.execute(sa.insert(KEY), keys.to_pylist())


def move_patients(connection: Connection, moved: pa.Table) -> None:
    """Set the person of patients that did not change themselves: columns ``number`` and ``person``."""
    if len(moved):
        statement = sa.update(PATIENT).where(PATIENT.c.number == sa.bindparam("of_number", type_=sa.BigInteger))
        rows = [{"of_number": row["number"], "person": row["person"]} for row in moved.to_pylist()]
        connection.execute(statement.values(person=sa.bindparam("person")), rows)


def write_persons(connection: Connection, made: pa.Table, merged: pa.Table) -> None:
    """Insert or revive persons (``person, anchor, born``) and mark merged ones (``person, other``)."""
    if len(made):
        rows = made.to_pylist()
        names = pc.unique(made["person"]).to_pylist()
        retired: set[str] = set()
        for some in _slices(names):
            retired |= set(connection.scalars(sa.select(PERSON.c.person).where(PERSON.c.person.in_(some))))
        fresh = [row | {"merged_into": None} for row in rows if row["person"] not in retired]
        if fresh:
            connection.execute(sa.insert(PERSON), fresh)
        _set_merged(connection, [{"of_person": name, "merged_into": None} for name in retired])
    _set_merged(connection, [{"of_person": row["other"], "merged_into": row["person"]} for row in merged.to_pylist()])


def _set_merged(connection: Connection, rows: list[dict[str, str | None]]) -> None:
    if rows:
        statement = sa.update(PERSON).where(PERSON.c.person == sa.bindparam("of_person"))
        connection.execute(statement.values(merged_into=sa.bindparam("merged_into")), rows)


def write_changes(connection: Connection, changes: list[dict[str, Any]]) -> None:
    """Append to the history of persons: rows of ``ChangeRow`` without ``id``."""
    if changes:
        connection.execute(sa.insert(CHANGE), changes)


def write_reviews(connection: Connection, reviews: pa.Table, now: str) -> None:
    """List these reviews: new ones are added; those that were closed are opened again, what was dismissed is not.

    Columns: those of ``ReviewRow`` without ``noticed_at`` and what is said about a decision.
    """
    listed: dict[str, str] = {}
    for some in _slices(reviews["digest"].to_pylist()):
        found = connection.execute(sa.select(REVIEW.c.digest, REVIEW.c.status).where(REVIEW.c.digest.in_(some)))
        listed |= {row.digest: row.status for row in found}
    rows = reviews.to_pylist()
    fresh = [row | {"noticed_at": now, "status": "open"} for row in rows if row["digest"] not in listed]
    if fresh:
        connection.execute(sa.insert(REVIEW), fresh)
    again = [
        row["digest"]
        for row in rows
        if listed.get(row["digest"], "open") != "open" and row["rule"] != "shared-identifier"
    ]
    _set_status(connection, again, "open", decided_by=None, decided_at=None)


def close_reviews(connection: Connection, patients: pa.Table, found: pa.ChunkedArray) -> None:
    """Close the open reviews of identifiers of ``patients`` (``source``, ``id``) whose digest is not in ``found``."""
    present = set(found.to_pylist())
    looked_at = set(zip(patients["source"].to_pylist(), patients["id"].to_pylist(), strict=True))
    rows = connection.execute(
        sa.select(REVIEW.c.digest, REVIEW.c.source, REVIEW.c.patient_id).where(
            REVIEW.c.status == "open", REVIEW.c.rule.in_(("birthDate", "gender", "chain"))
        )
    )
    gone = [row.digest for row in rows if (row.source, row.patient_id) in looked_at and row.digest not in present]
    _set_status(connection, gone, "closed")


def reviews_like(connection: Connection, digest: str) -> list[str]:
    """Return this review and the open ones about the same two patients."""
    one, other = REVIEW.alias("one"), REVIEW.alias("other")
    same = [
        one.c[name] == other.c[name] for name in ("source", "patient_id", "other_source", "other_patient_id")
    ]  # never true where no second patient is named
    statement = sa.select(other.c.digest).where(one.c.digest == digest, other.c.status == "open", *same)
    return [digest, *(found for found in connection.scalars(statement) if found != digest)]


def decide_reviews(connection: Connection, digests: list[str], status: str, by: str, now: str) -> None:
    """Say how reviews were decided."""
    _set_status(connection, digests, status, decided_by=by, decided_at=now)


def _set_status(connection: Connection, digests: list[str], status: str, **values: str | None) -> None:
    for some in _slices(digests):
        statement = sa.update(REVIEW).where(REVIEW.c.digest.in_(some))
        connection.execute(statement.values(status=status, **values))


def _slices(values: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(values), _SLICE):
        yield values[start : start + _SLICE]
