"""Contracts at the console: numbers of pages are those of lines and calculations, and disputes with their history."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_console import Person, links, story

from fhir_gateway.console.frame import PATH, money
from fhir_gateway.console.performance import chart, courses
from fhir_gateway.console.sliders import sliders
from fhir_gateway.console.waterfall import bridge, steps
from fhir_gateway.contracts import Settlement
from fhir_gateway.contracts.documents import read_document
from fhir_gateway.contracts.runs import Run
from fhir_gateway.demo import tour
from fhir_gateway.demo.tour import Options, Steps, open_gateway
from fhir_gateway.demo.tour import run as run_tour
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import settlement_runs
from fhir_gateway.jobs.contract_versions import kept_document
from fhir_gateway.jobs.projections import kept_projections
from fhir_gateway.jobs.settle import settle
from fhir_gateway.jobs.what_if import project, what_if

SAVINGS = "demo-shared-savings-2025"
SHIPPED = Path(tour.__file__).parent / "contracts" / "shared-savings-2025.toml"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The demo, and a version of its savings contract for fewer members, under which something is paid."""
    options = Options(folder=tmp_path_factory.mktemp("demo"), patients=300)
    made = open_gateway(options)
    run_tour(made, options, Steps(Console(quiet=True)))
    text = SHIPPED.read_text().replace('version = "1.0.0"', 'version = "1.1.0"', 1)
    amended = options.folder / "amended.toml"
    amended.write_text(re.sub(r"min_members = \d+", "min_members = 10", text))
    settle(made, str(amended), now=datetime(2026, 4, 2, tzinfo=UTC), by="test")
    yield made
    made.engine.dispose()


def contract(gateway: Gateway) -> Path:
    """The terms that were settled last, as a file."""
    return kept_document(gateway, SAVINGS, gateway.settlements.runs(SAVINGS)[-1].version)


def settled(gateway: Gateway) -> list[tuple[Run, Any, Settlement]]:
    return [settlement_runs.settled(gateway, run.id) for run in gateway.settlements.runs(SAVINGS)]


def table(page: str, caption: str) -> list[list[str]]:
    """Cells of the rows of the table with a caption."""
    found = next(one for one in re.findall(r"<table>.*?</table>", page, re.S) if f"<caption>{caption}" in one)
    rows = re.findall(r"<tr>(.*?)</tr>", found[found.index("<tbody>") :], re.S)
    return [
        [
            html.unescape(re.sub(r"<[^>]+>", "", cell)).strip()
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
        ]
        for row in rows
    ]


def test_from_benchmark_to_payment_every_step_is_a_line(gateway: Gateway) -> None:
    run, _, settlement = settled(gateway)[-1]
    (line,) = settlement.payable()
    assert line.amount
    found = steps(settlement, line)
    by_id = {one.id: one for one in settlement.lines}
    assert (found[0].before, found[0].after) == (0, by_id["savings.target"].value)
    assert [one.before for one in found[1:]] == [one.after for one in found[:-1]]
    assert found[-1].after == line.amount
    assert found[1].line == "savings.cost"
    assert found[1].change == -(by_id["savings.cost"].value or 0)
    values = {one.amount if one.amount is not None else one.value for one in settlement.lines}
    assert {one.after for one in found} <= values
    drawn = bridge(settlement, found)
    assert drawn["xAxis"]["data"][-1] == "Paid"

    async def tell(cora: Person) -> None:
        page = await cora.get(f"{PATH}/settlements/{run.id}")
        assert "From benchmark to settlement" in page
        shown = table(page, "Each step")
        assert shown == [[one.label, money(one.change), money(one.after)] for one in found]
        for address in links(page, f'{PATH}/settlements/{run.id}/lines/[^"]+'):
            await cora.get(address)

    story(gateway, tell, "cleo", "contracts")


