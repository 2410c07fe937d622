"""How payments by episode find their episodes, bound their costs and price them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution.anchors import INITIATOR_SCHEMA, anchor_provider
from fhir_gateway.attribution.eligibility import covered_days
from fhir_gateway.contracts.arrangements.base import SettlementInputs
from fhir_gateway.contracts.arrangements.facts import Facts
from fhir_gateway.contracts.episodes import (
    CostTables,
    Definition,
    Initiator,
    Sources,
    episodes,
    services,
    standing,
)
from fhir_gateway.contracts.episodes.caps import PERFORMANCE, applied, bounds
from fhir_gateway.contracts.episodes.multipliers import (
    ONE,
    mean_multiplier,
    with_multipliers,
    with_risk,
    with_social_risk,
)
from fhir_gateway.contracts.episodes.targets import GroupBaseline, as_table, baseline_prices, priced, tiered
from fhir_gateway.contracts.social_risk import at_risk
from fhir_gateway.errors import ContractError

if TYPE_CHECKING:
    from fhir_gateway.contracts.arrangements.episode_terms import EpisodeTerms


@dataclass(frozen=True, slots=True)
class Reckoned:
    """Episodes with prices, and what the prices were made of.

    ``table`` (:data:`~fhir_gateway.contracts.episodes.targets.PRICED_SCHEMA`) has all candidates of the period;
    ``discounts``, ``normalisations`` are the factors by family and by entity, ``multipliers`` the mean by entity;
    ``baseline_counts`` the baseline episodes by entity and price group, as far as they are known; ``risk_source`` says
    where diagnoses come from.
    """

    table: pa.Table
    baseline: tuple[GroupBaseline, ...]
    discounts: Mapping[str, Decimal]
    normalisations: Mapping[str, Decimal]
    multipliers: Mapping[str, Decimal]
    trend: Decimal
    baseline_counts: Mapping[tuple[str | None, str], int]
    collaborators: pa.Table | None
    risk_source: str

    @property
    def own(self) -> pa.Table:
        """Those that are not others': what may be shown to whom the contract is with."""
        return self.table.filter(self.table["ours"])

    @property
    def standing(self) -> pa.Table:
        """The episodes that count."""
        return standing(self.table)


