"""Reports at the console: what the services say, to whom it may be said, the same each time, and in the audit trail."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from functools import cache

import anyio
import httpx
import pyarrow as pa
import pytest
from fastapi import FastAPI
from rich.console import Console

from fhir_gateway.console.accounts import User
from fhir_gateway.console.app import with_console
from fhir_gateway.console.frame import PATH
from fhir_gateway.console.roles import Role
from fhir_gateway.console.sessions import Sessions
from fhir_gateway.contracts.inputs import measure_scores
from fhir_gateway.db.audience import Audience
from fhir_gateway.demo.steps import Steps
from fhir_gateway.demo.tour import Options, open_gateway, run
from fhir_gateway.equity.stratify import Strata
from fhir_gateway.equity.suppression import THRESHOLD
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import reports
from fhir_gateway.jobs.equity import Question, newest_runs, stratified
from fhir_gateway.jobs.evaluate import evaluate
from fhir_gateway.jobs.settlement_runs import settled
from fhir_gateway.jobs.what_if import project
from fhir_gateway.reports.document import HIDDEN, money, percent, plain
from fhir_gateway.reports.forms import write
from fhir_gateway.reports.html import POLICY
from fhir_gateway.reports.statement import shown_value
from fhir_gateway.server.audit_events import entries
from tests.support.pages_read import html_tables, pdf_pages, pdf_words

PERIOD = (date(2025, 1, 1), date(2025, 12, 31))
NAMED = "2025-01-01/2025-12-31"
FAMILY, ACCOUNTABLE = "demo-pay-for-performance-2025", "demo-shared-savings-2025"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The demo of 400 persons, with the year before evaluated too."""
    options = Options(tmp_path_factory.mktemp("demo"), patients=400)
    made = open_gateway(options)
    run(made, options, Steps(Console(quiet=True)))
    evaluate(made, (), (date(2024, 1, 1), date(2024, 12, 31)), now=options.as_of)
    yield made
    made.engine.dispose()


@cache
def _application(gateway: Gateway) -> FastAPI:
    return with_console(gateway)


def get(
    gateway: Gateway, path: str, role: Role = "contracts", labels: tuple[str, ...] | None = None, name: str = "ruth"
) -> httpx.Response:
    """What somebody signed in is answered."""
    cookie = Sessions(gateway.engine).start(User(name, "local", (role,), labels))

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(_application(gateway))
        async with httpx.AsyncClient(transport=transport, base_url=gateway.settings.public_url) as http:
            http.cookies.set("console", cookie)
            return await http.get(f"{PATH}{path}")

    return anyio.run(asked)


def strata_of(gateway: Gateway, members: list[str] | None = None) -> Strata:
    return stratified(gateway, PERIOD, Question(dimensions=reports.USUAL, members=members))


def unspaced(text: str) -> str:
    """A PDF breaks words where a column ends."""
    return text.replace(" ", "")


def test_a_quality_report_has_the_scores_of_settlements_and_the_strata_of_equity(gateway: Gateway) -> None:
    answer = get(gateway, f"/reports/quality.html?period={NAMED}", "quality")
    tables = html_tables(answer.content)
    words = unspaced(pdf_words(get(gateway, f"/reports/quality.pdf?period={NAMED}", "quality").content))
    strata = strata_of(gateway)
    totals = {one.metric.id: one.total for one in strata.breakdowns}
    asked = {one.id for one in strata.aligned}
    rows = {row[0]: row for row in tables["Measures"][1:]}
    seen = 0
    for result in (gateway.results.load(one) for one in newest_runs(gateway, PERIOD)):
        score = measure_scores([result], result.members)[result.canonical]
        row, total = rows[result.title], totals.get(result.name)
        if result.name in asked and (total is None or total.numerator is None):
            assert row[1:4] == [HIDDEN] * 3
            continue
        seen += 1
        assert row[1:3] == [plain(score.denominator), plain(score.numerator)]
        assert score.score is not None
        proportion = result.groups[0].scoring == "proportion"
        assert row[3].startswith(percent(score.score) if proportion else plain(score.score))
        for said in row[:4]:
            assert unspaced(said) in words
        if proportion and total is not None and total.low is not None and total.high is not None:
            assert row[4] == f"{percent(total.low)} to {percent(total.high)}"
    assert seen >= 2
    told = {row[0] for row in tables["By who the members are"]}
    assert {"Sex: Female", "Payer: Commercial", "Preferred language: Spanish"} <= told


