"""What the gateway tells those who watch it run: spans and metrics, for OpenTelemetry and for Prometheus.

``spans`` opens spans (nothing while nobody listens), ``meters`` counts what jobs do, ``export`` sends both to a
collector when the environment names one (``OTEL_...``), ``scrape`` answers Prometheus where there is no HTTP server
(workers).

Names and attributes are interactions, types, templates of routes, kinds of jobs and counts; never persons, ids, values
of parameters, or words of errors. ADR 0280 says why these are spans of our own.
"""
