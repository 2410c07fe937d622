"""Settlement lines that payments by episode write: counts, price groups, totals."""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.contracts.arrangements.episode_reckoning import Reckoned
from fhir_gateway.contracts.arrangements.episode_terms import EpisodeTerms
from fhir_gateway.contracts.episodes import digest
from fhir_gateway.contracts.episodes.multipliers import RiskFactors
from fhir_gateway.contracts.gainsharing import add_shares
from fhir_gateway.contracts.settlement import QUANTUM, Ledger, Number, publish


@dataclass(frozen=True, slots=True)
class Group:
    """Sums over the episodes of an entity in a price group that stand."""

    entity: str
    family: str
    price_group: str
    episodes: int
    prices: Decimal
    target: Decimal
    actual: Decimal
    counted: Decimal
    complications: Decimal
    after_window: Decimal
    after_complications: Decimal
    spending: Decimal
    readmissions: int


_MONEY = ("prices", "target", "actual", "counted", "complications", "after_window", "after_complications", "spending")
_GROUPS = """
SELECT entity, family, price_group, count(*), sum(price * coalesce(multiplier, 1))::VARCHAR, sum(target)::VARCHAR,
  sum(actual)::VARCHAR, sum({counted})::VARCHAR, sum(complications)::VARCHAR, sum(after_window)::VARCHAR,
  sum(after_complications)::VARCHAR, sum(spending)::VARCHAR, sum(readmissions)::BIGINT
FROM episodes GROUP BY ALL ORDER BY ALL
"""


def groups(episodes: pa.Table, stop_loss: Decimal | None = None) -> list[Group]:
    """Sums by entity, family and price group. ``stop_loss``: the cost counts up to the target and so much more."""
    counted = "capped" if stop_loss is None else f"least(capped, target + {stop_loss:f}::DECIMAL(28, 8))"
    with duckdb.connect() as connection:
        connection.register("episodes", episodes)
        rows = connection.execute(_GROUPS.format(counted=counted)).fetchall()
    names = [field.name for field in fields(Group)]
    return [Group(**_typed(dict(zip(names, row, strict=True)))) for row in rows]


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: Decimal(value) if name in _MONEY else value for name, value in row.items()}


def add_population(ledger: Ledger, terms: EpisodeTerms, reckoned: Reckoned) -> Number:
    """How many episodes stand, of how many members, and why others do not."""
    table = reckoned.standing
    own = reckoned.own
    evidence = {"episodes": digest(own)}
    ledger.add(
        "members",
        Decimal(pc.count_distinct(table["member"]).as_py()),
        "Members with an episode",
        "distinct members of the episodes that stand",
        f"{terms.where}.population",
        unit="{members}",
        metric="eligible-member",
    )
    lost = own.filter(own["reason"].is_valid())
    reasons = pc.value_counts(lost["reason"].combine_chunks()).to_pylist()
    formula = ", ".join(f"{r['values']} {r['counts']}" for r in sorted(reasons, key=lambda r: str(r["values"])))
    ledger.add(
        "not-standing",
        Decimal(lost.num_rows),
        "Anchors that are no episode",
        formula or "none",
        f"{terms.where}.episode",
        unit="{episodes}",
        evidence=evidence,
    )
    if terms.multiplied_by:
        known = table["multiplier"]
        ledger.add(
            "unadjusted",
            Decimal(pc.sum(pc.equal(known, Decimal(1))).as_py() or 0),
            "Episodes with a risk multiplier of 1",
            "stated as 1, or not in the table" if terms.risk is None else "come to 1, or nothing is known of them",
            f"{terms.where}.{terms.multiplied_by[0]}",
            unit="{episodes}",
        )
    if terms.risk is not None:
        _add_risk(ledger, terms.risk, reckoned, f"{terms.where}.risk")
    return ledger.add(
        "episodes",
        Decimal(table.num_rows),
        "Episodes",
        "anchors of the period that stand",
        f"{terms.where}.episode",
        unit="{episodes}",
        evidence=evidence,
    )


def _add_risk(ledger: Ledger, risk: RiskFactors, reckoned: Reckoned, where: str) -> None:
    """How many HCCs and years members had, as far as they are known."""
    table = reckoned.standing
    known = pc.count(table["hccs"]).as_py()
    counted = (
        f"CMS-HCC-{risk.model} by the tables of {risk.year}, over diagnoses of the {risk.lookback_days} days before"
    )
    for name, label, formula in (
        ("hccs", "HCCs of members with an episode", counted),
        ("age", "Years of members with an episode", "on the anchor's first day"),
    ):
        formula += f", mean of {known} of {table.num_rows} episodes; {reckoned.risk_source}"
        value = Decimal(pc.sum(table[name]).as_py()) / known if known else None
        ledger.add(f"mean-{name}", value, label, formula, where, unit="1", evidence={"table": risk.table})


