"""What was written of clinical types, newest first, and what left a client's sight: the lake by time.

Each file of the lake is what one lake version wrote into one bucket. A walk goes file by file and row group by row
group, and looks at keys; texts are read of the rows that are asked for, and other rows of the same resources only where
they decide something.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.db.resources import StoredResource
from fhir_gateway.jobs.clinical import ClinicalRows, Key
from fhir_gateway.jobs.publish import published_id
from fhir_gateway.lake.journal import Sheet, row_groups, rows_with

#: Of one version the row that is there counts: the other is in the bucket that the resource left. ``role`` says what
#: decides of a resource: that it is ``gone``, or what it was ``then`` and is ``now`` when it left nobody's sight as
#: somebody else's.
_LOOKED_AT = """
CREATE TABLE last AS
  SELECT _source, id, _seq, _bucket, _deleted, _member FROM written
  QUALIFY 1 = row_number() OVER (PARTITION BY _source, id ORDER BY _seq DESC, _deleted);
CREATE TABLE former AS
  SELECT * FROM (
    SELECT _source, id, _seq, _bucket, _deleted, _member FROM written WHERE _seq <= $then
    QUALIFY 1 = row_number() OVER (PARTITION BY _source, id ORDER BY _seq DESC, _deleted)
  ) WHERE NOT _deleted AND ($everybody OR _member IN (SELECT member FROM before));
CREATE TABLE changed AS
  SELECT last.*, NOT _deleted AND ($everybody OR coalesce(_member IN (SELECT member FROM mine), false)) AS theirs
  FROM last SEMI JOIN touched USING (_source, id) WHERE _seq IN (SELECT seq FROM inside);
CREATE TABLE gone AS
  SELECT _source, id FROM changed WHERE NOT theirs AND (
    (_source, id) IN (SELECT (_source, id) FROM former)
    OR (_deleted AND (_source, id) IN (
      SELECT (_source, id) FROM touched WHERE _deleted AND ($everybody OR _member IN (SELECT member FROM mine))
    ))
  );
"""
_GONE = "SELECT _source, id FROM gone"
_DECIDING = """
SELECT _source, id, _seq, _bucket, 'gone' AS role FROM written SEMI JOIN gone USING (_source, id)
WHERE NOT _deleted AND ((_source, id, _seq) IN (SELECT (_source, id, _seq) FROM former) OR (
  _seq > $then AND ($everybody OR _member IN (SELECT member FROM mine UNION ALL SELECT member FROM before))
))
UNION ALL
SELECT _source, id, _seq, _bucket, 'then' FROM former SEMI JOIN (FROM changed WHERE theirs) USING (_source, id)
UNION ALL
SELECT _source, id, _seq, _bucket, 'now' FROM changed SEMI JOIN former USING (_source, id) WHERE theirs
ORDER BY _seq, _bucket, id
"""
#: Rows of which a client that is told of what it no longer may see is told: ``met``, that the resource met what the
#: client's scopes say.
_TOLD = """
SELECT _source, id FROM deciding GROUP BY _source, id
HAVING bool_or(met) FILTER (role = 'gone')
  OR (bool_or(met) FILTER (role = 'then') AND NOT bool_or(met) FILTER (role = 'now'))
"""


class Place(NamedTuple):
    """Where a row is among all that were written; a walk goes by :meth:`order`, the newest first."""

    when: int  # microseconds
    seq: int
    resource_type: str
    number: int
    row: int

    @property
    def order(self) -> tuple[int, int, str, int, int]:
        """What rises along a walk."""
        return -self.when, -self.seq, self.resource_type, self.number, self.row


@dataclass(slots=True)
class Group:
    """Rows of one row group that may be somebody's; ``size`` is how many were looked at to find them."""

    sheet: Sheet
    when: int
    begins: int
    size: int
    rows: pa.Table  # keys, and `_row`: the number in the file
    texts: pa.Table | None = field(default=None, repr=False)  # of all rows of the row group, once they are asked for

    @property
    def resource_type(self) -> str:
        """Whose rows they are."""
        return self.sheet.resource_type

    def place(self, row: int) -> Place:
        """The place of a row of the file."""
        return Place(self.when, self.sheet.seq, self.resource_type, self.sheet.number, row)

    @property
    def end(self) -> Place:
        """The place of the last row."""
        return self.place(self.begins + self.size - 1)

    def slices(self, size: int) -> Iterator[pa.Table]:
        """The rows, so many at a time."""
        yield from (self.rows.slice(at, size) for at in range(0, self.rows.num_rows, size))


