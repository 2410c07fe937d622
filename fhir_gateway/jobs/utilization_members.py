"""Whose utilization: members of the lake or of a contract, with their months, strata and claim lines, by bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution import COVERAGE_COLUMNS, Attribution, member_months
from fhir_gateway.attribution.eligibility import MONTH_SCHEMA
from fhir_gateway.attribution.rules import MonthRule
from fhir_gateway.contracts import Contract
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.claim_lines import kept_claim_line_buckets, kept_claim_lines
from fhir_gateway.jobs.people import persons_of
from fhir_gateway.risk.utilization import LINE_COLUMNS, NETWORK_SCHEMA, STRATA_SCHEMA, Options, Population

#: Dimensions that the gateway knows by itself; those of attribution exist under a contract.
DIMENSIONS = ("sex", "age-band", "attributed-tin", "attributed-npi", "rendering")
#: Values of a member by dimension; who is of none is unknown.
_KNOWN = {
    "sex": "coalesce(gender, 'unknown')",
    "age-band": """CASE WHEN age IS NULL THEN 'unknown' WHEN age < 18 THEN '0-17' WHEN age < 35 THEN '18-34'
      WHEN age < 50 THEN '35-49' WHEN age < 65 THEN '50-64' WHEN age < 75 THEN '65-74' WHEN age < 85 THEN '75-84'
      ELSE '85+' END""",
}


@dataclass(frozen=True, slots=True)
class Whose:
    """The members that are asked about, and how their months count."""

    roster: pa.Array | None = None
    rule: MonthRule = "any_day"
    covered: bool = True
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    attributed: pa.Table | None = None
    network: pa.Table | None = None
    precedence: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class KnownClaims:
    """Claim lines of members at a lake version, as of a payment date."""

    gateway: Gateway
    version: int
    paid_through: date | None
    whose: Whose

    def lines(self, columns: Sequence[str]) -> pa.Table:
        """Columns of all lines."""
        return kept_claim_lines(self.gateway, self.version, self.paid_through, columns, self.whose.precedence)

    def slices(
        self,
        period: tuple[date, date],
        options: Options,
        dimensions: Sequence[str] = (),
        on: date | None = None,
        strata: pa.Table | None = None,
    ) -> Iterator[tuple[pa.Table, Population]]:
        """Claim lines and members of one bucket of the lake after the other; ages of strata are those ``on`` a day."""
        gateway, version, whose = self.gateway, self.version, self.whose
        covered = whose.covered and bool(gateway.lake.read("Coverage", (), version=version).num_rows)
        whole = _looked_at(period, options)
        buckets = kept_claim_line_buckets(gateway, version, self.paid_through, LINE_COLUMNS, whose.precedence)
        for bucket, lines in enumerate(buckets):
            people = persons_of(gateway, version, bucket)
            if covered:
                coverage = gateway.lake.read("Coverage", COVERAGE_COLUMNS, bucket=bucket, version=version)
                deaths = people.filter(people["died"].is_valid()).select(["member", "died"])
                months = member_months(coverage, whole, whose.rule, whose.include, whose.exclude, deaths)
            elif whose.covered and whose.roster is not None:
                months = MONTH_SCHEMA.empty_table()
            else:
                months = _lived(people, whole)  # nobody sends coverage, or no one asks for it: who lives is a member
            known = (people["member"], months["member"], lines["_member"])
            here = pc.unique(pa.chunked_array([chunk for column in known for chunk in column.chunks], pa.string()))
            mine = replace(whose, roster=_among(whose.roster, here), attributed=_those(whose.attributed, here))
            yield (
                lines,
                Population(
                    months if mine.roster is None else _those(months, mine.roster),
                    roster=mine.roster,
                    people=people.select(["member", "birth_date", "died"]),
                    strata=_strata(people, mine, dimensions, on or period[1], _those(strata, here)),
                    network=whose.network,
                ),
            )


def members_of(contract: Contract, attribution: Attribution) -> Whose:
    """Those attributed to the contract's provider, by the terms of its attribution."""
    chosen = attribution.table.filter(pc.equal(attribution.table["entity"], contract.provider.entity))
    rule = attribution.terms.eligibility
    tins = {*contract.provider.tins, *(tin for one in contract.participants for tin in one.tins)}
    npis = {*contract.provider.npis, *(npi for one in contract.participants for npi in one.npis)}
    rows = [{"tin": one, "npi": None} for one in sorted(tins)] + [{"tin": None, "npi": one} for one in sorted(npis)]
    return Whose(
        roster=chosen["member"].combine_chunks(),
        rule=rule.month_rule,
        covered=rule.coverage != "ignored",
        include=rule.include_types,
        exclude=rule.exclude_types,
        attributed=chosen,
        network=pa.Table.from_pylist(rows, schema=NETWORK_SCHEMA) if rows else None,
        precedence=contract.claims.precedence,
    )


