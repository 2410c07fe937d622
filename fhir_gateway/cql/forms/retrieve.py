"""Retrieve: the resources of one type of each patient, filtered by profile and code (CQL 1.5 appendix B, 11).

Which profiles (``templateId``) filter, and how, is in :mod:`fhir_gateway.cql.profiles`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fhir_gateway.cql.compile import Node, Scope
from fhir_gateway.cql.elm import Elm
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.operators.terminology import coded_mask, codes_of
from fhir_gateway.cql.profiles import profile_filter
from fhir_gateway.cql.registry import form
from fhir_gateway.cql.typespec import local_name
from fhir_gateway.cql.values import BoolArray, ListVec, ValueSetVec, Vec
from fhir_gateway.r4 import spec


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
    code_property = elm.get("codeProperty")
    codes = scope.compile(elm["codes"]) if elm.get("codes") else None
    if codes is not None and not code_property:
        raise scope.error(elm, "retrieve with codes but without codeProperty")
    if codes is not None and not codes.constant:
        raise scope.error(elm, "retrieve whose codes depend on data")
    if code_property:
        scope.compiler.elements_of.setdefault(resource_type, set()).add(code_property)
    profile = None
    if resource_type != "Patient":  # whose data it is does not depend on a profile
        profile = profile_filter(resource_type, str(elm.get("templateId") or ""), scope.compiler.profiles)
    if profile:
        scope.compiler.elements_of.setdefault(resource_type, set()).update(profile.elements)
    key = (
        resource_type,
        profile,
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
        every = table.every
        keep: BoolArray | None = None
        if codes is not None:
            wanted = evaluation.constant(codes)
            if isinstance(wanted, ValueSetVec):
                pairs = evaluation.compiled.compiler.value_sets.resolve(wanted.url, wanted.version).codes
            else:
                pairs = codes_of(wanted)
            keep = coded_mask(every.property(str(code_property)), pairs)
        if profile:
            meant = profile.members(every)
            keep = meant if keep is None else keep & meant
        found: ListVec = table.all() if keep is None else table.where(keep)
        return found

    return Node(scope.library, elm, run, patient=True)
