"""The rows that payments by member month consist of, as of a settlement: what a sum is disputed row by row by."""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from fhir_gateway.contracts.arrangements import SettlementInputs
from fhir_gateway.contracts.arrangements.audited import AuditedTerms
from fhir_gateway.contracts.arrangements.capitation import Capitation
from fhir_gateway.contracts.audit import totals
from fhir_gateway.contracts.calendar import Cut
from fhir_gateway.contracts.contract import Contract
from fhir_gateway.errors import ContractError, InputError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import kept_attribution
from fhir_gateway.jobs.settle import inputs_of
from fhir_gateway.jobs.settlement_runs import settled


@dataclass(frozen=True, slots=True)
class PaymentRows:
    """Rows (:data:`~fhir_gateway.contracts.audit.AUDIT_SCHEMA`) of an arrangement in a settlement, in order."""

    settlement: str
    contract: str
    arrangement: str
    table: pa.Table

    def of(
        self,
        member: str | None = None,
        rule: str | None = None,
        status: str | None = None,
        members: Collection[str] | None = None,
    ) -> pa.Table:
        """Those of a member, a rule, a status; of ``members`` only those of these persons, and none of nobody's."""
        table = self.table
        for column, value in (("member", member), ("rule", rule), ("status", status)):
            if value is not None:
                table = table.filter(pc.equal(table[column], value))
        if members is not None:
            table = table.filter(pc.is_in(table["member"], value_set=pa.array(sorted(members), pa.string())))
        return table


def payment_rows(gateway: Gateway, run_id: str, arrangement: str | None = None) -> PaymentRows:
    """The rows of an arrangement (the only one that has any, or the one that is named) as of a settlement.

    NotFoundError for a settlement that is not there or whose evidence is not kept any more, InputError when the
    contract has no such arrangement, or several and none is named.
    """
    contract, terms, inputs = _as_of(gateway, run_id, arrangement)
    return PaymentRows(run_id, contract.id, terms.id, terms.audit(inputs))


def posted_rows(gateway: Gateway, run_id: str, arrangement: str | None = None) -> pa.Table:
    """All rows that a capitation with retroactive changes has posted, those of this settlement's cycle included.

    It is the contract's table of posted rows for the next cycle. ContractError of an arrangement that posts no cycles.
    """
    _, terms, inputs = _as_of(gateway, run_id, arrangement)
    if not isinstance(terms, Capitation):
        raise ContractError(f"{terms.where} ({terms.kind}): posts no cycles")
    return terms.posted(inputs)


def _as_of(gateway: Gateway, run_id: str, arrangement: str | None) -> tuple[Contract, AuditedTerms, SettlementInputs]:
    """The contract of a settlement, its arrangement with rows, and what it was settled from."""
    run, contract, was = settled(gateway, run_id)
    terms = _terms(contract, arrangement)
    attributed = kept_attribution(gateway, contract, run.evidence)
    cut = Cut(run.through, run.paid_through) if run.kind == "interim" else None
    # rows come before quality: no measure changes one
    return contract, terms, inputs_of(gateway, attributed, {}, cut, was=was.stamps)


def _terms(contract: Contract, arrangement: str | None) -> AuditedTerms:
    having = [one for one in contract.arrangements if isinstance(one, AuditedTerms)]
    names = ", ".join(one.id for one in having)
    if arrangement is None and len(having) == 1:
        return having[0]
    if not having:
        raise NotFoundError("this contract has no payments by member month, so there are no rows")
    if arrangement is None:
        raise InputError(f"name one of the arrangements that have rows: {names}")
    found = [one for one in having if one.id == arrangement]
    if not found:
        raise InputError(f"the arrangements of this contract that have rows are {names}")
    return found[0]


def as_csv(table: pa.Table, *, header: bool = True) -> bytes:
    """The rows as CSV."""
    text = io.BytesIO()
    csv.write_csv(table, text, csv.WriteOptions(include_header=header))
    return text.getvalue()


def as_ndjson(table: pa.Table) -> bytes:
    """A JSON object per line; decimals as strings, so that no digit is lost."""
    return b"".join(orjson.dumps(row, default=str) + b"\n" for row in table.to_pylist())


def summary(table: pa.Table) -> list[dict[str, str]]:
    """Rows, quantity and amount by rule and status: what the lines of the settlement are the sums of."""
    return [
        {"rule": rule, "status": status, "rows": f"{count:,}", "quantity": f"{quantity:f}", "amount": f"{amount:f}"}
        for (rule, status), quantity, amount, count in totals(table, ["rule", "status"])
    ]