def add_prices(ledger: Ledger, terms: EpisodeTerms, reckoned: Reckoned) -> None:
    """What prices are made of: baselines, discounts, normalisation, trend."""
    for one in reckoned.baseline:
        prefix = "" if len(reckoned.multipliers) == 1 else f"{one.entity}."
        blended = one.own is not None and one.episodes >= terms.price.min_episodes
        own = f"own mean {one.own:.8f} of {one.episodes} episodes" if one.own is not None else "no episodes of its own"
        share = f"{terms.price.own} : {terms.price.region}" if blended else "region alone"
        ledger.add(
            f"{prefix}{one.price_group}.price",
            one.price,
            f"{one.price_group}: baseline price",
            f"{own}, region {one.region:.8f} of {one.region_episodes}, {share}",
            f"{terms.where}.price.years",
        )
    for family, discount in reckoned.discounts.items():
        if discount:
            ledger.add(
                f"{family}.discount",
                discount,
                f"{family}: discount",
                "taken off the price",
                f"{terms.where}.price.discounted",
                unit="1",
            )
    for name, mean in reckoned.multipliers.items():
        if terms.multiplied_by:
            prefix = "" if len(reckoned.multipliers) == 1 else f"{name}."
            multiplier = ledger.add(
                f"{prefix}multiplier",
                mean,
                "Mean risk multiplier",
                "over its episodes",
                f"{terms.where}.{terms.multiplied_by[0]}",
                unit="1",
            )
            ledger.add(
                f"{prefix}normalisation",
                reckoned.normalisations[name],
                "Normalisation",
                "1 / mean risk multiplier, within the cap on what was announced"
                if terms.normalisation is not None and terms.normalisation.cap is not None
                else "as agreed",
                f"{terms.where}.normalisation",
                (multiplier,),
                unit="1",
            )
    if terms.trend is not None:
        ledger.add(
            "trend",
            reckoned.trend,
            "Retrospective trend",
            "as stated, within its cap",
            f"{terms.where}.trend",
            unit="1",
        )


def add_group(ledger: Ledger, where: str, prefix: str, group: Group) -> tuple[Number, Number, Number]:
    """Lines of a price group, from its episodes to the difference; returns target, cost within bounds, difference."""
    name, label = f"{prefix}{group.family}.{group.price_group}", f"{group.family} {group.price_group}"
    term = f"{where}.price"
    ledger.add(
        f"{name}.episodes", Decimal(group.episodes), f"{label}: episodes", "that stand", where, unit="{episodes}"
    )
    prices = ledger.add(
        f"{name}.prices", group.prices, f"{label}: prices", "sum over episodes of price x multiplier", term
    )
    target = ledger.add(
        f"{name}.target",
        group.target,
        f"{label}: target",
        "prices x (1 - discount) x normalisation x trend, to 8 places per episode",
        term,
        (prices,),
    )
    actual = ledger.add(
        f"{name}.actual",
        group.actual,
        f"{label}: cost",
        "services in the windows, prorated, at standard prices",
        where,
    )
    outside = ledger.add(
        f"{name}.outside",
        group.counted - group.actual,
        f"{label}: cost out of bounds",
        "what episodes lack to their lower bound, less what they have above their upper one",
        f"{where}.cap",
    )
    counted = ledger.add(
        f"{name}.counted",
        group.counted,
        f"{label}: cost within bounds",
        "cost + cost out of bounds",
        f"{where}.cap",
        (actual, outside),
    )
    difference = ledger.add(
        f"{name}.difference",
        target.value - counted.value,
        f"{label}: difference",
        "target - cost within bounds",
        term,
        (target, counted),
    )
    return target, counted, difference


def total(ledger: Ledger, name: str, numbers: list[Number], label: str, term: str, metric: str | None = None) -> Number:
    """The sum of numbers as a line."""
    value = sum((number.value for number in numbers), Decimal(0))
    return ledger.add(name, value, label, "sum", term, numbers, metric=metric)


def pay(ledger: Ledger, terms: EpisodeTerms, amount: Number, reckoned: Reckoned, label: str, metric: str) -> None:
    """The payable line, after what was paid before, and how it is shared."""
    if terms.paid_before is not None:
        term = f"{terms.where}.paid_before"
        before = ledger.add("paid-before", terms.paid_before, "Paid before", "as stated", term)
        value = amount.value - before.value
        amount = ledger.add("true-up", value, "True-up", "now - paid before", term, (amount, before))
    ledger.pay(amount, label, terms.where, metric)
    if terms.gainsharing is not None and reckoned.collaborators is not None:
        quantum = QUANTUM[ledger.rounding]
        payable = Number(publish(amount.value, ledger.rounding), f"{ledger.arrangement}.payable")
        counts = pc.value_counts(reckoned.standing["npi"].drop_null().combine_chunks()).to_pylist()
        collaborators = terms.gainsharing.collaborators(
            reckoned.collaborators, {row["values"]: row["counts"] for row in counts}
        )
        add_shares(ledger, terms.where, payable, terms.gainsharing.shares(payable.value, collaborators, quantum))
