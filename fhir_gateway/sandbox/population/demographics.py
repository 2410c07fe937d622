"""Demographic columns that both sources render, and how clerks get them wrong."""

from __future__ import annotations

import numpy as np

from fhir_gateway.sandbox.population.calendar import NEVER
from fhir_gateway.sandbox.population.columns import Coded, Column, Dates, Ints, Joined, Numbered, words
from fhir_gateway.sandbox.population.names import CITIES, FAMILIES, MEN, STREETS, WOMEN
from fhir_gateway.sandbox.population.people import People


def name_fields(people: People, rows: Ints) -> dict[str, Column]:
    """Name and address columns that both sources share."""
    female = people.female[rows]
    return {
        "family": Coded(words(FAMILIES), people.family[rows]),
        "given": Coded(words((*WOMEN, *MEN)), np.where(female, people.given[rows], len(WOMEN) + people.given[rows])),
        "gender": Coded(words(("male", "female")), female.astype(np.int64)),
        "street": Joined(
            Numbered("", people.house[rows]),
            Coded(words(f"{street} Street" for street in STREETS), people.street[rows]),
        ),
        "city": Coded(words(city for city, _ in CITIES), people.city[rows]),
        "zip": Coded(words(code for _, code in CITIES), people.city[rows]),
        "death": Dates(people.death[rows], NEVER),
    }


def swap_day_and_month(birth: Ints) -> Ints:
    """Birth dates as a clerk might mistype them: day and month exchanged, or ten days early when that is no date."""
    year = birth.astype("datetime64[D]").astype("datetime64[Y]")
    month = birth.astype("datetime64[D]").astype("datetime64[M]")
    of_year = (month - year.astype("datetime64[M]")).astype(np.int64) + 1
    of_month = (birth.astype("datetime64[D]") - month.astype("datetime64[D]")).astype(np.int64) + 1
    swapped = (year.astype("datetime64[M]") + (of_month - 1)).astype("datetime64[D]") + (of_year - 1)
    possible = (of_month <= 12) & (of_month != of_year)
    return np.where(possible, swapped.astype(np.int64), birth - 10)
