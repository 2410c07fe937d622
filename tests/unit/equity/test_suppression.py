"""What is hidden cannot be worked out from what is shown: an attacker who knows every rule but the data tries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from fhir_gateway.equity import dimensions as room
from fhir_gateway.equity.dimensions import Column, Dimension, MemberDimensions
from fhir_gateway.equity.metrics import Metric
from fhir_gateway.equity.stratify import Strata, stratify

FINE = Dimension("fine", "Fine", "area", {c: c for c in "abcd"})
COARSE = Dimension("coarse", "Coarse", "area", {"ab": "ab", "cd": "cd"})
OTHER = Dimension("other", "Other", "other", {c: c for c in "xyz"})
THRESHOLD = 4


@pytest.fixture(autouse=True)
def dimensions_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_dimensions(monkeypatch)


def replace_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {one.id: one for one in (FINE, COARSE, OTHER)}
    monkeypatch.setattr(room, "DIMENSIONS", known)


#: Kinds of members that the logic of the four metrics allows: (den, num1, num2, num3). Metric 2 has the denominator
#: of 1; that of 3 is the numerator of 1; 4 is the inverse of 1.
KINDS = [(0, 0, 0, 0)] + [(1, a, b, c) for a, b, c in product((0, 1), repeat=3) if a or not c]
SETS = {
    "m1": (lambda k: k[0], lambda k: k[1]),
    "m2": (lambda k: k[0], lambda k: k[2]),
    "m3": (lambda k: k[1], lambda k: k[3]),
    "m4": (lambda k: k[0], lambda k: k[0] - k[1]),
}


@dataclass(frozen=True)
class World:
    """Counts of members by kind, fine stratum and other stratum."""

    counts: np.ndarray
    metrics: tuple[str, ...]
    names: tuple[str, ...]

    def strata(self) -> Strata:
        kind, fine, other = (axis.reshape(-1) for axis in np.indices(self.counts.shape))
        each = self.counts.reshape(-1)
        kind, fine, other = (np.repeat(axis, each) for axis in (kind, fine, other))
        members = pa.array([f"p{n:06}" for n in range(len(kind))], pa.string())
        columns = {
            "fine": Column(fine, tuple(FINE.strata)),
            "coarse": Column(fine // 2, tuple(COARSE.strata)),
            "other": Column(other, tuple(OTHER.strata)),
        }
        dimensions = MemberDimensions(members, date(2025, 1, 1), columns, pa.table({"member": members}))
        table = np.array(KINDS)
        made = []
        for name in self.metrics:
            den, num = SETS[name]
            made.append(
                Metric(
                    name,
                    name,
                    members,
                    np.array([den(k) for k in table[kind].tolist()], float).reshape(-1),
                    np.array([num(k) for k in table[kind].tolist()], float).reshape(-1),
                )
            )
        return stratify(made, dimensions, self.names, THRESHOLD)


class Attacker:
    """Knows all that is shown and all logic, and asks how low and high a hidden count can be, in whole persons."""

    def __init__(self, world: World, strata: Strata) -> None:
        self.shape = world.counts.shape
        self.rows: list[np.ndarray] = []
        self.values: list[float] = []
        for one in strata.population:
            for code, _, count in one.members:
                if count is not None:
                    self.know(self.row(lambda k: 1, one.dimension.id, code), count)
        self.know(self.row(lambda k: 1, None, None), int(world.counts.sum()))
        for one in strata.breakdowns:
            den, num = SETS[one.metric.id]
            for cell in (one.total, *one.cells):
                if cell.denominator is not None:
                    self.know(self.row(den, one.dimension.id, cell.stratum), cell.denominator)
                if cell.numerator is not None:
                    self.know(self.row(num, one.dimension.id, cell.stratum), cell.numerator)

    def row(self, of, dimension, code) -> np.ndarray:
        row = np.zeros(self.shape)
        weight = np.array([of(k) for k in KINDS])[:, None, None] * np.ones(self.shape)
        if code is None:
            return weight
        if dimension == "fine":
            place = list(FINE.strata).index(code)
            row[:, place, :] = weight[:, place, :]
        elif dimension == "coarse":
            place = list(COARSE.strata).index(code)
            row[:, 2 * place : 2 * place + 2, :] = weight[:, 2 * place : 2 * place + 2, :]
        else:
            place = list(OTHER.strata).index(code)
            row[:, :, place] = weight[:, :, place]
        return row

    def know(self, row: np.ndarray, value: float) -> None:
        self.rows.append(row.reshape(-1))
        self.values.append(value)

    def bounds(self, row: np.ndarray, wanted: float) -> tuple[float, float]:
        """Lowest and highest of a count (looked for no further than ``wanted``)."""
        target = row.reshape(-1)
        known = LinearConstraint(np.array(self.rows), self.values, self.values)
        found = []
        for sign in (1, -1):
            answer = milp(sign * target, constraints=known, integrality=np.ones(len(target)), bounds=Bounds(0, np.inf))
            assert answer.success, answer.message
            found.append(round(sign * answer.fun))
        return found[0], found[1]


def attack(world: World) -> int:
    """Tries to narrow every small count down; gives how many there were."""
    strata = world.strata()
    attacker = Attacker(world, strata)
    tried = 0
    for one in strata.breakdowns:
        den, num = SETS[one.metric.id]
        for cell in (one.total, *one.cells):
            for of in (den, num, lambda k, d=den, n=num: d(k) - n(k)):
                row = attacker.row(of, one.dimension.id, cell.stratum)
                true = int((row * world.counts).sum())
                if 0 < true < THRESHOLD:
                    low, high = attacker.bounds(row, THRESHOLD)
                    assert low <= 1, (one.metric.id, one.dimension.id, cell.stratum, true, low, high)
                    assert high >= THRESHOLD - 1, (one.metric.id, one.dimension.id, cell.stratum, true, low, high)
                    tried += 1
    for one in strata.population:
        for code, _, count in one.members:
            row = attacker.row(lambda k: 1, one.dimension.id, code)
            true = int((row * world.counts).sum())
            if 0 < true < THRESHOLD:
                low, high = attacker.bounds(row, THRESHOLD)
                assert count is None
                assert low <= 1, (one.dimension.id, code, true)
                assert high >= THRESHOLD - 1, (one.dimension.id, code, true)
                tried += 1
    return tried


@st.composite
def worlds(draw: st.DrawFn) -> World:
    shape = (len(KINDS), 4, 3)
    size = int(np.prod(shape))
    # mostly empty cells with a few fuller ones: margins are then small, large and zero by turns
    cell = st.sampled_from([0, 0, 0, 0, 0, 1, 1, 2, 5, 9])
    counts = np.array(draw(st.lists(cell, min_size=size, max_size=size))).reshape(shape)
    thin = np.array(draw(st.lists(st.sampled_from([0, 1, 1]), min_size=4, max_size=4)))
    counts = counts * thin[None, :, None]
    metrics = draw(st.lists(st.sampled_from(sorted(SETS)), min_size=1, max_size=4, unique=True))
    names = draw(st.lists(st.sampled_from(["fine", "coarse", "other"]), min_size=1, max_size=3, unique=True))
    return World(counts, tuple(sorted(metrics)), tuple(names))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(world=worlds())
def test_nothing_hidden_can_be_worked_out(world: World) -> None:
    with pytest.MonkeyPatch.context() as patch:
        replace_dimensions(patch)
        attack(world)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(world=worlds())
def test_strata_and_what_is_hidden_add_up(world: World) -> None:
    """What the pool must hold, by the totals, is what the members in its strata are."""
    with pytest.MonkeyPatch.context() as patch:
        replace_dimensions(patch)
        strata = world.strata()
    for one in strata.breakdowns:
        column = strata.dimensions.columns[one.dimension.id]
        metric = next(metric for metric in strata.aligned if metric.id == one.metric.id)
        hidden = np.array([cell.denominator is None for cell in one.cells])
        in_pool = float(metric.denominator[hidden[column.codes]].sum())
        shown = sum(cell.denominator for cell in one.cells if cell.denominator is not None)
        assert shown + in_pool == one.total.denominator
        assert hidden.sum() != 1
