"""What a check found, and what it could not check."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: Code system of ``Finding.rule`` in an OperationOutcome; defined in ``profiles/``. Invariants use their own key.
RULES = "https://fhir-gateway.example/fhir/CodeSystem/validation-rule"

#: Rule -> issue type of R4 for what is not ``structure``.
_ISSUE_TYPES = {
    "binding": "code-invalid",
    "invariant": "invariant",
    "cardinality": "structure",
    "fixed": "value",
    "pattern": "value",
    "required": "required",
    "format": "value",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule. ``path`` is FHIRPath (``MeasureReport.group[0].id``); ``rule`` an invariant's key or our word."""

    severity: str  # error | warning
    path: str
    rule: str
    message: str
    profile: str | None = None
    invariant: bool = False

    def issue(self) -> dict[str, Any]:
        """The OperationOutcome issue; names elements and rules, never values."""
        said = f"{self.message} (profile {self.profile})" if self.profile else self.message
        return {
            "severity": self.severity,
            "code": "invariant" if self.invariant else _ISSUE_TYPES.get(self.rule, "structure"),
            "details": {"coding": [{"system": RULES, "code": self.rule}]},
            "diagnostics": said,
            "expression": [self.path],
        }


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A rule that could not be checked here, and why; each is told once, whatever it would have applied to."""

    what: str
    reason: str
    profile: str | None = None

    def issue(self) -> dict[str, Any]:
        """The OperationOutcome issue, as information."""
        where = f" (profile {self.profile})" if self.profile else ""
        return {
            "severity": "information",
            "code": "not-supported",
            "details": {"coding": [{"system": RULES, "code": "not-checked"}]},
            "diagnostics": f"not checked: {self.what}: {self.reason}{where}",
        }


@dataclass(slots=True)
class Report:
    """Everything said about one resource."""

    findings: list[Finding] = field(default_factory=list)
    unchecked: dict[Unchecked, None] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        """True when no rule of severity error is broken."""
        return not any(one.severity == "error" for one in self.findings)

    def outcome(self) -> dict[str, Any]:
        """An OperationOutcome: findings, then what was not checked; one that says so when there is neither error."""
        issues = [one.issue() for one in self.findings]
        if self.valid:
            issues.insert(
                0,
                {
                    "severity": "information",
                    "code": "informational",
                    "diagnostics": "no rule of severity error is broken",
                },
            )
        issues += [one.issue() for one in self.unchecked]
        return {"resourceType": "OperationOutcome", "issue": issues}
