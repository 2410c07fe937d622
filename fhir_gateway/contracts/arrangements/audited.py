"""Arrangements that pay by member and month: what they pay can be disputed row by row."""

from __future__ import annotations

from abc import abstractmethod
from decimal import Context, localcontext

import pyarrow as pa

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried, SettlementInputs

_ORDER = ("rule", "member", "month", "cell", "rate", "factor", "quantity", "amount")


class AuditedTerms(ArrangementTerms):
    """Terms of an arrangement whose payments are rows."""

    @abstractmethod
    def rows(self, inputs: SettlementInputs) -> pa.Table:
        """Every payment (:data:`~fhir_gateway.contracts.audit.AUDIT_SCHEMA`), unsorted; lines are their exact sums."""

    def carried_on(self) -> Carried:
        """By months: members are covered as their coverage stands."""
        return "months"

    def audit(self, inputs: SettlementInputs) -> pa.Table:
        """The same in order, with the digits of a settlement: the same inputs give the same table."""
        with localcontext(Context(prec=60)):
            rows = self.rows(inputs)
        return rows.sort_by([(name, "ascending") for name in _ORDER])
