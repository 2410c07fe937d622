"""The main job of the gateway, end to end on a synthetic population: ``python -m fhir_gateway.demo``."""
