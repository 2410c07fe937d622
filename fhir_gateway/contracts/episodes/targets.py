"""What episodes may cost: prices as given or out of a baseline, discounted, times risk, normalised, trended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any, Literal

import duckdb
import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.episodes.caps import EIGHT, PERFORMANCE
from fhir_gateway.contracts.episodes.construct import WHOLE
from fhir_gateway.contracts.episodes.definition import AMOUNT
from fhir_gateway.contracts.episodes.multipliers import ONE, RISK_COLUMNS, TEN, Factor
from fhir_gateway.contracts.episodes.service import EPISODE_SCHEMA
from fhir_gateway.contracts.terms import Fraction, Terms
from fhir_gateway.errors import ContractError

Weight = Annotated[Decimal, Field(ge=0)]

#: Prices by price group, as a table of the contract: of an entity (empty: all), for days of the anchor (empty: always).
#: ``baseline_episodes`` is how many they rest on.
PRICE_SCHEMA = pa.schema(
    [
        pa.field("price_group", pa.string(), nullable=False),
        pa.field("price", AMOUNT, nullable=False),
        pa.field("entity", pa.string()),
        pa.field("start", pa.date32()),
        pa.field("end", pa.date32()),
        pa.field("baseline_episodes", pa.int64()),
    ]
)
#: Severity of members' episodes; a price group becomes ``group-tier``.
TIER_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        pa.field("tier", pa.string(), nullable=False),
        pa.field("anchor_start", pa.date32()),
    ]
)
#: Episodes with what counts against which price: ``low``, ``high`` bound ``capped``; ``difference``: target - capped.
PRICED_SCHEMA = pa.schema(
    [
        *EPISODE_SCHEMA,
        pa.field("low", AMOUNT),
        pa.field("high", AMOUNT),
        pa.field("capped", AMOUNT),
        pa.field("multiplier", pa.decimal128(18, 10)),
        pa.field("price", AMOUNT),
        pa.field("target", AMOUNT),
        pa.field("difference", AMOUNT),
    ]
)


class BaselineYear(Terms):
    """A year of the baseline: its days, its weight and the factor that brings it to the prices of the period."""

    start: date
    end: date
    weight: Weight = ONE
    trend: Factor = ONE


class Prices(Terms):
    """Where prices come from: a ``table`` of the contract, or the mean capped cost of ``years``.

    Of a baseline the initiator's own mean and that of all providers in the claims are blended ``own`` : ``region``.
    Below ``min_episodes`` of its own in a price group the region's stands alone.
    """

    kind: Literal["given", "baseline"]
    table: str | None = None
    years: tuple[BaselineYear, ...] = ()
    own: Weight = ONE
    region: Weight = Decimal(0)
    min_episodes: int = Field(default=0, ge=0)
    complications: Fraction = Field(
        default=ONE, description="Part of the baseline's potentially avoidable complications that prices allow for."
    )
    discounted: bool = Field(default=False, description="The prices contain the discount already.")

    def problems(self, where: str) -> list[str]:
        """Terms that are missing or contradict each other."""
        found = []
        if self.kind == "given":
            found += [f"{where}.table: is needed for given prices"] if self.table is None else []
            found += [f"{where}.years: prices are given"] if self.years else []
        else:
            found += [f"{where}.years: is needed for prices out of a baseline"] if not self.years else []
            found += [f"{where}.table: prices come out of the baseline"] if self.table is not None else []
            if self.discounted:
                found.append(f"{where}.discounted: prices out of a baseline are not")
            if self.years and not sum(year.weight for year in self.years):
                found.append(f"{where}.years: no year has a weight")
            if not self.own + self.region:
                found.append(f"{where}.own: neither it nor region counts")
        for number, year in enumerate(self.years):
            if year.end < year.start:
                found.append(f"{where}.years.{number}.end: before its start")
            if any(year.start <= other.end and other.start <= year.end for other in self.years[:number]):
                found.append(f"{where}.years.{number}: overlaps an earlier one")
        return found

    @property
    def periods(self) -> dict[str, tuple[date, date]]:
        """Labels and days of the baseline years."""
        return {f"baseline-{number}": (year.start, year.end) for number, year in enumerate(self.years, start=1)}


class Trend(Terms):
    """What the period's trend turned out to be, as a factor on announced prices, counted within ``cap``."""

    retrospective: Factor
    cap: Fraction | None = None

    @property
    def factor(self) -> Decimal:
        """The factor that counts."""
        if self.cap is None:
            return self.retrospective
        return max(1 - self.cap, min(1 + self.cap, self.retrospective))


@dataclass(frozen=True, slots=True)
class GroupBaseline:
    """The baseline of an entity in a price group: episodes and weighted mean of its own and of the region."""

    entity: str
    price_group: str
    episodes: int
    own: Decimal | None
    region_episodes: int
    region: Decimal
    price: Decimal


_MEANS = f"""
WITH whole AS (
  SELECT * FROM episodes WHERE {WHOLE} AND period <> $performance
), counted AS (
  SELECT entity, price_group, period, capped, complications FROM whole WHERE entity IS NOT NULL
  UNION ALL SELECT NULL, price_group, period, capped, complications FROM whole
)
SELECT entity, price_group, period, count(*) AS episodes, sum(capped)::VARCHAR, sum(complications)::VARCHAR
FROM counted GROUP BY ALL ORDER BY ALL
"""  # noqa: S608  our own condition


