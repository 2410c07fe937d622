"""Canonical base of the content that this repository authors; `.example` is reserved, so nobody else's."""

from __future__ import annotations

#: Measures, Libraries, value sets and extensions of our own live below this url.
CANONICAL_BASE = "https://fhir-gateway.example/fhir"
CQL_SHA256 = f"{CANONICAL_BASE}/StructureDefinition/cql-sha256"
