"""Which resources a profiled retrieve means: QI-Core negation profiles and profiles with a fixed code.

A QI-Core or US Core retrieve names a profile (``templateId``). Most profiles add nothing that decides membership, but
three kinds do: profiles of things that were *not* done (``MedicationNotRequested``), whose resources must not come
back from the ordinary profile of the type either; profiles whose code is fixed (``USCoreBMIProfile``), which CQL
retrieves without a code filter; and the two profiles of Condition, told apart by category.

A resource that declares QI-Core profiles in ``meta.profile`` is of exactly those (so are the published test cases
meant). Any other resource is of every profile whose status, ``doNotPerform``, code and category it has (QI-Core 4.1.1
and 6.0.0, US Core 6.1.0): data without profiles is told apart like data with them. With the option ``content``
declared profiles are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from fhir_gateway.cql.dispatch import unwrap
from fhir_gateway.cql.folding import open_list
from fhir_gateway.cql.operators.terminology import coded_mask
from fhir_gateway.cql.values import BoolArray, BoolVec, ChoiceVec, ElementVec, ListVec, StrVec, Vec
from fhir_gateway.cql.values.base import gather

#: ``declared``: QI-Core profiles in ``meta.profile`` first, content without. ``content``: content alone.
ProfilePolicy = Literal["declared", "content"]

_QICORE = "http://hl7.org/fhir/us/qicore/"
_US_CORE = "http://hl7.org/fhir/us/core/"
_FHIR = "http://hl7.org/fhir/StructureDefinition/"


class Negation(NamedTuple):
    """A profile of things not done, and the element and value that mark one (None where R4 has no such element)."""

    profile: str
    element: str | None
    value: str | bool


#: Resource type -> its negation profile. QI-Core puts ``doNotPerform`` of a DeviceRequest into a modifier extension,
#: which is not a column.
NEGATIONS: dict[str, Negation] = {
    "Communication": Negation("qicore-communicationnotdone", "status", "not-done"),
    "DeviceRequest": Negation("qicore-devicenotrequested", None, True),
    "Immunization": Negation("qicore-immunizationnotdone", "status", "not-done"),
    "MedicationAdministration": Negation("qicore-medicationadministrationnotdone", "status", "not-done"),
    "MedicationDispense": Negation("qicore-medicationdispensedeclined", "status", "declined"),
    "MedicationRequest": Negation("qicore-medicationnotrequested", "doNotPerform", True),
    "Observation": Negation("qicore-observationcancelled", "status", "cancelled"),
    "Procedure": Negation("qicore-procedurenotdone", "status", "not-done"),
    "ServiceRequest": Negation("qicore-servicenotrequested", "doNotPerform", True),
    "Task": Negation("qicore-taskrejected", "status", "rejected"),
}

_LOINC = "http://loinc.org"
#: Profiles of Observation with a fixed code, or one of a few: profile -> LOINC codes.
FIXED_CODES: dict[str, frozenset[tuple[str, str]]] = {
    profile: frozenset((_LOINC, code) for code in codes.split())
    for profile, codes in {
        # vital signs of FHIR R4 itself, which QI-Core 4.1.1 uses
        "bmi": "39156-5",
        "bodyheight": "8302-2",
        "bodytemp": "8310-5",
        "bodyweight": "29463-7",
        "bp": "85354-9",
        "headcircum": "9843-4",
        "heartrate": "8867-4",
        "oxygensat": "2708-6 59408-5",
        "resprate": "9279-1",
        "vitalspanel": "85353-1",
        "us-core-blood-pressure": "85354-9",
        "us-core-bmi": "39156-5",
        "us-core-body-height": "8302-2",
        "us-core-body-temperature": "8310-5",
        "us-core-body-weight": "29463-7",
        "us-core-head-circumference": "9843-4",
        "us-core-heart-rate": "8867-4",
        "us-core-observation-occupation": "11341-5",
        "us-core-observation-pregnancyintent": "86645-9",
        "us-core-observation-pregnancystatus": "82810-3",
        "us-core-observation-sexual-orientation": "76690-7",
        "us-core-pulse-oximetry": "59408-5 2708-6",
        "us-core-respiratory-rate": "9279-1",
        # no fixed code but an extensible binding; the last is what test cases of published measures have
        "us-core-smokingstatus": "72166-2 11367-0 39240-7",
        "head-occipital-frontal-circumference-percentile": "8289-1",
        "pediatric-bmi-for-age": "59576-9",
        "pediatric-weight-for-height": "77606-2",
    }.items()
}

_CATEGORY = "http://terminology.hl7.org/CodeSystem/condition-category"
#: Profiles of Condition that exclude one another: profile -> categories. A Condition without profile and category
#: belongs to each.
CONDITION_CATEGORIES: dict[str, frozenset[tuple[str, str]]] = {
    "qicore-condition-encounter-diagnosis": frozenset({(_CATEGORY, "encounter-diagnosis")}),
    "qicore-condition-problems-health-concerns": frozenset(
        {
            (_CATEGORY, "problem-list-item"),
            ("http://hl7.org/fhir/us/core/CodeSystem/condition-category", "health-concern"),
        }
    ),
}

#: Names that QI-Core 4.1.1 gave to profiles of 6.0.0.
_RENAMED = {
    "qicore-mednotadministered": "qicore-medicationadministrationnotdone",
    "qicore-mednotdispensed": "qicore-medicationdispensedeclined",
    "qicore-mednotrequested": "qicore-medicationnotrequested",
    "qicore-observationnotdone": "qicore-observationcancelled",
    "qicore-tasknotdone": "qicore-taskrejected",
}


@dataclass(frozen=True)
class ProfileFilter:
    """How to tell the resources of a profile from others of its type, and the elements that are looked at."""

    resource_type: str
    name: str
    policy: ProfilePolicy

    @property
    def is_negation(self) -> bool:
        """Whether it is of things not done."""
        negation = NEGATIONS.get(self.resource_type)
        return negation is not None and self.name == negation.profile

    @property
    def elements(self) -> frozenset[str]:
        """Elements that decide."""
        touched = {"meta"} if self.policy == "declared" else set()
        negation = NEGATIONS.get(self.resource_type)
        if negation is not None and negation.element:
            touched.add(negation.element)
        if self.name in FIXED_CODES:
            touched.add("code")
        if self.name in CONDITION_CATEGORIES:
            touched.add("category")
        return frozenset(touched)

    def members(self, every: ElementVec) -> BoolArray:
        """True for the resources that are of the profile."""
        keep = np.ones(len(every), dtype=bool)
        negation = NEGATIONS.get(self.resource_type)
        if negation is not None:
            marked = _has(every, negation.element, negation.value) if negation.element else _modified(every)
            keep = marked if self.name == negation.profile else ~marked
        if self.name in FIXED_CODES:
            keep = keep & coded_mask(every.property("code"), FIXED_CODES[self.name])
        if self.name in CONDITION_CATEGORIES:
            category = every.property("category")
            this = coded_mask(category, CONDITION_CATEGORIES[self.name])
            any_ = coded_mask(category, frozenset().union(*CONDITION_CATEGORIES.values()))
            keep = keep & (this | ~any_)
        if self.policy == "declared":
            declared = _declared(every)
            keep = (keep & ~declared.some) | declared.by_name.get(self.name, declared.none)
        return keep


def profile_filter(resource_type: str, template: str, policy: ProfilePolicy) -> ProfileFilter | None:
    """The filter of a retrieve's ``templateId``; None when the profile does not decide anything."""
    name = _local(template)
    if not template.startswith((_QICORE, _US_CORE)) and not (template.startswith(_FHIR) and name in FIXED_CODES):
        return None
    found = ProfileFilter(resource_type, name, policy)
    return found if found.elements else None


