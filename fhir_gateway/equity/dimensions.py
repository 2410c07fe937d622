"""The dimensions that results are broken down by: their strata, which of them mean that nothing is known, and links.

Dimensions of one ``link`` contain each other (deciles and quintiles of one index): what one of them shows says
something about the other, so they are suppressed together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.errors import InputError

#: Strata of those of whom nothing is known: not recorded, asked without an answer, asked and declined.
UNKNOWN, ASKED, DECLINED = "unknown", "asked-unknown", "declined"
MISSING = (UNKNOWN, ASKED, DECLINED)


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dimension. ``strata`` are its codes with their titles, in order; others that are found come after them."""

    id: str
    title: str
    link: str
    strata: Mapping[str, str]


_ASKED = {ASKED: "Asked, not known", DECLINED: "Declined to answer", UNKNOWN: "Not recorded"}
_YES_NO = {"yes": "Yes", "no": "No", UNKNOWN: "Not recorded"}
_RACES = {
    "american-indian": "American Indian or Alaska Native",
    "asian": "Asian",
    "black": "Black or African American",
}
_NEED = {"need": "Need found", "no-need": "Screened, no need found", UNKNOWN: "Not screened"}
#: Domains of social needs by Gravity category code.
NEED_DOMAINS = {
    "food-insecurity": "Food insecurity",
    "housing": "Housing",
    "transportation-insecurity": "Transportation",
    "utility-insecurity": "Utilities",
    "financial-insecurity": "Financial insecurity",
    "safety": "Personal safety and violence",
    "social-connection": "Social connection",
    "education-employment": "Education and employment",
}

_ALL = (
    Dimension(
        "race",
        "Race (OMB 1997)",
        "race",
        _RACES
        | {"native-hawaiian": "Native Hawaiian or Other Pacific Islander", "white": "White", "other": "Other race"}
        | {"multiple": "Two or more races"}
        | _ASKED,
    ),
    Dimension(
        "ethnicity",
        "Ethnicity (OMB 1997)",
        "race",
        {"hispanic": "Hispanic or Latino", "not-hispanic": "Not Hispanic or Latino"} | _ASKED,
    ),
    Dimension(
        "race-ethnicity",
        "Race and ethnicity (OMB 2024)",
        "race",
        _RACES
        | {"hispanic": "Hispanic or Latino", "mena": "Middle Eastern or North African"}
        | {"native-hawaiian": "Native Hawaiian or Pacific Islander", "white": "White", "other": "Other"}
        | {"multiple": "Multiracial or multiethnic"}
        | _ASKED,
    ),
    Dimension("sex", "Sex", "sex", {"female": "Female", "male": "Male", "other": "Other"} | _ASKED),
    Dimension(
        "gender-identity",
        "Gender identity",
        "sex",
        {"woman": "Woman", "man": "Man", "transgender-woman": "Transgender woman", "transgender-man": "Transgender man"}
        | {"non-binary": "Non-binary", "other": "Other"}
        | _ASKED,
    ),
    Dimension(
        "age",
        "Age",
        "age",
        {"0-17": "0-17", "18-44": "18-44", "45-64": "45-64", "65-74": "65-74", "75-84": "75-84", "85+": "85 and over"}
        | {UNKNOWN: "Not recorded"},
    ),
    Dimension(
        "language", "Preferred language", "language", {"en": "English", "es": "Spanish", UNKNOWN: "Not recorded"}
    ),
    Dimension(
        "payer",
        "Payer",
        "payer",
        {"medicare": "Medicare", "dual": "Medicare and Medicaid", "medicaid": "Medicaid", "commercial": "Commercial"}
        | {"other-government": "Other government", "self-pay": "No payer", "other": "Other", UNKNOWN: "Not recorded"},
    ),
    Dimension(
        "dual", "Dual status", "payer", {"full": "Full", "partial": "Partial", "no": "No", UNKNOWN: "Not recorded"}
    ),
    Dimension("lis", "Low-income subsidy", "payer", _YES_NO),
    Dimension("disability", "Disability", "disability", _YES_NO),
    Dimension(
        "adi-quintile",
        "Area deprivation, national quintile (5: most deprived)",
        "adi",
        {str(n): str(n) for n in range(1, 6)} | {UNKNOWN: "No index"},
    ),
    Dimension(
        "adi-decile",
        "Area deprivation, national decile (10: most deprived)",
        "adi",
        {str(n): str(n) for n in range(1, 11)} | {UNKNOWN: "No index"},
    ),
    Dimension(
        "rurality",
        "Rurality (RUCA)",
        "rurality",
        {"metropolitan": "Metropolitan", "micropolitan": "Micropolitan", "small-town": "Small town", "rural": "Rural"}
        | {UNKNOWN: "Not coded"},
    ),
    Dimension("social-need", "Social needs", "social-need", _NEED),
    *(Dimension(f"need-{code}", title, "social-need", _NEED) for code, title in NEED_DOMAINS.items()),
)

DIMENSIONS: Mapping[str, Dimension] = MappingProxyType({one.id: one for one in _ALL})


@dataclass(frozen=True, slots=True)
class Column:
    """The stratum of each member: a number into ``strata`` (codes)."""

    codes: npt.NDArray[np.int64]
    strata: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemberDimensions:
    """Members, sorted, and their stratum in each dimension as of a day; ``facts`` is what payments look at.

    ``facts`` has ``member``, ``adi_national``, ``adi_state``, ``dual``, ``lis`` and ``rural``, null where not known.
    """

    members: pa.Array
    on: date
    columns: Mapping[str, Column]
    facts: pa.Table

    def take(self, members: pa.Array) -> MemberDimensions:
        """These members alone: those of them who are here."""
        kept = pc.is_in(self.members, value_set=members.cast(pa.string()))
        mask = np.asarray(kept)
        columns = {name: Column(one.codes[mask], one.strata) for name, one in self.columns.items()}
        return MemberDimensions(self.members.filter(kept), self.on, columns, self.facts.filter(kept))


def column(dimension: Dimension, values: pa.Array | pa.ChunkedArray) -> Column:
    """Values (codes; null is not recorded) as numbers; codes that it does not state are strata too."""
    filled = pc.fill_null(values.cast(pa.string()), UNKNOWN)
    stated = [code for code in dimension.strata if code not in MISSING]
    last = [code for code in dimension.strata if code in MISSING]
    others = sorted(set(pc.unique(filled).to_pylist()) - set(dimension.strata))
    strata = (*stated, *others, *last)
    return Column(np.asarray(pc.index_in(filled, pa.array(strata, pa.string()))).astype(np.int64), strata)


def chosen(names: tuple[str, ...]) -> tuple[Dimension, ...]:
    """Dimensions by id; when none is named all but single social needs. InputError for one that there is not."""
    unknown = [name for name in names if name not in DIMENSIONS]
    if unknown:
        raise InputError(f"dimension: there is no such dimension; there are {', '.join(DIMENSIONS)}")
    if names:
        return tuple(DIMENSIONS[name] for name in dict.fromkeys(names))
    return tuple(one for one in DIMENSIONS.values() if not one.id.startswith("need-"))
