"""Settle a contract: every arrangement writes its lines; nothing is rounded before it is published."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Context, localcontext

from fhir_gateway.contracts.arrangements import SettlementInputs
from fhir_gateway.contracts.contract import Contract
from fhir_gateway.contracts.distribution import distribute
from fhir_gateway.contracts.settlement import Ledger, Settlement, SettlementLine

#: Digits of intermediate results: products of amounts (28 digits), rates and weights stay exact; quotients carry more
#: digits than any published amount has.
_PRECISION = Context(prec=60)


def _shared_out(contract: Contract, ledger: Ledger, inputs: SettlementInputs) -> Iterator[SettlementLine]:
    """Who gets which part of what an arrangement pays, where the contract says."""
    for terms in contract.distributions:
        if terms.arrangement == ledger.arrangement:
            for payable in [line for line in ledger.lines if line.amount is not None]:
                yield from distribute(terms, payable, inputs.panels.get(terms.by, {}), contract.rounding)


def settle(contract: Contract, inputs: SettlementInputs) -> Settlement:
    """The settlement of a contract. The same inputs give the same lines, digit by digit."""
    lines = []
    with localcontext(_PRECISION):
        for terms in contract.arrangements:
            ledger = Ledger(terms.id, contract.currency, contract.rounding, terms.stream())
            terms.settle(inputs, terms.chosen(contract.measures), ledger)
            lines += ledger.lines
            lines += _shared_out(contract, ledger, inputs)
    return Settlement(
        contract=contract.id,
        contract_version=contract.version,
        contract_digest=contract.digest,
        period=contract.dates if inputs.cut is None else (contract.dates[0], inputs.cut.through),
        paid_through=contract.claims.paid_through if inputs.cut is None else inputs.cut.paid_through,
        currency=contract.currency,
        lines=tuple(lines),
        stamps=dict(inputs.stamps),
    )
