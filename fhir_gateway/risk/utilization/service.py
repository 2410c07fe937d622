"""All metrics of a population in a period, in total and broken down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.risk.utilization.lines import connect
from fhir_gateway.risk.utilization.metrics import Metric, metric, metrics
from fhir_gateway.risk.utilization.prevention import find_preventable, indicators
from fhir_gateway.risk.utilization.readmissions import (
    FOLLOW_UP_DAYS,
    ReadmissionTerms,
    find_readmissions,
    find_value_sets,
)
from fhir_gateway.risk.utilization.rules import Rules
from fhir_gateway.risk.utilization.stays import find_stays
from fhir_gateway.risk.utilization.tables import Tables
from fhir_gateway.risk.utilization.tallies import tally
from fhir_gateway.risk.utilization.visits import find_visits

#: Who the members are; ``strata``: of which value a member is in a dimension (one or several rows).
PEOPLE_SCHEMA = pa.schema([("member", pa.string()), ("birth_date", pa.date32()), ("died", pa.date32())])
STRATA_SCHEMA = pa.schema([("member", pa.string()), ("dimension", pa.string()), ("value", pa.string())])
NETWORK_SCHEMA = pa.schema([("tin", pa.string()), ("npi", pa.string())])
#: The dimension of who rendered a service (of a stay the discharging hospital, of an ED visit the facility).
RENDERING = "rendering"
#: A row per metric and group. Of the whole population ``dimension`` and ``value`` are null; ``category`` is null but of
#: metrics by service category. ``result`` is null where the denominator is zero.
RESULT_SCHEMA = pa.schema(
    [
        ("metric", pa.string()),
        ("dimension", pa.string()),
        ("value", pa.string()),
        ("category", pa.string()),
        ("numerator", pa.decimal128(38, 8)),
        ("denominator", pa.decimal128(38, 8)),
        ("result", pa.float64()),
    ]
)
#: What each member adds to numerators and denominators.
MEMBER_SCHEMA = pa.schema([("member", pa.string()), ("tally", pa.string()), ("quantity", pa.decimal128(38, 8))])


@dataclass(frozen=True, slots=True)
class Options:
    """What a run may state: terms of readmissions, the threshold of high cost, the rules of codes, tables."""

    readmissions: ReadmissionTerms = field(default_factory=ReadmissionTerms)
    high_cost: int = 100_000
    rules: Rules = field(default_factory=Rules.load)
    tables: Tables = field(default_factory=Tables.shipped)


@dataclass(frozen=True, slots=True)
class Population:
    """Whose utilization.

    ``months`` (member, month, months): those before the period too, where enrolment is asked for. ``roster``: these
    members (default: who has months in the period). ``people``, ``strata`` and ``network`` as their schemas say;
    without ``people`` nobody has an age, and what needs one is refused.
    """

    months: pa.Table
    roster: pa.Array | None = None
    people: pa.Table | None = None
    strata: pa.Table | None = None
    network: pa.Table | None = None


@dataclass(frozen=True, slots=True)
class Utilization:
    """Results (:data:`RESULT_SCHEMA`); ``refused`` says why a metric is not there, ``notes`` what to know of the rest.

    ``members`` (:data:`MEMBER_SCHEMA`) is there when it was asked for.
    """

    period: tuple[date, date]
    through: date
    table: pa.Table
    refused: Mapping[str, str]
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    members: pa.Table | None = None

    def row(self, name: str, dimension: str | None = None, value: str | None = None) -> dict[str, Any]:
        """Numerator, denominator and score of a metric, of all categories; ``score`` exact, None without denominator.

        ``NotFoundError`` for a metric that there is not; a metric that was refused, and a group without members, have
        numerator and denominator zero.
        """
        about = metric(name)
        chosen = self.table.filter(
            pc.and_(
                pc.and_(pc.equal(self.table["metric"], name), self.table["category"].is_null()),
                pc.and_(_is(self.table["dimension"], dimension), _is(self.table["value"], value)),
            )
        ).to_pylist()
        zero = Decimal(0)
        numerator = chosen[0]["numerator"] if chosen else zero
        denominator = chosen[0]["denominator"] if chosen else zero
        if about.denominator is None:
            score = numerator if chosen else None
        else:
            score = numerator * about.per / denominator if denominator else None
        return {"numerator": numerator, "denominator": denominator, "score": score}

    def score(self, name: str, dimension: str | None = None, value: str | None = None) -> Decimal | None:
        """The exact result of a metric; None where its denominator is zero."""
        found: Decimal | None = self.row(name, dimension, value)["score"]
        return found

    def per_member(self, name: str) -> pa.Table:
        """Of each member with a denominator ``numerator`` and ``denominator`` (as floats) of a metric with a ratio."""
        about = metric(name)
        if self.members is None or about.denominator is None:
            raise ValueError("per_member: members were not kept, or the metric is no ratio")
        with duckdb.connect() as connection:
            connection.register("tally", self.members)
            return connection.sql(
                """
                SELECT member, coalesce(sum(quantity) FILTER (tally = $numerator), 0)::DOUBLE AS numerator,
                  sum(quantity) FILTER (tally = $denominator)::DOUBLE AS denominator
                FROM tally WHERE tally IN ($numerator, $denominator) GROUP BY member
                HAVING sum(quantity) FILTER (tally = $denominator) > 0 ORDER BY member
                """,
                params={"numerator": about.numerator, "denominator": about.denominator},
            ).to_arrow_table()


_SUMS = """
CREATE TEMP TABLE sums AS
WITH by_member AS (
  SELECT member, tally, category, sum(quantity) AS quantity FROM tally GROUP BY ALL
), placed AS (
  SELECT NULL::VARCHAR AS dimension, NULL::VARCHAR AS value, tally, category, quantity FROM by_member
  UNION ALL
  SELECT s.dimension, s.value, b.tally, b.category, b.quantity FROM by_member b JOIN stratum s USING (member)
  UNION ALL
  SELECT '{rendering}', provider, tally, category, quantity FROM tally WHERE $rendering AND provider IS NOT NULL
)
SELECT dimension, value, tally, category, sum(quantity) AS quantity FROM placed GROUP BY ALL
"""

#: Tallies of members, whom nobody renders.
_OF_MEMBERS = (
    *("members", "member-months", "adult-months", "months-40-plus", "months-18-39", "uamcc-months"),
    *("high-cost-members", "high-cost-paid", "top-1-paid", "top-5-paid"),
)
# what nobody renders (member months) is, of a rendering provider, that of the whole population
_RESULTS = """
WITH whole AS (
  SELECT dimension, value, tally, sum(quantity) AS quantity FROM sums GROUP BY ALL
), place AS (
  SELECT DISTINCT dimension, value, NULL::VARCHAR AS category FROM sums
), category AS (
  SELECT p.dimension, p.value, c.category
  FROM place p, (SELECT DISTINCT category FROM sums WHERE category IS NOT NULL) c
), wanted AS (
  SELECT m.*, p.dimension, p.value, p.category FROM metric m, place p
  UNION ALL
  SELECT m.*, c.dimension, c.value, c.category FROM metric m, category c WHERE m.by_category
), counted AS (
  SELECT w.metric, w.position, w.per, w.denominator AS over, w.dimension, w.value, w.category,
    coalesce(CASE WHEN w.category IS NULL THEN n.quantity ELSE s.quantity END, 0) AS numerator,
    CASE WHEN w.denominator IS NOT NULL THEN coalesce(d.quantity, a.quantity, 0) END AS denominator,
    w.dimension IS DISTINCT FROM '{rendering}' OR w.numerator NOT IN ({of_members})
      AND (n.quantity IS NOT NULL OR d.quantity IS NOT NULL)
      AND (w.category IS NULL OR s.quantity IS NOT NULL) AS shown
  FROM wanted w
  LEFT JOIN whole n ON n.tally = w.numerator AND n.dimension IS NOT DISTINCT FROM w.dimension
    AND n.value IS NOT DISTINCT FROM w.value
  LEFT JOIN sums s ON s.tally = w.numerator AND s.dimension IS NOT DISTINCT FROM w.dimension
    AND s.value IS NOT DISTINCT FROM w.value AND s.category = w.category
  LEFT JOIN whole d ON d.tally = w.denominator AND d.dimension IS NOT DISTINCT FROM w.dimension
    AND d.value IS NOT DISTINCT FROM w.value
  LEFT JOIN whole a ON a.tally = w.denominator AND a.dimension IS NULL AND w.dimension = '{rendering}'
    AND a.tally IN ({of_members})
)
SELECT metric, dimension, value, category, numerator, denominator,
  CASE WHEN over IS NULL THEN numerator::DOUBLE
    WHEN denominator <> 0 THEN numerator::DOUBLE * per / denominator::DOUBLE END AS result
