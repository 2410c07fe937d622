"""What a report is written as."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fhir_gateway.errors import NotFoundError
from fhir_gateway.reports import html, pdf
from fhir_gateway.reports.document import Document

#: Media types by form.
FORMS: Mapping[str, str] = MappingProxyType({"pdf": "application/pdf", "html": "text/html; charset=utf-8"})


def write(report: Document, form: str) -> bytes:
    """The report in a form; NotFoundError for one that is not known."""
    if form not in FORMS:
        raise NotFoundError(f"a report is written as {' or '.join(FORMS)}")
    return pdf.write(report) if form == "pdf" else html.write(report)
