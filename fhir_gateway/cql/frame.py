"""Frames: sets of rows that expressions are evaluated over, and the names bound in them.

The root frame of a batch has one row for each patient. A query over a list opens a child frame with one row for each
element; a conditional opens one for the rows of a branch. ``index`` gives each row's row in the parent frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fhir_gateway.cql.values import IntArray, Vec

_FIRST = np.int64(0)


class Frame:
    """A set of rows, and the results already computed for it."""

    __slots__ = ("_maps", "cache", "index", "n", "parent")

    def __init__(self, n: int, parent: Frame | None = None, index: IntArray | None = None) -> None:
        self.n = n
        self.parent = parent
        self.index = index
        #: results, each with the vectors whose ids stand in its key (an id says nothing once its object is gone)
        self.cache: dict[Any, tuple[Vec, Any]] = {}
        self._maps: dict[int, IntArray] = {}

    def child(self, index: IntArray) -> Frame:
        """A frame whose rows belong to the rows ``index`` of this one."""
        return Frame(len(index), self, index)

    def rows_in(self, ancestor: Frame) -> IntArray | None:
        """Row of ``ancestor`` for each row of this frame; None when it is this very frame."""
        if ancestor is self:
            return None
        found = self._maps.get(id(ancestor))
        if found is None:
            if self.parent is None or self.index is None:
                raise AssertionError("the frame is not an ancestor")
            above = self.parent.rows_in(ancestor)
            found = self.index if above is None else above[self.index]
            self._maps[id(ancestor)] = found
        return found

    @property
    def root(self) -> Frame:
        """The frame without a parent."""
        frame = self
        while frame.parent is not None:
            frame = frame.parent
        return frame


class Env:
    """Names in scope: query aliases, lets and function operands, each with the frame it was bound in."""

    __slots__ = ("names",)

    def __init__(self, names: Mapping[str, tuple[Frame, Vec]] | None = None) -> None:
        self.names = dict(names or {})

    def bind(self, name: str, frame: Frame, vec: Vec) -> Env:
        """The same scope with one more name."""
        env = Env(self.names)
        env.names[name] = (frame, vec)
        return env

    def look_up(self, name: str, frame: Frame) -> Vec:
        """The value of ``name`` for each row of ``frame``."""
        bound, vec = self.names[name]
        rows = frame.rows_in(bound)
        if rows is None:
            return vec
        key = ("gather", id(vec))
        found = frame.cache.get(key)
        if found is None:
            found = frame.cache[key] = (vec.take(rows), vec)
        return found[0]


def zeros(n: int) -> IntArray:
    """Index of the first row, ``n`` times, in the memory of one: what is taken by it is one value ``n`` times too."""
    return np.broadcast_to(_FIRST, (n,))
