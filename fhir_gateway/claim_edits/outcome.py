"""What was found of claims, as OperationOutcomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhir_gateway.claim_edits.grounds import GROUNDS
from fhir_gateway.claim_edits.models import Checked, Severity
from fhir_gateway.claim_edits.registry import edits

#: Code system of the edits, and of ``not-checked``; defined in ``profiles/``.
SYSTEM = "https://fhir-gateway.example/fhir/CodeSystem/claim-edit"
#: Code system of how bad a finding is.
SEVERITY_SYSTEM = "https://fhir-gateway.example/fhir/CodeSystem/claim-edit-severity"
NOT_CHECKED = "not-checked"
#: A claim that will probably be denied is as good as refused: both are errors.
_ISSUE_SEVERITY: Mapping[Severity, str] = {
    "reject": "error",
    "deny-likely": "error",
    "warn": "warning",
    "info": "information",
}


def outcomes(checked: Checked) -> list[dict[str, Any]]:
    """An OperationOutcome for each claim, in order: its findings, then what could not be checked and why.

    Nothing of the claim is in it but paths. One without findings says so, as an outcome has at least one issue.
    """
    found: list[list[dict[str, Any]]] = [[] for _ in range(checked.claims.num_rows)]
    for row in checked.findings.to_pylist():
        found[row["rid"]].append(_issue(row["edit"], row["path"], row["other"]))
    clean = checked.claims["clean"].to_pylist()
    for issues, is_clean in zip(found, clean, strict=True):
        if is_clean:
            issues.append({"severity": "information", "code": "informational", "diagnostics": "the claim is clean"})
    for row in checked.unchecked.to_pylist():
        found[row["rid"]].append(_unchecked(row["ground"]))
    return [{"resourceType": "OperationOutcome", "issue": issues} for issues in found]


def _issue(name: str, path: str, other: str | None) -> dict[str, Any]:
    edit = edits()[name]
    codings = [{"system": SYSTEM, "code": edit.id}, {"system": SEVERITY_SYSTEM, "code": edit.severity}]
    return {
        "severity": _ISSUE_SEVERITY[edit.severity],
        "code": edit.issue,
        "details": {"coding": codings, "text": edit.message},
        "diagnostics": f"{edit.fix} Source: {edit.source}.",
        "expression": [path] if other is None else [path, other],
    }


def _unchecked(ground: str) -> dict[str, Any]:
    needing = [edit.id for edit in edits().values() if ground in edit.needs]
    said = f"not checked{' in full' if GROUNDS[ground].partial else ''}: {GROUNDS[ground].why}"
    return {
        "severity": "information",
        "code": "not-supported",
        "details": {"coding": [{"system": SYSTEM, "code": NOT_CHECKED}], "text": said},
        "diagnostics": f"Edits: {', '.join(needing) or 'all'}.",
    }
