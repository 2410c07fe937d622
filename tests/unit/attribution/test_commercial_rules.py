"""Commercial and Medicaid variants: sources in order, measures, winners, stickiness, levels, areas, rosters."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_gateway.attribution import SELECTION_SCHEMA, AttributionTerms, Facts, Participant, attribute
from fhir_gateway.attribution.eligibility import RESIDENCE_SCHEMA
from fhir_gateway.attribution.models import ATTRIBUTION_SCHEMA
from fhir_gateway.attribution.services import PROVIDER_SCHEMA
from fhir_gateway.errors import ContractError

PERIOD = (date(2025, 1, 1), date(2025, 12, 31))
ACO = Participant("aco", tins=("100000001", "100000002"))
X, Y = "200000001", "200000002"


def line(tin: str, allowed: str, day: date = date(2025, 5, 5), **more: Any) -> dict[str, Any]:
    return {"tin": tin, "npi": f"{tin}1", "specialty": "08", "allowed": allowed, "service_from": day} | more


@pytest.fixture(scope="module")
def terms() -> AttributionTerms:
    return AttributionTerms.load("commercial-primary-care")


def changed(terms: AttributionTerms, **changes: Any) -> AttributionTerms:
    return AttributionTerms.model_validate(terms.model_dump() | changes)


@pytest.fixture(scope="module")
def one(make_lines: Any, make_coverage: Any) -> Any:
    """The row of one member."""

    def found(rows: list[dict[str, Any]], terms: AttributionTerms, **more: Any) -> dict[str, Any]:
        spans = make_coverage(("p1", "2022-01-01", None, "HMO", "active"))
        participants = more.pop("participants", [ACO])
        row: dict[str, Any] = attribute(make_lines(rows), spans, terms, PERIOD, participants, **more).table.to_pylist()[
            0
        ]
        return row

    return found


def chosen(*rows: tuple[str, str, date]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"member": "p1", "tin": tin, "made": made, "kind": kind} for kind, tin, made in rows], SELECTION_SCHEMA
    )


def test_sources_in_their_order(one: Any, terms: AttributionTerms) -> None:
    order = ["member_selected_pcp", "plan_assigned_pcp", "claims"]
    ordered = AttributionTerms.model_validate(
        {k: v for k, v in terms.model_dump().items() if k != "methods"} | {"source_order": order}
    )
    assert ordered.methods == ("member_selected_pcp", "plan_assigned_pcp", "plurality")
    both = chosen(("plan_assigned_pcp", X, date(2025, 6, 1)), ("member_selected_pcp", Y, date(2024, 1, 1)))
    rows = [line("100000001", "10")]
    assert one(rows, ordered, selections=both)["entity"] == f"tin:{Y}"
    assert one(rows, ordered, selections=both.slice(0, 1))["entity"] == f"tin:{X}"
    assert one(rows, ordered, selections=chosen(("voluntary", X, date(2025, 6, 1))))["entity"] == "aco"


@pytest.mark.parametrize(
    ("rule", "made", "holds"),
    [
        ("immediate", date(2025, 12, 31), True),
        ("next_month", date(2025, 11, 30), True),
        ("next_month", date(2025, 12, 1), False),
        ("fifteenth", date(2025, 12, 15), True),
        ("fifteenth", date(2025, 12, 16), False),
    ],
)
def test_a_change_holds_from_its_effective_day(
    one: Any, terms: AttributionTerms, rule: str, made: date, holds: bool
) -> None:
    ruled = changed(terms, selection={"effective": rule})
    found = one([line("100000001", "10")], ruled, selections=chosen(("member_selected_pcp", X, made)))
    assert found["entity"] == (f"tin:{X}" if holds else "aco")


def test_a_selection_may_end_lapse_or_be_dropped_without_a_visit(one: Any, terms: AttributionTerms) -> None:
    selected = chosen(("member_selected_pcp", X, date(2024, 3, 1)))
    rows = [line("100000001", "10"), line(X, "5", date(2024, 6, 1))]
    assert one(rows, terms, selections=selected)["entity"] == f"tin:{X}"
    ended = selected.set_column(5, "until", pa.array([date(2025, 12, 30)]))
    assert one(rows, terms, selections=ended)["entity"] == "aco"
    assert one(rows, changed(terms, selection={"lasts_months": 12}), selections=selected)["entity"] == "aco"
    assert one(rows, changed(terms, selection={"needs_visit_months": 12}), selections=selected)["entity"] == "aco"
    assert one(rows, changed(terms, selection={"needs_visit_months": 24}), selections=selected)["entity"] == f"tin:{X}"


def test_the_roster_is_the_attribution(one: Any) -> None:
    terms = AttributionTerms.load("payer-roster")
    listed = chosen(("roster", "100000001", date(2025, 1, 1)))
    found = one([line(X, "1000")], terms, selections=listed)
    assert (found["entity"], found["step"], found["months"]) == ("aco", "roster", 12)
    assert one([line("100000001", "1000")], terms)["reason"] == "no-selection"


def test_relative_value_units(one: Any, terms: AttributionTerms, tmp_path: Path) -> None:
    rows = [line("100000001", "500", procedure="99213"), line(X, "10", procedure="99215")]
    weighed = changed(terms, measure="rvu", rvu={"99213": "1.30", "99215": "2.80"})
    found = one(rows, weighed)
    assert (found["entity"], found["amount"]) == (f"tin:{X}", Decimal("2.80"))
    with pytest.raises(ValueError, match="relative value units"):
        changed(terms, measure="rvu")
    text = (Path(__file__).parents[3] / "fhir_gateway/attribution/terms/commercial-primary-care.toml").read_text()
    (tmp_path / "rvu.csv").write_text("code,rvu\n99213,1.3\n99215,2.8\n")
    (tmp_path / "terms.toml").write_text(
        'rvu_file = "rvu.csv"\n' + text.replace('measure = "allowed"', 'measure = "rvu"')
    )
    loaded = AttributionTerms.load(tmp_path / "terms.toml")
    assert one(rows, loaded)["amount"] == Decimal("2.80")
    (tmp_path / "rvu.csv").write_text("code,rvu\n99213,much\n")
    with pytest.raises(ContractError, match="rvu is a number"):
        AttributionTerms.load(tmp_path / "terms.toml")


def wellness(terms: AttributionTerms, winner: str, services: list[str]) -> AttributionTerms:
    lists = [one.model_dump() for one in terms.services]
    lists.append({"name": "wellness", "codes": ["G0438", "G0439"], "source": "here", "trust": "G"})
    return changed(
        terms, services=lists, passes=[{"name": "p", "groups": ["pcp"], "winner": winner, "services": services}]
    )


def test_the_most_recent_visit_or_wellness_visit_may_win(one: Any, terms: AttributionTerms) -> None:
    rows = [
        line("100000001", "500", date(2025, 2, 2), procedure="G0439"),
        line(X, "10", date(2025, 9, 9)),
        line(Y, "10", date(2025, 8, 8)),
    ]
    found = one(rows, wellness(terms, "latest", []))
    assert (found["entity"], found["runner_up"], found["amount"]) == (f"tin:{X}", f"tin:{Y}", 10)
    assert one(rows, wellness(terms, "latest", ["wellness"]))["entity"] == "aco"
    rows.append(line("100000001", "1", date(2025, 9, 9)))
    tied = one(rows, wellness(terms, "latest", []))
    assert (tied["entity"], tied["tie_break"]) == ("aco", "visits")


@pytest.mark.parametrize(("weights", "entity"), [((), "aco"), (("1", "2"), f"tin:{X}"), (("1", "0.5"), "aco")])
def test_recency_may_weigh(one: Any, terms: AttributionTerms, weights: tuple[str, ...], entity: str) -> None:
    rows = [line("100000001", "150", date(2024, 7, 15)), line(X, "100", date(2025, 6, 15))]
    passes = [{"name": "p", "groups": ["pcp"], "window_months": 18, "weights": weights}]
    assert one(rows, changed(terms, passes=passes))["entity"] == entity
    with pytest.raises(ValueError, match="does not divide"):
        changed(terms, passes=[passes[0] | {"window_months": 17, "weights": ["1", "2"]}])


def test_least_visits_and_least_share(one: Any, terms: AttributionTerms) -> None:
    rows = [line("100000001", "40"), line(X, "30", date(2025, 1, 1)), line(X, "1", date(2025, 1, 2)), line(Y, "29")]
    assert one(rows, changed(terms, min_share="0.40"))["entity"] == "aco"
    assert one(rows, changed(terms, min_share="0.41"))["reason"] == "below-share"
    assert one(rows, changed(terms, min_visits=2))["entity"] == f"tin:{X}"


def test_by_the_clinicians_own_practice(one: Any, terms: AttributionTerms) -> None:
    rows = [line(X, "100", npi="7"), line("100000001", "60", npi="8")]
    clinicians = pa.Table.from_pylist([{"npi": "7", "tin": "100000002"}, {"npi": "8", "tin": X}], PROVIDER_SCHEMA)
    npi = changed(terms, level="npi")
    assert one(rows, npi, facts=Facts(providers=clinicians))["entity"] == f"tin:{X}"
    rolled = changed(terms, level="npi", roll_up="primary_tin")
    found = one(rows, rolled, facts=Facts(providers=clinicians))
    assert (found["entity"], found["tin"], found["npi"]) == ("aco", "100000002", "7")


def test_a_clinician_of_two_contracts_is_told_by_the_claims_practice(one: Any, terms: AttributionTerms) -> None:
    rows = [line("100000001", "60", npi="7"), line(X, "100", npi="7")]
    two = [ACO, Participant("other", tins=(X,))]
    found = one(rows, changed(terms, level="npi"), participants=two)
    assert (found["entity"], found["amount"]) == ("other", 100)


def test_the_directory_tells_a_specialty_that_the_line_does_not(one: Any, terms: AttributionTerms) -> None:
    rows = [line("100000001", "60", npi="7", specialty=None)]
    assert one(rows, terms)["reason"] == "no-competing-clinician"
    clinicians = pa.Table.from_pylist([{"npi": "7", "tin": "100000001", "specialty": "11"}], PROVIDER_SCHEMA)
    assert one(rows, terms, facts=Facts(providers=clinicians))["entity"] == "aco"


def test_where_somebody_lives(one: Any) -> None:
    terms = AttributionTerms.model_validate(
        {"name": "area", "version": "1", "programme": "g", "source": "here", "methods": ["geography"]}
    )
    here = Participant("here", tins=("1",), service_area=("48453", "78701"))
    there = Participant("there", tins=("2",), service_area=("48201", "78701"))
    for home, entity, reason in (
        ({"county": "48453"}, "here", None),
        ({"county": "48201", "postal_code": "77002"}, "there", None),
        ({"postal_code": "78701-0001"}, None, "tie"),
        ({"postal_code": "10001"}, None, "no-selection"),
    ):
        facts = Facts(residence=pa.Table.from_pylist([{"member": "p1"} | home], RESIDENCE_SCHEMA))
        found = one([], terms, participants=[here, there], facts=facts)
        assert (found["entity"], found["reason"]) == (entity, reason)


def before(entity: str, tin: str | None = None) -> Facts:
    row = {"member": "p1", "entity": entity, "tin": tin, "npi": tin and f"{tin}1"}
    return Facts(previous=pa.Table.from_pylist([row], ATTRIBUTION_SCHEMA))


@settings(deadline=None, max_examples=12)
@given(
    amounts=st.lists(st.integers(1, 200), min_size=3, max_size=3, unique=True),
    k=st.sampled_from(["0", "0.05", "0.1", "0.5"]),
    last=st.integers(0, 2),
)
def test_nobody_moves_away_from_who_is_within_k(
    amounts: list[int], k: str, last: int, one: Any, terms: AttributionTerms
) -> None:
    names = ["aco", f"tin:{X}", f"tin:{Y}"]
    rows = [line(tin, str(amount)) for tin, amount in zip(("100000001", X, Y), amounts, strict=True)]
    found = one(rows, changed(terms, stickiness=k), facts=before(names[last]))
    leader = max(amounts)
    stays = Decimal(amounts[last]) >= leader * (1 - Decimal(k)) and Decimal(k) > 0
    assert found["entity"] == names[last if stays else amounts.index(leader)]
    assert (found["tie_break"] == "stickiness") == (stays and amounts[last] != leader)


@pytest.mark.parametrize("level", ["tin", "npi"])
def test_stickiness_is_to_the_practice_or_clinician(level: str, one: Any, terms: AttributionTerms) -> None:
    rows = [line("100000001", "100"), line("100000002", "95")]
    sticky = changed(terms, level=level, stickiness="0.1")
    assert one(rows, sticky)["tin"] == "100000001"
    found = one(rows, sticky, facts=before("aco", "100000002"))
    assert (found["tin"], found["tie_break"]) == ("100000002", "stickiness")


cents = st.integers(1, 300).map(lambda one: f"{Decimal(one) / 100}")
services = st.lists(
    st.tuples(
        st.sampled_from(["p1", "p2", "p3", "p4"]), st.sampled_from(["100000001", X, Y]), cents,
        st.sampled_from(["08", "50", "06", "07", None]), st.dates(date(2024, 1, 1), date(2025, 12, 31)),
        st.sampled_from(["99213", "99490", "71046"]),
    ),
    max_size=25,
)  # fmt: skip


@settings(deadline=None, max_examples=8)
@given(
    rows=services,
    slices=st.integers(2, 4),
    order=st.randoms(use_true_random=False),
    name=st.sampled_from(["commercial-five-passes", "aco-reach-2025"]),
)
def test_order_and_slices_change_nothing_and_more_is_strictly_more(
    rows: list[tuple[Any, ...]], slices: int, order: Any, name: str, make_lines: Any, make_coverage: Any
) -> None:
    made = [
        line(tin, allowed, day, _member=member, specialty=specialty, procedure=code)
        for member, tin, allowed, specialty, day, code in rows
    ]
    coverage = make_coverage(*((f"p{n}", "2022-01-01", None, "AB", "active") for n in range(1, 6)))
    terms = AttributionTerms.load(name)
    whole = attribute(make_lines(made), coverage, terms, PERIOD, [ACO], slices=1)
    order.shuffle(made)
    parts = attribute(make_lines(made), coverage.take(list(range(4, -1, -1))), terms, PERIOD, [ACO], slices=slices)
    made.sort(key=lambda row: str(row["_member"]))  # as the lake gives them: slices are ranges of rows
    ranges = attribute(make_lines(made), coverage, terms, PERIOD, [ACO], slices=slices)
    for other in (parts, ranges):
        assert other.table.equals(whole.table)
        assert other.candidates.equals(whole.candidates)
    ranked: dict[str, list[dict[str, Any]]] = {}
    for candidate in whole.candidates.to_pylist():
        ranked.setdefault(candidate["member"], []).append(candidate)
    for row in whole.table.to_pylist():
        assert (row["entity"] is None) == (row["reason"] is not None)
        if row["entity"] is None:
            continue
        first, *others = ranked[row["member"]]
        assert (row["amount"], row["visits"]) == (first["amount"], first["visits"])
        assert all(first["amount"] >= one["amount"] for one in others)
        tied = any(first["amount"] == one["amount"] for one in others)
        assert tied == (row["tie_break"] is not None)
