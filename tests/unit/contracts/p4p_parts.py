"""Arrangements settled by themselves, from rows written into the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Context, Decimal, localcontext
from typing import Any

import pyarrow as pa
from contract_parts import exposure

from fhir_gateway.contracts import ARRANGEMENTS, Exposure, SettlementInputs
from fhir_gateway.contracts.arrangements import Facts
from fhir_gateway.contracts.arrangements.facts import PEOPLE_SCHEMA
from fhir_gateway.contracts.scoring import MeasureOutcome
from fhir_gateway.contracts.settlement import Ledger, SettlementLine
from fhir_gateway.contracts.terms import MeasureTerms
from fhir_gateway.lake.claims import LINE_SCHEMA

Rows = Sequence[Mapping[str, Any]]
_MONTHS = pa.schema([("member", pa.string()), ("month", pa.date32()), ("months", pa.decimal128(28, 8))])
YEAR = (date(2025, 1, 1), date(2025, 12, 31))


class Settled(dict[str, SettlementLine]):
    """Lines by name within the arrangement."""

    @property
    def paid(self) -> Decimal:
        return sum((line.amount for line in self.values() if line.amount is not None), Decimal(0))

    def value(self, name: str) -> Decimal:
        value = self[name].value
        assert value is not None, name
        return value


def problems(terms: Mapping[str, Any]) -> list[str]:
    """Contradictions of an arrangement by itself."""
    return ARRANGEMENTS[terms["kind"]].model_validate({"id": "x", "pool": "p"} | dict(terms)).problems()


def settled(
    terms: Mapping[str, Any],
    *,
    tables: Mapping[str, Rows] | None = None,
    lines: Rows = (),
    months: Rows = (),
    people: Rows = (),
    outcomes: Mapping[str, MeasureOutcome] | None = None,
    measures: Sequence[Mapping[str, Any]] = (),
    seen: Exposure | None = None,
    period: tuple[date, date] = YEAR,
    part: Decimal = Decimal(1),
) -> Settled:
    """Settle one arrangement; its terms must be free of contradictions."""
    arrangement = ARRANGEMENTS[terms["kind"]].model_validate({"id": "x", "pool": "p"} | dict(terms))
    assert arrangement.problems() == []
    needs = arrangement.needs()
    given = {name: _table(rows, needs.tables[name]) for name, rows in (tables or {}).items()}
    line_columns = ("_member", *(name for name in needs.lines if name != "_member"))
    line_schema = pa.schema([LINE_SCHEMA.field(name) for name in line_columns])
    facts = Facts(
        period=period,
        lines=_table(lines, line_schema),
        people=_table(people, PEOPLE_SCHEMA),
        months=_table(months, _MONTHS),
        baseline_months=_MONTHS.empty_table(),
        tables=given,
    )
    inputs = SettlementInputs(seen or exposure("0"), outcomes or {}, facts=facts, part=part)
    ledger = Ledger("x", "USD", "cent", arrangement.stream())
    with localcontext(Context(prec=60)):
        arrangement.settle(inputs, arrangement.chosen(tuple(map(MeasureTerms.model_validate, measures))), ledger)
    assert [line.amount is not None for line in ledger.lines].index(True) == len(ledger.lines) - 1
    names = [line.id.removeprefix("x.") for line in ledger.lines]
    assert len(set(names)) == len(names), "two lines have the same id"
    known: set[str] = set()
    for line in ledger.lines:
        assert known >= set(line.because), "a line comes from a later one"
        known.add(line.id)
        assert line.metric is None or line.metric in arrangement.metrics, line.metric
    return Settled(zip(names, ledger.lines, strict=True))


def _table(rows: Rows, schema: pa.Schema) -> pa.Table:
    plain = pa.schema([field.with_nullable(True) for field in schema])
    columns = {field.name: [_typed(row.get(field.name), field.type) for row in rows] for field in plain}
    return pa.table(columns, schema=plain)


def _typed(value: Any, kind: pa.DataType) -> Any:
    return Decimal(str(value)) if value is not None and pa.types.is_decimal(kind) else value
