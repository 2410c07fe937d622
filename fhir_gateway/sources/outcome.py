"""What came of a pull beside its files: progress, issues the sender reported, losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import orjson

from fhir_gateway.sources.models import StagedPull

Severity = Literal["error", "warning", "information"]


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is: phase (discover, export, download, search, wait), words, and a count where there is one."""

    phase: str
    message: str
    done: int = 0
    total: int | None = None


Progress = Callable[[PullProgress], None]


@dataclass(frozen=True, slots=True)
class SourceIssue:
    """Something that went wrong or stands out, without patient data: what, where, and how many resources it cost."""

    severity: Severity
    message: str
    file: str | None = None
    count: int = 0


@dataclass(frozen=True, slots=True)
class PullOutcome:
    """A staged pull, and what an operator must know about it."""

    staged: StagedPull
    issues: tuple[SourceIssue, ...] = ()
    deletions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ids by resource type that the sender says are gone."""
    bytes: int = 0
    seconds: float = 0.0
    dangling: Mapping[str, int] = field(default_factory=dict)
    """References by type that lead to nothing we can read."""

    @property
    def lost(self) -> int:
        """Resources that the sender says it could not give, at least."""
        return sum(issue.count for issue in self.issues if issue.severity == "error")

    @property
    def complete(self) -> bool:
        """Nothing is known to be missing."""
        return not any(issue.severity == "error" for issue in self.issues)


def outcome_codes(response: httpx.Response) -> list[str]:
    """Issue codes of an OperationOutcome body; empty for anything else (plain text and HTML are common)."""
    try:
        body = orjson.loads(response.content)
    except (orjson.JSONDecodeError, httpx.ResponseNotRead):
        return []
    return [code for _, code in _issues(body)]


def outcome_issues(lines: Iterable[bytes], file: str) -> list[SourceIssue]:
    """The sender's OperationOutcome lines, counted by severity and code (texts may name patients and are left out)."""
    counts: Counter[tuple[str, str]] = Counter()
    for line in lines:
        if not line.strip():
            continue
        try:
            body = orjson.loads(line)
        except orjson.JSONDecodeError:
            counts["error", "unreadable"] += 1
            continue
        found = list(_issues(body)) or [("error", "unreadable")]
        # one outcome is about one resource: its worst issue counts
        counts[min(found, key=lambda issue: _RANK.get(issue[0], 0))] += 1
    return [
        SourceIssue(_SEVERITY.get(severity, "error"), f"the sender reports {code}", file, count)
        for (severity, code), count in sorted(counts.items())
    ]


_RANK = {"fatal": 0, "error": 1, "warning": 2, "information": 3, "success": 4}
_SEVERITY: Mapping[str, Severity] = {
    "fatal": "error",
    "error": "error",
    "warning": "warning",
    "information": "information",
    "success": "information",
}


def _issues(body: Any) -> Iterator[tuple[str, str]]:
    if isinstance(body, dict) and body.get("resourceType") == "OperationOutcome":
        for issue in body.get("issue") or []:
            if isinstance(issue, dict):
                yield str(issue.get("severity", "error")), str(issue.get("code", "unknown"))[:40]
