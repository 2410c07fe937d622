"""Published scores: worked examples computed by hand."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.errors import ConfigurationError
from fhir_gateway.risk.prediction.code_lists import code_list
from fhir_gateway.risk.prediction.comorbidity import charlson, comorbidities, elixhauser
from fhir_gateway.risk.prediction.models import ANCHORS, DIAGNOSES, LABS, STAYS, VISITS
from fhir_gateway.risk.prediction.stays import hospital, lace

DAY = date(2025, 6, 30)


def diagnoses(*rows: tuple[str, str, date | None]) -> pa.Table:
    """Of (member, code, day), said once: none of them lasts."""
    named = [dict(zip(DIAGNOSES.names, (*row, False), strict=True)) for row in rows]
    return pa.Table.from_pylist(named, schema=DIAGNOSES)


def anchors(*members: str) -> pa.Table:
    rows = [{"key": one, "member": one, "since": DAY - timedelta(365), "until": DAY} for one in members]
    return pa.Table.from_pylist(rows, schema=ANCHORS)


def stays(*rows: dict[str, Any]) -> pa.Table:
    base = {"member": "p1", "emergent": True, "oncology": False, "died": False}
    return pa.Table.from_pylist([base | row for row in rows], schema=STAYS)


def visits(*rows: tuple[str, date]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(VISITS.names, row, strict=True)) for row in rows], schema=VISITS)


def labs(*rows: tuple[str, str, str, float | None]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(LABS.names, row, strict=True)) for row in rows], schema=LABS)


def points(row: dict[str, Any]) -> dict[str, int]:
    return {one["name"]: one["points"] for one in row["components"]}


def test_charlson_with_the_weights_of_2011_and_of_1987() -> None:
    said = diagnoses(
        ("p1", "I5023", DAY), ("p1", "E1122", DAY), ("p1", "E119", DAY), ("p1", "C787", DAY), ("p1", "C509", DAY),
        ("p2", "I252", DAY), ("p2", "K7031", DAY), ("p2", "K766", DAY), ("p3", "Z000", DAY),
    )  # fmt: skip
    new = charlson(said, anchors("p1", "p2", "p3")).to_pylist()
    # p1: failure 2, diabetes with complications 1 (without: superseded), metastatic 6 (malignancy: superseded)
    assert [row["value"] for row in new] == [9, 4, 0]
    assert points(new[0]) == {
        "congestive_heart_failure": 2, "diabetes_with_complications": 1, "metastatic_solid_tumour": 6
    }  # fmt: skip
    old = charlson(said, anchors("p1", "p2", "p3"), weights="charlson_1987").to_pylist()
    assert [row["value"] for row in old] == [1 + 2 + 6, 1 + 3, 0]


def test_age_adds_a_point_for_each_decade_from_fifty_on() -> None:
    members = ("a", "b", "c", "d", "e")
    ages = pa.table({"key": members, "age": pa.array([49, 50, 69, 84, None], pa.int32())})
    found = charlson(diagnoses(), anchors(*members), ages=ages).to_pylist()
    assert [row["value"] for row in found] == [0, 1, 2, 4, 0]
    assert [row["partial"] for row in found] == [False, False, False, False, True]
    assert found[4]["missing"] == ["age"]


def test_diagnoses_count_within_their_window_and_undated_ones_always() -> None:
    said = diagnoses(
        ("in", "I50", DAY - timedelta(365)), ("old", "I50", DAY - timedelta(366)),
        ("after", "I50", DAY + timedelta(1)), ("undated", "I50", None),
    )  # fmt: skip
    found = charlson(said, anchors("in", "old", "after", "undated")).to_pylist()
    assert {row["key"]: row["value"] for row in found} == {"in": 2, "old": 0, "after": 0, "undated": 2}


def test_elixhauser_by_van_walraven() -> None:
    said = diagnoses(
        ("p1", "I509", DAY), ("p1", "I4891", DAY), ("p1", "E6601", DAY), ("p1", "C50911", DAY), ("p1", "C7951", DAY),
        ("p2", "F1120", DAY), ("p2", "F329", DAY), ("p2", "I10", DAY), ("p2", "I110", DAY),
    )  # fmt: skip
    found = {row["key"]: row["value"] for row in elixhauser(said, anchors("p1", "p2")).to_pylist()}
    # p1: 7 + 5 - 4 + 12 (solid tumour superseded); p2: -7 - 3 + 7 (I11.0 is failure too) + 0
    assert found == {"p1": 20, "p2": -3}


def test_uncomplicated_hypertension_stands_aside_for_complicated() -> None:
    flags = comorbidities(
        code_list("elixhauser"), diagnoses(("p", "I10", DAY), ("p", "I130", DAY)), anchors("p")
    ).to_pylist()[0]
    assert flags["hypertension_complicated"]
    assert not flags["hypertension_uncomplicated"]


@pytest.mark.parametrize("name", ["charlson", "lace", "elixhauser"])
def test_code_lists_say_their_source_and_trust(name: str) -> None:
    codes = code_list(name)
    assert codes.source
    assert codes.trust in ("T", "M", "A")
    assert all(codes.categories.values())


def test_lists_have_the_number_of_comorbidities_of_their_publication() -> None:
    assert len(code_list("charlson").categories) == 17
    assert len(code_list("elixhauser").categories) == 31
    with pytest.raises(ConfigurationError):
        code_list("nothing")


def test_lace_of_the_worked_example_is_13() -> None:
    # five days 4, acute 3, heart failure 2 and chronic lung disease 2 come to 4, which is 5, one emergency visit 1
    stay = stays({"stay": "s", "admitted": date(2025, 6, 1), "discharged": date(2025, 6, 6)})
    said = diagnoses(("p1", "I509", date(2025, 6, 1)), ("p1", "J449", date(2025, 1, 1)))
    emergency = visits(("p1", date(2025, 3, 1)), ("p1", date(2025, 6, 1)), ("p1", date(2024, 11, 30)))
    [row] = lace(stay, emergency, said).to_pylist()
    assert (row["value"], row["band"], row["partial"]) == (13, "high", False)
    assert points(row) == {"length_of_stay": 4, "acute_admission": 3, "comorbidity": 5, "emergency_visits": 1}


@pytest.mark.parametrize(
    ("days", "expected"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (6, 4), (7, 5), (13, 5), (14, 7), (60, 7)]
)
def test_lace_counts_days(days: int, expected: int) -> None:
    stay = stays({"stay": "s", "admitted": DAY, "discharged": DAY + timedelta(days), "emergent": False})
    [row] = lace(stay, visits(), diagnoses()).to_pylist()
    assert row["value"] == expected


def test_lace_without_kind_of_admission_is_partial_and_has_a_band_only_where_it_cannot_differ() -> None:
    rows = [
        {"stay": f"s{days}", "admitted": DAY, "discharged": DAY + timedelta(days), "emergent": None} for days in (1, 14)
    ]
    found = lace(stays(*rows), visits(), diagnoses()).to_pylist()
    assert [(row["partial"], row["missing"], row["band"]) for row in found] == [
        (True, ["acute_admission"], "low"), (True, ["acute_admission"], None)
    ]  # fmt: skip


def test_lace_is_not_asked_of_those_who_died() -> None:
    stay = stays({"stay": "s", "admitted": DAY, "discharged": DAY, "died": True})
    assert lace(stay, visits(), diagnoses()).num_rows == 0
    assert hospital(stay, labs(), visits()).num_rows == 0


def test_hospital_of_the_worked_example_is_8() -> None:
    index = {"stay": "s", "admitted": date(2025, 6, 1), "discharged": date(2025, 6, 7)}
    earlier = [
        {"stay": f"e{month}", "admitted": date(2025, month, 1), "discharged": date(2025, month, 2)}
        for month in (1, 2, 3)
    ]
    tests = labs(
        ("p1", "haemoglobin", "2025-06-01T08:00:00Z", 13.0), ("p1", "haemoglobin", "2025-06-06T08:00:00Z", 10.8),
        ("p1", "sodium", "2025-06-06", 133.0),
    )  # fmt: skip
    found = hospital(stays(index, *earlier), tests, visits(("p1", date(2025, 6, 3)))).to_pylist()
    row = next(one for one in found if one["key"] == "s")
    assert (row["value"], row["band"], row["partial"]) == (8, "high", False)
    assert points(row) == {
        "haemoglobin": 1, "sodium": 1, "procedure": 1, "index_type": 1, "admissions": 2, "length_of_stay": 2
    }  # fmt: skip


def test_a_laboratory_result_that_nobody_gave_is_no_normal_one() -> None:
    stay = stays({"stay": "s", "admitted": DAY, "discharged": DAY + timedelta(6)})
    [row] = hospital(stay, labs(("p1", "sodium", "2025-07-01", None)), visits()).to_pylist()
    assert row["partial"]
    assert row["missing"] == ["haemoglobin", "sodium"]
    assert (row["value"], row["band"]) == (3, None)  # 3 is low, with both it would be medium


@pytest.mark.parametrize(("version", "expected"), [("2016", 0), ("2013", 2)])
def test_one_earlier_admission_counted_in_2013(version: Any, expected: int) -> None:
    index = {"stay": "s", "admitted": DAY, "discharged": DAY, "emergent": False}
    earlier = {"stay": "e", "admitted": date(2025, 1, 1), "discharged": date(2025, 1, 2)}
    found = hospital(stays(index, earlier), labs(), visits(), version=version).to_pylist()
    assert {row["key"]: row["value"] for row in found} == {"e": 1, "s": expected}
