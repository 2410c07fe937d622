"""Units: what converts into what, exactly."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest

from fhir_gateway.cql.units import common_scale, conversion, converted, kinds_of, normal
from fhir_gateway.cql.values import StrVec


@pytest.mark.parametrize(
    ("source", "target", "factor"),
    [
        ("mg/dL", "g/L", Fraction(1, 100)),
        ("kg", "[lb_av]", 1 / Fraction("0.45359237")),
        ("[in_i]", "cm", Fraction("2.54")),
        ("{INR}", "1", Fraction(1)),
        (None, "1", Fraction(1)),
        ("%", "1", Fraction(1, 100)),
        ("10*3/{cells}", "10*3", Fraction(1)),
        ("weeks", "d", Fraction(7)),
        ("year", "months", Fraction(12)),
        ("a", "mo", Fraction(12)),
    ],
)
def test_conversions_are_exact(source: str | None, target: str, factor: Fraction) -> None:
    found = conversion(source, target)
    assert found is not None
    assert found == (factor, 0)


@pytest.mark.parametrize(
    ("source", "target"),
    [("mg", "cm"), ("mmol/L", "mg/dL"), ("no unit", "mg"), ("year", "a"), ("month", "d"), ("0", "1")],
)
def test_what_does_not_convert(source: str, target: str) -> None:
    assert conversion(source, target) is None


def test_calendar_durations_are_equivalent_to_definite_ones() -> None:
    assert conversion("year", "d", equivalence=True) == (365, 0)
    assert conversion("d", "month", equivalence=True) == (Fraction(1, 30), 0)
    assert conversion("month", "mo", equivalence=True) == (1, 0)


def test_temperatures_have_an_offset() -> None:
    scale = common_scale(StrVec.constant("Cel", 2), StrVec.constant("[degF]", 2))
    values = np.array([37 * 10**8, -40 * 10**8])
    assert converted(values, scale).tolist() == [9860000000, -40 * 10**8]


def test_annotations_and_calendar_words_are_normalised() -> None:
    assert [normal(u) for u in ("mg{total}", "{score}", "years", None, "/{count}")] == ["mg", "1", "a", "1", "/1"]


def test_rows_without_values_are_not_looked_at() -> None:
    left, right = StrVec.constant("mg", 2), StrVec.of_arrow(pa.array(["g", "no unit"]))
    scale = common_scale(left, right, where=np.array([True, False]))
    assert scale.comparable.all()


def test_kinds_of_units() -> None:
    units = StrVec.of_arrow(pa.array(["mg", "cm", "g", "m", "mg"]))
    kind, values = kinds_of(units, np.array([10**8] * 5))
    assert kind[0] == kind[2] == kind[4] != kind[1] == kind[3]
    assert values[2] == 1000 * values[0]
    assert values[3] == 100 * values[1]
