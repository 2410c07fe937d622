"""An empty control plane with its crosswalk."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.engine import Engine

from fhir_gateway.db.engine import create_engine
from fhir_gateway.db.migrate import upgrade


@pytest.fixture
def empty_engine() -> Iterator[Engine]:
    opened = create_engine("sqlite://")
    upgrade(opened)
    yield opened
    opened.dispose()
