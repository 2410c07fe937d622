"""What is foreseen, of whom, and by which features. Race, ethnicity and address are features of nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

#: Columns that models of members see.
FEATURES = (
    *("age", "male", "cost", "cost_late", "acute_cost"),
    *("admissions", "emergency", "office", "charlson", "elixhauser"),
)
#: Columns that models of stays see, known at discharge. Cost is none of them: claims of late are not there yet.
STAY_FEATURES = (
    *("age", "male", "days", "emergent", "oncology", "haemoglobin", "sodium", "operated", "admissions"),
    *("days_since_discharge", "emergency", "office", "charlson", "elixhauser"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """An outcome: an ``amount`` of the year after a day, or the ``chance`` of something after a stay."""

    id: str
    title: str
    kind: Literal["amount", "chance"]
    unit: Literal["members", "stays"]
    features: tuple[str, ...]


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        one.id: one
        for one in (
            Target("next_cost", "Cost of the next year", "amount", "members", FEATURES),
            Target("next_acute_cost", "Unplanned acute cost of the next year", "amount", "members", FEATURES),
            Target("readmission_30", "Unplanned readmission within 30 days", "chance", "stays", STAY_FEATURES),
        )
    }
)
COST_TARGETS = ("next_cost", "next_acute_cost")
READMISSION = "readmission_30"
