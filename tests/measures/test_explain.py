"""Explanations agree with the evaluation, and the page with the text of the CQL."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, date, datetime, timedelta
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.cql.highlight import clause_texts, cql_text, narrative
from fhir_gateway.errors import NotFoundError
from fhir_gateway.measures import Evaluator, MeasurePackage, MemoryPopulation
from fhir_gateway.measures.explain import Explanation, explain
from fhir_gateway.measures.explain_page import page
from tests.measures.published import NOW, read_cases, rename

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "measures" / "cases"
LATER = datetime(2027, 6, 1, tzinfo=UTC)
MARK = re.compile(r"clause-(true|false|null|uncovered)")
#: Per package the cases whose pages are read piece by piece.
EXAMPLES = {
    "controlling-high-blood-pressure": ("controlled", "latest-uncontrolled", "no-reading", "hospice"),
    "diabetes-hba1c-poor-control": ("above-threshold", "day-before", "nothing", "unit-wrong"),
    "ed-visits-per-1000": ("admitted-later",),
    "readmission-30-day": ("against-advice",),
}


@cache
def evaluator(name: str) -> Evaluator:
    return Evaluator(MeasurePackage.load(ROOT / "measures" / name))


def explained(name: str, case: str, now: datetime = LATER) -> Explanation:
    content = json.loads((CASES / name / f"{case}.json").read_text("utf-8"))
    start, end = (date.fromisoformat(content["measurementPeriod"][edge][:10]) for edge in ("start", "end"))
    (member,) = (r["id"] for r in content["resources"] if r["resourceType"] == "Patient")
    population = MemoryPopulation.from_resources(content["resources"])
    return explain(evaluator(name), population, member, (start, end), now)


class Marked(HTMLParser):
    """Collects the text of each ``<code class="cql">`` and the innermost mark around each piece of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.texts: list[str] = []
        self.unmarked: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in ("code", "span"):
            self.stack.append(str(dict(attrs).get("class")))
            if self.stack == ["cql"]:
                self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("code", "span"):
            self.stack.pop()

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[0] == "cql":
            self.texts[-1] += data
            if not MARK.fullmatch(self.stack[-1]):
                self.unmarked.append(data)


def check_page(explanation: Explanation) -> None:
    """Text without tags is the CQL of the statements; every piece of it is marked; nothing is loaded or run."""
    html = page(explanation)
    marked = Marked(html)
    expected = [
        cql_text(tree)
        for statements in explanation.libraries.values()
        for statement in statements
        if (tree := narrative(statement.elm)) is not None
    ]
    assert marked.texts == expected
    assert marked.unmarked == []
    assert not marked.tags & {"script", "link", "img", "iframe"}
    assert marked.stack == []


@pytest.mark.parametrize(("name", "case"), [(n, c) for n, cases in EXAMPLES.items() for c in cases])
def test_the_page_is_the_cql_with_every_clause_marked(name: str, case: str) -> None:
    explanation = explained(name, case)
    check_page(explanation)
    for statement in next(iter(explanation.libraries.values())):
        assert set(statement.clauses) >= {str(statement.elm["localId"])}
        for clause in statement.clauses.values():
            assert clause.outcome in ("true", "false", "null", "uncovered")


def test_the_page_has_the_text_of_the_cql_file() -> None:
    explanation = explained("diabetes-hba1c-poor-control", "controlled")
    (library,) = [
        r
        for r in explanation.package.resources
        if r["resourceType"] == "Library" and r["name"] == "DiabetesHbA1cPoorControl"
    ]
    (source,) = [c["data"] for c in library["content"] if c["contentType"] == "text/cql"]
    text = base64.b64decode(source).decode()
    for shown in Marked(page(explanation)).texts[:9]:
        assert shown.strip() in text


@pytest.mark.parametrize("name", EXAMPLES)
def test_populations_are_those_of_the_evaluation(name: str) -> None:
    for file in sorted((CASES / name).glob("*.json"))[::3]:
        content = json.loads(file.read_text("utf-8"))
        expected: dict[str, Any] = {g["id"]: g["population"] for g in content["expected"]["groups"]}
        for group in explained(name, file.stem).groups:
            counts = {p.id: int(p.counts[0]) for p in group.populations} | {
                p.code: int(p.counts[0]) for p in group.populations if p.code != "initial-population"
            }
            wanted = expected[group.id]
            assert {key: counts[key] for key in wanted if key in counts} == {
                key: value for key, value in wanted.items() if key in counts
            }, file.stem


def test_a_result_of_the_year_before_is_the_nearest_evidence() -> None:
    (gap,) = explained("diabetes-hba1c-poor-control", "day-before").gaps
    assert (gap.status, gap.improvement_notation) == ("open-gap", "decrease")
    assert [(c.definition, c.text) for c in gap.failed] == [
        ("HbA1c Results", 'date from Common."Observed"(O) during Common."Measurement Days"')
    ]
    nearest = gap.nearest
    assert nearest is not None
    assert (nearest.reference, nearest.start, nearest.value) == (
        "Observation/o1",
        "2025-12-31T23:59:59.000",
        "8 %",
    )
    assert nearest.failed is not None
    assert nearest.failed.text == gap.failed[0].text


