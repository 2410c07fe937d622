"""A population of ten whose avoidable admissions were counted by hand: each PQI once, beside a stay that is none."""

from __future__ import annotations

from decimal import Decimal

import pytest
from utilization_parts import YEAR, lines, months, people, stay

from fhir_gateway.risk.utilization import Population, Utilization, utilization

# indicator: what counts, and what does not: an exclusion, another code, or another age (of the younger ones)
STAYS = {
    "01": ({"diagnosis": "E11.10"}, {"diagnosis": "E11.9"}),  # ketoacidosis; diabetes without complications
    "03": ({"diagnosis": "E11.22"}, {"diagnosis": "E13.22"}),  # kidney complication; of another diabetes
    "05": ({"diagnosis": "J44.1"}, {"diagnosis": "J44.1", "diagnoses": ["J44.1", "E84.0"]}),  # cystic fibrosis
    "07": ({"diagnosis": "I10"}, {"diagnosis": "I10", "procedures": ["02703DZ"]}),  # a cardiac procedure
    "08": ({"diagnosis": "I50.21"}, {"diagnosis": "I50.21", "procedures": ["02703DZ"]}),
    "11": ({"diagnosis": "J18.9"}, {"diagnosis": "J18.9", "diagnoses": ["J18.9", "D57.1"]}),  # sickle cell
    "12": ({"diagnosis": "N39.0"}, {"diagnosis": "N39.0", "diagnoses": ["N39.0", "B20"]}),  # immunocompromised
    "14": ({"diagnosis": "E11.65"}, {"diagnosis": "I21.4", "diagnoses": ["I21.4", "E11.65"]}),  # second diagnosis
    "15": ({"diagnosis": "J45.901"}, {"diagnosis": "J45.901", "diagnoses": ["J45.901", "Q33.0"]}),  # of the lung
    "16": (
        {"diagnosis": "I70.261", "diagnoses": ["I70.261", "E11.51"], "procedures": ["0Y6M0Z0"]},
        {"diagnosis": "S98.011A", "diagnoses": ["S98.011A", "E11.51"], "procedures": ["0Y6M0Z0"]},  # an accident
    ),
}
BORN = {"15": "1996-01-01"}  # 30; the others are 66
COUNTED = {**dict.fromkeys(STAYS, 1), "90": 10, "91": 2, "92": 8, "93": 4}


@pytest.fixture(scope="module")
def found() -> Utilization:
    given = []
    for name, (counts, does_not) in STAYS.items():
        given += [stay(f"m{name}", f"a{name}", "02-01", "02-04", **counts)]
        given += [stay(f"m{name}", f"b{name}", "06-01", "06-04", **does_not)]
        nursed = {"bill_type": "0211", "organization": "S1"}
        given += [stay(f"m{name}", f"s{name}", "09-01", "09-10", **nursed, diagnosis="R69")]
        given += [stay(f"m{name}", f"c{name}", "09-10", "09-12", **counts)]  # came from a nursing facility
    members = [f"m{name}" for name in STAYS]
    born = [(f"m{name}", BORN.get(name, "1960-01-01"), None) for name in STAYS]
    population = Population(months(dict.fromkeys(members, 12)), people=people(*born))
    return utilization(lines(*given), population, YEAR)


@pytest.mark.parametrize("name", COUNTED)
def test_an_indicator_by_hand(found: Utilization, name: str) -> None:
    months_of = {"05": 9 * 12, "15": 12}.get(name, 10 * 12)
    row = found.row(f"pqi-{name}")
    assert (row["numerator"], row["denominator"]) == (COUNTED[name], months_of)
    assert row["score"] == Decimal(COUNTED[name]) * 1_200_000 / months_of


def test_ages_belong_to_indicators() -> None:
    """Asthma is the younger ones' from 18 to 39, obstructive disease from 40 on; children are in neither."""
    for born, counted in (("2010-01-01", None), ("1996-01-01", "15"), ("1960-01-01", "05")):
        claims = lines(stay("m", "a", "02-01", "02-04", diagnosis="J45.901"))
        result = utilization(claims, Population(months({"m": 12}), people=people(("m", born, None))), YEAR)
        assert [name for name in STAYS if result.row(f"pqi-{name}")["numerator"]] == ([counted] if counted else [])
