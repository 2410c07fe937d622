"""Inputs of arrangements by episode, from claim lines and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal, localcontext
from typing import Any

import pyarrow as pa
from contract_parts import exposure
from episode_parts import YEAR, definition, lines

from fhir_gateway.contracts import SettlementInputs
from fhir_gateway.contracts.arrangements import ARRANGEMENTS, Facts
from fhir_gateway.contracts.arrangements.episode_terms import EpisodeTerms
from fhir_gateway.contracts.arrangements.facts import PEOPLE_SCHEMA
from fhir_gateway.contracts.service import _PRECISION
from fhir_gateway.contracts.settlement import Ledger, SettlementLine
from fhir_gateway.errors import ContractError

D = Decimal
MONTHS = pa.schema([("member", pa.string()), ("month", pa.date32()), ("months", pa.decimal128(28, 8))])
GMLOS = [{"drg": drg, "gmlos": D(4)} for drg in ("470", "871", "862")]


def facts(
    rows: Iterable[dict[str, Any]],
    tables: Mapping[str, list[dict[str, Any]]],
    terms: EpisodeTerms,
    people: Iterable[dict[str, Any]] = (),
    period: tuple[date, date] = YEAR,
) -> Facts:
    """Columns; ``tables`` as rows, typed as the terms want them."""
    schemas = terms.needs().tables
    return Facts(
        period=period,
        lines=lines(*rows),
        people=pa.Table.from_pylist(list(people), schema=PEOPLE_SCHEMA),
        months=MONTHS.empty_table(),
        baseline_months=MONTHS.empty_table(),
        tables={
            name: pa.Table.from_pylist(table, schema=pa.schema([field.with_nullable(True) for field in schemas[name]]))
            for name, table in tables.items()
        },
    )


def prices(**by_group: str | int) -> list[dict[str, Any]]:
    """A table of prices; ``g470`` is the price group 470."""
    return [{"price_group": name.removeprefix("g"), "price": D(price)} for name, price in by_group.items()]


def terms(kind: str, **changes: Any) -> EpisodeTerms:
    """Terms of a kind, all members counting, prices given; no problems."""
    stated = {
        "kind": kind,
        "id": "b",
        "pool": "bundle",
        "population": "all",
        "price": {"kind": "given", "table": "prices", "discounted": True},
        "gmlos": "gmlos",
    }
    if kind.startswith("bundle"):
        stated["episode"] = definition().model_dump()
    made = ARRANGEMENTS[kind].model_validate(stated | changes)
    assert isinstance(made, EpisodeTerms)
    if found := made.problems():
        raise ContractError("; ".join(found))
    return made


def inputs(
    made: EpisodeTerms,
    rows: Iterable[dict[str, Any]],
    tables: Mapping[str, list[dict[str, Any]]] | None = None,
    **more: Any,
) -> SettlementInputs:
    """Inputs of a settlement; tables of prices and days are there unless others are given."""
    given = {"prices": prices(g470=28000), "gmlos": GMLOS} | dict(tables or {})
    known = {name: table for name, table in given.items() if name in made.needs().tables}
    return SettlementInputs(exposure("0"), more.pop("outcomes", {}), facts=facts(rows, known, made, **more))


def settle(made: EpisodeTerms, stated: SettlementInputs, measures: tuple[Any, ...] = ()) -> dict[str, SettlementLine]:
    """Lines of the settlement by name."""
    ledger = Ledger("b", "USD", "cent", made.stream())
    with localcontext(_PRECISION):
        made.settle(stated, measures, ledger)
    assert {line.metric for line in ledger.lines if line.metric} <= set(made.metrics)
    names = [line.id.removeprefix("b.") for line in ledger.lines]
    assert len(set(names)) == len(names)
    return dict(zip(names, ledger.lines, strict=True))


def paid(made: EpisodeTerms, stated: SettlementInputs) -> Decimal:
    """The published amount."""
    amount = settle(made, stated)["payable"].amount
    assert amount is not None
    return amount
