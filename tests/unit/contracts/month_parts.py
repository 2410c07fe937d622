"""Months, persons, lines and tables for settlements of member months."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa

from fhir_gateway.contracts import Contract, Exposure, SettlementInputs
from fhir_gateway.contracts.arrangements.facts import AMOUNT, PEOPLE_SCHEMA, Facts
from fhir_gateway.lake.claims import LINE_SCHEMA

D = Decimal
YEAR = (date(2024, 1, 1), date(2024, 12, 31))
MONTHS_SCHEMA = pa.schema([("member", pa.string()), ("month", pa.date32()), ("months", AMOUNT)])


def months_of(spans: Mapping[str, Sequence[int]], year: int = 2024) -> list[tuple[str, date, Decimal]]:
    """Whole months of members by number."""
    return [(member, date(year, number, 1), D(1)) for member, numbers in spans.items() for number in numbers]


def table(schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows with what they do not say as null."""
    return pa.Table.from_pylist([{name: None, **row} for name in schema.names[:1] for row in rows], schema=schema)


def line(member: str, day: date, **more: Any) -> dict[str, Any]:
    """A claim line that was paid."""
    return {"_member": member, "service_from": day, "payment_date": day, "denied": False, "counts": True} | more


def inputs_of(
    contract: Contract,
    months: Sequence[tuple[str, date, Decimal]],
    people: Iterable[Mapping[str, Any]] = (),
    lines: Iterable[Mapping[str, Any]] = (),
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    outcomes: Mapping[str, Any] | None = None,
) -> SettlementInputs:
    """Inputs with facts; the contract says which columns its tables have."""
    known = {row["member"]: row for row in people}
    members = sorted({*known, *(member for member, _, _ in months)})
    count = sum((value for _, _, value in months), D(0))
    needs = contract.needs()
    facts = Facts(
        period=contract.dates,
        lines=table(LINE_SCHEMA, lines).select(["_member", *needs.lines]),
        people=table(PEOPLE_SCHEMA, [{"member": name, **known.get(name, {})} for name in members]),
        months=pa.Table.from_pylist(
            [dict(zip(MONTHS_SCHEMA.names, row, strict=True)) for row in months], schema=MONTHS_SCHEMA
        ),
        baseline_months=MONTHS_SCHEMA.empty_table(),
        tables={
            name: table(pa.schema([one.with_nullable(True) for one in schema]), (tables or {}).get(name, ()))
            for name, schema in needs.tables.items()
        },
    )
    exposure = Exposure(len(members), count, D(0), D(0), D(0), 0)
    return SettlementInputs(exposure, outcomes or {}, facts=facts)


def contract_of(stated: dict[str, Any]) -> Contract:
    """A contract without contradictions, whose tables come with the inputs and not from files."""
    contract = Contract.model_validate(stated)
    named = {name: {"path": f"{name}.csv"} for one in contract.arrangements for name in one.needs().tables}
    contract = Contract.model_validate(stated | {"tables": named})
    assert contract.problems() == []
    return contract
