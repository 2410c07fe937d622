"""Where each of many ids is, found by a hash of it: twelve bytes an id, beside the ids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


class Index:
    """Places of different ``ids``, none of them null: their numbers, or what is given as ``places``.

    With ``sure`` nobody will ask for other ids than these, or null, and they need not be kept. Threads may share one.
    """

    def __init__(self, ids: pa.Array, places: npt.NDArray[np.int32] | None = None, *, sure: bool = False) -> None:
        hashed = id_words(ids)[2]
        order = np.argsort(hashed)
        self._hashed = hashed[order]
        self._alike = bool((self._hashed[1:] == self._hashed[:-1]).any())  # two have the same hash
        self._ids = None if sure and not self._alike else ids
        self._number = order.astype(np.int32)
        self._places = places
        if places is not None and self._ids is None:
            self._number, self._places = places[order], None

    def places(self, asked: pa.Array) -> npt.NDArray[np.int32]:
        """Where the ``asked`` are; -1 for who is not there, and for null."""
        if not len(self._number):
            return np.full(len(asked), -1, np.int32)
        if self._alike:
            number = np.array(pc.index_in(asked, self._ids).fill_null(-1), np.int32)
            there = number >= 0
        else:
            at = np.searchsorted(self._hashed, id_words(asked)[2])
            number = self._number[np.minimum(at, len(self._number) - 1)]
            same = pc.is_valid(asked)
            if self._ids is not None:
                same = pc.equal(self._ids.take(pa.array(number)), asked).fill_null(False)
            there = same.to_numpy(zero_copy_only=False)
        if self._places is not None:
            number = self._places[number]
        return np.where(there, number, np.int32(-1))


def id_words(ids: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Those of :mod:`fhir_gateway.lake.staging`, which loads the compiler: who only reads does not need it."""
    from fhir_gateway.lake import staging

    return staging.id_words(ids)
