"""CMS-HCC V24 and V28: scores of populations in columns, by payment year, with what each is made of."""

from fhir_gateway.risk.hcc.demographics import MEMBER_SCHEMA, age_on_first_february
from fhir_gateway.risk.hcc.model import COMPONENT_SCHEMA, EVIDENCE_SCHEMA, SCORE_SCHEMA, RiskScores, score
from fhir_gateway.risk.hcc.years import MODELS, PaymentYear, payment_year

__all__ = [
    "COMPONENT_SCHEMA",
    "EVIDENCE_SCHEMA",
    "MEMBER_SCHEMA",
    "MODELS",
    "SCORE_SCHEMA",
    "PaymentYear",
    "RiskScores",
    "age_on_first_february",
    "payment_year",
    "score",
]
