"""Risk adjustment: what is said of coding gaps, and how (Da Vinci RA). Models that compute them come beside it."""

from fhir_gateway.risk.models import CodingGaps, CodingGapSource, ConditionCategory, RiskModel
from fhir_gateway.risk.reports import coding_gap_report, report_bundle

__all__ = ["CodingGapSource", "CodingGaps", "ConditionCategory", "RiskModel", "coding_gap_report", "report_bundle"]
