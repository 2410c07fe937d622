"""Slices of profiles that model infos give names of their own: ``BloodPressure.systolic`` is a component of that code.

R4 has no such elements. These are all that the model infos of QI-Core 4.1.1 and 6.0.0 have (US Core 6.1.0: blood
pressure and pulse oximetry).
"""

from __future__ import annotations

import numpy as np

from fhir_gateway.cql.operators.terminology import coded_mask
from fhir_gateway.cql.values import ElementVec, ListVec, NullVec, Vec

_LOINC = "http://loinc.org"
#: Name of a component of Observation -> its codes.
COMPONENTS: dict[str, frozenset[tuple[str, str]]] = {
    name: frozenset({(_LOINC, code)})
    for name, code in {
        "systolic": "8480-6",
        "diastolic": "8462-4",
        "FlowRate": "3151-8",
        "Concentration": "3150-6",
    }.items()
}
#: Elements that tell slices apart.
ELEMENTS = frozenset({"component", "code"})


def is_slice(vec: ElementVec, name: str) -> bool:
    """Whether ``name`` is a slice of what the vector holds."""
    return vec.fhir_type == "Observation" and name in COMPONENTS


def component(vec: ElementVec, name: str) -> Vec:
    """The first component of that name in each Observation; null where there is none."""
    components = vec.property("component")
    flat = components.flat if isinstance(components, ListVec) else NullVec(0)
    if not isinstance(components, ListVec) or not isinstance(flat, ElementVec):
        return NullVec(len(vec))
    hits = np.flatnonzero(coded_mask(flat.property("code"), COMPONENTS[name]))
    owner, first = np.unique(components.parents[hits], return_index=True)
    index = np.full(len(vec), -1, dtype=np.int64)
    index[owner] = hits[first]
    return flat.take(index)
