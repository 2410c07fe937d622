"""From Coverage and claim lines to capitation: months by the attribution's rule, rates by the contract."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.attribution import attribute
from fhir_gateway.contracts import Contract, Settlement, collect, settle
from fhir_gateway.lake.claims import LINE_SCHEMA
from fhir_gateway.r4.spec import arrow_type, column_structure

D = Decimal
SPANS = {
    "a": ("2024-01-01", "2024-12-31"),
    "b": ("2024-03-10", "2024-09-20"),
    "c": ("2024-03-16", "2024-09-14"),
    "d": ("2024-05-15", "2024-06-14"),  # on the fifteenth, and a day too short for the next
    "e": ("2024-02-29", "2024-02-29"),  # a day of a leap year
}
PERSONS_SCHEMA = pa.schema(
    [("member", pa.string()), ("birth_date", pa.date32()), ("gender", pa.string()), ("died", pa.date32())]
)


def coverage(spans: dict[str, tuple[str, str]]) -> pa.Table:
    structure = column_structure("Coverage")
    schema = pa.schema(
        [("_member", pa.string()), ("_source", pa.string()), ("id", pa.string())]
        + [(name, arrow_type(structure[name])) for name in ("status", "type", "period")]
    )
    rows = [
        {"_member": name, "_source": "payer", "id": f"{name}{n}", "status": "active", "type": None,
         "period": {"start": start, "end": end}}
        for name, (start, end) in spans.items() for n in range(2)  # each twice: a member month counts once
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema)


def visits() -> pa.Table:
    line = dict.fromkeys(LINE_SCHEMA.names) | {
        "source": "payer", "counts": True, "denied": False, "claim_type": "professional", "tin": "100000001",
        "npi": "1", "specialty": "08", "procedure": "99213", "place_of_service": "11", "allowed": D(50), "paid": D(0),
    }  # fmt: skip
    return pa.Table.from_pylist(
        [
            line | {"_member": name, **dict.fromkeys(("service_from", "claim_from", "claim_thru"), date(2024, 5, 20)),
                    "payment_date": date(2024, 6, 1)}
            for name in SPANS
        ],
        schema=LINE_SCHEMA,
    )  # fmt: skip


@pytest.fixture
def settled(contract_terms: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Settlement]:
    """The settlement of 100 a month under a month rule."""

    def of(rule: str, died: dict[str, date] | None = None) -> Settlement:
        (tmp_path / "rates.csv").write_text("cell,rate\nall,100\n", encoding="utf-8")
        stated = contract_terms(
            rounding="cent",
            attribution={"terms": "commercial-primary-care"},
            arrangements=[{"kind": "capitation", "id": "cap", "pool": "capitation"}],
            tables={"rates": {"path": "rates.csv"}},
        )
        contract = Contract.of(stated, tmp_path)
        terms = contract.attribution_terms
        assert terms is not None
        eligibility = terms.eligibility.model_copy(update={"month_rule": rule, "min_months": D(0)})
        terms = terms.model_copy(update={"eligibility": eligibility})
        contract = contract.model_copy(update={"attribution_terms": terms})
        lines, covered = visits(), coverage(SPANS)
        persons = [{"member": name, "died": (died or {}).get(name)} for name in SPANS]
        people = pa.Table.from_pylist([dict.fromkeys(PERSONS_SCHEMA.names) | row for row in persons], PERSONS_SCHEMA)
        attribution = attribute(lines, covered, terms, contract.dates, contract.participants)
        return settle(contract, collect(contract, attribution, lines, {}, coverage=covered, persons=people))

    return of


@pytest.mark.parametrize(
    ("rule", "months"),
    [
        ("snapshot_15th", D(12 + 7 + 5 + 1)),
        ("any_day", D(12 + 7 + 7 + 2 + 1)),
        # 22/31 + 5 + 20/30, 16/31 + 5 + 14/30, 17/31 + 14/30, 1/29
        ("prorated", D(12) + D("6.37634409") + D("5.98279570") + D("1.01505376") + D("0.03448276")),
    ],
)
def test_member_months_are_paid(settled: Callable[..., Settlement], rule: str, months: Decimal) -> None:
    assert settled(rule).total == (months * 100).quantize(D("0.01"))


def test_nobody_is_paid_for_after_death(settled: Callable[..., Settlement]) -> None:
    assert settled("snapshot_15th", {"a": date(2024, 3, 14)}).total == (2 + 7 + 5 + 1) * 100
