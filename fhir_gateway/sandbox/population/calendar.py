"""Days as arithmetic on whole columns: everything is counted from 1970-01-01, in local time."""

from __future__ import annotations

import datetime as dt

import numpy as np

from fhir_gateway.sandbox.population.columns import Ints

_EPOCH = dt.date(1970, 1, 1)

#: A day that never comes: no end, no death.
NEVER = 10**6


def day(year: int, month: int = 1, of_month: int = 1) -> int:
    """Days from 1970-01-01 to a date."""
    return (dt.date(year, month, of_month) - _EPOCH).days


def month_starts(first_year: int, years: int) -> Ints:
    """First days of all months of ``years`` years, and of the month after."""
    first = np.datetime64(f"{first_year}-01")
    return np.arange(first, first + 12 * years + 1).astype("datetime64[D]").astype(np.int64)


def weekdays(days: Ints) -> Ints:
    """Move Saturdays back to Friday and Sundays on to Monday (offices are closed)."""
    weekday = (days + 3) % 7  # 1970-01-01 was a Thursday; 0 is Monday
    return days + np.where(weekday == 5, -1, np.where(weekday == 6, 1, 0))


def birthdays(birth: Ints, age: int) -> Ints:
    """Days on which persons reach an age; those born on 29 February do so on 1 March of a common year."""
    month = birth.astype("datetime64[D]").astype("datetime64[M]")
    of_month = birth - month.astype("datetime64[D]").astype(np.int64)
    return np.asarray((month + 12 * age).astype("datetime64[D]").astype(np.int64) + of_month)
