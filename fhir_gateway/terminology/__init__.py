"""Terminology that travels with measures: value sets and code systems resolved to sets of (system, code)."""

from __future__ import annotations

from fhir_gateway.terminology.code_systems import CodeSystem
from fhir_gateway.terminology.value_sets import Code, ValueSet, ValueSets

__all__ = ["Code", "CodeSystem", "ValueSet", "ValueSets"]
