"""Rules of the payment fact sheets that are from memory ([M]), and the terms of a contract that say otherwise.

A row is a rule that nobody could check against a regulation or a published result. It must be configuration: each of
its terms is one that a contract (or its attribution terms) can state.
"""

from __future__ import annotations

import typing
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from fhir_gateway.attribution import AttributionTerms
from fhir_gateway.contracts import Contract
from fhir_gateway.contracts.arrangements import ARRANGEMENTS


class Rule(NamedTuple):
    """What a sheet says, whose terms, and the terms that state it."""

    says: str
    whose: str
    terms: tuple[str, ...]


RULES: dict[str, tuple[Rule, ...]] = {
    "attribution": (
        Rule("prospective window of 12 months with an offset", "attribution",
             ("window_offset_months", "passes.window_months")),
        Rule("a tie goes to the last service, then to a seeded hash", "attribution", ("tie_break",)),
        Rule("codes added and deleted by year", "attribution",
             ("services.codes", "services.since", "services.until", "services.unless_place", "services.needs_base")),
        Rule("REACH: weights of years, a tenth of primary care, specialties", "attribution",
             ("passes.weights", "passes.at_least.share", "passes.at_least.of", "passes.groups", "groups.cms")),
        Rule("REACH: voluntary alignment first", "attribution", ("methods", "selection.effective")),
        Rule("REACH: months of A and B, residence, service area", "attribution",
             ("eligibility.parts", "eligibility.countries", "eligibility.service_area", "eligibility.excludes")),
    ),
    "shared-savings": (
        Rule("negative regional cap from 2024, less dual share and risk; overall negative is none", "mssp",
             ("benchmark.rules.negative_regional_cap_from_2024", "benchmark.negative_offset", "benchmark.new_rules")),
        Rule("population adjustment from a dual share of 20 or 15 %", "mssp",
             ("benchmark.rules.population_minimum", "benchmark.rules.population_cap", "benchmark.dual_share")),
        Rule("risk cap in aggregate: demographic growth + 3 points", "mssp", ("benchmark.rules.risk_cap",)),
        Rule("REACH: retention withhold", "aco_reach", ("retention_withhold", "retention_returned")),
        Rule("REACH: regional blend 65/35 to 50/50, caps +5/-2 %", "aco_reach",
             ("benchmark.regional.share", "benchmark.regional.cap", "benchmark.regional.floor")),
        Rule("REACH: risk cap", "aco_reach", ("benchmark.risk.cap", "benchmark.risk.floor")),
        Rule("REACH: stop-loss bands and charge", "aco_reach", ("stop_loss.bands.at", "stop_loss.charge")),
    ),
    "bundles": (
        Rule("what a death does", "team", ("episode.on_death",)),
        Rule("what a trigger in an open episode does", "team", ("episode.on_retrigger",)),
        Rule("days of the window and which is the first", "team",
             ("episode.window.days", "episode.window.first_day", "episode.window.lead_days")),
        Rule("proration of claims over the end", "team", ("episode.services.proration", "episode.services.days")),
        Rule("exclusion lists", "team", ("episode.exclusions.match", "episode.services.match")),
        Rule("CJR of years 6 to 8: discounts, limits, blend", "cjr",
             ("discounts", "limit.gain", "limit.loss", "price.own", "price.region", "cap.kind")),
        Rule("BPCI Advanced: discounts, quality of 10 %, limits of 20 %, percentiles", "bpci_advanced",
             ("discounts", "quality.positive", "quality.negative", "limit.gain", "limit.loss", "cap.low", "cap.high")),
        Rule("BPCI Advanced: spending afterwards", "bpci_advanced", ("post_episode.limit", "post_episode.days")),
        Rule("TEAM: baseline years 17/33/50", "team", ("price.years.weight", "price.years.trend")),
        Rule("TEAM: ages, HCCs of 90 or 180 days, exponential or linear", "team",
             ("risk.ages", "risk.hccs", "risk.lookback_days", "risk.form", "risk.model", "risk.year")),
        Rule("TEAM: social risk, ADI of 80 or another index", "team", ("social.adi", "social.factor", "social.table")),
        Rule("TEAM: normalisation within 5 %, trend within 3 %", "team", ("normalisation.cap", "trend.cap")),
        Rule("TEAM: low volume", "team", ("low_volume.below", "low_volume.policy")),
        Rule("TEAM: discounts, quality by track, limits by track (5 or 10 %)", "team",
             ("discounts", "quality.positive", "quality.negative", "limit.gain", "limit.loss")),
        Rule("TEAM: spending afterwards above 3 deviations", "team", ("post_episode.deviations",)),
        Rule("alignment payments: 50 and 25 %; half of physicians' fees", "team",
             ("gainsharing.alignment.whole", "gainsharing.alignment.each", "gainsharing.cap_of_fees")),
    ),
    "capitation": (
        Rule("rebates below 5 or 20 dollars", "medical_loss_ratio", ("rules.de_minimis",)),
        Rule("credibility of Medicare Advantage and Medicaid", "medical_loss_ratio",
             ("rules.credibility", "rules.exposure", "rules.standard")),
        Rule("fees of CPC+", "care_management_fee", ("fees.pmpm", "fees.tier", "overlap.codes", "retro_quarters")),
        Rule("Primary Care First: groups, visit fee, adjustment", "primary_care_first",
             ("groups.pbpm", "groups.below", "visit_fee", "adjustment.steps.part")),
    ),
    "p4p": (
        Rule("Hospital VBP: 2 % withheld and paid back", "hospital_vbp", ("rules.withhold", "rules.domains.weight")),
        Rule("MIPS: weights and their redistribution", "mips",
             ("rules.tracks.weights", "rules.tracks.redistribution.weights", "rules.threshold", "scaling")),
        Rule("half stars and cut points", "scorecard", ("preferred", "scores_table")),
        Rule("CCBHC: rates, trend, outliers, bonus", "ccbhc",
             ("rates", "trend", "outlier.threshold", "outlier.share", "bonus.rate")),
    ),
    "equity-and-disputes": (
        Rule("MSSP: minimum and cap of the bonus", "mssp", ("equity.minimum", "equity.cap", "equity.adi")),
        Rule("REACH: amounts by tenth, points of the poor", "aco_reach",
             ("equity.amounts", "equity.scores.poor_points", "equity.scores.cuts")),
        Rule("calendars: cuts, run-out, review, disputes, answers, payment", "contract",
             ("calendar.interim", "calendar.interim_runout_days", "calendar.review_days", "calendar.dispute_days",
              "calendar.response_days", "calendar.payment_days", "calendar.repayment_days", "claims.paid_through")),
    ),
}  # fmt: skip


def models(annotation: Any) -> list[type[BaseModel]]:
    """Models that an annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for one in typing.get_args(annotation) for found in models(one)]


def stated(model: type[BaseModel], path: str) -> bool:
    """Whether a term of the path can be stated."""
    name, _, rest = path.partition(".")
    field = model.model_fields.get(name)
    if field is None or not rest:
        return field is not None
    return any(stated(one, rest) for one in models(field.annotation))


@pytest.mark.parametrize(
    ("rule", "term"),
    [(rule, term) for rules in RULES.values() for rule in rules for term in rule.terms],
    ids=lambda one: one.says if isinstance(one, Rule) else one,
)
def test_a_rule_from_memory_is_configuration(rule: Rule, term: str) -> None:
    whose = {"attribution": AttributionTerms, "contract": Contract}.get(rule.whose) or ARRANGEMENTS[rule.whose]
    assert stated(whose, term), f"{rule.whose}.{term}"