def baseline_prices(
    connection: duckdb.DuckDBPyConnection, capped: pa.Table, prices: Prices, entities: list[str]
) -> list[GroupBaseline]:
    """Prices of each entity and price group out of the episodes of the baseline years."""
    connection.register("episodes", capped)
    rows = connection.execute(_MEANS, {"performance": PERFORMANCE}).fetchall()
    counts: dict[tuple[str | None, str], dict[str, tuple[int, Decimal]]] = {}
    for entity, group, period, episodes, total, avoidable in rows:
        amount = Decimal(total) - (1 - prices.complications) * Decimal(avoidable)
        counts.setdefault((entity, group), {})[period] = (episodes, amount)
    found = []
    for (entity, group), years in sorted(counts.items(), key=lambda item: item[0][1]):
        if entity is not None:
            continue
        region = _mean(years, prices)
        if region is None:
            continue
        for name in entities:
            mine = counts.get((name, group), {})
            own = _mean(mine, prices)
            episodes = sum(count for count, _ in mine.values())
            blended = own is not None and episodes >= prices.min_episodes
            price = (
                (prices.own * own + prices.region * region) / (prices.own + prices.region)
                if blended and own is not None
                else region
            )
            everyone = sum(count for count, _ in years.values())
            price = price.quantize(EIGHT, ROUND_HALF_UP)
            found.append(GroupBaseline(name, group, episodes, own, everyone, region, price))
    return found


def _mean(years: Mapping[str, tuple[int, Decimal]], prices: Prices) -> Decimal | None:
    """Weighted mean over the years that have episodes, each at the period's prices."""
    weight = total = Decimal(0)
    for number, year in enumerate(prices.years, start=1):
        episodes, amount = years.get(f"baseline-{number}", (0, Decimal(0)))
        if episodes:
            weight += year.weight
            total += year.weight * year.trend * amount / episodes
    return total / weight if weight else None


def as_table(found: list[GroupBaseline]) -> pa.Table:
    """Prices out of a baseline as :data:`PRICE_SCHEMA`."""
    rows = [
        {"price_group": one.price_group, "price": one.price, "entity": one.entity, "baseline_episodes": one.episodes}
        for one in found
    ]
    return pa.Table.from_pylist(rows, schema=PRICE_SCHEMA)


_PRICED = """
SELECT e.* EXCLUDE (multiplier), coalesce(e.multiplier, 1)::DECIMAL(18, 10) AS multiplier, p.price,
  ((p.price * f.factor)::DECIMAL(28, 8) * coalesce(e.multiplier, 1)::DECIMAL(18, 10))::DECIMAL(28, 8) AS target
FROM episodes e
LEFT JOIN factors f ON f.entity = e.entity AND f.family = e.family
LEFT JOIN prices p ON p.price_group = e.price_group AND (p.entity IS NULL OR p.entity = e.entity)
  AND e.{day} BETWEEN coalesce(p."start", DATE '0001-01-01') AND coalesce(p."end", DATE '9999-12-31')
QUALIFY row_number() OVER (PARTITION BY e.episode ORDER BY p.entity NULLS LAST, p."start" DESC NULLS LAST) = 1
ORDER BY episode
"""


def priced(
    connection: duckdb.DuckDBPyConnection,
    found: pa.Table,
    prices: pa.Table,
    factors: Mapping[tuple[str, str], Decimal],
    price_day: str,
) -> pa.Table:
    """Episodes (:data:`PRICED_SCHEMA`) of the period: target = price x factor of entity and family x multiplier.

    What multipliers were made of (``RISK_COLUMNS``) comes last, where ``found`` has it. ContractError when an episode
    that stands has no price; the price groups are named.
    """
    rows: list[dict[str, Any]] = [
        {"entity": entity, "family": family, "factor": factor.quantize(TEN, ROUND_HALF_UP)}
        for (entity, family), factor in sorted(factors.items())
    ]
    factor_schema = pa.schema([("entity", pa.string()), ("family", pa.string()), ("factor", pa.decimal128(18, 10))])
    connection.register("episodes", found)
    connection.register("prices", prices)
    connection.register("factors", pa.Table.from_pylist(rows, schema=factor_schema))
    query = _PRICED.format(day=price_day)
    connection.execute(f"CREATE TABLE priced AS {query}")
    lacking = connection.sql(
        "SELECT DISTINCT price_group FROM priced WHERE reason IS NULL AND entity IS NOT NULL AND price IS NULL"
        " ORDER BY 1"
    ).fetchall()
    if lacking:
        names = ", ".join(str(name) for (name,) in lacking)
        raise ContractError(f"prices: there is none for the episodes of price group {names}")
    table = connection.sql(
        """
        SELECT * REPLACE (CASE WHEN reason IS NULL THEN target END AS target),
          CASE WHEN reason IS NULL THEN target - capped END AS difference
        FROM priced ORDER BY episode
        """
    ).to_arrow_table()
    risk = [(name, pa.int32()) for name in RISK_COLUMNS if name in found.column_names]
    schema = pa.schema([*PRICED_SCHEMA, *risk])
    return table.select(schema.names).cast(schema).combine_chunks()


def tiered(connection: duckdb.DuckDBPyConnection, found: pa.Table, tiers: pa.Table) -> pa.Table:
    """Episodes with the tier of their severity in the price group, where there is one."""
    connection.register("episodes", found)
    connection.register("tiers", tiers)
    return (
        connection.sql(
            """
        SELECT e.* REPLACE (e.price_group || coalesce('-' || t.tier, '') AS price_group)
        FROM episodes e LEFT JOIN tiers t ON t.member = e.member
          AND (t.anchor_start IS NULL OR t.anchor_start = e.anchor_start)
        QUALIFY row_number() OVER (PARTITION BY e.episode, e.period ORDER BY t.anchor_start NULLS LAST, t.tier) = 1
        ORDER BY episode, period
        """
        )
        .to_arrow_table()
        .cast(found.schema)
    )
