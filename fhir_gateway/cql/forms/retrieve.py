"""Retrieve: the resources of one type of each patient, filtered by profile, code, date and id (CQL 1.5 appendix B, 11).

Which profiles (``templateId``) filter, and how, is in :mod:`fhir_gateway.cql.profiles`. Filters by constant codes are
applied to the whole table once for the batch; the others look at each row's resources in the frame of the expression.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fhir_gateway.cql.compile import Node, Scope, combine
from fhir_gateway.cql.elm import Elm
from fhir_gateway.cql.forms.filters import item_filters
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.operators.terminology import Pairs, coded_mask
from fhir_gateway.cql.profiles import not_done_of, profile_filter
from fhir_gateway.cql.registry import form
from fhir_gateway.cql.sought import pairs_of
from fhir_gateway.cql.typespec import local_name
from fhir_gateway.cql.values import BoolArray, ListVec, ValueSetVec, Vec
from fhir_gateway.r4 import spec

#: What of a retrieve is refused, and why.
_REFUSED = {
    "context": "the resources of somebody else are not in the batch",
    "includedIn": "resources come one type at a time",
    "include": "resources come one type at a time",
    "valueSetProperty": "FHIR R4 has no elements that name a value set",
}
_COMPARATORS = (None, "in", "~", "=")


@form("Retrieve")
def retrieve(scope: Scope, elm: Elm) -> Node:
    """A list of resources in each patient; the same in whatever frame it stands."""
    resource_type = local_name(elm["dataType"])
    if resource_type not in spec.resource_types():
        raise scope.error(elm, f"{elm['dataType']} is not a FHIR R4 resource")
    for part, reason in _REFUSED.items():
        if elm.get(part):
            raise scope.error(elm, f"retrieve with {part}: {reason}")
    code_property = elm.get("codeProperty")
    codes = scope.compile(elm["codes"]) if elm.get("codes") else None
    if codes is not None and not code_property:
        raise scope.error(elm, "retrieve with codes but without codeProperty")
    if elm.get("codeComparator") not in _COMPARATORS:
        raise scope.error(elm, f"retrieve with comparator {elm['codeComparator']!r}")
    filters = item_filters(scope, elm, codes)
    touched = {f.split(".")[0] for item in filters for f in item.paths} | ({code_property} if code_property else set())
    scope.compiler.elements_of.setdefault(resource_type, set()).update(touched)
    scope.compiler.property_names.update(name for item in filters for path in item.paths for name in path.split("."))
    profile = None
    if resource_type != "Patient":  # whose data it is does not depend on a profile
        profile = profile_filter(resource_type, str(elm.get("templateId") or ""), scope.compiler.profiles)
    if profile:
        scope.compiler.elements_of.setdefault(resource_type, set()).update(profile.elements)
    of_table = codes if codes is not None and codes.constant else None
    key = (
        resource_type,
        profile,
        (code_property, elm.get("codeComparator")) if of_table is not None else None,
        scope.library.label,
        scope.library.digest(elm.get("codes") or "") if of_table is not None else "",
    )
    by_name = elm.get("codeComparator") == "~" and profile is not None and profile.is_negation
    sought = None if of_table is None or by_name else (str(code_property), of_table)
    scope.compiler.retrieves.setdefault(resource_type, {})[key] = sought

    def everything(evaluation: Any) -> ListVec:
        if key not in evaluation.retrieves:
            evaluation.retrieves[key] = read(evaluation)
        found: ListVec = evaluation.retrieves[key]
        return found

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        found = everything(evaluation)
        rows = frame.rows_in(evaluation.root)
        found = found if rows is None else found.take(rows)
        for item in filters:
            found = found.keep(item.keep(evaluation, node, frame, env, found))
        return found

    def read(evaluation: Any) -> ListVec:
        table = evaluation.table(resource_type)
        if resource_type == "Patient":  # one person may have a Patient resource from each source: the first one speaks
            first = table.first()
            there = first.valid
            return ListVec(np.concatenate([[0], np.cumsum(there)]).astype(np.int64), first.take(np.flatnonzero(there)))
        pairs: Pairs | None = None
        refused: str | None = None  # the value set that may be named instead of a code
        if of_table is not None:
            wanted = evaluation.constant(of_table)
            pairs = pairs_of(evaluation.compiled, wanted)
            if by_name and isinstance(wanted, ValueSetVec):
                refused = wanted.url
        same = (profile, code_property, pairs, refused)
        found: ListVec = table.retrieved(same, lambda: matching(table, pairs, refused))
        return found

    def matching(table: Any, pairs: Pairs | None, refused: str | None) -> ListVec:
        keep: BoolArray | None = None
        if pairs is not None:
            keep = coded_mask(table.every.property(str(code_property)), pairs)
        if profile:
            meant = profile.members(table.every)
            keep = meant if keep is None else keep & meant
            if refused and keep is not None:
                keep = keep | not_done_of(table.every, str(code_property), refused, meant & ~keep)
        found: ListVec = table.all() if keep is None else table.where(keep)
        return found

    free, _ = combine([part for item in filters for part in item.nodes])
    node = Node(scope.library, elm, run, free, patient=True)
    scope.compiler.retrieved[id(node)] = everything
    return node
