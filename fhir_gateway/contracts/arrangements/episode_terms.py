"""What all payments by episode state, and how their episodes are found and priced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import ClassVar, Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from fhir_gateway.attribution.anchors import INITIATOR_SCHEMA, Role, anchor_provider
from fhir_gateway.attribution.eligibility import covered_days
from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried, SettlementInputs
from fhir_gateway.contracts.arrangements.facts import Facts, Needs
from fhir_gateway.contracts.episodes import (
    ELIGIBILITY_SCHEMA,
    GMLOS_SCHEMA,
    LINE_COLUMNS,
    STANDARDISATION_SCHEMA,
    CostTables,
    Definition,
    Initiator,
    Sources,
    episodes,
    services,
    shipped_definition,
    standing,
)
from fhir_gateway.contracts.episodes.caps import CAP_SCHEMA, PERFORMANCE, Cap, applied, bounds
from fhir_gateway.contracts.episodes.targets import (
    MULTIPLIER_SCHEMA,
    ONE,
    PRICE_SCHEMA,
    TIER_SCHEMA,
    Factor,
    GroupBaseline,
    Normalisation,
    Prices,
    Trend,
    as_table,
    baseline_prices,
    mean_multiplier,
    priced,
    tiered,
    with_multipliers,
    with_social_risk,
)
from fhir_gateway.contracts.gainsharing import COLLABORATOR_SCHEMA, Gainsharing
from fhir_gateway.contracts.social_risk import SOCIAL_RISK_SCHEMA, at_risk
from fhir_gateway.contracts.terms import Terms
from fhir_gateway.errors import ContractError

#: Who was in charge of an anchor claim, for initiators by hierarchy.
ANCHORS_SCHEMA = pa.schema(
    [
        pa.field("claim_group", pa.string(), nullable=False),
        *(pa.field(name, pa.string()) for name in ("ccn", "hospital_npi", "attending", "operating")),
    ]
)


@dataclass(frozen=True, slots=True)
class Reckoned:
    """Episodes with prices, and what the prices were made of.

    ``table`` (:data:`~fhir_gateway.contracts.episodes.targets.PRICED_SCHEMA`) has all candidates of the period;
    ``discounts``, ``normalisations`` are the factors by family and by entity, ``multipliers`` the mean by entity;
    ``baseline_counts`` the baseline episodes by entity and price group, as far as they are known.
    """

    table: pa.Table
    baseline: tuple[GroupBaseline, ...]
    discounts: Mapping[str, Decimal]
    normalisations: Mapping[str, Decimal]
    multipliers: Mapping[str, Decimal]
    trend: Decimal
    baseline_counts: Mapping[tuple[str | None, str], int]
    collaborators: pa.Table | None

    @property
    def own(self) -> pa.Table:
        """Those that are not others': what may be shown to whom the contract is with."""
        return self.table.filter(self.table["ours"])

    @property
    def standing(self) -> pa.Table:
        """The episodes that count."""
        return standing(self.table)


class SocialFactor(Terms):
    """What prices are multiplied by for members who are dual eligible, of low income, or from deprived areas."""

    factor: Factor
    table: str = "social_risk"
    adi: int = Field(default=80, ge=1, le=100, description="National percentile of deprivation from which on.")


