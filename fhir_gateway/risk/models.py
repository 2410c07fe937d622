"""Coding gaps as a model finds them: plain values, and the protocol of whoever computes them.

Words are those of the Da Vinci Risk Adjustment guide (RA 2.1.0): a condition category (CC) of a model is ``historic``,
``suspected`` or ``net-new``; its evidence is open, closed, invalid or pending.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal, Protocol

from fhir_gateway.errors import Location, ResourceError

CMS_HCC = "http://terminology.hl7.org/CodeSystem/cmshcc"
"""Code system of the condition categories of CMS-HCC."""

CcType = Literal["historic", "suspected", "net-new"]
EvidenceStatus = Literal["open-gap", "closed-gap", "invalid-gap", "pending"]
HierarchicalStatus = Literal["applied-superseded", "applied-not-superseded", "not-applied", "not-applicable"]


@dataclass(frozen=True, slots=True)
class RiskModel:
    """A risk adjustment model in one version: its Measure, and the code system of its condition categories."""

    url: str
    version: str
    identifier: tuple[str, str]  # system and value, such as CMS-HCC
    code_system: str = CMS_HCC
    measure_id: str | None = None

    @property
    def canonical(self) -> str:
        """Versioned canonical of the model's Measure."""
        return f"{self.url}|{self.version}"


@dataclass(frozen=True, slots=True)
class ConditionCategory:
    """One condition category of one member; ``evidence`` are references to resources that are served."""

    code: str
    display: str
    cc_type: CcType
    evidence_status: EvidenceStatus | None = None
    evidence_date: date | None = None
    hierarchical_status: HierarchicalStatus | None = None
    diagnoses: tuple[str, ...] = ()  # ICD-10-CM, dotted
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CodingGaps:
    """What a model found for one member in a clinical evaluation period; ``generated`` is aware."""

    person: str
    model: RiskModel
    period: tuple[date, date]
    generated: datetime
    categories: tuple[ConditionCategory, ...]
    deadline: date | None = None

    def check(self) -> None:
        """Raise ResourceError for what RA does not allow."""
        for problem in self._problems():
            raise ResourceError(problem, location=Location(path="MeasureReport.group", rule="RA 2.1.0"))

    def _problems(self) -> Iterator[str]:
        codes = [one.code for one in self.categories]
        if len(codes) != len(set(codes)):
            yield "a condition category occurs twice"
        for one in self.categories:
            if one.cc_type == "net-new" and one.evidence_status not in (None, "closed-gap", "pending"):
                yield "a net-new condition category is closed or pending"
            if one.evidence_date is not None and one.evidence_date > self.generated.date():
                yield "an evidence status dates from after the report"


class CodingGapSource(Protocol):
    """Who computes coding gaps. What was not computed is said so: nothing is made up to answer a request."""

    def models(self) -> Sequence[RiskModel]:
        """The models it computes."""
        ...

    def gaps(self, model: RiskModel, period: tuple[date, date], persons: Sequence[str]) -> Sequence[CodingGaps] | None:
        """What was found for these persons in periods that overlap; None when the model has no results for the period.

        Somebody of whom there is nothing to report may be left out.
        """
        ...
