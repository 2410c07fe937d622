"""Which resources a profiled retrieve means: QI-Core negation profiles and profiles with a fixed code.

A QI-Core or US Core retrieve names a profile (``templateId``). Most profiles add nothing that decides membership, but
three kinds do: profiles of things that were *not* done (``MedicationNotRequested``), whose resources must not come
back from the ordinary profile of the type either; profiles whose code is fixed (``USCoreBMIProfile``), which CQL
retrieves without a code filter; and the two profiles of Condition, told apart by category.

Membership is decided by ``meta.profile`` where it names a profile that decides it, and otherwise by content: the
status, ``doNotPerform`` or code that the profile fixes (QI-Core 4.1.1 and 6.0.0, US Core 6.1.0). Data without profiles
is so told apart like data with them. With the option ``content`` declared profiles are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from fhir_gateway.cql.dispatch import unwrap
from fhir_gateway.cql.operators.terminology import coded_mask
from fhir_gateway.cql.values import BoolArray, BoolVec, ElementVec, ListVec, StrVec
from fhir_gateway.cql.values.base import gather

#: ``declared``: ``meta.profile`` first, content where it says nothing. ``content``: content alone.
ProfilePolicy = Literal["declared", "content"]

_QICORE = "http://hl7.org/fhir/us/qicore/StructureDefinition/"
_US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/"

#: Resource type -> its negation profiles, and the element and value that mark a thing not done (None where R4 has no
#: such element: QI-Core puts ``doNotPerform`` of a DeviceRequest into a modifier extension, which is not a column).
NEGATIONS: dict[str, tuple[frozenset[str], str | None, str | bool]] = {
    "Communication": (frozenset({"qicore-communicationnotdone"}), "status", "not-done"),
    "DeviceRequest": (frozenset({"qicore-devicenotrequested"}), None, True),
    "Immunization": (frozenset({"qicore-immunizationnotdone"}), "status", "not-done"),
    "MedicationAdministration": (
        frozenset({"qicore-medicationadministrationnotdone", "qicore-mednotadministered"}),
        "status",
        "not-done",
    ),
    "MedicationDispense": (
        frozenset({"qicore-medicationdispensedeclined", "qicore-mednotdispensed"}),
        "status",
        "declined",
    ),
    "MedicationRequest": (
        frozenset({"qicore-medicationnotrequested", "qicore-mednotrequested"}),
        "doNotPerform",
        True,
    ),
    "Observation": (
        frozenset({"qicore-observationcancelled", "qicore-observationnotdone"}),
        "status",
        "cancelled",
    ),
    "Procedure": (frozenset({"qicore-procedurenotdone"}), "status", "not-done"),
    "ServiceRequest": (frozenset({"qicore-servicenotrequested"}), "doNotPerform", True),
    "Task": (frozenset({"qicore-taskrejected", "qicore-tasknotdone"}), "status", "rejected"),
}

_LOINC = "http://loinc.org"
#: Profiles of Observation with a fixed code: profile -> LOINC codes.
FIXED_CODES: dict[str, frozenset[tuple[str, str]]] = {
    profile: frozenset((_LOINC, code) for code in codes.split())
    for profile, codes in {
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
        "us-core-smokingstatus": "72166-2",
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

Decide = Callable[[ElementVec], BoolArray]


def profile_filter(
    resource_type: str, template: str, policy: ProfilePolicy
) -> tuple[frozenset[str], str, Decide] | None:
    """How to tell the resources of a profile from others of the type; None when the profile does not decide.

    Returns the elements that are looked at, a key that equal filters share, and the filter itself.
    """
    if not template.startswith((_QICORE, _US_CORE)):
        return None
    name = _local(template)
    declared = frozenset({"meta"}) if policy == "declared" else frozenset()
    negation = NEGATIONS.get(resource_type)
    codes = FIXED_CODES.get(name) if resource_type == "Observation" else None
    if resource_type == "Condition" and name in CONDITION_CATEGORIES:
        return declared | {"category"}, name, lambda every: _of_category(every, name, policy)
    if negation is None and codes is None:
        return None
    negative = negation is not None and name in negation[0]
    touched = declared | ({negation[1]} if negation and negation[1] else set()) | ({"code"} if codes else set())

    def decide(every: ElementVec) -> BoolArray:
        keep = np.ones(len(every), dtype=bool)
        if negation is not None:
            marked = _negated(every, negation, policy)
            keep = marked if negative else ~marked
        if codes is not None:
            keep = keep & _of_code(every, name, codes, policy)
        return keep

    return touched, f"{'not ' if negative else ''}{name if codes else ''}", decide


def _negated(
    every: ElementVec, negation: tuple[frozenset[str], str | None, str | bool], policy: ProfilePolicy
) -> BoolArray:
    profiles, element, value = negation
    marked = _has(every, element, value) if element else np.zeros(len(every), dtype=bool)
    if policy == "content":
        return marked
    says_not = _declares(every, lambda url: _local(url) in profiles)
    says_done = _declares(every, lambda url: url.startswith((_QICORE, _US_CORE))) & ~says_not
    return says_not | (marked & ~says_done)


def _of_code(every: ElementVec, name: str, codes: frozenset[tuple[str, str]], policy: ProfilePolicy) -> BoolArray:
    by_code = coded_mask(every.property("code"), codes)
    if policy == "content":
        return by_code
    this = _declares(every, lambda url: _local(url) == name)
    other = _declares(every, lambda url: _local(url) in FIXED_CODES)
    return this | (by_code & ~other)


def _of_category(every: ElementVec, name: str, policy: ProfilePolicy) -> BoolArray:
    category = every.property("category")
    this = coded_mask(category, CONDITION_CATEGORIES[name])
    other = coded_mask(category, frozenset().union(*(c for n, c in CONDITION_CATEGORIES.items() if n != name)))
    by_category = this | ~other
    if policy == "content":
        return by_category
    says_this = _declares(every, lambda url: _local(url) == name)
    says_other = _declares(every, lambda url: _local(url) in CONDITION_CATEGORIES) & ~says_this
    return says_this | (by_category & ~says_other)


def _local(url: str) -> str:
    """Name of a profile: the end of its url, without version."""
    return url.rsplit("/", 1)[-1].partition("|")[0]


def _declares(every: ElementVec, wanted: Callable[[str], bool]) -> BoolArray:
    """Resources of which some ``meta.profile`` is wanted; asked once for each distinct url."""
    hit = np.zeros(len(every), dtype=bool)
    meta = every.property("meta")
    lists = meta.property("profile") if isinstance(meta, ElementVec) else None
    if not isinstance(lists, ListVec):
        return hit
    urls = unwrap(lists.flat)
    if isinstance(urls, StrVec) and len(urls.dictionary):
        found = np.array([wanted(url) for url in urls.dictionary.to_pylist()], dtype=bool)
        hit[lists.parents[urls.valid & gather(found, urls.codes)]] = True
    return hit


def _has(every: ElementVec, element: str, value: str | bool) -> BoolArray:
    """Resources whose element has the value."""
    vec = unwrap(every.property(element))
    if isinstance(vec, BoolVec):
        return vec.true
    if isinstance(vec, StrVec) and len(vec.dictionary):
        found = np.array([text == value for text in vec.dictionary.to_pylist()], dtype=bool)
        return np.asarray(vec.valid & gather(found, vec.codes), dtype=bool)
    return np.zeros(len(every), dtype=bool)
