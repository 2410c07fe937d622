"""Avoidable admissions: AHRQ Prevention Quality Indicators over stays. Data in ``prevention.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

import duckdb

from fhir_gateway.risk.utilization.tables import Tables

#: Ages that the indicators' populations have: first and last (none: any), both included.
Ages = tuple[int, int | None]


@dataclass(frozen=True, slots=True)
class Indicator:
    """One PQI: value sets of the principal diagnosis or of procedures, what must be there too, and what must not.

    ``without`` are ``role:value set``; ``ages`` are those of the population.
    """

    id: str
    title: str
    principal: tuple[str, ...] = ()
    procedure: tuple[str, ...] = ()
    any: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    min_age: int = 18
    max_age: int | None = None

    @property
    def value_sets(self) -> tuple[str, ...]:
        """All value sets that it looks at."""
        return (*self.principal, *self.procedure, *self.any, *(one.partition(":")[2] for one in self.without))

    @property
    def condition(self) -> str:
        """The SQL condition over an admission with ``sets`` (``role:value set``) and ``age``."""
        wanted = [("principal", self.principal), ("procedure", self.procedure), ("any", self.any)]
        parts = [f"list_has_any(sets, {_list(f'{role}:{name}' for name in names)})" for role, names in wanted if names]
        if self.without:
            parts.append(f"NOT list_has_any(sets, {_list(self.without)})")
        parts.append(f"age >= {self.min_age}" + (f" AND age <= {self.max_age}" if self.max_age else ""))
        return " AND ".join(parts)


@dataclass(frozen=True, slots=True)
class Indicators:
    """The indicators of a version, and the composites: the sums of some."""

    version: str
    single: tuple[Indicator, ...]
    composites: dict[str, tuple[str, tuple[str, ...]]]

    def refused(self, tables: Tables) -> dict[str, str]:
        """Why an indicator or composite cannot be computed: value sets that nobody shipped nor imported."""
        found = {
            one.id: f"value sets that are not here: {', '.join(missing)}"
            for one in self.single
            if (missing := tables.missing(one.value_sets))
        }
        composites = {name: [one for one in parts if one in found] for name, (_, parts) in self.composites.items()}
        return found | {
            name: f"PQI {', '.join(parts)} cannot be computed" for name, parts in composites.items() if parts
        }


@cache
def indicators() -> Indicators:
    """Those that are shipped."""
    stated: dict[str, Any] = tomllib.loads(files(__package__).joinpath("prevention.toml").read_text(encoding="utf-8"))
    single = []
    for one in stated["indicator"]:
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in one.items()}
        single.append(Indicator(**given))
    composites = {one["id"]: (one["title"], tuple(one["of"])) for one in stated["composite"]}
    return Indicators(stated["version"], tuple(single), composites)


# age in whole years on the day of admission; who has no date of birth is in no indicator
_CANDIDATES = """
CREATE OR REPLACE TEMP TABLE preventable AS
WITH has AS (
  SELECT stay, list(role || ':' || value_set) AS sets FROM stay_set WHERE starts_with(value_set, 'pqi-') GROUP BY stay
)
SELECT s.stay, s.member, s.provider, s.admitted, h.sets,
  (date_diff('month', p.birth_date, s.admitted) - (day(s.admitted) < day(p.birth_date))::INT) // 12 AS age
FROM stay s JOIN has h USING (stay) JOIN people p USING (member)
WHERE s.kind = 'acute' AND s.admitted BETWEEN $start AND $end AND NOT starts_with(coalesce(s.diagnosis, ''), 'O')
  AND NOT EXISTS (SELECT 1 FROM stay f WHERE f.member = s.member AND f.kind = 'snf'
    AND s.admitted BETWEEN f.admitted AND f.discharged)
"""


def find_preventable(connection: duckdb.DuckDBPyConnection, period: tuple[date, date], tables: Tables) -> None:
    """Create ``pqi`` (stay, member, provider, indicator) of admissions in the period."""
    known = indicators()
    connection.execute(_CANDIDATES, {"start": period[0], "end": period[1]})
    refused = known.refused(tables)
    single = [
        f"SELECT stay, member, provider, '{one.id}' AS indicator FROM preventable WHERE {one.condition}"  # noqa: S608 our data
        for one in known.single
        if one.id not in refused
    ]
    nothing = "SELECT stay, member, provider, '' AS indicator FROM preventable WHERE FALSE"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE pqi AS {' UNION ALL '.join([nothing, *single])}")
    for name, (_, parts) in known.composites.items():
        if name not in refused:
            connection.execute(
                f"INSERT INTO pqi SELECT DISTINCT stay, member, provider, '{name}' FROM pqi"  # noqa: S608 our data
                f" WHERE list_contains({_list(parts)}, indicator)"
            )


def _list(words: Any) -> str:
    return "[" + ", ".join(f"'{word}'" for word in words) + "]"