def test_strata_are_shown_as_equity_shows_them_and_the_small_are_hidden(gateway: Gateway) -> None:
    tables = html_tables(get(gateway, f"/reports/quality.html?period={NAMED}", "quality").content)
    rows = [row for row in tables["By who the members are"] if row[0] != "Stratum"]
    cells = [(one, cell) for one in strata_of(gateway).breakdowns for cell in one.cells]
    assert len(rows) == len(cells)
    hidden = 0
    by_measure: dict[str, list[list[str]]] = {}
    for row in rows:
        by_measure.setdefault(row[0], []).append(row)
    for one, cell in cells:
        row = by_measure[f"{one.dimension.title}: {cell.title}"].pop(0)
        if cell.denominator is None:
            hidden += 1
            assert row[1:] == [HIDDEN] * 4
            continue
        assert row[1] == plain(cell.denominator)
        assert cell.denominator == 0 or cell.denominator >= THRESHOLD
        if cell.numerator is not None and cell.rate is not None:
            assert row[2] == plain(cell.numerator)
            assert row[3] == (percent(cell.rate) if one.metric.kind == "proportion" else plain(cell.rate, 4))
    assert hidden > 10


def test_targets_are_those_of_the_contracts_and_the_course_has_both_years(gateway: Gateway) -> None:
    tables = html_tables(get(gateway, f"/reports/quality.html?period={NAMED}", "contracts").content)
    shared, paid = (
        next(row[2:] for row in tables["By contract"] if row[0].startswith("Controlling") and row[1].startswith(title))
        for title in ("Shared savings", "Pay for performance")
    )
    assert shared == ["increase", "35.0 %", "75.0 %", "–", "–"]
    assert paid == ["increase", "45.0 %", "–", "75.0 %", "48.0 %"]
    course = {row[0]: row[1:] for row in tables["Rates by period"]}
    assert course["Measure"] == ["2024-01-01 to 2024-12-31", "2025-01-01 to 2025-12-31"]
    measures = {row[0]: row for row in tables["Measures"][1:]}
    assert all(now[1] == measures[name][3] for name, now in course.items() if name != "Measure")
    assert [now for name, now in course.items() if name != "Measure" and now[0] not in (HIDDEN, "–")]


def test_a_board_summary_is_what_was_settled_listed_and_projected(gateway: Gateway) -> None:
    answer = get(gateway, f"/reports/board.html?period={NAMED}&as_of=2025-06-30")
    tables = html_tables(answer.content)
    pdf = get(gateway, f"/reports/board.pdf?period={NAMED}&as_of=2025-06-30").content
    assert pdf_pages(pdf) <= 2
    words = unspaced(pdf_words(pdf))
    runs = gateway.settlements.runs()
    assert len(runs) == 2
    for made in runs:
        _, contract, settlement = settled(gateway, made.id)
        (money_row,) = [row for row in tables["Settlements"] if row[0] == contract.title]
        owed = sum(gateway.settlements.owed(contract.id).values(), Decimal(0))
        assert money_row[2:] == [money(settlement.total, "USD"), money(owed, "USD"), "none"]
        (members,) = [row for row in tables["Members on the lists of contracts"] if row[0] == contract.title]
        assert members[1] == plain(gateway.resources.read("Group", contract.id).json()["quantity"])
        document = gateway.data_folder / "contract-versions" / contract.id / "1%2E0%2E0" / "contract.json"
        found = project(gateway, str(document), date(2025, 6, 30))
        (outlook,) = [row for row in tables["As of 2025-06-30"] if row[0] == contract.title]
        assert outlook[1:] == [
            money(found.cost, "USD"),
            money(found.total, "USD"),
            f"{money(found.total_at_low_cost, 'USD')} to {money(found.total_at_high_cost, 'USD')}",
        ]
        assert unspaced(money(settlement.total, "USD")) in words
        assert unspaced(money(found.total, "USD")) in words


@pytest.mark.parametrize("form", ["html", "pdf"])
def test_a_statement_has_every_line_of_its_settlement(gateway: Gateway, form: str) -> None:
    for made in gateway.settlements.runs():
        _, contract, settlement = settled(gateway, made.id)
        body = get(gateway, f"/settlements/{made.id}/statement.{form}").content
        words = (
            pdf_words(body)
            if form == "pdf"
            else " ".join(cell for table in html_tables(body).values() for row in table for cell in row)
        )
        for line in settlement.lines:
            assert unspaced(shown_value(line)) in unspaced(words), line.id
            assert unspaced(line.label) in unspaced(words)
        said = f"{contract.payer.name} owes {contract.provider.name} {money(settlement.total, 'USD')}"
        assert unspaced(said) in unspaced(words if form == "pdf" else body.decode())