def test_performance_against_target_is_what_settlements_say(gateway: Gateway) -> None:
    found = {one.title: one for one in courses(settled(gateway))}
    lines = [{line.id: line for line in settlement.lines} for _, _, settlement in settled(gateway)]
    cost = found["Cost per member month (savings)"]
    assert [one.value for one in cost.points] == [one["savings.pmpm"].value for one in lines]
    assert [one.target for one in cost.points] == [one["savings.target-pmpm"].value for one in lines]
    blood = found["Controlling high blood pressure"]
    assert [one.value for one in blood.points] == [one["savings.blood-pressure.score"].value for one in lines]
    assert {one.target for one in blood.points} == {Decimal("0.75")}  # of the contract
    assert [one["name"] for one in chart(blood)["series"]] == ["result", "target"]

    async def tell(cora: Person) -> None:
        page = await cora.get(f"{PATH}/contracts/{SAVINGS}/performance")
        shown = table(page, "Cost per member month (savings)")
        assert [row[1:3] for row in shown] == [[money(one.value), money(one.target)] for one in cost.points]
        totals = table(page, "Settlements")
        assert [row[4:6] for row in totals] == [[money(run.total), money(run.posted)] for run, _, _ in settled(gateway)]

    story(gateway, tell, "cleo", "contracts")


def test_sliders_try_terms_by_the_calculation_that_settles(gateway: Gateway) -> None:
    address = f"{PATH}/contracts/{SAVINGS}/what-if"
    changed = {"arrangements.savings.rate": Decimal("0.75"), "arrangements.savings.cap": Decimal("0.2")}
    agreed, tried = what_if(gateway, str(contract(gateway)), {"changed": changed})
    assert tried.settlement.total > agreed.settlement.total > 0
    difference = tried.settlement.total - agreed.settlement.total

    async def tell(cora: Person) -> None:
        page = await cora.get(address)
        terms = [one for _, those in sliders(read_document(contract(gateway))) for one in those]
        for one in terms:
            slider = re.search(rf'<input type="range" id="r-{one.field}"[^>]*>', page)
            assert slider is not None
            assert f'step="{one.step}" value="{one.value}" data-with="n-{one.field}"' in slider[0]
            assert " name=" not in slider[0], "what is sent is the number"
            assert f'<input type="number" id="n-{one.field}" name="{one.path}"' in page
            assert (one.value - one.low) % one.step == 0
            assert (one.high - one.value) % one.step == 0
        everything = {one.path: str(one.value) for one in terms}
        headers = {"HX-Request": "true"}

        async def sent(**fields: str) -> tuple[int, str]:
            form = {"form_token": cora.token, **everything, **fields}
            answer = await cora.http.post(address, data=form, headers=headers)
            return answer.status_code, answer.text

        status, part = await sent(**{name: str(value) for name, value in changed.items()})
        assert status == 200
        assert "<html" not in part
        shown = table(part, "Totals")
        assert [row[:3] for row in shown] == [
            ["as agreed", money(agreed.settlement.total), money(0)],
            ["changed", money(tried.settlement.total), money(difference)],
        ]
        status, part = await sent()  # a slider that was moved back
        assert status == 200
        assert [row[0] for row in table(part, "Totals")] == ["as agreed"]
        status, part = await sent(**{"measures.blood-pressure.weight": "0.9"})
        assert status in (400, 422), part
        assert "weight" in part
        status, part = await sent(**{"arrangements.savings.rate": "much"})
        assert status == 400
        assert "arrangements.savings.rate: a number" in part

    before = gateway.settlements.runs()
    story(gateway, tell, "cleo", "contracts")
    assert gateway.settlements.runs() == before


