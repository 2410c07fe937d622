"""FHIR R4 (4.0.1) as data: element definitions, column layout, and the one door to ``fhir.resources``."""