def test_the_same_reports_are_the_same_bytes(gateway: Gateway) -> None:
    for path in (f"/reports/quality.{{}}?period={NAMED}", f"/reports/board.{{}}?period={NAMED}"):
        for form in ("pdf", "html"):
            assert get(gateway, path.format(form)).content == get(gateway, path.format(form)).content


def test_a_practice_is_told_of_itself_alone(gateway: Gateway) -> None:
    labels = (f"contract:{FAMILY}",)
    mine, theirs = (settled(gateway, r.id)[1] for r in sorted(gateway.settlements.runs(), key=lambda r: r.contract))
    assert (mine.id, theirs.id) == (FAMILY, ACCOUNTABLE)
    members = gateway.resources.seen_by(Audience.of(labels)).members()
    assert members is not None
    for path in (f"/reports/quality.html?period={NAMED}", f"/reports/board.html?period={NAMED}"):
        answer = get(gateway, path, labels=labels)
        assert answer.status_code == 200
        assert mine.title in answer.text
        assert theirs.title not in answer.text
        rows = {row[0]: row for row in html_tables(answer.content)["Measures"][1:]}
        for result in (gateway.results.load(one) for one in newest_runs(gateway, PERIOD)):
            if rows[result.title][1] != HIDDEN:
                few = measure_scores([result], pa.array(sorted(members), pa.string()))
                assert rows[result.title][1] == plain(few[result.canonical].denominator)
    (other,) = [one for one in gateway.settlements.runs() if one.contract == ACCOUNTABLE]
    for form in ("html", "pdf"):
        assert get(gateway, f"/settlements/{other.id}/statement.{form}", labels=labels).status_code == 404


def test_who_may_not_see_contracts_is_told_of_quality_alone(gateway: Gateway) -> None:
    page = get(gateway, "/reports", "quality")
    assert "Quality report as PDF" in page.text
    assert "Board" not in page.text
    for path in (f"/reports/board.pdf?period={NAMED}", "/reports/loss-ratio.html"):
        assert get(gateway, path, "quality").status_code == 403
    assert get(gateway, "/reports", "it").status_code == 403


def test_a_page_has_its_own_policy_and_a_pdf_is_a_file(gateway: Gateway) -> None:
    page = get(gateway, f"/reports/board.html?period={NAMED}")
    assert page.headers["content-security-policy"] == POLICY
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    file = get(gateway, f"/reports/board.pdf?period={NAMED}")
    assert file.headers["content-type"] == "application/pdf"
    assert file.headers["content-disposition"] == 'attachment; filename="board.pdf"'


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/reports/quality.html", 400, "period: two days"),
        ("/reports/quality.html?period=2025-01-01/x", 400, "period: a day such as"),
        ("/reports/quality.html?period=2025-12-31/2025-01-01", 400, "ends before it starts"),
        (f"/reports/board.html?period={NAMED}&as_of=soon", 400, "as of: a day such as"),
        ("/reports/quality.html?period=2019-01-01/2019-12-31", 404, "evaluate measures first"),
        (f"/reports/quality.doc?period={NAMED}", 404, "pdf or html"),
        ("/reports/loss-ratio.pdf", 404, "premium, which claims do not have"),
    ],
)
def test_a_mistake_is_named(gateway: Gateway, path: str, status: int, said: str) -> None:
    answer = get(gateway, path)
    assert answer.status_code == status
    assert said in answer.text


def test_who_looked_at_a_report_is_in_the_audit_trail(gateway: Gateway) -> None:
    get(gateway, f"/reports/quality.pdf?period={NAMED}", "quality", name="quentin")
    get(gateway, "/reports/loss-ratio.pdf", "quality", name="quentin")
    found = entries(gateway.engine, [("altid", "console/quentin")], 10)
    assert [(one["resource_id"], one["status"]) for one in found] == [
        ("reports/loss-ratio.pdf", 403),
        ("reports/quality.pdf", 200),
    ]


def test_few_members_on_a_list_are_not_counted(gateway: Gateway) -> None:
    """Of a list with fewer than the threshold: the summary does not say how many."""
    assert THRESHOLD == 11
    group = gateway.resources.read("Group", FAMILY).json()
    try:
        gateway.resources.put({**group, "quantity": 10})
        rows = html_tables(write(reports.board_report(gateway, PERIOD), "html"))["Members on the lists of contracts"]
        assert sorted(row[1] for row in rows[1:])[-1] == HIDDEN
    finally:
        gateway.resources.put(group)
