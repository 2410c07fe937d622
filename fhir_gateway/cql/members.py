"""One member's share of a recorded evaluation: what would have been recorded had the member been evaluated alone.

Recording a batch costs little more than recording one member, whose explanation is then a matter of cutting the
readings: each vector is reduced to the rows that belong to the member, when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from fhir_gateway.cql.compile import CompiledLibrary, Node
from fhir_gateway.cql.elm import Library
from fhir_gateway.cql.explain import ExplainingEvaluation, Reading, Record
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.values import IntArray, Vec


class Members:
    """The members of a recorded evaluation, each to be looked at as if alone."""

    def __init__(self, evaluation: ExplainingEvaluation) -> None:
        self.evaluation = evaluation
        self._rows: dict[int, tuple[Frame, IntArray, IntArray]] = {}
        self._reached: dict[int, tuple[Record, list[Record]]] = {}

    def member(self, index: int) -> MemberEvaluation:
        """The member at ``index`` of the batch."""
        return MemberEvaluation(self, index)

    def reached(self, root: Record) -> list[Record]:
        """Records below one, through definitions: the same for all members, looked for once."""
        found = self._reached.get(id(root))
        if found is None:
            found = self._reached[id(root)] = (root, list(self.evaluation.reached(root)))
        return found[1]

    def rows(self, frame: Frame, index: int) -> IntArray:
        """Rows of a frame below the batch's that belong to a member, ascending."""
        found = self._rows.get(id(frame))
        if found is None:
            above = frame.rows_in(self.evaluation.root)
            member = np.arange(frame.n) if above is None else above
            order = np.argsort(member, kind="stable")
            ends = np.searchsorted(member[order], np.arange(len(self.evaluation.batch) + 1))
            found = self._rows[id(frame)] = (frame, order, ends)  # with the frame: an id alone says nothing
        _, order, ends = found
        return order[ends[index] : ends[index + 1]]


class MemberEvaluation:
    """A recorded evaluation of one member; reasons and evidence are read from it as from one of a batch of one."""

    def __init__(self, members: Members, index: int) -> None:
        self._members, self._index = members, index
        self._records: dict[int, MemberRecord] = {}
        self._frames: dict[int, Frame] = {}
        self.origin: dict[int, tuple[Frame, IntArray]] = {}

    @property
    def compiled(self) -> CompiledLibrary:
        """The library that was evaluated."""
        return self._members.evaluation.compiled

    def body(self, library: Library, name: str) -> MemberRecord | None:
        """The record of a definition's expression; None when nothing needed the definition."""
        found = self._members.evaluation.body(library, name)
        return None if found is None else self.record(found)

    def referenced(self, node: Node) -> MemberRecord | None:
        """For the node of an ExpressionRef: the record of the expression it refers to."""
        found = self._members.evaluation.referenced(node)
        return None if found is None else self.record(found)

    def reached(self, root: MemberRecord) -> Iterator[MemberRecord]:
        """Records below one, through the definitions that are referred to; what is referred to comes first."""
        return (self.record(one) for one in self._members.reached(root.whole))

    def record(self, record: Record) -> MemberRecord:
        """The member's share of a record, always the same object."""
        found = self._records.get(id(record))
        if found is None:
            found = self._records[id(record)] = MemberRecord(self, record)
        return found

    def reading(self, reading: Reading) -> Reading:
        """The member's rows of a reading; what does not depend on members stays whole."""
        frame = self.frame(reading.frame)
        if frame is reading.frame:
            return reading
        _, rows = self.origin[id(frame)]
        return Reading(frame, _MemberEnv(self, reading.env), reading.vec.take(rows), reading.free)

    def frame(self, frame: Frame) -> Frame:
        """The frame with the member's rows alone."""
        if frame.root is not self._members.evaluation.root:
            return frame
        found = self._frames.get(id(frame))
        if found is None:
            rows = self._members.rows(frame, self._index)
            if frame.parent is None or frame.index is None:
                found = Frame(len(rows))
            else:
                parent = self.frame(frame.parent)
                _, above = self.origin[id(parent)]
                place = np.argsort(above, kind="stable")
                found = Frame(len(rows), parent, place[np.searchsorted(above[place], frame.index[rows])])
            self._frames[id(frame)] = found
            self.origin[id(found)] = (frame, rows)
        return found


class MemberRecord:
    """The member's share of a record."""

    def __init__(self, evaluation: MemberEvaluation, record: Record) -> None:
        self._evaluation, self.whole = evaluation, record

    @property
    def node(self) -> Node | None:
        """The expression."""
        return self.whole.node

    @cached_property
    def readings(self) -> list[Reading]:
        """Its evaluations, as far as they were about the member."""
        return [self._evaluation.reading(reading) for reading in self.whole.readings]

    def child(self, node: Node) -> MemberRecord | None:
        """The record of ``node`` below this one."""
        found = self.whole.child(node)
        return None if found is None else self._evaluation.record(found)


class _MemberEnv(Env):
    """Names in scope, each with the member's rows alone."""

    __slots__ = ("_env", "_evaluation")

    def __init__(self, evaluation: MemberEvaluation, env: Env) -> None:
        super().__init__()
        self.names = env.names
        self._evaluation, self._env = evaluation, env

    def look_up(self, name: str, frame: Frame) -> Vec:
        """The value of ``name`` for each row of one of the member's frames."""
        whole, rows = self._evaluation.origin.get(id(frame), (frame, None))
        vec = self._env.look_up(name, whole)
        return vec if rows is None else vec.take(rows)
