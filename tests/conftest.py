"""Fixtures for all tests: the optional reference data beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with published measures and populations; tests that need it are skipped without it."""
    folder = Path(os.environ.get("FHIR_GATEWAY_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("needs the reference data folder beside the checkout (or FHIR_GATEWAY_SHARED)")
    return folder
