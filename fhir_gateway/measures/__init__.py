"""Quality measures: packages, populations, scoring and MeasureReports."""

from __future__ import annotations

from fhir_gateway.measures.composite import CompositePackage
from fhir_gateway.measures.evaluate import Evaluator, evaluate
from fhir_gateway.measures.model import GroupResult, MeasureResult, PopulationResult, run_id
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.population import LakePopulation, MemoryPopulation, Population
from fhir_gateway.measures.store import ResultStore

__all__ = [
    "CompositePackage",
    "Evaluator",
    "GroupResult",
    "LakePopulation",
    "MeasurePackage",
    "MeasureResult",
    "MemoryPopulation",
    "Population",
    "PopulationResult",
    "ResultStore",
    "evaluate",
    "run_id",
]