def _local(url: str) -> str:
    """Name of a profile: the end of its url, without version."""
    name = url.rsplit("/", 1)[-1].partition("|")[0]
    return _RENAMED.get(name, name)


@dataclass(frozen=True)
class Declared:
    """What the resources of a table declare in ``meta.profile``: QI-Core profiles at all, and which of either guide."""

    some: BoolArray
    by_name: dict[str, BoolArray]
    none: BoolArray


def _declared(every: ElementVec) -> Declared:
    """Found out once for each table."""
    source = every.source
    if not isinstance(source.catalogue, Declared):
        source.catalogue = _read_declared(every)
    return source.catalogue


def _read_declared(every: ElementVec) -> Declared:
    none = np.zeros(len(every), dtype=bool)
    found = Declared(none.copy(), {}, none)
    meta = every.property("meta")
    lists = meta.property("profile") if isinstance(meta, ElementVec) else None
    if not isinstance(lists, ListVec):
        return found
    urls = unwrap(lists.flat)
    if isinstance(urls, StrVec):
        owner = lists.parents
        for code, url in enumerate(urls.dictionary.to_pylist()):  # distinct ones
            if url.startswith((_QICORE, _US_CORE, _FHIR)):
                rows = owner[urls.codes == code]
                found.by_name.setdefault(_local(url), none.copy())[rows] = True
                if url.startswith(_QICORE):
                    found.some[rows] = True
    return found


