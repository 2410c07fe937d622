"""A FHIR endpoint that serves a folder of NDJSON as an EHR or a payer would.

SMART discovery, Backend Services tokens, CapabilityStatement, Bulk Data export, paged search and read. It stands in
for real sources in the demo and in tests; resources are served exactly as they lie in the folder.
"""

from fhir_gateway.sandbox.server.app import create_app
from fhir_gateway.sandbox.server.runner import SandboxServer

__all__ = ["SandboxServer", "create_app"]
