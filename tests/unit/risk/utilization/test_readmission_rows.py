"""Rows that the readmission model learns from, by hand: which stays count, what came, what was known at discharge."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from utilization_parts import YEAR, day, lines
from utilization_parts import stay as claim_stay

from fhir_gateway.risk.prediction.inputs import Inputs
from fhir_gateway.risk.prediction.models import DIAGNOSES, LABS, SCORES, STAYS, VISITS
from fhir_gateway.risk.prediction.readmission import PLANNED, stay_rows
from fhir_gateway.risk.utilization.planned import planned_stays

PERSONS = pa.schema(
    [("member", pa.string()), ("birth_date", pa.date32()), ("gender", pa.string()), ("died", pa.date32())]
)


def stay(name: str, admitted: str, discharged: str, emergent: bool | None = True, **more: Any) -> dict[str, Any]:
    """A stay of member ``m``."""
    about = {"stay": name, "member": "m", "admitted": day(admitted), "discharged": day(discharged)}
    return about | {"emergent": emergent, "oncology": None, "died": False} | more


def table(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)


def found(
    *stays: dict[str, Any],
    planned: pa.Table | None = None,
    born: str | None = "1950-06-15",
    died: str | None = None,
    **visits: list[dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Rows by stay."""
    person = {"member": "m", "birth_date": born and day(born), "gender": "male", "died": died and day(died)}
    inputs = Inputs(
        diagnoses=DIAGNOSES.empty_table(),
        stays=table(STAYS, list(stays)),
        emergency=table(VISITS, visits.get("emergency", [])),
        office=table(VISITS, visits.get("office", [])),
        labs=table(LABS, visits.get("labs", [])),
        procedures=table(VISITS, visits.get("procedures", [])),
        uncoded=pa.table({"member": pa.array([], pa.string()), "conditions": pa.array([], pa.int64())}),
    )
    scores = table(SCORES, [{"score": "charlson", "key": one["stay"], "member": "m", "value": 3} for one in stays])
    planned = PLANNED.empty_table() if planned is None else planned
    rows = stay_rows(table(PERSONS, [person]), inputs, planned, scores, scores, *YEAR).to_pylist()
    return {row["stay"]: row for row in rows}


def came(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    return {name: row["readmission_30"] for name, row in rows.items()}


@pytest.mark.parametrize(("admitted", "expected"), [("01-02", 1), ("01-31", 1), ("02-01", 0)])
def test_thirty_days_after_count(admitted: str, expected: int) -> None:
    rows = found(stay("a", "2025-12-28", "01-01"), stay("b", admitted, "02-03"))
    assert came(rows) == {"a": expected, "b": 0}


@pytest.mark.parametrize(("emergent", "expected"), [(True, 1), (None, 1), (False, 0)])
def test_what_was_elective_by_its_own_words_is_planned(emergent: bool | None, expected: int) -> None:
    rows = found(stay("a", "01-01", "01-05"), stay("b", "01-10", "01-12", emergent))
    assert came(rows)["a"] == expected


def test_what_a_claim_says_was_planned_ends_the_search() -> None:
    claims = lines(
        claim_stay("m", "1", "01-01", "01-05"),
        claim_stay("m", "2", "01-10", "01-12", organization="H2", diagnosis="Z51.11"),
        claim_stay("m", "3", "01-20", "01-22", organization="H3"),
    )
    planned = planned_stays(claims)
    assert planned.to_pylist() == [{"member": "m", "admitted": date(2026, 1, 10)}]
    stays = [stay("a", "01-01", "01-05"), stay("b", "01-10", "01-12"), stay("c", "01-20", "01-22")]
    assert came(found(*stays, planned=planned)) == {"a": 0, "b": 1, "c": 0}
    assert came(found(*stays)) == {"a": 1, "b": 1, "c": 0}


def test_who_is_no_index() -> None:
    died_there = stay("a", "01-01", "01-05", died=True)
    assert found(died_there) == {}
    assert found(stay("a", "01-01", "01-05"), died="01-05") == {}
    assert set(found(stay("a", "01-01", "01-05"), died="01-06")) == {"a"}
    assert found(stay("a", "01-01", "01-05"), born="2008-01-02") == {}  # 18 tomorrow
    assert set(found(stay("a", "01-01", "01-05"), born="2008-01-01")) == {"a"}
    assert set(found(stay("a", "01-01", "01-05"), born=None)) == {"a"}
    assert found(stay("a", "2025-12-01", "2025-12-31")) == {}  # before the span that is asked for


def test_what_was_known_at_discharge() -> None:
    index = stay("c", "06-10", "06-15", oncology=True)
    earlier = [stay("a", "2025-06-01", "2025-06-05"), stay("b", "03-01", "03-06", False)]
    rows = found(
        *earlier,
        index,
        stay("d", "06-20", "06-22"),
        emergency=[{"member": "m", "day": day(one)} for one in ("2025-12-01", "04-01", "05-05", "06-10", "07-01")],
        office=[{"member": "m", "day": day(one)} for one in ("2025-06-09", "2025-06-10", "05-01", "06-16")],
        procedures=[{"member": "m", "day": day("06-15")}],
        labs=[
            {"member": "m", "analyte": "haemoglobin", "at": "2026-06-11T08:00:00Z", "value": 11.0},
            {"member": "m", "analyte": "haemoglobin", "at": "2026-06-14T08:00:00Z", "value": 10.0},
            {"member": "m", "analyte": "sodium", "at": "2026-06-16T08:00:00Z", "value": 130.0},
        ],
    )
    row = rows["c"]
    # discharged on his birthday
    assert (row["age"], row["male"], row["days"], row["emergent"], row["oncology"]) == (76, 1, 5, 1, 1)
    assert (row["haemoglobin"], row["sodium"], row["operated"]) == (10.0, None, 1)  # sodium came after
    assert row["admissions"] == 1  # of the 365 days before: not the one of 374 days ago
    assert row["days_since_discharge"] == (day("06-10") - day("03-06")).days
    assert row["emergency"] == 2  # of 180 days, not of the day of admission
    assert row["office"] == 2
    assert (row["charlson"], row["elixhauser"]) == (3, 3)
    assert (row["next_admitted"], row["readmission_30"]) == (day("06-20"), 1)
    assert rows["d"]["days_since_discharge"] == 5
    assert rows["b"]["emergent"] == 0
