"""What stands in for the outside world: a FHIR endpoint that serves NDJSON, and a synthetic population for it."""
