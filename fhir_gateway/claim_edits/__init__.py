"""Clean claims: rules that a claim is checked by before it is submitted, and what payers denied.

An edit is a query over the columns of a batch of Claims (:mod:`engine`, :mod:`edits`); what it looks up lies in
imported tables (:mod:`tables`). What cannot be checked is told, never passed in silence.
"""

from fhir_gateway.claim_edits.columns import CLAIM_PATHS, CLAIM_SCHEMA, claim_rows, lake_rows
from fhir_gateway.claim_edits.engine import check
from fhir_gateway.claim_edits.models import Checked, Context, Edit
from fhir_gateway.claim_edits.registry import edits
from fhir_gateway.claim_edits.tables import TableStore

__all__ = [
    "CLAIM_PATHS",
    "CLAIM_SCHEMA",
    "Checked",
    "Context",
    "Edit",
    "TableStore",
    "check",
    "claim_rows",
    "edits",
    "lake_rows",
]
