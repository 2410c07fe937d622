"""FHIR search over served resources: parameters as data, index values, criteria to SQL (R4 §3.1.1)."""
