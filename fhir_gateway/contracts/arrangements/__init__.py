"""Registry of payment arrangements: one module each, with its terms, its contradictions and its arithmetic.

An arrangement is a class of terms derived from :class:`ArrangementTerms`, registered under its ``kind``. Adding one:
a module here with ``@arrangement("kind")``, its import below, its test, and a line in ``docs/use/contracts.md``
(``docs/develop/add-an-arrangement.md`` walks through it).
"""

from fhir_gateway.contracts.arrangements import pay_for_performance, shared_savings
from fhir_gateway.contracts.arrangements.base import (
    ARRANGEMENTS,
    ArrangementTerms,
    Exposure,
    SettlementInputs,
    arrangement,
)

__all__ = [
    "ARRANGEMENTS",
    "ArrangementTerms",
    "Exposure",
    "SettlementInputs",
    "arrangement",
    "pay_for_performance",
    "shared_savings",
]
