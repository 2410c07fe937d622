"""Attribution beyond the worked cases: order, ties, eligibility, levels, reasons, evidence."""

from __future__ import annotations

import random
from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.attribution import AttributionTerms, Participant, attribute, shipped_terms
from fhir_gateway.attribution.eligibility import window_start
from fhir_gateway.errors import ContractError

PERIOD = (date(2024, 1, 1), date(2024, 12, 31))
ACO = Participant("aco", tins=("100000001",))


@pytest.fixture(scope="module")
def terms() -> AttributionTerms:
    return AttributionTerms.load("commercial-primary-care")


def changed(terms: AttributionTerms, **changes: Any) -> AttributionTerms:
    return AttributionTerms.model_validate(terms.model_dump() | changes)


def test_any_order_of_lines_gives_the_same_result(terms: AttributionTerms, make_lines: Any, make_coverage: Any) -> None:
    chance = random.Random(5)  # noqa: S311 no secret
    rows = [
        {
            "_member": f"p{chance.randrange(40)}",
            "tin": f"{chance.choice([100000001, 200000001, 300000001])}",
            "specialty": chance.choice(["08", "50", "06", "07", None]),
            "allowed": f"{chance.choice([50, 100])}",
            "service_from": date(2023 + chance.randrange(2), 1 + chance.randrange(12), 5),
        }
        for _ in range(600)
    ]
    coverage = make_coverage(*((f"p{n}", "2023-01-01", None, "AB", "active") for n in range(41)))
    lines = make_lines(rows)
    expected = attribute(lines, coverage, terms, PERIOD, [ACO])
    order = list(range(lines.num_rows))
    chance.shuffle(order)
    shuffled = attribute(lines.take(pa.array(order)), coverage, terms, PERIOD, [ACO])
    assert shuffled.table.equals(expected.table)
    assert shuffled.candidates.equals(expected.candidates)
    alone = [
        attribute(
            lines.filter(pa.array([m == name for m in lines["_member"].to_pylist()])), coverage, terms, PERIOD, [ACO]
        )
        .table.filter(pa.array([m == name for m in expected.table["member"].to_pylist()]))
        .to_pylist()
        for name in ("p1", "p7")
    ]
    everybody = {row["member"]: row for row in expected.table.to_pylist()}
    assert alone == [[everybody["p1"]], [everybody["p7"]]]
    assert len(everybody) == 41


def test_candidates_rank_everybody(terms: AttributionTerms, make_lines: Any, make_coverage: Any) -> None:
    rows = [{"tin": tin, "specialty": "08", "allowed": amount} for tin, amount in
            (("100000001", "30"), ("200000001", "20"), ("300000001", "10"))]  # fmt: skip
    coverage = make_coverage(("p1", "2024-01-01", None, "AB", "active"))
    result = attribute(make_lines(rows), coverage, terms, PERIOD, [ACO])
    ranked = [(row["rank"], row["competitor"], row["amount"]) for row in result.candidates.to_pylist()]
    assert ranked == [(1, "aco", 30), (2, "tin:200000001", 20), (3, "tin:300000001", 10)]


@pytest.mark.parametrize(
    ("tie_break", "entity", "reason", "used"),
    [
        ((), None, "tie", None),
        (("visits",), "tin:200000001", None, "visits"),
        (("latest",), "aco", None, "latest"),
        (("lowest_id",), "aco", None, "lowest_id"),
    ],
)
def test_tie_breaks(
    tie_break: tuple[str, ...],
    entity: str | None,
    reason: str | None,
    used: str | None,
    terms: AttributionTerms,
    make_lines: Any,
    make_coverage: Any,
) -> None:
    rows = [
        {"tin": "100000001", "specialty": "08", "allowed": "100", "service_from": date(2024, 9, 9)},
        {"tin": "200000001", "specialty": "08", "allowed": "50", "service_from": date(2024, 3, 3)},
        {"tin": "200000001", "specialty": "08", "allowed": "50", "service_from": date(2024, 4, 4)},
    ]
    coverage = make_coverage(("p1", "2024-01-01", None, "AB", "active"))
    result = attribute(make_lines(rows), coverage, changed(terms, tie_break=tie_break), PERIOD, [ACO]).table.to_pylist()
    assert (result[0]["entity"], result[0]["reason"], result[0]["tie_break"]) == (entity, reason, used)


@pytest.mark.parametrize(("measure", "winner"), [("allowed", "tin:200000001"), ("visits", "aco"), ("days", "aco")])
def test_measures(measure: str, winner: str, terms: AttributionTerms, make_lines: Any, make_coverage: Any) -> None:
    rows = [
        {"tin": "100000001", "specialty": "08", "allowed": "10", "service_from": date(2024, 3, day)}
        for day in (1, 2, 3)
    ] + [{"tin": "200000001", "specialty": "08", "allowed": "500", "service_from": date(2024, 3, 1)}] * 4
    coverage = make_coverage(("p1", "2024-01-01", None, "AB", "active"))
    result = attribute(make_lines(rows), coverage, changed(terms, measure=measure), PERIOD, [ACO]).table.to_pylist()
    assert result[0]["entity"] == winner