def _looked_at(period: tuple[date, date], options: Options) -> tuple[date, date]:
    """From so many months before the period as enrolment of readmissions looks at, to a month after it."""
    prior = options.readmissions.prior_months if options.readmissions.enrolment == "required" else 0
    index = period[0].year * 12 + period[0].month - 1 - prior
    return date(index // 12, index % 12 + 1, 1), period[1] + timedelta(days=62 if prior else 0)


def _among(members: pa.Array | None, here: pa.Array) -> pa.Array | None:
    return None if members is None else members.filter(pc.is_in(members, value_set=here))


def _those(table: pa.Table | None, here: pa.Array) -> pa.Table | None:
    return None if table is None else table.filter(pc.is_in(table["member"].cast(pa.string()), value_set=here))


def _lived(people: pa.Table, period: tuple[date, date]) -> pa.Table:
    """A month for each that somebody lived in."""
    with duckdb.connect() as connection:
        connection.register("people", people)
        found = connection.sql(
            """
            SELECT member, month::DATE AS month, 1::DECIMAL(28, 8) AS months
            FROM people, generate_series(date_trunc('month', $start::DATE), $end::DATE, INTERVAL 1 MONTH) m (month)
            WHERE coalesce(last_day(month::DATE) >= birth_date, TRUE) AND coalesce(month::DATE <= died, TRUE)
            ORDER BY member, month
            """,
            params={"start": period[0], "end": period[1]},
        ).to_arrow_table()
    return found.cast(MONTH_SCHEMA)


def _strata(
    people: pa.Table, whose: Whose, dimensions: Sequence[str], on: date, given: pa.Table | None
) -> pa.Table | None:
    """Which member is of which value in each dimension asked for; who is of none is ``unknown``."""
    chosen = [] if given is None else [given.select(STRATA_SCHEMA.names).cast(STRATA_SCHEMA)]
    with duckdb.connect() as connection:
        connection.register("people", people)
        connection.execute(
            """
            CREATE TEMP TABLE person AS
            SELECT member, gender, date_diff('year', birth_date, $on::DATE)
              - (strftime($on::DATE, '%m%d') < strftime(birth_date, '%m%d'))::INT AS age FROM people
            """,
            {"on": on},
        )
        for name in dimensions:
            if name in _KNOWN:
                query = f"SELECT member, '{name}' AS dimension, {_KNOWN[name]} AS value FROM person"  # noqa: S608 ours
                chosen.append(connection.sql(query).to_arrow_table().cast(STRATA_SCHEMA))
        if whose.attributed is not None:
            for name in ("tin", "npi"):
                if f"attributed-{name}" in dimensions:
                    values = pc.fill_null(whose.attributed[name], "unknown")
                    dimension = pa.array([f"attributed-{name}"] * len(values), pa.string())
                    table = pa.table([whose.attributed["member"], dimension, values], names=STRATA_SCHEMA.names)
                    chosen.append(table.cast(STRATA_SCHEMA))
    return pa.concat_tables(chosen) if chosen else None
