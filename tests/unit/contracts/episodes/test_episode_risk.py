"""Prices times what a member's age and number of HCCs are worth, counted by the risk room in a lookback."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from arrangement_parts import D, inputs, settle, terms
from episode_parts import stay

from fhir_gateway.contracts.episodes.multipliers import RiskFactors
from fhir_gateway.errors import ContractError
from fhir_gateway.risk.hcc import score

AGES = [{"value": "0.9"}, {"age_from": 65, "value": 1}, {"age_from": 75, "value": "1.1"}]
HCCS = [{"value": 1}, {"hccs": 1, "value": "1.2"}, {"hccs": 2, "value": "1.5"}]
RISK = {"year": 2026, "ages": AGES, "hccs": HCCS}
ANCHOR = date(2026, 3, 1)


def person(name: str, born: date | None, gender: str | None = "female") -> dict[str, Any]:
    return {"member": name, "birth_date": born, "gender": gender}


def diagnosis(name: str, code: str, day: date = date(2026, 2, 1)) -> dict[str, Any]:
    return {"member": name, "diagnosis": code, "day": day}


def priced(people: list[dict[str, Any]], diagnoses: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    """Episodes of the people, each a joint replacement at a price of 28,000."""
    made = terms("team", performance_year=1, track=1, quality_score=100, risk=RISK | changes)
    rows = [stay(one["member"], f"c{one['member']}", "03-01", "03-03", 20_000, "470") for one in people]
    stated = inputs(made, rows, {"diagnoses": diagnoses}, people=people)
    return made.episodes(stated).to_pylist()


def test_ages_of_the_anchors_first_day() -> None:
    born = [date(1961, 3, 1), date(1961, 3, 2), date(1951, 3, 1), date(1951, 3, 2)]
    found = priced([person(f"m{n}", day) for n, day in enumerate(born)], [])
    assert [(row["age"], row["hccs"], row["multiplier"]) for row in found] == [
        (65, 0, 1), (64, 0, D("0.9")), (75, 0, D("1.1")), (74, 0, 1),
    ]  # fmt: skip
    assert [row["target"] for row in found] == [28_000, 25_200, 30_800, 28_000]


def test_hccs_are_counted_after_hierarchies_and_in_the_lookback_only() -> None:
    people = [person(f"m{n}", date(1958, 1, 1)) for n in range(6)]
    diagnoses = [
        diagnosis("m0", "I10"),  # in no category
        diagnosis("m1", "E11.9"), diagnosis("m1", "E1122"),  # diabetes with complications stands above that without
        diagnosis("m2", "E119"), diagnosis("m2", "I509"), diagnosis("m2", "J449"),
        diagnosis("m3", "I509", date(2025, 9, 2)),  # 180 days before
        diagnosis("m4", "I509", date(2025, 9, 1)),  # 181
        diagnosis("m5", "I509", ANCHOR),  # the anchor's own
    ]  # fmt: skip
    found = priced(people, diagnoses)
    assert [row["hccs"] for row in found] == [0, 1, 3, 1, 0, 0]
    assert [row["multiplier"] for row in found] == [1, D("1.2"), D("1.5"), D("1.2"), 1, 1]
    yearly = priced(people, diagnoses, lookback_days=365)
    assert [row["hccs"] for row in yearly] == [0, 1, 3, 1, 1, 0]


def test_the_count_is_that_of_the_risk_score() -> None:
    """The same diagnoses, scored as a member's year, have as many HCCs."""
    codes = ["C50.911", "I50.22", "E11.65", "N18.4", "F32.1", "G20.A1", "L97.411"]
    members = pa.table({"member": ["m"], "age": [68], "sex": ["F"]})
    scored = score(members, pa.table({"member": ["m"] * len(codes), "diagnosis": codes}), "V28", 2026).scores
    [row] = priced([person("m", date(1958, 1, 1))], [diagnosis("m", code) for code in codes])
    assert row["hccs"] == scored["hccs"][0].as_py() > 3


def test_of_whom_little_is_known_nothing_is_multiplied() -> None:
    found = priced([person("a", None), person("b", date(1950, 1, 1), None)], [diagnosis("a", "I509")])
    assert [(row["age"], row["hccs"], row["multiplier"]) for row in found] == [(None, None, 1)] * 2


def test_stated_multipliers_come_on_top() -> None:
    made = terms("team", performance_year=1, track=1, quality_score=100, risk=RISK, multipliers="m")
    people = [person("a", date(1950, 1, 1))]
    rows = [stay("a", "c", "03-01", "03-03", 20_000, "470")]
    tables = {"diagnoses": [diagnosis("a", "I509")], "m": [{"member": "a", "multiplier": D("2")}]}
    stated = inputs(made, rows, tables, people=people)
    assert made.episodes(stated)["multiplier"].to_pylist() == [D("2.64")]  # 2 x 1.1 x 1.2
    lines = settle(made, stated)
    assert lines["mean-hccs"].value == 1
    assert "CMS-HCC-V28 by the tables of 2026" in lines["mean-hccs"].formula
    assert lines["mean-hccs"].evidence == {"table": "diagnoses"}
    assert lines["mean-age"].value == 76
    assert lines["multiplier"].value == D("2.64")
    assert lines["target"].value == 28_000 * D("2.64")


def test_sums_and_powers_of_e() -> None:
    steps = {"ages": [{"value": "0.1"}], "hccs": [{"value": 0}, {"hccs": 1, "value": "0.25"}]}
    people, diagnoses = [person("a", date(1950, 1, 1))], [diagnosis("a", "I509")]
    assert priced(people, diagnoses, **steps, form="sum", constant=1)[0]["multiplier"] == D("1.35")
    assert priced(people, diagnoses, **steps, form="exponential")[0]["multiplier"] == Decimal("1.4190675486")  # e^0.35


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"ages": (), "hccs": ()}, "risk: neither ages nor hccs"),
        ({"ages": [{"age_from": 65, "value": 1}]}, "risk.ages: begin at 0"),
        ({"hccs": [{"value": 1}, {"value": 2}]}, "risk.hccs: begin at 0 and rise, each once"),
        ({"hccs": [{"value": 0}]}, "risk: somebody's multiplier would not be above zero"),
        ({"constant": 1}, "risk.constant: belongs to a sum"),
        ({"year": 1999}, "risk.year: there are no CMS-HCC tables for payment year 1999"),
    ],
)
def test_contradictions(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ContractError, match=problem):
        terms("team", performance_year=1, track=1, risk=RISK | changes)


def test_values_are_the_products_of_steps() -> None:
    values = RiskFactors.model_validate(RISK).values
    assert values[75, 2] == D("1.65")
    assert len(values) == 9