def test_levels(terms: AttributionTerms, make_lines: Any, make_coverage: Any) -> None:
    rows = [
        {"tin": "100000001", "npi": "1", "specialty": "08", "allowed": "60"},
        {"tin": "100000002", "npi": "2", "specialty": "08", "allowed": "60"},
        {"tin": "200000001", "npi": "3", "specialty": "08", "allowed": "100"},
    ]
    coverage = make_coverage(("p1", "2024-01-01", None, "AB", "active"))
    both = [Participant("aco", tins=("100000001", "100000002"))]
    pooled = attribute(make_lines(rows), coverage, terms, PERIOD, both).table.to_pylist()[0]
    assert (pooled["entity"], pooled["amount"], pooled["tin"]) == ("aco", 120, "100000001")
    single = attribute(make_lines(rows), coverage, changed(terms, level="tin"), PERIOD, both).table.to_pylist()[0]
    assert single["entity"] == "tin:200000001"
    rows[0]["allowed"] = "101"
    single = attribute(make_lines(rows), coverage, changed(terms, level="npi"), PERIOD, both).table.to_pylist()[0]
    assert (single["entity"], single["npi"]) == ("aco", "1")


def test_participants_by_npi_at_a_tin(terms: AttributionTerms, make_lines: Any, make_coverage: Any) -> None:
    rows = [
        {"tin": "100000001", "npi": "1", "specialty": "08", "allowed": "60"},
        {"tin": "100000001", "npi": "2", "specialty": "08", "allowed": "90"},
    ]
    coverage = make_coverage(("p1", "2024-01-01", None, "AB", "active"))
    narrow = [Participant("aco", tins=("100000001",), npis=("1",))]
    result = attribute(make_lines(rows), coverage, terms, PERIOD, narrow).table.to_pylist()[0]
    assert (result["entity"], result["runner_up"]) == ("tin:100000001", "aco")


def test_reasons(terms: AttributionTerms, make_lines: Any, make_coverage: Any) -> None:
    rows = [
        {"_member": "uncovered", "tin": "100000001", "specialty": "08", "allowed": "1"},
        {"_member": "dermatology", "tin": "100000001", "specialty": "07", "allowed": "1"},
        {"_member": "imaging", "tin": "100000001", "specialty": "08", "allowed": "1", "procedure": "71046"},
        {"_member": "denied", "tin": "100000001", "specialty": "08", "allowed": "1", "denied": True},
        {"_member": "reversed", "tin": "100000001", "specialty": "08", "allowed": "1", "counts": False},
        {"_member": "divided", "tin": "100000001", "specialty": "08", "allowed": "2"},
        {"_member": "divided", "tin": "200000001", "specialty": "08", "allowed": "3"},
        {"_member": "divided", "tin": "300000001", "specialty": "08", "allowed": "2"},
    ]
    covered = ("dermatology", "imaging", "denied", "reversed", "divided", "healthy")
    coverage = make_coverage(*((name, "2024-01-01", None, "AB", "active") for name in covered))
    majority = changed(terms, min_share="0.5")
    table = attribute(make_lines(rows), coverage, majority, PERIOD, [ACO], members=pa.array(["stranger"])).table
    assert {row["member"]: row["reason"] for row in table.to_pylist()} == {
        "uncovered": "below-minimum-months",
        "stranger": "below-minimum-months",
        "dermatology": "no-competing-clinician",
        "imaging": "no-services",
        "denied": "no-services",
        "reversed": "no-services",
        "healthy": "no-services",
        "divided": "below-share",
    }
    assert table["entity"].null_count == table.num_rows


def test_terms_without_coverage_count_everybody_in_full(make_lines: Any, make_coverage: Any) -> None:
    rows = [{"npi": "1", "organization": "Organization/x", "procedure": "185349003", "tin": None}]
    terms = AttributionTerms.load("encounter-visits")
    result = attribute(make_lines([rows[0] | {"tin": ""}]), make_coverage(), terms, PERIOD).table.to_pylist()[0]
    assert (result["months"], result["visits"], result["reason"]) == (12, 1, None)


def test_window_start_is_whole_months_back() -> None:
    assert window_start(date(2024, 12, 31), 12) == date(2024, 1, 1)
    assert window_start(date(2024, 12, 31), 24) == date(2023, 1, 1)
    assert window_start(date(2024, 2, 29), 12) == date(2023, 3, 1)
    assert window_start(date(2024, 3, 30), 1) == date(2024, 2, 29)


@pytest.mark.parametrize("name", shipped_terms())
def test_shipped_terms_load_and_every_list_has_a_source(name: str) -> None:
    terms = AttributionTerms.load(name)
    assert len(terms.digest) == 64
    assert all(entry.source for entry in (*terms.services, *terms.groups.values()))
    assert all(len(list(entry.expanded())) >= len(entry.codes) for entry in terms.services)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('measure = "alowed"', "measure"),
        ('colour = "red"', "colour: Extra inputs"),
        ('methods = ["lottery"]', "no attribution method 'lottery'"),
        ('tie_break = ["coin"]', "tie_break"),
    ],
)
def test_wrong_terms_are_refused(change: str, message: str, tmp_path: Any, make_lines: Any, make_coverage: Any) -> None:
    key = change.split(" ")[0]
    text = (  # the encounter terms, one line of them changed
        "\n".join(line for line in _shipped("encounter-visits").splitlines() if not line.startswith(key + " "))
    )
    path = tmp_path / "terms.toml"
    path.write_text(f"{change}\n{text}", encoding="utf-8")
    with pytest.raises(ContractError, match=message):
        attribute(make_lines([]), make_coverage(), AttributionTerms.load(path), PERIOD)


def _shipped(name: str) -> str:
    from importlib.resources import files

    return files("fhir_gateway.attribution").joinpath("terms", f"{name}.toml").read_text(encoding="utf-8")
