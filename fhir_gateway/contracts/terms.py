"""What every contract states besides its payments: parties, period, claims basis, measures.

Validated on load: unknown keys are refused, amounts are exact decimals. Shares, rates and weights are fractions of 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fhir_gateway.errors import NotFoundError
from fhir_gateway.experience.metrics import MEASURE_URL as EXPERIENCE_URL
from fhir_gateway.experience.metrics import is_experience
from fhir_gateway.experience.metrics import metric as experience_metric
from fhir_gateway.risk.utilization.metrics import metrics
from fhir_gateway.risk.utilization.reports import MEASURE_URL

Fraction = Annotated[Decimal, Field(ge=0, le=1)]
Money = Annotated[Decimal, Field(ge=0)]


class Terms(BaseModel):
    """Base of all terms: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Identifier(Terms):
    """A business identifier."""

    system: str
    value: str


class Party(Terms):
    """A party of the contract. Its Organization is found by ``identifier`` (TIN, NPI) unless ``reference`` names it."""

    name: str
    identifier: Identifier
    reference: str | None = Field(default=None, pattern=r"^Organization/[A-Za-z0-9\-.]{1,64}$")

    def refer(self, organizations: Mapping[str, str]) -> dict[str, Any]:
        """Reference to the party; ``organizations`` are served Organizations by identifier value."""
        reference = self.reference or organizations.get(self.identifier.value)
        if reference:
            return {"reference": reference, "display": self.name}
        identifier = {"system": self.identifier.system, "value": self.identifier.value}
        return {"type": "Organization", "identifier": identifier, "display": self.name}


class ProviderParty(Party):
    """The provider organization and the numbers it bills under; ``entity`` is its name in attributions."""

    entity: str = Field(pattern=r"^[A-Za-z0-9\-.]{1,64}$")
    tins: tuple[str, ...] = ()
    npis: tuple[str, ...] = ()
    ccns: tuple[str, ...] = ()


class Period(Terms):
    """Both days belong to it."""

    start: date
    end: date


class AttributionReference(Terms):
    """Attribution terms by shipped name or TOML path relative to the contract, and their list's status."""

    terms: str
    list_status: Literal["draft", "open", "final"] = "final"
    selections_from: tuple[Annotated[str, Field(pattern=r"^(loaded|generalPractitioner|roster:.+)$")], ...] = Field(
        default=("loaded",),
        description="Where selections come from: loaded from files, Patient.generalPractitioner (the member's), or the"
        " Group that a source sent for this contract (roster:SOURCE).",
    )
    service_area: tuple[str, ...] = Field(
        default=(), description="Counties and ZIP codes, where the terms look at them."
    )
    previous: str | None = Field(default=None, description="Contract whose newest attribution sticky terms stay with.")
    priority: int = Field(default=100, description="Of contracts of one exclusive group the lowest keeps a member.")
    exclusive_group: str | None = Field(default=None, description="Contracts of which only one keeps a member.")


class RiskReference(Terms):
    """Risk scores that the gateway keeps, of everybody: its own ``CMS-HCC`` of a payment year, or imported ones.

    An imported model is named by its model and the year its period begins in; the newest import counts.
    """

    model: str
    year: int
    previous: int | None = Field(default=None, description="Year of the scores before, for terms that look at change.")


#: What may be made of the lake for a contract, of everybody: accepted diagnoses with their days; social risk on the
#: period's last day; enrolment types of Medicare by month, of who is (or was, in base years) attributed.
LakeTable = Literal["diagnoses", "social-risk", "enrolment"]


class TableReference(Terms):
    """A table of the contract: a CSV file with a header, its path relative to the contract; kept risk scores; or made
    of the lake.
    """

    path: str | None = None
    risk: RiskReference | None = None
    lake: LakeTable | None = None


class ClaimsTerms(Terms):
    """Which cost counts: amount, dates, run-out, truncation, completion."""

    amount: Literal["paid", "allowed"] = "paid"
    service_date: Literal["line", "claim_from", "claim_thru"] = Field(
        default="line", description="Day that decides whether a line belongs to the period."
    )
    paid_through: date = Field(description="Last payment date of the run-out; later versions of a claim do not count.")
    precedence: tuple[str, ...] = Field(
        default=(),
        description="Sources, the best first: in whose words a claim counts that several sent; of others, the latest.",
    )
    types: tuple[Literal["inpatient", "outpatient", "professional", "pharmacy", "oral", "vision"], ...] = (
        "inpatient",
        "outpatient",
        "professional",
        "pharmacy",
    )
    truncation: Annotated[Decimal, Field(gt=0)] | None = Field(
        default=None, description="Yearly cost per member above which nothing counts, prorated by nothing."
    )
    completion_factor: Annotated[Decimal, Field(ge=1)] = Decimal(1)


