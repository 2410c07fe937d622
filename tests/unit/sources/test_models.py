"""When a ledger balances."""

from __future__ import annotations

import pytest

from fhir_gateway.sources.models import Ledger, LedgerEntry


@pytest.mark.parametrize(
    ("manifest", "read", "fates", "balanced"),
    [
        (None, 4, (1, 1, 1, 1), True),
        (4, 4, (1, 1, 1, 1), True),
        (0, 0, (0, 0, 0, 0), True),
        (5, 4, (1, 1, 1, 1), False),
        (None, 4, (1, 1, 1, 0), False),
        (None, 4, (2, 1, 1, 1), False),
    ],
)
def test_every_line_has_one_fate(
    manifest: int | None, read: int, fates: tuple[int, int, int, int], balanced: bool
) -> None:
    entry = LedgerEntry("Patient", manifest, read, *fates)
    assert entry.balanced is balanced
    good = LedgerEntry("Observation", None, 0, 0, 0, 0, 0)
    assert Ledger("p", "s", (good, entry)).balanced is balanced