class ClinicalChanges:
    """The rows that were written up to one lake version."""

    def __init__(self, rows: ClinicalRows) -> None:
        self._rows = rows
        self._lake = rows.lake

    def written(
        self,
        resource_types: Collection[str],
        after: Place | None,
        since: int | None,
        until: int | None,
        members: Collection[str] | None,
    ) -> Iterator[Group]:
        """Everything that was ever written of some types, newest first, behind ``after``; row group by row group.

        Only from ``since`` on and before ``until`` (microseconds), and only what may be about these ``members`` now or
        was when it was written; None is everybody. A row group that has nothing of theirs comes without rows.
        """
        mine = None if members is None else pa.array(sorted(members), pa.string())
        patients = None
        if mine is not None:
            persons = self._lake.read("Patient", version=self._rows.version, members=mine, ordered=False)
            patients = pc.unique(_keys_of(persons, "id"))
        for when, sheet in self._sheets(resource_types):
            committed = self._rows.committed.get(sheet.seq, 0)
            if (since is not None and committed < since) or (until is not None and committed >= until):
                continue
            first = 0
            if after is not None:
                last = Place(when, sheet.seq, sheet.resource_type, sheet.number, after.row)
                if last.order < after.order:
                    continue
                first = after.row + 1 if last == after else 0
            schema = self._lake.journal_schema(sheet.resource_type, ["_patient"])
            for begins, rows in row_groups(sheet.file, schema, first):
                numbered = rows.append_column("_row", pa.array(np.arange(begins, begins + rows.num_rows)))
                wanted = numbered.slice(max(first - begins, 0))
                if mine is not None:
                    about = pc.is_in(_keys_of(wanted, "_patient"), value_set=patients)
                    wanted = wanted.filter(pc.or_(pc.is_in(wanted["_member"], value_set=mine), about))
                yield Group(sheet, when, begins, rows.num_rows, wanted)

    def _sheets(self, resource_types: Collection[str]) -> list[tuple[int, Sheet]]:
        """The files of the types with their times, in the order of a walk.

        Versions count in their own order also where the clock went back between two: a later one is not older.
        """
        times: dict[int, int] = {}
        latest = 0
        for seq, when in sorted(self._rows.committed.items()):
            times[seq] = latest = max(latest, when)
        found = [sheet for kind in resource_types for sheet in self._lake.journal(kind, self._rows.version)]
        placed = [(times.get(sheet.seq, 0), sheet) for sheet in found]
        return sorted(placed, key=lambda one: (-one[0], -one[1].seq, one[1].resource_type, one[1].number))

    def versions(self, group: Group, some: pa.Table, *, whole: bool) -> dict[Key, list[StoredResource]]:
        """The versions of the resources that some rows of a group are of, by key, newest first: their own, and later.

        With ``whole`` all later ones are there, and of a deletion the last version before it: what decides who is
        shown a row, and until when it was in force. Without it no more than whether a row says that one is gone.
        """
        kind, seq = group.resource_type, group.sheet.seq
        schema = self._lake.journal_schema(kind, ["_raw"])
        if group.texts is None:
            _, group.texts = next(row_groups(group.sheet.file, schema, group.begins))
        own = group.texts.take(pc.subtract(some["_row"], group.begins))
        found = [own]
        ended = own.filter(own["_deleted"])
        version = self._rows.version
        if whole:
            found.append(self._lake.history(kind, own["id"].combine_chunks(), ("_raw",), version, since=seq))
        if ended.num_rows:  # a row in another bucket says whether the resource moved there
            ids = ended["id"].combine_chunks()
            found.append(self._lake.history(kind, ids, ("_raw",), version, since=seq - 1))
            if whole:
                found += self._before(group, ended, schema)
        keys = set(zip(own["_source"].to_pylist(), own["id"].to_pylist(), strict=True))
        rows = pa.concat_tables(found).to_pylist()
        return self._rows.versions(kind, [one for one in rows if (one["_source"], one["id"]) in keys])

    def _before(self, group: Group, ended: pa.Table, schema: pa.Schema) -> Iterator[pa.Table]:
        """Earlier rows of what ended: they lie in the bucket that says so, as the person's."""
        members = ended["_member"].combine_chunks()
        known = None if members.null_count else pc.unique(members)
        ids = pc.unique(ended["id"].combine_chunks())
        for sheet in self._lake.journal(group.resource_type, self._rows.version):
            if sheet.seq < group.sheet.seq and sheet.file.bucket == group.sheet.file.bucket:
                yield from rows_with(sheet.file, schema, ids, known)

    def gone(
        self,
        resource_type: str,
        since: int,
        until: int | None,
        members: Collection[str] | None,
        before: Collection[str] = (),
        permits: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> list[str]:
        """Served ids of what was deleted after ``since`` and before ``until`` (microseconds) and is not back.

        Only of these ``members``, unless it is None. With members, also what became somebody else's in that time, or
        was then deleted, and at ``since`` was of somebody in ``before``. With ``permits`` (what a client's scopes say)
        only what met it at ``since`` or later, and also what stays and met it at ``since``, and does not meet it now.
        Sorted.
        """
        committed, version = self._rows.committed, self._rows.version
        chosen = [
            number
            for number, when in committed.items()
            if number <= version and when > since and (until is None or when < until)
        ]
        if not chosen:
            return []
        written = self._lake.history(resource_type, version=version, since=min(chosen) - 1)
        touched = written.filter(pc.is_in(written["_seq"], value_set=pa.array(chosen, pa.int64())))
        mine = _texts(members or ())
        if permits is None:
            among = pc.is_in(touched["_member"], value_set=mine)
            touched = touched.filter(
                touched["_deleted"] if members is None else pc.or_(touched["_deleted"], pc.invert(among))
            )
        if not touched.num_rows:
            return []
        rows = self._lake.history(resource_type, pc.unique(touched["id"].combine_chunks()), version=version)
        with duckdb.connect() as connection:
            for name, table in (
                ("touched", touched),
                ("written", rows),
                ("inside", pa.table({"seq": pa.array(chosen, pa.int64())})),
                ("mine", pa.table({"member": mine})),
                ("before", pa.table({"member": _texts(before)})),
            ):
                connection.register(name, table)
            then = max((one for one, when in committed.items() if when <= since), default=0)
            given = {"everybody": members is None, "then": then}
            for statement in duckdb.extract_statements(_LOOKED_AT):
                wanted = {name: given[name] for name in statement.named_parameters}
                connection.execute(statement, wanted)
            if permits is None:
                found = connection.execute(_GONE).fetchall()
            else:
                deciding: pa.Table = connection.sql(_DECIDING, params=given).to_arrow_table()
                met = self._met(resource_type, deciding, permits)
                connection.register("deciding", deciding.append_column("met", pa.array(met)))
                found = connection.execute(_TOLD).fetchall()
        return sorted(published_id(source, name) for source, name in found)

    def _met(self, kind: str, deciding: pa.Table, permits: Callable[[Mapping[str, Any]], bool]) -> np.ndarray:
        """Which of some rows meet what is permitted, as they are served; read a row group at a time."""
        verdicts = np.zeros(deciding.num_rows, bool)
        wanted = deciding.select(["_source", "id", "_seq", "_bucket"])
        wanted = wanted.append_column("_row", pa.array(np.arange(deciding.num_rows)))
        for rows in self._lake.streamed(kind, wanted, self._rows.version):
            members = pc.unique(rows["_member"].combine_chunks()).drop_null()
            served = self._rows.rendered(kind, rows, members)
            verdicts[rows["_row"].to_numpy()] = [permits(one.json()) for one in served]
        return verdicts


def _texts(values: Collection[str]) -> pa.Array:
    return pa.array(sorted(values), pa.string())


def _keys_of(rows: pa.Table, name: str) -> pa.ChunkedArray:
    """Source and id in one column; sources have no line feeds."""
    return pc.binary_join_element_wise(rows["_source"], rows[name], "\n")


__all__: Sequence[str] = ["ClinicalChanges", "Group", "Place"]
