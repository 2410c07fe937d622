"""Quality measures: packages, populations, scoring and MeasureReports."""

from __future__ import annotations

from fhir_gateway.measures.package import MeasurePackage

__all__ = ["MeasurePackage"]
