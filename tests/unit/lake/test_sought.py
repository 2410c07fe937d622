"""Ids that are sought are found; of others hardly any."""

from __future__ import annotations

import numpy as np
import pytest

from fhir_gateway.lake.sought import Hashes, SoughtIds


def some(seed: int, count: int) -> Hashes:
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64)


@pytest.mark.parametrize("count", [0, 1, 1000, 200_000])
def test_what_is_sought_is_found_and_of_others_one_in_fifty_at_most(count: int) -> None:
    hashed = some(1, count)
    sought = SoughtIds(count, np.array_split(hashed, 3))
    assert sought.may_have(hashed).all()
    others = sought.may_have(some(2, 100_000))
    assert others.sum() <= 2000
    assert len(sought.may_have(some(3, 0))) == 0
