"""A synthetic population: an EHR and a payer that know overlapping people, as NDJSON of FHIR R4 resources.

:func:`generate` writes it; ``python -m fhir_gateway.sandbox.population`` does the same at the prompt. The order of work
is that of the modules: directory, people, stays, visits, clinical, claims; then ehr and payer render columns to JSON.
"""

from fhir_gateway.sandbox.population.generate import BATCH, Summary, generate
from fhir_gateway.sandbox.population.truth import Truth

__all__ = ["BATCH", "Summary", "Truth", "generate"]
