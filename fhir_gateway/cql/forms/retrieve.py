"""Retrieve: the resources of one type of each patient, filtered by code (CQL 1.5 appendix B, 11).

Profiles (``templateId``) do not filter, since real data seldom carries them, except where a profile means that
something was *not* done: QI-Core tells these apart by status or ``doNotPerform``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fhir_gateway.cql.compile import Node, Scope
from fhir_gateway.cql.dispatch import unwrap
from fhir_gateway.cql.elm import Elm
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.operators.terminology import coded_mask, codes_of
from fhir_gateway.cql.registry import form
from fhir_gateway.cql.typespec import local_name
from fhir_gateway.cql.values import BoolArray, BoolVec, ElementVec, ListVec, StrVec, ValueSetVec, Vec
from fhir_gateway.cql.values.scalars import shared_codes
from fhir_gateway.r4 import spec

#: QI-Core profiles of things not done: element and value that mark them (QI-Core 4.1.1 and 6.0.0, negation profiles).
NEGATION = {
    "qicore-procedurenotdone": ("status", "not-done"),
    "qicore-immunizationnotdone": ("status", "not-done"),
    "qicore-communicationnotdone": ("status", "not-done"),
    "qicore-mednotadministered": ("status", "not-done"),
    "qicore-medicationadministrationnotdone": ("status", "not-done"),
    "qicore-mednotdispensed": ("status", "declined"),
    "qicore-medicationdispensedeclined": ("status", "declined"),
    "qicore-observationcancelled": ("status", "cancelled"),
    "qicore-observationnotdone": ("status", "cancelled"),
    "qicore-taskrejected": ("status", "rejected"),
    "qicore-tasknotdone": ("status", "rejected"),
    "qicore-servicenotrequested": ("doNotPerform", True),
    "qicore-mednotrequested": ("doNotPerform", True),
    "qicore-medicationnotrequested": ("doNotPerform", True),
}


@form("Retrieve")
def retrieve(scope: Scope, elm: Elm) -> Node:
    """A list of resources in each patient; the same in whatever frame it stands."""
    resource_type = local_name(elm["dataType"])
    if resource_type not in spec.resource_types():
        raise scope.error(elm, f"{elm['dataType']} is not a FHIR R4 resource")
    for unsupported in ("dateProperty", "dateRange", "context", "includedIn"):
        if elm.get(unsupported):
            raise scope.error(elm, f"retrieve with {unsupported}")
    for filters in ("include", "codeFilter", "dateFilter", "otherFilter"):
        if elm.get(filters):
            raise scope.error(elm, f"retrieve with {filters}")
    template = str(elm.get("templateId") or "").rsplit("/", 1)[-1]
    code_property = elm.get("codeProperty")
    codes = scope.compile(elm["codes"]) if elm.get("codes") else None
    if codes is not None and not code_property:
        raise scope.error(elm, "retrieve with codes but without codeProperty")
    if codes is not None and not codes.constant:
        raise scope.error(elm, "retrieve whose codes depend on data")
    if code_property:
        scope.compiler.property_names.add(code_property)
    negation = NEGATION.get(template)
    if negation:
        scope.compiler.property_names.add(negation[0])
    key = (
        resource_type,
        template if negation else "",
        code_property,
        scope.library.label,
        scope.library.digest(elm.get("codes") or ""),
    )

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        if key not in evaluation.retrieves:
            evaluation.retrieves[key] = read(evaluation)
        found: ListVec = evaluation.retrieves[key]
        rows = frame.rows_in(evaluation.root)
        return found if rows is None else found.take(rows)

    def read(evaluation: Any) -> ListVec:
        table = evaluation.table(resource_type)
        if resource_type == "Patient":  # one person may have a Patient resource from each source: the first one speaks
            first = table.first()
            there = first.valid
            return ListVec(np.concatenate([[0], np.cumsum(there)]).astype(np.int64), first.take(np.flatnonzero(there)))
        every = ElementVec(table.source, np.arange(table.source.size, dtype=np.int64))
        keep: BoolArray | None = None
        if codes is not None:
            wanted = evaluation.constant(codes)
            if isinstance(wanted, ValueSetVec):
                pairs = evaluation.compiled.compiler.value_sets.resolve(wanted.url, wanted.version).codes
            else:
                pairs = codes_of(wanted)
            keep = coded_mask(every.property(str(code_property)), pairs)
        if negation:
            marked = _marked(every, *negation)
            keep = marked if keep is None else keep & marked
        found: ListVec = table.all() if keep is None else table.where(keep)
        return found

    return Node(scope.library, elm, run, patient=True)


def _marked(every: ElementVec, element: str, value: object) -> BoolArray:
    vec = unwrap(every.property(element))
    if isinstance(vec, BoolVec):
        return vec.true if value is True else vec.valid & ~vec.values
    if isinstance(vec, StrVec):
        left, right = shared_codes(vec, StrVec.constant(str(value), 1))
        return np.asarray(left == right[0], dtype=bool)
    return np.zeros(len(every), dtype=bool)
