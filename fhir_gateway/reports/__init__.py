"""Reports for people: what they say (:mod:`document`), and how that becomes a PDF or a page of HTML, with charts.

A report computes nothing: every figure was made by the service that settles, scores or stratifies.
"""

from __future__ import annotations

from fhir_gateway.reports.document import Document

__all__ = ["Document"]