class Step(Terms):
    """A rung of a ladder: from ``at`` (in the better direction) on, ``points`` of 1 are earned."""

    at: Decimal
    points: Fraction


class Decile(Terms):
    """Where a decile of a benchmark begins, in the better direction."""

    decile: Annotated[int, Field(ge=1, le=10)]
    at: Decimal


class Scoring(Terms):
    """How a measure's score becomes points between 0 and 1.

    ``threshold``: 1 at ``target`` or better, else 0. ``linear``: 0 at ``threshold``, 1 at ``target``. ``ladder``: the
    points of the best step reached. ``attainment_or_improvement``: the better of achievement and improvement points of
    Hospital Value-Based Purchasing, of 10 (42 CFR 412.165), from ``threshold``, ``target`` (the benchmark) and
    ``baseline``. ``improvement``: ``relative``, the part of the way from ``baseline`` to ``target``, nothing below the
    part ``threshold``; ``absolute``, the gain over ``baseline``, 0 at ``threshold`` (default no gain) and 1 at
    ``target``. ``percentile``: the rank in a peer set (the arrangement's ``peers``), as such, by ``steps``, or from
    ``threshold`` to ``target``. ``decile``: 1 to 10 points of 10 by the ``deciles`` of a benchmark as in MIPS, at most
    ``cap`` (topped-out measures), at least ``floor`` (new ones); without deciles nothing but the floor.
    """

    kind: Literal["threshold", "linear", "ladder", "attainment_or_improvement", "improvement", "percentile", "decile"]
    improvement: Literal["relative", "absolute"] = "relative"
    target: Decimal | None = None
    threshold: Decimal | None = None
    baseline: Decimal | None = None
    steps: tuple[Step, ...] = ()
    deciles: tuple[Decile, ...] = ()
    cap: Annotated[Decimal, Field(gt=0, le=10)] | None = None
    floor: Annotated[Decimal, Field(ge=0, le=10)] | None = None


class MeasureTerms(Terms):
    """A quality measure of the contract: which, in which direction it is better, what it weighs, how it pays.

    ``metric`` names one of utilization and cost, or of patient experience, instead: the group of that name of the
    Measure of those metrics.
    """

    id: str = Field(pattern=r"^[A-Za-z0-9\-]{1,40}$")
    metric: str | None = Field(
        default=None,
        description="A metric of utilization and cost (docs/use/utilization.md) or of patient experience"
        " (docs/use/experience.md: hcahps.nurses) instead of a canonical.",
    )
    canonical: str = Field(default="", description="Measure url, with |version to pin it.")
    group: str | None = Field(default=None, description="Group of a measure with several; default its only one.")
    name: str
    direction: Literal["increase", "decrease"]
    weight: Fraction = Decimal(0)
    status: Literal["contractual", "contractual-alternate", "reporting-only"] = "contractual"
    unit: str = Field(
        default="1", description="UCUM unit of the score: 1 for a proportion, /(10*3.a) for a yearly rate per 1000."
    )
    min_denominator: int = Field(default=1, ge=1)
    scoring: Scoring | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """A measure is named by canonical, or by metric: then both say the same."""
        if not isinstance(given, Mapping):
            return given
        name = given.get("metric")
        if name is None:
            if not given.get("canonical"):
                raise ValueError("canonical: a measure has a canonical, or a metric of utilization")
            return given
        of_experience = isinstance(name, str) and is_experience(name)
        named = {"canonical": EXPERIENCE_URL if of_experience else MEASURE_URL, "group": name}
        if any(given.get(key, value) != value for key, value in named.items()):
            raise ValueError("metric: a measure has a canonical or a metric, not both")
        if of_experience:
            try:
                experience_metric(name)
            except NotFoundError as error:
                raise ValueError(f"metric: {error.message}") from None
        elif name not in metrics():
            raise ValueError(f"metric: there is no utilization metric '{name}'")
        return {**given, **named}
