"""Hospital-acquired conditions: winsorised scores and the worst quarter."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from p4p_parts import problems, settled

from fhir_gateway.contracts.scoring import acquired_conditions as rules

D = Decimal


def test_percentiles_average_where_the_place_is_whole() -> None:
    values = [D(n) for n in range(1, 9)]
    assert rules.percentile(values, D("0.75")) == D("6.5")
    assert rules.percentile(values[:7], D("0.75")) == 6
    assert rules.percentile(values, D(1)) == 8
    assert rules.percentile(values, D(0)) == 1


def test_results_beyond_the_percentiles_are_set_to_them() -> None:
    results = {str(n): D(n) for n in range(20)} | {"far": D(1000)}
    scores = rules.z_scores(results, (D("0.05"), D("0.95")))
    assert scores["far"] == scores["19"]
    assert abs(sum(scores.values())) < D("1e-20")
    assert rules.z_scores({"a": D(1), "b": D(1)}, (D("0.05"), D("0.95"))) == {"a": 0, "b": 0}


def test_the_worst_quarter_loses_a_percent() -> None:
    rows = [{"hospital": f"H{n}", "measure": "CDI", "value": n} for n in range(8)]
    rows += [{"hospital": "H7", "measure": "unknown", "value": 1}]
    terms = {"kind": "hospital_acquired_conditions", "year": 2024, "payments": 500_000}
    paid = [settled(terms | {"hospital": f"H{n}"}, tables={"conditions": rows}).paid for n in range(8)]
    assert paid == [0] * 6 + [-5_000] * 2
    assert settled(terms | {"hospital": "elsewhere"}, tables={"conditions": rows}).paid == 0


def test_contradictions() -> None:
    terms = {"kind": "hospital_acquired_conditions", "year": 2024, "payments": 1, "hospital": "A"}
    rules_of = {
        "year": 2024,
        "trust": "M",
        "source": "test",
        "winsor": ["0.9", "0.1"],
        "cut_percentile": "0.75",
        "reduction": "0.01",
        "measures": ["CDI"],
    }
    assert "not below" in problems(terms | {"rules": rules_of})[0]


@given(st.lists(st.integers(0, 1000).map(D), min_size=4, max_size=40))
def test_at_most_a_quarter_is_reduced(totals: list[Decimal]) -> None:
    cut = rules.percentile(totals, D("0.75"))
    assert sum(rules.is_reduced(total, cut) for total in totals) * 4 <= len(totals)
