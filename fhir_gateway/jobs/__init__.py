"""Durable work: pulls, evaluations, attribution, settlements.

Each job is a thin function over the domain packages that takes a :class:`fhir_gateway.factory.Gateway`; command line,
demo and server call the same ones. A job may be killed at any instruction and run again.
"""