class EpisodeTerms(ArrangementTerms):
    """Terms of a payment by episode of care."""

    episode: Definition | None = Field(default=None, description="What an episode is; default the programme's own.")
    population: Literal["attributed", "all"] = Field(
        default="attributed", description="Whose episodes count: of the members of the list, or of all with claims."
    )
    initiators: tuple[Initiator, ...] = Field(
        default=(), description="Who is accountable, each reconciled for itself; none: every anchor counts."
    )
    eligibility: str | None = Field(default=None, description="Table of the days that members were eligible.")
    gmlos: str | None = Field(default=None, description="Table of geometric mean lengths of stay.")
    standardisation: str | None = Field(default=None, description="Table of factors to standard prices.")
    multipliers: str | None = Field(default=None, description="Table of members' risk multipliers.")
    social: SocialFactor | None = Field(default=None, description="Beside the multipliers of the table, if any.")
    tiers: str | None = Field(default=None, description="Table of severity tiers: a price group becomes group-tier.")
    cap: Cap | None = None
    price: Prices
    normalisation: Normalisation | None = None
    trend: Trend | None = None
    paid_before: Decimal | None = Field(
        default=None, description="What earlier settlements of the period came to; the difference is paid."
    )
    gainsharing: Gainsharing | None = None
    anchors: str | None = Field(
        default=None,
        description="Table of who was in charge of anchors, by claim; then initiators are found by hierarchy.",
    )
    hierarchy: tuple[Role, ...] = Field(
        default=("attending", "operating", "hospital"), description="By whom an initiator is found, with anchors."
    )
    needs_roles: tuple[Role, ...] = Field(
        default=(), description="Roles that must all be with initiators, with anchors."
    )

    #: Programme of ``episodes/models`` whose definition holds when the contract states none.
    programme: ClassVar[str | None] = None

    def stream(self) -> str:
        """Episode of care."""
        return "eoc"

    def definition(self) -> Definition:
        """What an episode is here."""
        if self.episode is not None:
            return self.episode
        if self.programme is None:
            raise ContractError(f"{self.where}.episode: is needed")
        return shipped_definition(self.programme)

    def discount(self, family: str) -> Decimal:
        """What is taken off the price of a family, as a fraction."""
        del family
        return Decimal(0)

    def bound(self) -> Cap | None:
        """Between which amounts the cost of an episode counts."""
        return self.cap

    def post_days(self) -> int:
        """Days after windows whose spending is looked at."""
        return 0

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        if self.episode is None and self.programme is None:
            return [f"{self.where}.episode: is needed"]
        definition = self.definition()
        found = definition.problems(f"{self.where}.episode")
        found += self.price.problems(f"{self.where}.price")
        if self.cap is not None:
            found += self.cap.problems(f"{self.where}.cap")
            if self.cap.basis == "baseline" and self.price.kind != "baseline":
                found.append(f"{self.where}.cap.basis: there is no baseline, prices are given")
        if definition.covered is not None and self.eligibility is not None:
            found.append(f"{self.where}.eligibility: the episode's terms say who is covered")
        if definition.needs_gmlos and self.gmlos is None:
            found.append(f"{self.where}.gmlos: is needed, stays are prorated by it")
        if self.normalisation is not None and self.multipliers is None and self.social is None:
            found.append(f"{self.where}.normalisation: there are no multipliers")
        names = Counter(one.name for one in self.initiators)
        found += [f"{self.where}.initiators: two are named '{name}'" for name, count in names.items() if count > 1]
        for one in self.initiators:
            if not (one.tins or one.npis or one.organizations or one.ccns):
                found.append(f"{self.where}.initiators.{one.name}: no number says who that is")
            if one.ccns and self.anchors is None:
                found.append(f"{self.where}.initiators.{one.name}.ccns: claims have none; they need a table of anchors")
        if self.anchors is not None and not self.initiators:
            found.append(f"{self.where}.anchors: there are no initiators to be found")
        return found

    def needs(self) -> Needs:
        """Claim lines, deaths, and the tables that terms name."""
        tables = {
            name: schema
            for name, schema in (
                (self.eligibility, ELIGIBILITY_SCHEMA),
                (self.gmlos, GMLOS_SCHEMA),
                (self.standardisation, STANDARDISATION_SCHEMA),
                (self.multipliers, MULTIPLIER_SCHEMA),
                (None if self.social is None else self.social.table, SOCIAL_RISK_SCHEMA),
                (self.tiers, TIER_SCHEMA),
                (self.price.table, PRICE_SCHEMA),
                (None if self.cap is None else self.cap.table, CAP_SCHEMA),
                (self.anchors, ANCHORS_SCHEMA),
                (None if self.gainsharing is None else self.gainsharing.table, COLLABORATOR_SCHEMA),
            )
            if name is not None
        }
        return Needs(lines=LINE_COLUMNS, tables=tables, people=True)

    def carried_on(self) -> Carried:
        """By the episodes that have ended."""
        if self.paid_before is not None:
            raise self.not_carried("what was paid before is an amount of the whole period")
        return "time"

    def episodes(self, inputs: SettlementInputs) -> pa.Table:
        """Evidence: the contract's episodes of the period with dates, costs, exclusions, target and difference.

        Those of members who are not on the list, or of other providers, are left out.
        The columns are those of :data:`~fhir_gateway.contracts.episodes.targets.PRICED_SCHEMA`.
        """
        return self.reckon(inputs).own

    def services(self, inputs: SettlementInputs) -> pa.Table:
        """Evidence below :meth:`episodes`: the claim lines and what counts of each (``SERVICE_SCHEMA``)."""
        facts = inputs.columns()
        made_of = (
            self._definition(),
            self._sources(inputs),
            self._periods(facts),
            self._costs(facts),
            self._by_number(),
        )
        with duckdb.connect() as connection:
            found = services(connection, *made_of)
        return found.filter(pc.is_in(found["episode"], value_set=self.reckon(inputs).standing["episode"]))

    def reckon(self, inputs: SettlementInputs) -> Reckoned:
        """Find the episodes and price them."""
        facts = inputs.columns()
        if any(first <= facts.period[1] and last >= facts.period[0] for first, last in self.price.periods.values()):
            raise ContractError(f"{self.where}.price.years: the baseline and the period have days in common")
        with duckdb.connect() as connection:
            capped = self._capped(connection, inputs)
            return self._priced(connection, facts, capped)

    def _capped(self, connection: duckdb.DuckDBPyConnection, inputs: SettlementInputs) -> pa.Table:
        """Episodes of the period and of the baseline, with the cost that counts."""
        facts = inputs.columns()
        made_of = (
            self._definition(),
            self._sources(inputs),
            self._periods(facts),
            self._costs(facts),
            self._by_number(),
        )
        found = episodes(connection, *made_of)
        if self.anchors is not None:
            found = self._by_hierarchy(connection, found, facts)
        if self.tiers is not None:
            found = tiered(connection, found, facts.table(self.tiers))
        cap = self.bound()
        given = None if cap is None or cap.table is None else facts.table(cap.table)
        return applied(connection, found, bounds(connection, found, cap, given), cap)

    def _priced(self, connection: duckdb.DuckDBPyConnection, facts: Facts, capped: pa.Table) -> Reckoned:
        """Those of the period against their targets."""
        definition = self.definition()
        entities = sorted({one.name for one in self.initiators} or {"all"})
        baseline: list[GroupBaseline] = []
        if self.price.kind == "baseline":
            baseline = baseline_prices(connection, capped, self.price, entities)
            prices = as_table(baseline)
        else:
            prices = facts.table(self.price.table or "")
        mine = with_multipliers(
            connection,
            capped.filter(pc.equal(capped["period"], PERFORMANCE)),
            None if self.multipliers is None else facts.table(self.multipliers),
        )
        if self.social is not None:
            risky = at_risk(facts.table(self.social.table), self.social.adi)
            mine = with_social_risk(connection, mine, risky, self.social.factor)
        whole = standing(mine)
        multipliers = {name: mean_multiplier(whole.filter(pc.equal(whole["entity"], name))) for name in entities}
        normalisations = {
            name: ONE if self.normalisation is None else self.normalisation.factor(multipliers[name])
            for name in entities
        }
        trend = ONE if self.trend is None else self.trend.factor
        discounts = {
            family: Decimal(0) if self.price.discounted else self.discount(family) for family in definition.families
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
            None if self.gainsharing is None else facts.table(self.gainsharing.table),
        )

    def _by_number(self) -> tuple[Initiator, ...]:
        """Initiators to be found by the numbers on the anchor's claim."""
        return self.initiators if self.anchors is None else ()

    def _by_hierarchy(self, connection: duckdb.DuckDBPyConnection, found: pa.Table, facts: Facts) -> pa.Table:
        """Entities by the people and the hospital in charge of each anchor."""
        named = facts.table(self.anchors or "")
        anchors = (
            found.select(["episode", "member", "anchor", "anchor_start", "anchor_end", "tin", "organization"])
            .join(named, keys="anchor", right_keys="claim_group", join_type="left outer")
            .rename_columns({"anchor_start": "start", "anchor_end": "end", "tin": "hospital_tin"})
        )
        anchors = anchors.set_column(
            anchors.column_names.index("episode"), "episode", anchors["episode"].cast(pa.string())
        )
        lines = facts.lines.append_column("counts", pa.repeat(True, facts.lines.num_rows))
        who = anchor_provider(
            anchors, lines, _numbers(self.initiators), self.hierarchy, needs=self.needs_roles,
            of_transfers=self.definition().transfers.anchor,
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

    def _definition(self) -> Definition:
        return self.definition().model_copy(update={"post_days": max(self.definition().post_days, self.post_days())})

    def _sources(self, inputs: SettlementInputs) -> Sources:
        facts = inputs.columns()
        return Sources(
            facts.lines,
            facts.people.select(["member", "died"]),
            self._eligible(facts),
            facts.people["member"].combine_chunks() if self.population == "attributed" else None,
            None if inputs.cut is None else inputs.cut.through,
        )

    def _eligible(self, facts: Facts) -> pa.Table | None:
        """Days that members are eligible: by the table, or by their Coverage; None when everybody is."""
        if self.eligibility is not None:
            return facts.table(self.eligibility)
        wanted = self.definition().covered
        if wanted is None:
            return None
        if facts.coverage is None:
            raise ContractError(f"{self.where}.episode.covered: Coverage is needed and was not given")
        return covered_days(facts.coverage, wanted.include_types, wanted.exclude_types, parts=wanted.parts)

    def _periods(self, facts: Facts) -> dict[str, tuple[date, date]]:
        return {PERFORMANCE: facts.period, **self.price.periods}

    def _costs(self, facts: Facts) -> CostTables:
        return CostTables(
            None if self.gmlos is None else facts.table(self.gmlos),
            None if self.standardisation is None else facts.table(self.standardisation),
        )


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