@dataclass(frozen=True, slots=True)
class _Made:
    """What episodes are made of."""

    definition: Definition
    sources: Sources
    periods: dict[str, tuple[date, date]]
    costs: CostTables
    initiators: tuple[Initiator, ...]  # to be found by the numbers on the anchor's claim

    @classmethod
    def of(cls, terms: EpisodeTerms, inputs: SettlementInputs) -> _Made:
        facts, definition = inputs.columns(), terms.definition()
        return cls(
            definition.model_copy(update={"post_days": max(definition.post_days, terms.post_days())}),
            Sources(
                facts.lines,
                facts.people.select(["member", "died"]),
                _eligible(terms, facts),
                facts.people["member"].combine_chunks() if terms.population == "attributed" else None,
                None if inputs.cut is None else inputs.cut.through,
            ),
            {PERFORMANCE: facts.period, **terms.price.periods},
            CostTables(
                None if terms.gmlos is None else facts.table(terms.gmlos),
                None if terms.standardisation is None else facts.table(terms.standardisation),
            ),
            terms.initiators if terms.anchors is None else (),
        )

    def episodes(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        return episodes(connection, self.definition, self.sources, self.periods, self.costs, self.initiators)

    def services(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        return services(connection, self.definition, self.sources, self.periods, self.costs, self.initiators)


def counted_services(terms: EpisodeTerms, inputs: SettlementInputs) -> pa.Table:
    """The claim lines of the episodes that stand, and what counts of each (``SERVICE_SCHEMA``)."""
    with duckdb.connect() as connection:
        found = _Made.of(terms, inputs).services(connection)
    return found.filter(pc.is_in(found["episode"], value_set=reckon(terms, inputs).standing["episode"]))


def reckon(terms: EpisodeTerms, inputs: SettlementInputs) -> Reckoned:
    """Find the episodes of terms and price them."""
    facts = inputs.columns()
    if any(first <= facts.period[1] and last >= facts.period[0] for first, last in terms.price.periods.values()):
        raise ContractError(f"{terms.where}.price.years: the baseline and the period have days in common")
    with duckdb.connect() as connection:
        return _priced(connection, terms, facts, _capped(connection, terms, inputs))


def _capped(connection: duckdb.DuckDBPyConnection, terms: EpisodeTerms, inputs: SettlementInputs) -> pa.Table:
    """Episodes of the period and of the baseline, with the cost that counts."""
    facts = inputs.columns()
    found = _Made.of(terms, inputs).episodes(connection)
    if terms.anchors is not None:
        found = _by_hierarchy(connection, terms, found, facts)
    if terms.tiers is not None:
        found = tiered(connection, found, facts.table(terms.tiers))
    cap = terms.bound()
    given = None if cap is None or cap.table is None else facts.table(cap.table)
    return applied(connection, found, bounds(connection, found, cap, given), cap)


def _priced(connection: duckdb.DuckDBPyConnection, terms: EpisodeTerms, facts: Facts, capped: pa.Table) -> Reckoned:
    """Those of the period against their targets."""
    definition = terms.definition()
    entities = sorted({one.name for one in terms.initiators} or {"all"})
    baseline: list[GroupBaseline] = []
    if terms.price.kind == "baseline":
        baseline = baseline_prices(connection, capped, terms.price, entities)
        prices = as_table(baseline)
    else:
        prices = facts.table(terms.price.table or "")
    mine = _adjusted(connection, terms, facts, capped.filter(pc.equal(capped["period"], PERFORMANCE)))
    whole = standing(mine)
    multipliers = {name: mean_multiplier(whole.filter(pc.equal(whole["entity"], name))) for name in entities}
    normalisations = {
        name: ONE if terms.normalisation is None else terms.normalisation.factor(multipliers[name]) for name in entities
    }
    trend = ONE if terms.trend is None else terms.trend.factor
    discounts = {
        family: Decimal(0) if terms.price.discounted else terms.discount(family) for family in definition.families
    }
    factors = {
        (name, family): (1 - discount) * normalisations[name] * trend
        for name in entities
        for family, discount in discounts.items()
    }
    counts = {
        (row["entity"], row["price_group"]): row["baseline_episodes"]
        for row in prices.select(["entity", "price_group", "baseline_episodes"]).to_pylist()
        if row["baseline_episodes"] is not None
    }
    return Reckoned(
        priced(connection, mine, prices, factors, definition.price_day),
        tuple(baseline),
        discounts,
        normalisations,
        multipliers,
        trend,
        counts,
        None if terms.gainsharing is None else facts.table(terms.gainsharing.table),
        "" if terms.risk is None else facts.source(terms.risk.table),
    )


def _adjusted(connection: duckdb.DuckDBPyConnection, terms: EpisodeTerms, facts: Facts, mine: pa.Table) -> pa.Table:
    """Episodes with the multipliers of their members: as stated, times age and HCCs, times social risk."""
    mine = with_multipliers(connection, mine, None if terms.multipliers is None else facts.table(terms.multipliers))
    if terms.risk is not None:
        mine = with_risk(connection, mine, facts.people, facts.table(terms.risk.table), terms.risk)
    if terms.social is not None:
        risky = at_risk(facts.table(terms.social.table), terms.social.adi)
        mine = with_social_risk(connection, mine, risky, terms.social.factor)
    return mine


def _by_hierarchy(
    connection: duckdb.DuckDBPyConnection, terms: EpisodeTerms, found: pa.Table, facts: Facts
) -> pa.Table:
    """Entities by the people and the hospital in charge of each anchor."""
    named = facts.table(terms.anchors or "")
    anchors = (
        found.select(["episode", "member", "anchor", "anchor_start", "anchor_end", "tin", "organization"])
        .join(named, keys="anchor", right_keys="claim_group", join_type="left outer")
        .rename_columns({"anchor_start": "start", "anchor_end": "end", "tin": "hospital_tin"})
    )
    anchors = anchors.set_column(anchors.column_names.index("episode"), "episode", anchors["episode"].cast(pa.string()))
    lines = facts.lines.append_column("counts", pa.repeat(True, facts.lines.num_rows))
    who = anchor_provider(
        anchors, lines, _numbers(terms.initiators), terms.hierarchy, needs=terms.needs_roles,
        of_transfers=terms.definition().transfers.anchor,
    )  # fmt: skip
    connection.register("episodes", found)
    connection.register("accountable", who)
    return (
        connection.sql(
            """
            SELECT e.* REPLACE (a.entity AS entity, e.ours AND a.entity IS NOT NULL AS ours, coalesce(e.reason,
              CASE WHEN a.entity IS NULL THEN 'other-provider' END) AS reason)
            FROM episodes e LEFT JOIN accountable a ON a.episode = e.episode::VARCHAR ORDER BY episode, period
            """
        )
        .to_arrow_table()
        .cast(found.schema)
    )


def _eligible(terms: EpisodeTerms, facts: Facts) -> pa.Table | None:
    """Days that members are eligible: by the table, or by their Coverage; None when everybody is."""
    if terms.eligibility is not None:
        return facts.table(terms.eligibility)
    wanted = terms.definition().covered
    if wanted is None:
        return None
    if facts.coverage is None:
        raise ContractError(f"{terms.where}.episode.covered: Coverage is needed and was not given")
    return covered_days(facts.coverage, wanted.include_types, wanted.exclude_types, parts=wanted.parts)


def _numbers(initiators: tuple[Initiator, ...]) -> pa.Table:
    """Initiators as attribution takes them."""
    rows = [
        {"entity": one.name, kind: number}
        for one in initiators
        for kind, numbers in (
            ("tin", one.tins),
            ("npi", one.npis),
            ("ccn", one.ccns),
            ("organization", one.organizations),
        )
        for number in numbers
    ]
    return pa.Table.from_pylist(rows, schema=INITIATOR_SCHEMA)