def test_evidence_is_ordered_by_nearness_and_says_what_stopped_it() -> None:
    (gap,) = explained("controlling-high-blood-pressure", "latest-uncontrolled").gaps
    assert [c.text for c in gap.failed] == ['"Lowest Systolic" < 140.0', '"Lowest Diastolic" < 90.0']
    latest, earlier = gap.evidence
    assert (latest.start, latest.value, latest.failed) == ("2026-10-01", "8480-6 150 mm[Hg]; 8462-4 95 mm[Hg]", None)
    assert earlier.failed is not None
    assert earlier.failed.definition == "Latest Readings"


@pytest.mark.parametrize(
    ("name", "case", "status"),
    [
        ("controlling-high-blood-pressure", "controlled", "closed-gap"),
        ("controlling-high-blood-pressure", "no-reading", "open-gap"),
        ("controlling-high-blood-pressure", "hospice", "closed-gap"),
        ("controlling-high-blood-pressure", "no-hypertension", "not-applicable"),
        ("diabetes-hba1c-poor-control", "controlled", "closed-gap"),
        ("diabetes-hba1c-poor-control", "above-threshold", "open-gap"),
    ],
)
def test_status_follows_the_improvement_notation(name: str, case: str, status: str) -> None:
    (gap,) = explained(name, case).gaps
    assert gap.status == status
    assert bool(gap.failed) == (status == "open-gap")


def test_a_gap_may_still_close_while_the_period_lasts() -> None:
    name, case = "controlling-high-blood-pressure", "no-reading"
    last_day = datetime(2026, 12, 31, 12, tzinfo=UTC)
    assert explained(name, case, last_day - timedelta(days=1)).gaps[0].status == "prospective-gap"
    assert explained(name, case, last_day).gaps[0].status == "open-gap"


def test_a_rate_has_no_gap() -> None:
    assert explained("ed-visits-per-1000", "admitted-later").gaps == ()


def test_values_of_definitions_and_clauses() -> None:
    explanation = explained("diabetes-hba1c-poor-control", "above-threshold")
    values = {statement.name: statement for statement in explanation.definitions}
    assert values["Numerator"].value is True
    assert values["HbA1c Results"].value == ["Observation/o1"]
    assert values["Numerator"].resources == ("Observation/o1",)
    assert values["Lowest Most Recent HbA1c"].value > 9
    texts = clause_texts(values["Numerator"].elm)
    by_text = {texts[c.local_id]: c.outcome for c in values["Numerator"].clauses.values() if c.local_id in texts}
    assert by_text['"Lowest Most Recent HbA1c" is null'] == "false"
    assert by_text['"Lowest Most Recent HbA1c" > 9.0'] == "true"
    document = json.loads(json.dumps(explanation.to_dict()))
    assert {d["name"] for d in document["definitions"]} == set(values)
    (percent,) = (f for f in document["functions"] if f["name"] == "Percent")
    assert any(c["rows"] and c["outcome"] == "true" for c in percent["clauses"])


def test_data_is_escaped() -> None:
    content = json.loads((CASES / "diabetes-hba1c-poor-control" / "day-before.json").read_text("utf-8"))
    for resource in content["resources"]:
        if resource["resourceType"] == "Observation":
            resource["code"]["text"] = '"><script>alert(1)</script>'
    population = MemoryPopulation.from_resources(content["resources"])
    period = (date(2026, 1, 1), date(2026, 12, 31))
    explanation = explain(evaluator("diabetes-hba1c-poor-control"), population, "p", period, LATER)
    assert explanation.gaps[0].evidence[0].what == '"><script>alert(1)</script>'
    assert "<script" not in page(explanation)


def test_the_example_of_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "use" / "explain.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(compile(example, "docs/use/explain.md", "exec"), {})  # noqa: S102 - our own documentation


def test_nobody_of_that_id() -> None:
    with pytest.raises(NotFoundError):
        explain(
            evaluator("readmission-30-day"), MemoryPopulation([]), "p", (date(2026, 1, 1), date(2026, 12, 31)), LATER
        )


@pytest.mark.shared
@pytest.mark.parametrize("measure", ["CMS122FHIRDiabetesAssessGT9Pct"])
def test_a_published_measure(shared: Path, measure: str) -> None:
    folder = shared / "data" / "ecqm" / "dqm2025" / measure
    published = Evaluator(MeasurePackage.load(folder))
    for case in read_cases(folder)[:3]:
        start, end = (date.fromisoformat(case["measurementPeriod"][edge][:10]) for edge in ("start", "end"))
        population = MemoryPopulation([("case-0", rename(case, 0))])
        explanation = explain(published, population, "case-0", (start, end), NOW)
        counted = published.evaluate(population, (start, end), NOW)
        for mine, theirs in zip(explanation.groups, counted.groups, strict=True):
            assert [int(p.counts[0]) for p in mine.populations] == [int(p.counts[0]) for p in theirs.populations]
        check_page(explanation)
        assert any(statement.outcome == "true" for statement in explanation.definitions)