FROM counted WHERE shown
ORDER BY position, dimension NULLS FIRST, value, category NULLS FIRST
"""


def utilization(
    lines: pa.Table,
    population: Population,
    period: tuple[date, date],
    *,
    through: date | None = None,
    options: Options | None = None,
    by_rendering: bool = False,
    keep_members: bool = False,
) -> Utilization:
    """Every metric that can be computed, of the population and of each value of each dimension.

    ``lines`` are claim lines (:data:`.lines.LINE_COLUMNS`), those around the period too: what follows an index stay,
    and for ``uamcc`` the year before. Services and readmissions are known ``through`` a day (default: the end of the
    period). Both days of the period belong to it.
    """
    options = options or Options()
    last = through or period[1]
    refused = refusals(options.tables, population)
    with connect(lines) as connection:
        _register(connection, population, period)
        options.tables.register(connection)
        find_stays(connection, options.rules)
        find_visits(connection, options.rules, period[0], period[1] + timedelta(days=FOLLOW_UP_DAYS))
        find_value_sets(connection)
        find_readmissions(connection, period, last, options.readmissions)
        find_preventable(connection, period, options.tables)
        tally(
            connection,
            period,
            last,
            options.rules,
            options.high_cost,
            network=population.network is not None,
            by_rendering=by_rendering,
        )
        table = _results(connection, [one for one in metrics().values() if one.id not in refused], by_rendering)
        members = None
        if keep_members:
            query = "SELECT member, tally, sum(quantity) AS quantity FROM tally GROUP BY ALL ORDER BY ALL"
            members = connection.sql(query).to_arrow_table().cast(MEMBER_SCHEMA)
    return Utilization(period, last, table, refused, notes(options, population), versions(options), members)


def refusals(tables: Tables, population: Population) -> dict[str, str]:
    """Why metrics cannot be computed from these tables."""
    found: dict[str, str] = {}
    if tables.ed_probabilities is None:
        found |= _needing("ed-probabilities", "no table ed-probabilities was imported")
    if population.network is None:
        found |= _needing("network", "no network was given")
    if population.people is None:
        found |= _needing("people", "nobody's date of birth is known")
    return found | {f"pqi-{name}": why for name, why in indicators().refused(tables).items()}


def notes(options: Options, population: Population) -> tuple[str, ...]:
    """What to know of results: parts of a definition that could not be looked at."""
    found = []
    for name, what in (
        ("readmission-planned-procedures", "no readmission is judged planned by potentially planned procedures"),
        ("readmission-acute-diagnoses", "no diagnosis makes a potentially planned procedure unplanned"),
        ("readmission-surgical-procedures", "cancer stays are left out though there may have been surgery"),
    ):
        if options.tables.missing([name]):
            found.append(f"readmissions: value set {name} was not imported: {what}")
    if options.readmissions.enrolment == "ignored":
        found.append("readmissions: enrolment before and after a stay is not looked at")
    if population.people is None:
        found.append("readmissions: nobody's age or death is known, discharge status alone says who died")
    return tuple(found)


def versions(options: Options) -> dict[str, str]:
    """Versions of rules and tables that results are made of."""
    sets = {one.version for one in options.tables.value_sets.values()}
    found = {"rules": options.rules.version, "metrics": next(iter(metrics().values())).version}
    found |= {"value-sets": ", ".join(sorted(sets)), "pqi": indicators().version}
    return found | ({"ed-probabilities": options.tables.ed_version} if options.tables.ed_version else {})


def _needing(what: str, why: str) -> dict[str, str]:
    return {one.id: why for one in metrics().values() if one.needs == what}


def _register(connection: duckdb.DuckDBPyConnection, population: Population, period: tuple[date, date]) -> None:
    """Tables ``month``, ``roster``, ``people``, ``stratum`` and ``network``."""
    connection.register("month", population.months)
    if population.roster is not None:
        connection.register("stated_roster", pa.table({"member": population.roster.cast(pa.string())}))
        connection.execute("CREATE TEMP TABLE roster AS SELECT DISTINCT member FROM stated_roster")
    else:
        connection.execute(
            "CREATE TEMP TABLE roster AS SELECT DISTINCT member FROM month"
            " WHERE months > 0 AND month BETWEEN date_trunc('month', $start::DATE) AND $end",
            {"start": period[0], "end": period[1]},
        )
    for name, table, schema in (
        ("people", population.people, PEOPLE_SCHEMA),
        ("stratum", population.strata, STRATA_SCHEMA),
        ("network", population.network, NETWORK_SCHEMA),
    ):
        given = schema.empty_table() if table is None else table.select(schema.names).cast(schema)
        connection.register(f"stated_{name}", given)
        connection.execute(f"CREATE TEMP TABLE {name} AS SELECT DISTINCT * FROM stated_{name}")  # noqa: S608 our words


def _results(connection: duckdb.DuckDBPyConnection, wanted: Sequence[Metric], by_rendering: bool) -> pa.Table:
    connection.register(
        "stated_metrics",
        pa.table(
            {
                "metric": [one.id for one in wanted],
                "position": pa.array(range(len(wanted)), pa.int32()),
                "numerator": [one.numerator for one in wanted],
                "denominator": pa.array([one.denominator for one in wanted], pa.string()),
                "per": pa.array([one.per for one in wanted], pa.int32()),
                "by_category": [one.by_category for one in wanted],
            }
        ),
    )
    connection.execute("CREATE TEMP TABLE metric AS SELECT * FROM stated_metrics")
    connection.execute(_SUMS.format(rendering=RENDERING), {"rendering": by_rendering})
    query = _RESULTS.format(rendering=RENDERING, of_members=", ".join(f"'{name}'" for name in _OF_MEMBERS))
    return connection.sql(query).to_arrow_table().cast(RESULT_SCHEMA)


def _is(column: pa.ChunkedArray, value: str | None) -> pa.ChunkedArray:
    return column.is_null() if value is None else pc.fill_null(pc.equal(column, value), False)
