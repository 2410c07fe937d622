"""Authorization of backend clients: SMART Backend Services tokens, scopes, introspection and revocation.

Models, rules and stores import no web framework; only :mod:`fhir_gateway.auth.routes` does.
"""
