"""Who is whose patient: member months, attribution methods, rosters as Da Vinci ATR Groups."""

from fhir_gateway.attribution.atr import atr_group
from fhir_gateway.attribution.eligibility import COVERAGE_COLUMNS, member_months
from fhir_gateway.attribution.models import Attribution, Participant
from fhir_gateway.attribution.roster import Roster
from fhir_gateway.attribution.rules import AttributionTerms, shipped_terms
from fhir_gateway.attribution.service import LINE_COLUMNS, SELECTION_SCHEMA, Facts, attribute

__all__ = [
    "COVERAGE_COLUMNS",
    "LINE_COLUMNS",
    "SELECTION_SCHEMA",
    "Attribution",
    "AttributionTerms",
    "Facts",
    "Participant",
    "Roster",
    "atr_group",
    "attribute",
    "member_months",
    "shipped_terms",
]
