"""Dimensions of members: computed once for a day, a lake version and tables in force; read as they were computed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fhir_gateway.config import Settings
from fhir_gateway.equity.dimensions import MemberDimensions
from fhir_gateway.equity.members import of_columns
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import kept_dimensions as kept
from fhir_gateway.jobs.equity import reference_tables
from fhir_gateway.jobs.kept_dimensions import kept_dimensions

DAY, LATER = date(2025, 12, 31), date(2026, 12, 31)


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(Settings(data_dir=tmp_path, lake_buckets=1))


@pytest.fixture
def computed() -> list[date]:
    return []


@pytest.fixture
def ask(gateway: Gateway, computed: list[date]) -> Callable[..., MemberDimensions]:
    def asked(on: date = DAY, version: int = 1) -> MemberDimensions:
        def compute() -> MemberDimensions:
            computed.append(on)
            return made(on)

        return kept_dimensions(gateway, reference_tables(gateway), on, version, compute)

    return asked


def made(on: date) -> MemberDimensions:
    sexes = pa.array(["female", None, "something else"])
    return of_columns(pa.array(["c", "a", "b"]), on, {"sex": sexes})


def test_they_are_read_as_they_were_computed(ask: Callable[..., MemberDimensions], computed: list[date]) -> None:
    ask()
    found, expected = ask(), made(DAY)
    assert computed == [DAY]
    assert found.members.equals(expected.members)
    assert found.on == DAY
    assert found.facts.equals(expected.facts)
    assert found.columns.keys() == expected.columns.keys()
    for name, one in expected.columns.items():
        assert found.columns[name].strata == one.strata  # also those that nobody is in
        assert np.array_equal(found.columns[name].codes, one.codes)
        assert found.columns[name].codes.dtype == one.codes.dtype
    mine = found.take(pa.array(["b"]))
    assert mine.members.to_pylist() == ["b"]
    assert [mine.columns["sex"].strata[one] for one in mine.columns["sex"].codes] == ["something else"]


def test_other_inputs_are_other_dimensions(
    gateway: Gateway, ask: Callable[..., MemberDimensions], computed: list[date], tmp_path: Path
) -> None:
    ask()
    ask(LATER)
    ask(version=2)
    assert computed == [DAY, LATER, DAY]
    table = tmp_path / "ruca.csv"
    table.write_text("ZIP_CODE,RUCA1\n02115,1\n", encoding="utf-8")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    reference_tables(gateway).add("ruca", table, name="RUCA", version="1", source="made up", now=now)
    ask()
    assert computed == [DAY, LATER, DAY, DAY]
    ask(version=2)
    ask()
    assert len(computed) == 5


def test_a_few_are_kept(
    gateway: Gateway, ask: Callable[..., MemberDimensions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "_MOST", 2)
    for version in range(4):
        ask(version=version)
    assert len(list((gateway.data_folder / "views" / "dimensions-1").iterdir())) == 2