def test_a_projection_is_kept_and_shown_with_its_band(gateway: Gateway) -> None:
    address = f"{PATH}/contracts/{SAVINGS}/projection"

    async def tell(cora: Person) -> None:
        assert "No projection was made yet" in await cora.get(address)
        for day in ("2025-06-30", "2025-09-30"):
            made = await cora.post(address, as_of=day)
            assert made.headers["location"] == f"{address}?as_of={day}"
        await cora.post(address, 400, as_of="someday")
        page = await cora.get(f"{address}?as_of=2025-06-30")
        found = project(gateway, str(contract(gateway)), date(2025, 6, 30))
        kept, later = (one.projection for one in kept_projections(gateway, SAVINGS))
        assert kept == found
        assert later.through == date(2025, 9, 30)
        assert found.path[-1].cost == found.cost
        assert (found.path[-1].low, found.path[-1].high) == (found.cost_low, found.cost_high)
        assert found.path[5].paid == found.paid
        assert [one.paid is None for one in found.path] == [False] * 6 + [True] * 6
        assert all(one.low <= one.cost <= one.high for one in found.path)
        ends = dict(row for row in table(page, "At the end"))
        assert ends["Cost at the end"] == money(found.cost)
        assert ends["Band of 80 %"] == f"{money(found.cost_low)} to {money(found.cost_high)}"
        assert ends["Settlement"] == money(found.total)
        months = table(page, "Cost from the beginning")
        assert months[-1][2:] == [money(found.cost), money(found.cost_low), money(found.cost_high)]
        assert page.count("data-chart") == 2
        await cora.get(f"{address}?as_of=2025-01-31", 404)

    story(gateway, tell, "cleo", "contracts")


def test_a_dispute_is_answered_and_decided_and_all_of_it_stays(gateway: Gateway) -> None:
    run, _, settlement = settled(gateway)[-1]
    (line,) = settlement.payable()

    async def tell(cora: Person) -> None:
        await cora.get(f"{PATH}/settlements/{run.id}")
        await cora.post(f"{PATH}/settlements/{run.id}/notice")
        about = {"line": line.id, "reason": "quality", "amount": "12.50", "text": "A visit is missing."}
        opened = (await cora.post(f"{PATH}/settlements/{run.id}/disputes", **about)).headers["location"]
        await cora.post(f"{opened}/answers", 400)
        await cora.post(f"{opened}/answers", 422, answer="x" * 4001)
        await cora.post(f"{opened}/answers", answer="Which one?")
        await cora.post(f"{opened}/answers", answer="That of 3 May.")
        assert opened in await cora.get(f"{PATH}/disputes?state=open")
        await cora.post(opened, state="partly-upheld", text="It counts from now on.")
        page = await cora.get(opened)
        assert [row[1:] for row in table(page, "The first first")] == [
            ["cleo", "opened it", "A visit is missing."],
            ["cleo", "answered", "Which one?"],
            ["cleo", "answered", "That of 3 May."],
            ["cleo", "decided: partly-upheld", "It counts from now on."],
        ]
        assert 'name="answer"' not in page
        refused = await cora.post(f"{opened}/answers", 409, answer="Too late.")
        assert "partly-upheld" in refused.text
        assert opened not in await cora.get(f"{PATH}/disputes?state=open")
        assert opened in await cora.get(f"{PATH}/disputes")
        await cora.post(f"{PATH}/disputes/d0000000000000000/answers", 404, answer="To nobody.")

    story(gateway, tell, "cleo", "contracts")


def test_another_contracts_label_sees_neither_settlement_nor_dispute(gateway: Gateway) -> None:
    """Who is limited to the one contract knows nothing of the other."""
    mine = [run.id for run in gateway.settlements.runs() if run.contract != SAVINGS]
    theirs = [run.id for run in gateway.settlements.runs(SAVINGS)]
    disputes = [one.id for one in gateway.settlements.disputes()]

    async def tell(pat: Person) -> None:
        page = await pat.get(f"{PATH}/contracts")
        assert all(run in page for run in mine)
        assert not any(run in page for run in theirs)
        await pat.get(f"{PATH}/contracts/{SAVINGS}", 404)
        for part in ("performance", "projection", "what-if"):
            await pat.get(f"{PATH}/contracts/{SAVINGS}/{part}", 404)
        listed = await pat.get(f"{PATH}/disputes")
        assert disputes
        assert not any(one in listed for one in disputes)
        for one in disputes:
            await pat.get(f"{PATH}/disputes/{one}", 404)

    story(gateway, tell, "pia", "contracts", labels=["contract:demo-pay-for-performance-2025"])
