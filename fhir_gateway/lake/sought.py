"""Which ids may be among those of some rows: told by few bits of each, of which a lake's stored rows are told apart.

A pull of newcomers has no id that is stored. Without this every stored row is laid down in parts to find that out, and
what a member costs grows with those who are there already.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

#: Bits for each id, within bounds: one id in a hundred that is not among them seems to be, at most, up to 16 million.
_BITS_EACH = 16
_LEAST, _MOST = 16, 28
_PROBES = (np.uint64(0), np.uint64(32))


class SoughtIds:
    """Ids by their hashes (a Bloom filter): what is among them is always found, of others a few too. Up to 32 MB."""

    def __init__(self, count: int, hashed: Iterable[Hashes]) -> None:
        """Of ``count`` ids, whose hashes come some at a time."""
        size = min(max((_BITS_EACH * count).bit_length(), _LEAST), _MOST)
        self._mask = np.uint64((1 << size) - 1)
        self._bits = np.zeros(1 << (size - 3), np.uint8)
        for some in hashed:
            for byte, bit in self._places(some):
                np.bitwise_or.at(self._bits, byte, np.left_shift(np.uint8(1), bit))

    def may_have(self, hashed: Hashes) -> npt.NDArray[np.bool_]:
        """Which of some hashes may be among them."""
        found = np.ones(len(hashed), np.uint8)
        for byte, bit in self._places(hashed):
            found &= self._bits[byte] >> bit
        return (found & 1).astype(np.bool_)

    def _places(self, hashed: Hashes) -> Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
        for probe in _PROBES:
            place = (hashed >> probe) & self._mask
            yield (place >> np.uint64(3)).astype(np.int64), (place & np.uint64(7)).astype(np.uint8)
