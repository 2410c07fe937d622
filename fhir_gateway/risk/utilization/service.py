"""All metrics of a population in a period, in total and broken down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.risk.utilization.lines import connect
from fhir_gateway.risk.utilization.metrics import metric, metrics
from fhir_gateway.risk.utilization.prevention import find_preventable, indicators
from fhir_gateway.risk.utilization.readmissions import (
    FOLLOW_UP_DAYS,
    ReadmissionTerms,
    find_readmissions,
    find_value_sets,
)
from fhir_gateway.risk.utilization.rules import Rules
from fhir_gateway.risk.utilization.stays import find_stays
from fhir_gateway.risk.utilization.sums import Sums
from fhir_gateway.risk.utilization.tables import IMPORTED, Tables
from fhir_gateway.risk.utilization.tallies import tally
from fhir_gateway.risk.utilization.visits import find_visits

#: Who the members are; ``strata``: of which value a member is in a dimension (one or several rows).
PEOPLE_SCHEMA = pa.schema([("member", pa.string()), ("birth_date", pa.date32()), ("died", pa.date32())])
STRATA_SCHEMA = pa.schema([("member", pa.string()), ("dimension", pa.string()), ("value", pa.string())])
NETWORK_SCHEMA = pa.schema([("tin", pa.string()), ("npi", pa.string())])


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
    return utilization_of(
        [(lines, population)],
        period,
        through=through,
        options=options,
        by_rendering=by_rendering,
        keep_members=keep_members,
    )


def utilization_of(
    slices: Iterable[tuple[pa.Table, Population]],
    period: tuple[date, date],
    *,
    through: date | None = None,
    options: Options | None = None,
    by_rendering: bool = False,
    keep_members: bool = False,
) -> Utilization:
    """As :func:`utilization`, of slices of a population: claim lines and members, each member in one of them alone.

    One slice is looked at after the other, so memory is that of the largest one; results are those of all at once. A
    metric is refused when it cannot be computed of any one slice.
    """
    options = options or Options()
    last = through or period[1]
    refused: dict[str, str] = {}
    aged = True
    sums = Sums(options.high_cost, by_rendering=by_rendering, keep_members=keep_members)
    for lines, population in slices:
        refused |= refusals(options.tables, population)
        aged = aged and population.people is not None
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
                network=population.network is not None,
                by_rendering=by_rendering,
            )
            sums.add(connection)
    table, members = sums.results([one for one in metrics().values() if one.id not in refused])
    return Utilization(period, last, table, refused, notes(options, aged=aged), versions(options), members)


#: Value sets that are not shipped, and what readmissions are without them.
_OF_CUSTOMERS = {
    "readmission-planned-procedures": "no readmission is judged planned by potentially planned procedures",
    "readmission-acute-diagnoses": "no diagnosis makes a potentially planned procedure unplanned",
    "readmission-surgical-procedures": "cancer stays are left out though there may have been surgery",
}


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


def notes(options: Options, *, aged: bool = True) -> tuple[str, ...]:
    """What to know of results: what of a definition could not be looked at; ``aged``: dates of birth are known."""
    found = []
    for name, what in _OF_CUSTOMERS.items():
        if options.tables.missing([name]):
            found.append(f"readmissions: value set {name} was not imported: {what}")
    if options.readmissions.enrolment == "ignored":
        found.append("readmissions: enrolment before and after a stay is not looked at")
    if not aged:
        found.append("readmissions: nobody's age or death is known, discharge status alone says who died")
    return tuple(found)


def versions(options: Options) -> dict[str, str]:
    """Versions of rules and tables that results are made of; an imported value set is named by itself."""
    sets = options.tables.value_sets.values()
    shipped = {one.version for one in sets if one.trust != IMPORTED}
    found = {"rules": options.rules.version, "metrics": next(iter(metrics().values())).version}
    found |= {"value-sets": ", ".join(sorted(shipped)), "pqi": indicators().version}
    found |= {f"value-set.{one.id}": one.version for one in sets if one.trust == IMPORTED}
    return found | ({"ed-probabilities": options.tables.ed_version} if options.tables.ed_version else {})


def value_sets_looked_at() -> frozenset[str]:
    """Names of the value sets that any metric looks at, shipped or not."""
    of_indicators = (name for one in indicators().single for name in one.value_sets)
    return frozenset((*Tables.shipped().value_sets, *_OF_CUSTOMERS, *of_indicators))


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


def _is(column: pa.ChunkedArray, value: str | None) -> pa.ChunkedArray:
    return column.is_null() if value is None else pc.fill_null(pc.equal(column, value), False)
