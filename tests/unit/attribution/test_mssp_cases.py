"""Worked cases A-H of 42 CFR 425.402 (constructed from the rule): steps, specialties, nursing facilities, ties."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.attribution import SELECTION_SCHEMA, AttributionTerms, Participant, attribute

PERIOD = (date(2025, 1, 1), date(2025, 12, 31))
ACO = Participant("aco", tins=("100000001", "100000002"))
X, Y, Z = "200000001", "200000002", "200000003"
FAMILY, NURSE, CARDIOLOGY, NEPHROLOGY, DERMATOLOGY = "08", "50", "06", "39", "07"


def line(tin: str, specialty: str, allowed: str, **more: Any) -> dict[str, Any]:
    return {"tin": tin, "specialty": specialty, "allowed": allowed, "service_from": date(2025, 5, 5)} | more


CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "A: participants pool physicians and nurse practitioners of all their TINs": (
        [
            line("100000001", FAMILY, "300"),
            line("100000002", NURSE, "100"),
            line(X, FAMILY, "390"),
            line(Y, NURSE, "200"),
        ],
        {"entity": "aco", "step": "step 1", "amount": 400, "runner_up": f"tin:{X}", "runner_up_amount": 390},
    ),
    "B: specialists do not compete in step 1": (
        [line("100000001", FAMILY, "200"), line(X, FAMILY, "150"), line(Z, CARDIOLOGY, "5000")],
        {"entity": "aco", "step": "step 1", "amount": 200},
    ),
    "C: without primary care clinicians the listed specialists compete": (
        [line("100000001", CARDIOLOGY, "300"), line(X, NEPHROLOGY, "299"), line(Y, DERMATOLOGY, "2000")],
        {"entity": "aco", "step": "step 2", "amount": 300, "runner_up_amount": 299},
    ),
    "D: step 3 reaches back 24 months": (
        [
            line("100000001", NURSE, "100"),
            line("100000001", FAMILY, "80", service_from=date(2024, 6, 30)),
            line(X, NURSE, "150"),
        ],
        {"entity": "aco", "step": "step 3", "amount": 180, "runner_up_amount": 150},
    ),
    "E: visits in a skilled nursing facility do not count": (
        [
            line("100000001", FAMILY, "500", procedure="99309", place_of_service="31"),
            line("100000001", FAMILY, "100"),
            line(X, FAMILY, "130", procedure="99214"),
        ],
        {"entity": f"tin:{X}", "participant": False, "amount": 130, "runner_up": "aco"},
    ),
    "E2: nor do they during a stay billed by the facility": (
        [
            line("100000001", FAMILY, "500", procedure="99309", place_of_service="32"),
            line("100000001", FAMILY, "100"),
            line(X, FAMILY, "130", procedure="99214"),
            line(Z, "", "9000", procedure=None, claim_type="inpatient", bill_type="211",
                 service_from=date(2025, 5, 1), service_thru=date(2025, 5, 20)),
        ],
        {"entity": f"tin:{X}", "amount": 130},
    ),
    "H: equal amounts go to the latest visit": (
        [line("100000001", FAMILY, "200.00"), line(X, FAMILY, "200.00", service_from=date(2025, 5, 6))],
        {"entity": f"tin:{X}", "tie_break": "latest", "runner_up": "aco", "runner_up_amount": 200},
    ),
    "a TIN without a name of its own competes by its own TIN, not pooled": (
        [line("100000001", FAMILY, "200"), line(X, FAMILY, "150"), line(Y, FAMILY, "150")],
        {"entity": "aco", "amount": 200},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def terms() -> AttributionTerms:
    return AttributionTerms.load("mssp-primary-care-2025")


@pytest.mark.parametrize("name", CASES)
def test_worked_case(name: str, terms: AttributionTerms, make_lines: Any, make_coverage: Any) -> None:
    rows, expected = CASES[name]
    coverage = make_coverage(("p1", "2024-01-01", None, "AB", "active"))
    result = attribute(make_lines(rows), coverage, terms, PERIOD, [ACO]).table.to_pylist()
    assert len(result) == 1
    assert {key: result[0][key] for key in expected} == expected
    assert result[0]["reason"] is None


def test_step_3_came_in_2025(make_lines: Any, make_coverage: Any) -> None:
    rows, _ = CASES["D: step 3 reaches back 24 months"]
    coverage = make_coverage(("p1", "2024-01-01", None, "AB", "active"))
    older = AttributionTerms.load("mssp-primary-care-2024")
    result = attribute(make_lines(rows), coverage, older, PERIOD, [ACO]).table.to_pylist()[0]
    assert result["entity"] is None
    assert result["reason"] == "no-competing-clinician"


def test_f_one_month_in_a_group_health_plan_excludes(
    terms: AttributionTerms, make_lines: Any, make_coverage: Any
) -> None:
    rows, _ = CASES["A: participants pool physicians and nurse practitioners of all their TINs"]
    coverage = make_coverage(
        ("p1", "2024-01-01", "2025-06-30", "AB", "active"),
        ("p1", "2025-07-01", "2025-07-31", "MA", "active"),
        ("p1", "2025-08-01", None, "AB", "active"),
    )
    result = attribute(make_lines(rows), coverage, terms, PERIOD, [ACO]).table.to_pylist()[0]
    assert (result["entity"], result["reason"], result["months"]) == (None, "excluded-coverage", 11)


def test_g_designation_outside_beats_claims(terms: AttributionTerms, make_lines: Any, make_coverage: Any) -> None:
    rows, _ = CASES["A: participants pool physicians and nurse practitioners of all their TINs"]
    coverage = make_coverage(("p1", "2024-01-01", None, "AB", "active"))
    chosen = {"member": "p1", "tin": X, "npi": "1", "made": date(2024, 11, 1), "kind": "voluntary"}
    selections = pa.Table.from_pylist([chosen], schema=SELECTION_SCHEMA)
    result = attribute(make_lines(rows), coverage, terms, PERIOD, [ACO], selections).table.to_pylist()[0]
    assert (result["entity"], result["participant"], result["method"]) == (f"tin:{X}", False, "selection")


def test_services_billed_through_a_tin_of_two_entities_are_left_out(
    terms: AttributionTerms, make_lines: Any, make_coverage: Any
) -> None:
    coverage = make_coverage(("p1", "2024-01-01", None, "AB", "active"))
    both = [ACO, Participant("other", tins=("100000002",))]
    rows = [line("100000001", FAMILY, "10"), line("100000002", FAMILY, "900"), line(X, FAMILY, "5")]
    result = attribute(make_lines(rows), coverage, terms, PERIOD, both).table.to_pylist()[0]
    assert (result["entity"], result["amount"]) == ("aco", 10)