#: Where QI-Core 6 puts the ``doNotPerform`` of a DeviceRequest, which R4 has not.
_DO_NOT_PERFORM = "http://hl7.org/fhir/5.0/StructureDefinition/extension-DeviceRequest.doNotPerform"


def _modified(every: ElementVec) -> BoolArray:
    """Resources with the modifier extension that says not to do it."""
    hit = np.zeros(len(every), dtype=bool)
    extensions = every.property("modifierExtension")
    if isinstance(extensions, ListVec) and isinstance(extensions.flat, ElementVec):
        said = _has(extensions.flat, "url", _DO_NOT_PERFORM) & _has(extensions.flat, "valueBoolean", True)
        hit[extensions.parents[said]] = True
    return hit


#: Says that nothing of a value set was done, instead of a code; below the root, so not in the columns.
_NOT_DONE_VALUE_SET = "http://hl7.org/fhir/us/qicore/StructureDefinition/qicore-notDoneValueSet"


def not_done_of(every: ElementVec, code_property: str, url: str, among: BoolArray) -> BoolArray:
    """Resources of ``among`` that say without a code that nothing of the value set ``url`` was done."""
    hit = np.zeros(len(every), dtype=bool)
    rows = np.flatnonzero(among)
    held = every.take(rows).property(code_property)
    for option in held.options if isinstance(held, ChoiceVec) else (held,):
        items = open_list(option)
        concepts = items.flat
        if not isinstance(concepts, ElementVec) or concepts.fhir_type != "CodeableConcept":
            continue
        uncoded = np.flatnonzero(concepts.valid & (open_list(concepts.property("coding")).lengths == 0))
        if not len(uncoded):
            continue
        extensions = open_list(concepts.take(uncoded).property("extension"))
        if isinstance(extensions.flat, ElementVec):
            named = unwrap(extensions.flat.property("valueCanonical"))
            said = _has(extensions.flat, "url", _NOT_DONE_VALUE_SET) & _texts(
                named, lambda t: t.partition("|")[0] == url
            )
            hit[rows[items.parents[uncoded[extensions.parents[said]]]]] = True
    return hit


def _has(every: ElementVec, element: str, value: str | bool) -> BoolArray:
    """Resources whose element has the value."""
    vec = unwrap(every.property(element))
    if isinstance(vec, BoolVec):
        return vec.true
    return _texts(vec, lambda text: text == value)


def _texts(vec: Vec, wanted: Callable[[str], bool]) -> BoolArray:
    """Rows with a text that is wanted; each distinct one is looked at once."""
    if isinstance(vec, StrVec) and len(vec.dictionary):
        found = np.array([wanted(text) for text in vec.dictionary.to_pylist()], dtype=bool)
        return np.asarray(vec.valid & gather(found, vec.codes), dtype=bool)
    return np.zeros(len(vec), dtype=bool)
