"""Message (CQL 1.5 appendix B, 25)."""

from __future__ import annotations

from fhir_gateway.cql.operators.logical import boolean
from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.values import NullVec, StrVec, Vec


@operator("Message", "25.1", nulls="handled", lift=False, fields=("source", "condition", "code", "severity", "message"))
def message(call: Call, source: Vec, *rest: Vec) -> Vec:
    """The source unchanged; severity ``Error`` with a true condition fails the row's patient."""
    elm = call.node.elm
    present = [name for name in ("condition", "code", "severity", "message") if elm.get(name)]
    by_name = dict(zip(present, rest, strict=True))
    condition = by_name.get("condition", NullVec(call.n))
    severity = by_name.get("severity")
    if isinstance(severity, StrVec):
        errors = severity.map(lambda text: text.lower() == "error").astype(bool)
        raised = boolean(condition).true & severity.valid
        raised[severity.valid] &= errors[severity.codes[severity.valid]]
        code = by_name.get("code")
        label = (
            next((c for c in code.pylist() if c), "message") if isinstance(code, StrVec) and len(code) else "message"
        )
        call.fail(raised, f"the library raised {label}")
    return source
