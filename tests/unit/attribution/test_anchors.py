"""Bundles: who is accountable for an episode by its anchor; months by provider of record and for newborns;
residence."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.attribution import SELECTION_SCHEMA, member_months
from fhir_gateway.attribution.anchors import ANCHOR_SCHEMA, INITIATOR_SCHEMA, anchor_provider
from fhir_gateway.attribution.eligibility import BIRTH_SCHEMA
from fhir_gateway.attribution.months import of_period, with_newborn_cell, with_provider_of_record
from fhir_gateway.attribution.residence import residences
from fhir_gateway.errors import ContractError
from fhir_gateway.r4.spec import arrow_type, column_structure

STAY = {"episode": "e1", "member": "p1", "ccn": "450001", "attending": "7", "operating": "8",
        "start": date(2025, 3, 1), "end": date(2025, 3, 5)}  # fmt: skip
HOSPITAL = {"entity": "hospital", "ccn": "450001", "start": date(2024, 1, 1)}
ATTENDING = {"entity": "hospitalists", "tin": "100", "start": date(2024, 1, 1)}
OPERATING = {"entity": "surgeons", "tin": "200", "start": date(2023, 1, 1)}


def accountable(
    make_lines: Any, initiators: list[dict[str, Any]], *stays: dict[str, Any], **options: Any
) -> tuple[Any, ...]:
    lines = make_lines(
        [
            {"tin": "100", "npi": "7", "service_from": date(2025, 3, 2)},
            {"tin": "200", "npi": "8", "service_from": date(2025, 3, 1)},
        ]
    )
    (found,) = anchor_provider(
        pa.Table.from_pylist(list(stays) or [STAY], ANCHOR_SCHEMA),
        lines,
        pa.Table.from_pylist(initiators, INITIATOR_SCHEMA),
        **options,
    ).to_pylist()
    return found["entity"], found["role"], found["reason"]


@pytest.mark.parametrize(
    ("initiators", "expected"),
    [
        ([HOSPITAL, ATTENDING, OPERATING], ("hospitalists", "attending", None)),
        ([HOSPITAL, OPERATING], ("surgeons", "operating", None)),
        ([HOSPITAL], ("hospital", "hospital", None)),
        ([HOSPITAL, ATTENDING | {"start": date(2025, 3, 2)}], ("hospital", "hospital", None)),  # not yet
        ([HOSPITAL, ATTENDING | {"end": date(2025, 2, 28)}], ("hospital", "hospital", None)),  # no longer
        ([HOSPITAL, ATTENDING | {"npi": "9"}], ("hospital", "hospital", None)),  # of this practice another takes part
        ([ATTENDING, ATTENDING | {"entity": "older", "start": date(2023, 6, 1)}], ("older", "attending", None)),
        ([OPERATING | {"tin": "300"}], (None, None, "no-initiator")),  # no claim under it during the anchor
    ],
)
def test_attending_then_operating_then_hospital(
    make_lines: Any, initiators: list[dict[str, Any]], expected: tuple[Any, ...]
) -> None:
    assert accountable(make_lines, initiators) == expected


def test_the_hospital_that_discharges_last(make_lines: Any) -> None:
    second = STAY | {"ccn": "450002", "start": date(2025, 3, 5), "end": date(2025, 3, 9)}
    both = [HOSPITAL, HOSPITAL | {"entity": "second", "ccn": "450002"}]
    only: dict[str, Any] = {"hierarchy": ("hospital",)}
    assert accountable(make_lines, both, STAY, second, **only)[0] == "second"
    assert accountable(make_lines, both, second, STAY, of_transfers="first", **only)[0] == "hospital"
    by_npi = {"entity": "named", "npi": "5", "start": None}
    assert accountable(make_lines, [by_npi], STAY | {"ccn": None, "hospital_npi": "5"}, **only)[0] == "named"


@pytest.mark.parametrize(
    ("stay", "initiator"),
    [
        ({"ccn": "450001"}, {"ccn": "450001"}),
        ({"hospital_npi": "5"}, {"npi": "5"}),
        ({"hospital_tin": "500"}, {"tin": "500"}),
        ({"organization": "Organization/h"}, {"organization": "Organization/h"}),
    ],
)
def test_a_hospital_is_known_by_any_of_its_numbers(
    make_lines: Any, stay: dict[str, Any], initiator: dict[str, Any]
) -> None:
    anchor = STAY | {"ccn": None} | stay
    known = {"entity": "hospital"} | initiator
    assert accountable(make_lines, [known], anchor) == ("hospital", "hospital", None)
    (number,) = initiator.values()
    other = {"entity": "other"} | dict.fromkeys(initiator, f"{number}9")
    assert accountable(make_lines, [other], anchor) == (None, None, "no-initiator")


def test_a_clinician_of_a_practice_is_no_hospital(make_lines: Any) -> None:
    clinician = {"entity": "one of them", "tin": "500", "npi": "5"}
    anchor = STAY | {"ccn": None, "hospital_tin": "500", "hospital_npi": "5"}
    assert accountable(make_lines, [clinician], anchor) == (None, None, "no-initiator")


def test_a_bundle_that_splits_needs_both(make_lines: Any) -> None:
    options: dict[str, Any] = {"hierarchy": ("operating",), "needs": ("operating", "hospital")}
    assert accountable(make_lines, [HOSPITAL, OPERATING], **options) == ("surgeons", "operating", None)
    assert accountable(make_lines, [OPERATING], **options) == (None, None, "not-both")
    with pytest.raises(ContractError, match="roles"):
        accountable(make_lines, [HOSPITAL], hierarchy=("janitor",))


def months(*rows: tuple[str, int]) -> pa.Table:
    schema = pa.schema([("member", pa.string()), ("month", pa.date32()), ("months", pa.decimal128(28, 8))])
    return pa.Table.from_pylist(
        [{"member": who, "month": date(2025, month, 1), "months": Decimal(1)} for who, month in rows], schema
    )


def test_the_provider_of_record_on_the_snapshot_day() -> None:
    made = [("1", date(2025, 1, 1), None), ("2", date(2025, 2, 10), date(2025, 3, 20))]
    selections = pa.Table.from_pylist(
        [{"member": "a", "tin": tin, "made": day, "until": until, "kind": "roster"} for tin, day, until in made],
        SELECTION_SCHEMA,
    )
    counted = months(("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 1))

    def tins(*options: Any) -> list[str]:
        found: list[str] = with_provider_of_record(counted, selections, *options)["tin"].to_pylist()
        return found

    assert tins("first") == ["1", "1", "2", "1"]
    assert tins("fifteenth") == ["1", "2", "2", "1"]
    assert tins("last") == ["1", "2", "1", "1"]
    assert tins("first", "next_month") == ["1", "2", "1"]
    assert tins("fifteenth", "fifteenth") == ["1", "2", "2", "1"]


def test_newborns_count_in_their_month_and_have_a_cell(make_coverage: Any) -> None:
    coverage = make_coverage(
        ("a", "2025-03-20", "2025-06-10", "AB", "active"), ("b", "2025-03-20", None, "AB", "active")
    )
    births = pa.Table.from_pylist([{"member": "a", "born": date(2025, 3, 20)}], BIRTH_SCHEMA)
    year = (date(2025, 1, 1), date(2025, 12, 31))
    by_rule = member_months(coverage, year, "snapshot_15th")
    in_birth_month = member_months(coverage, year, "snapshot_15th", births=births)
    assert (by_rule.num_rows, in_birth_month.num_rows) == (2 + 9, 3 + 9)
    whole = member_months(coverage, year, "whole_month", births=births)
    assert [one["month"].month for one in whole.to_pylist() if one["member"] == "a"] == [3, 4, 5]
    cells = with_newborn_cell(in_birth_month, births)
    assert [one["newborn"] for one in cells.to_pylist() if one["member"] == "a"] == [True, False, False]
    longer = with_newborn_cell(in_birth_month, births, 1)
    assert [one["newborn"] for one in longer.to_pylist() if one["member"] == "a"] == [True, True, False]
    assert of_period(whole, (date(2025, 4, 10), date(2025, 5, 1)))["month"].to_pylist().count(date(2025, 4, 1)) == 2


def test_where_a_patient_lives() -> None:
    schema = pa.schema(
        [
            ("_member", pa.string()),
            ("_source", pa.string()),
            ("id", pa.string()),
            ("_last_updated", pa.timestamp("us", "UTC")),
            ("address", arrow_type(column_structure("Patient")["address"])),
        ]
    )
    addresses = [
        {"use": "home", "country": "US", "district": "Travis", "postalCode": "78701", "period": {"start": "2025-02"}},
        {"use": "old", "country": "FR"},
        {"use": "work", "country": "US", "postalCode": "77002"},
        {"type": "postal", "country": "CA"},
    ]
    row = {
        "_member": "p1",
        "_source": "s",
        "id": "1",
        "_last_updated": datetime(2025, 1, 1, tzinfo=UTC),
        "address": addresses,
    }
    patients = pa.Table.from_pylist([row], schema)
    counties = pa.table({"postal_code": ["77002"], "county": ["48201"]})
    found = residences(patients, counties).to_pylist()
    assert {(one["since"], one["county"], one["postal_code"]) for one in found} == {
        (None, "48201", "77002"),
        (date(2025, 2, 1), "Travis", "78701"),
    }
