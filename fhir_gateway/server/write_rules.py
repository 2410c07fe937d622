"""What a resource that a client writes must meet beyond FHIR: declared profiles, and rules of ours by type."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.publish import REPORTER
from fhir_gateway.server.writing import Rule


def profile_errors(gateway: Gateway, resource: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Errors against the profiles that a resource declares and that are installed here, as issues."""
    findings = gateway.validator.validate(resource).findings
    return [one.issue() for one in findings if one.severity == "error"]


def _measure_report(resource: Mapping[str, Any]) -> tuple[str, str] | None:
    """Reports in the gateway's own name are the gateway's."""
    reporter = str(resource.get("reporter", {}).get("reference", ""))
    if reporter.partition("/_history/")[0].endswith(f"Organization/{REPORTER}"):
        return "MeasureReport.reporter", "this server reports for itself: name another reporter"
    return None


#: Rules by type.
WRITE_RULES: Mapping[str, Rule] = MappingProxyType({"MeasureReport": _measure_report})
