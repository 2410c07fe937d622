"""Contracts that contradict themselves are refused with every term named."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from contract_parts import measure, shared_savings

from fhir_gateway.contracts import Contract
from fhir_gateway.errors import ContractError

P4P = {
    "kind": "pay_for_performance",
    "id": "p4p",
    "pool": "incentive",
    "budget": {"kind": "fixed", "amount": 1000},
}
GOOD = [measure("a", "0.5"), measure("b", "0.5")]
LADDER = {"kind": "ladder", "steps": [{"at": Decimal("0.7"), "points": 0.5}, {"at": Decimal("0.6"), "points": 1}]}

#: Changes to a valid contract -> what the message must name.
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "period ends before it starts": (
        {"period": {"start": date(2024, 12, 31), "end": date(2024, 1, 1)}},
        "period.end: before period.start",
    ),
    "run-out ends in the period": ({"claims": {"paid_through": date(2024, 6, 1)}}, "claims.paid_through"),
    "provider without numbers": (
        {"provider": {"name": "P", "entity": "p", "identifier": {"system": "s", "value": "v"}}},
        "provider.tins",
    ),
    "gate above the maximum": (
        {"measures": GOOD, "arrangements": [shared_savings(quality={"mode": "gate", "gate": Decimal("1.2")})]},
        "arrangements.ss.quality.gate: above the highest",
    ),
    "p4p gate above the maximum": (
        {"measures": GOOD, "arrangements": [P4P | {"gate": Decimal(2)}]},
        "arrangements.p4p.gate",
    ),
    "overlapping ladder steps": (
        {"measures": [measure("a", "1", scoring=LADDER)], "arrangements": [P4P]},
        r"measures.a.scoring.steps\[2\]: overlaps",
    ),
    "ladder that pays less for better": (
        {"measures": [measure("a", "1", direction="decrease", scoring={"kind": "ladder", "steps": [
            {"at": 30, "points": 1}, {"at": 20, "points": Decimal("0.5")}]})], "arrangements": [P4P]},
        "pays less than the step before",
    ),
    "weights that do not sum to one": (
        {"measures": [measure("a", "0.5"), measure("b", "0.4")], "arrangements": [P4P]},
        "arrangements.p4p.measures: the weights of its measures sum to 0.9, not 1",
    ),
    "minimum savings rate without a corridor": (
        {"arrangements": [shared_savings(corridor={"kind": "none", "msr": Decimal("0.02")})]},
        "arrangements.ss.corridor: a minimum rate is given",
    ),
    "fixed corridor without a rate": (
        {"arrangements": [shared_savings(corridor={"kind": "fixed"})]},
        "arrangements.ss.corridor.msr",
    ),
    "minimum loss rate in a one-sided contract": (
        {"arrangements": [shared_savings(corridor={"kind": "fixed", "msr": 0, "mlr": Decimal("0.02")})]},
        "arrangements.ss.corridor.mlr",
    ),
    "p4p cap below the floor": (
        {"measures": GOOD, "arrangements": [P4P | {"cap": 10, "floor": 20}]},
        "arrangements.p4p.cap: below the floor",
    ),
    "shared savings cap below the floor": (
        {"arrangements": [shared_savings(cap=Decimal("0.01"), floor=20_000)]},
        "arrangements.ss.cap: below the floor",
    ),
    "loss rate floor above the rate": (
        {"measures": GOOD, "arrangements": [shared_savings(quality={"mode": "multiplicative"}, losses={
            "rate": Decimal("0.3"), "quality_adjusted": True, "floor": Decimal("0.4")})]},
        "arrangements.ss.losses.floor",
    ),
    "two arrangements pay the same pool": (
        {"measures": GOOD, "arrangements": [P4P, P4P | {"id": "other"}]},
        "arrangements.other.pool: 'incentive' is already paid by arrangement 'p4p'",
    ),
    "two arrangements of one id": (
        {"measures": GOOD, "arrangements": [P4P, P4P | {"pool": "other"}]},
        "arrangements: two have the id 'p4p'",
    ),
    "a measure twice": (
        {"measures": [measure("a", "0.5"), measure("b", "0.5", canonical="https://example.org/Measure/a|2")],
         "arrangements": [P4P]},
        "measures: two have the canonical 'https://example.org/Measure/a'",
    ),
    "an arrangement on a measure that is not there": (
        {"measures": GOOD, "arrangements": [P4P | {"measures": ["a", "b", "c"]}]},
        "there is no measure 'c'",
    ),
    "target worse than threshold": (
        {"measures": [measure("a", "1", direction="decrease")], "arrangements": [P4P]},
        "measures.a.scoring: target is not better than threshold",
    ),
    "scoring with a part it has no use for": (
        {"measures": [measure("a", "1", scoring={"kind": "threshold", "target": 1, "baseline": 0})],
         "arrangements": [P4P]},
        "measures.a.scoring.baseline",
    ),
    "unknown key": ({"penalty": 5}, "penalty: Extra inputs"),
    "unknown key in an arrangement": ({"arrangements": [shared_savings(ratee=1)]}, "ratee"),
    "unknown arrangement": ({"arrangements": [{"kind": "lottery"}]}, "no such payment arrangement"),
    "an amount beyond all money": (
        {"arrangements": [shared_savings(target={"kind": "total", "amount": Decimal("1e400")})]},
        "arrangements.0.target.amount: a number has at most 15 digits",
    ),
    "share above one": ({"arrangements": [shared_savings(rate=2)]}, "rate"),
    "unknown attribution terms": ({"attribution": {"terms": "nobody"}}, "attribution terms 'nobody' are not shipped"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradiction(name: str, load: Callable[..., Contract]) -> None:
    changes, message = CONTRADICTIONS[name]
    with pytest.raises(ContractError, match=message):
        load(**changes)


def test_all_contradictions_are_named_at_once(load: Callable[..., Contract]) -> None:
    with pytest.raises(ContractError) as caught:
        load(claims={"paid_through": date(2024, 6, 1)}, measures=[measure("a", "0.9")], arrangements=[P4P, P4P])
    for part in ("claims.paid_through", "the weights", "two have the id", "already paid"):
        assert part in caught.value.message


def test_unknown_measures_are_refused(contract_terms: Callable[..., dict[str, Any]]) -> None:
    terms = contract_terms(measures=GOOD, arrangements=[P4P])
    known = {"https://example.org/Measure/a|1", "https://example.org/Measure/b|2"}
    with pytest.raises(ContractError, match=r"measures.b.canonical: no such measure is installed"):
        Contract.of(terms, known_measures=known)


def test_load_names_file_and_fault(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("id = ", encoding="utf-8")
    with pytest.raises(ContractError, match=r"broken.toml: not TOML"):
        Contract.load(broken)
    with pytest.raises(ContractError, match=r"missing.toml: contract not found"):
        Contract.load(tmp_path / "missing.toml")
    text = (DEMO / "shared-savings-2025.toml").read_text(encoding="utf-8")
    broken.write_text(text.replace('"commercial-primary-care"', '"nobody"'), encoding="utf-8")
    with pytest.raises(ContractError, match=r"broken.toml: attribution.terms: attribution terms 'nobody' are not"):
        Contract.load(broken)


DEMO = Path(__file__).parents[3] / "fhir_gateway" / "demo" / "contracts"


@pytest.mark.parametrize("path", sorted(DEMO.glob("*.toml")), ids=lambda path: path.stem)
def test_demo_contracts_name_measures_of_the_repository(path: Path) -> None:
    import json

    folder = DEMO.parents[2] / "measures"
    packages = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*/measure.json")]
    contract = Contract.load(path, known_measures={f"{m['url']}|{m['version']}" for m in packages})
    assert contract.digest == Contract.load(path).digest
    assert len(contract.measures) == 4


class LaterContract(Contract):
    """As a later version of the gateway knows it: with one more term."""

    another: str = "as before"


def test_digest_stays_when_a_later_version_knows_more_terms(contract_terms: Callable[..., dict[str, Any]]) -> None:
    stated = contract_terms()
    assert LaterContract.of(stated).digest == Contract.of(stated).digest
    assert LaterContract.of(stated | {"another": "as before"}).digest == Contract.of(stated).digest
    assert LaterContract.of(stated | {"another": "otherwise"}).digest != Contract.of(stated).digest


def test_digest_changes_with_any_term(load: Callable[..., Contract]) -> None:
    assert load().digest == load().digest
    assert load().digest != load(title="Other").digest
    assert load().digest != load(attribution={"terms": "mssp-primary-care-2025"}).digest
