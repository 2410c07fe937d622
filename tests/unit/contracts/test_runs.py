"""Runs post differences: whatever was settled before, the sum of all postings is what is due now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from contract_parts import inputs, shared_savings
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.contracts import Contract, settle
from fhir_gateway.contracts.calendar import Calendar
from fhir_gateway.contracts.disputes import Dispute, check_decision, check_opening, evidence
from fhir_gateway.contracts.runs import Posting, due, post
from fhir_gateway.errors import ConflictError, ContractError, NotFoundError

D = Decimal
AMOUNTS = st.decimals(-1_000_000, 1_000_000, places=2)
SETTLED = st.dictionaries(st.sampled_from(["a", "b", "c"]), AMOUNTS, max_size=3)


@given(st.lists(SETTLED, min_size=1, max_size=6))
def test_postings_add_up_to_what_is_due(settled: list[dict[str, Decimal]]) -> None:
    posted: list[Posting] = []
    for amounts in settled:
        posted += post({name: (f"{name}.payable", amount) for name, amount in amounts.items()}, posted)
        owed: dict[str, Decimal] = {}
        for one in posted:
            owed[one.arrangement] = owed.get(one.arrangement, D(0)) + one.delta
        assert {name: amount for name, amount in owed.items() if amount} == {n: a for n, a in amounts.items() if a}


@given(AMOUNTS, AMOUNTS)
def test_a_change_and_its_reversal_leave_nothing(first: Decimal, second: Decimal) -> None:
    posted: list[Posting] = []
    for amount in (first, second, first):
        posted += post({"a": ("a.payable", amount)}, posted)
    assert sum(one.delta for one in posted[1:]) == 0


def test_interim_pays_a_share_of_gains_and_no_losses(load: Callable[..., Contract]) -> None:
    contract = load(arrangements=[shared_savings(losses={"rate": D("0.5")})])
    calendar = Calendar(interim="quarterly", interim_share=D("0.5"))
    gain, loss = settle(contract, inputs("900000")), settle(contract, inputs("1100000"))
    assert due(gain, "interim", calendar, "cent") == {"ss": ("ss.payable", D("25000.00"))}
    assert due(gain, "final", calendar, "cent") == {"ss": ("ss.payable", D(50000))}
    assert due(loss, "interim", calendar, "cent") == {"ss": ("ss.payable", D(0))}
    collecting = Calendar(interim="quarterly", interim_share=D("0.5"), interim_losses=True)
    assert due(loss, "interim", collecting, "cent") == {"ss": ("ss.payable", D("-25000.00"))}


def test_evidence_holds_everything_below_a_line(load: Callable[..., Contract]) -> None:
    settlement = settle(load(), inputs("900000"))
    frozen = evidence(settlement, "ss.gross")
    below = ["ss.paid", "ss.above-truncation", "ss.truncated", "ss.cost", "ss.target", "ss.gross"]
    assert [line["id"] for line in frozen["lines"]] == below
    assert frozen["contract_digest"] == settlement.contract_digest
    with pytest.raises(NotFoundError, match="has no line"):
        evidence(settlement, "ss.nothing")


def test_when_a_dispute_can_be_opened_and_decided() -> None:
    last = date(2025, 10, 16)
    check_opening("review", "claims", D(1), last, last)
    for state, reason, amount, day, error in (
        ("review", "taste", D(1), last, ContractError),
        ("review", "claims", D(0), last, ContractError),
        ("preliminary", "claims", D(1), last, ConflictError),
        ("superseded", "claims", D(1), last, ConflictError),
        ("final", "claims", D(1), date(2025, 10, 17), ConflictError),
    ):
        with pytest.raises(error):
            check_opening(state, reason, amount, last, day)
    filed = datetime(2025, 10, 1, tzinfo=UTC)
    dispute = Dispute("d", "r", "c", "l", "claims", D(1), "why", "me", filed, last, last, {})
    check_decision(dispute, "rejected")
    with pytest.raises(ContractError, match="decision: one of"):
        check_decision(dispute, "open")
