"""Members in slices, each with all of its rows, so that memory is bounded and results are those of the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution.services import prepare_lines


@dataclass(frozen=True, slots=True)
class MemberSlice:
    """Claim lines of some members, and which members of other tables go with them (``condition`` on ``{member}``).

    The condition may look at ``members``, registered under the name ``slice_members``.
    """

    lines: pa.Table
    condition: str = "TRUE"
    members: pa.Array | None = None

    def prepare(
        self, connection: duckdb.DuckDBPyConnection, tables: Mapping[str, pa.Table], coverage: pa.Table
    ) -> pa.Table:
        """Register the lines, the members' rows of ``tables`` (by ``member``), and return those of Coverage."""
        prepare_lines(connection, "lines", self.lines)
        if self.condition == "TRUE":
            for name, table in tables.items():
                connection.register(name, table)
            return coverage
        if self.members is not None:
            connection.register("slice_members", pa.table({"member": self.members}))
        for name, table in tables.items():
            connection.register(f"all_{name}", table)
            condition = self.condition.format(member="member")
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM all_{name} WHERE {condition}")  # noqa: S608
        connection.register("all_coverage", coverage)
        condition = self.condition.format(member="_member")
        return connection.sql(f"SELECT * FROM all_coverage WHERE {condition}").to_arrow_table()  # noqa: S608


def member_slices(lines: pa.Table, count: int) -> Iterator[MemberSlice]:
    """Slices of members by their claim lines, and one of the members without any.

    Lines that stand together by member, as the lake gives them, are cut where members change, without a copy; others
    are picked by a hash of the member.
    """
    if count <= 1 or not lines.num_rows:
        yield MemberSlice(lines)
        return
    members = lines["_member"]
    changes = pc.fill_null(pc.not_equal(members.slice(1), members.slice(0, len(members) - 1)), True)
    starts = np.concatenate([[0], np.flatnonzero(changes.to_numpy()) + 1])
    names = members.take(pa.array(starts)).combine_chunks()
    known = names.drop_null()
    if len(known.unique()) < len(known):
        yield from _hashed(lines, count)
        return
    cuts = np.unique(np.searchsorted(starts, np.linspace(0, len(members), count + 1)[1:-1]))
    bounds = [0, *(int(one) for one in cuts if 0 < one < len(starts)), len(starts)]
    for first, last in pairwise(bounds):
        end = int(starts[last]) if last < len(starts) else len(members)
        mine = names.slice(first, last - first).drop_null()
        part = lines.slice(int(starts[first]), end - int(starts[first]))
        yield MemberSlice(part, "{member} IN (FROM slice_members)", mine)
    yield MemberSlice(lines.slice(0, 0), "{member} NOT IN (FROM slice_members)", known)


def _hashed(lines: pa.Table, count: int) -> Iterator[MemberSlice]:
    for number in range(count):
        condition = f"hash({{member}}) % {count} = {number}"
        with duckdb.connect() as connection:
            connection.register("all_lines", lines)
            chosen = f"SELECT * FROM all_lines WHERE {condition.format(member='_member')}"  # noqa: S608 a number
            part = connection.sql(chosen).to_arrow_table()
        yield MemberSlice(part, condition)
