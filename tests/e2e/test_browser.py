"""Three people at the console, in a browser: an endpoint is connected, a gap explained, a dollar traced and disputed.

``make test-browser`` finds or installs Chromium and runs this; without it the tests are skipped and say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from rich.console import Console

from fhir_gateway.console.accounts import Accounts
from fhir_gateway.console.app import with_console
from fhir_gateway.console.roles import Role
from fhir_gateway.demo.steps import Steps
from fhir_gateway.demo.tour import Options, open_gateway, run
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.durable import Worker
from fhir_gateway.sandbox.server.runner import SandboxServer
from fhir_gateway.server.serve import GatewayServer
from tests.support.browser import PROGRAM, Window, chromium
from tests.support.serving import free_port
from tests.support.waiting import HANG, until

PASSWORD = "a long enough password"
CLIENT = "given-by-the-clinic"

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no browser is named: make test-browser")


@dataclass(frozen=True)
class Served:
    """The demo's population behind a console, jobs being carried out, and an EHR that nobody has connected yet."""

    gateway: Gateway
    base: str
    ehr: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    port = free_port()
    options = Options(tmp_path_factory.mktemp("demo"), patients=500, port=port)
    gateway = open_gateway(options)
    run(gateway, options, Steps(Console(quiet=True)))
    base = f"http://127.0.0.1:{port}"
    keys = {CLIENT: f"{base}/.well-known/jwks.json"}
    with ExitStack() as stack:
        stack.callback(gateway.engine.dispose)
        ehr = stack.enter_context(SandboxServer(options.folder / "population" / "ehr", clients=keys, name="Clinic"))
        stack.enter_context(Worker(gateway, background=True))
        stack.enter_context(GatewayServer(gateway, port=port, application=with_console))
        yield Served(gateway, base, ehr.fhir_url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=HANG * 1000)
    with chromium() as started:
        yield started


Enter = Callable[[str, Role], Window]


@pytest.fixture
def enter(served: Served, browser: Browser) -> Iterator[Enter]:
    """Sign somebody in in a window of their own; in the end no page has done what none may."""
    windows = []

    def entered(name: str, role: Role) -> Window:
        code = role not in ("quality", "viewer")
        secret = Accounts(served.gateway.engine, served.gateway.secrets).add(name, PASSWORD, [role], code=code)
        windows.append(Window(browser, served.base, name))
        windows[-1].sign_in(name, PASSWORD, secret)
        return windows[-1]

    yield entered
    for window in windows:
        window.close()


PAGE = "<!doctype html><html lang=en><title>Made up</title><main><h1>Made up</h1>{}</main>"


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("<p>Nothing is wrong.</p>", None),
        ("<script>console.log('a word')</script>", "log on the console of .*/made-up: a word"),
        ("<script>throw new Error('broken')</script>", "script of .*/made-up: .*broken"),
        ("<img alt=nothing src=/console/nowhere>", "/console/nowhere: 404"),
        ("<p style='color: #999; background: #aaa'>Hardly to be read.</p>", "serious color-contrast"),
        ("<input name=unnamed>", "critical label"),
        (
            "<pre style='width: 500px'>Wider than a phone.</pre>",
            "5.. pixels wide on a phone",
        ),
        ("<a href=/ class=skip>Skip</a><button tabindex=-1>Never reached</button>", "button Never reached"),
        (
            "<a href=/ class=skip>Skip</a><a href=/ style='outline: none'>Where?</a>",
            "no focus is to be seen on: a",
        ),
    ],
)
def test_what_no_page_may_do_is_noticed(served: Served, browser: Browser, body: str, complaint: str | None) -> None:
    """The window itself: of a page made up for it."""
    window = Window(browser, served.base, "made-up")
    window.page.route("**/made-up", lambda route: route.fulfill(body=PAGE.format(body), content_type="text/html"))
    window.page.goto("/made-up")

    def seen() -> None:
        window.look("made-up")
        if "class=skip" in body:
            window.walk()

    if complaint is None:
        seen()
        window.close()
    else:
        with pytest.raises(AssertionError, match=complaint):
            seen()
        window.page.context.close()


def test_nobody_signed_in_sees_a_form_that_works_without_a_mouse(served: Served, browser: Browser) -> None:
    window = Window(browser, served.base, "stranger")
    window.page.goto("/console/contracts")
    expect(window.page).to_have_url(re.compile(r"/console/sign-in\?next=/console/contracts$"))
    window.look("sign-in")
    window.walk()
    window.close()


def test_the_it_manager_connects_an_endpoint_and_sees_the_pull(served: Served, enter: Enter) -> None:
    window = enter("ida", "it")
    page = window.page
    window.look("first-page")
    window.menu("Endpoints")
    window.look("endpoints")
    page.get_by_role("link", name="Add an endpoint").click()
    window.look("new-endpoint")
    window.walk()
    page.get_by_label("FHIR base URL").fill(served.ehr)
    page.get_by_role("button", name="Look").click()
    expect(page.get_by_role("heading", name=served.ehr, level=1)).to_be_visible()
    expect(page.get_by_text("system/*.rs")).to_be_visible()
    window.look("found-endpoint")
    page.get_by_label("Name").fill("clinic")
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_text(f"{served.base}/.well-known/jwks.json")).to_be_visible()
    expect(page.get_by_text(served.gateway.endpoints.signing_key("clinic").kid).first).to_be_visible()
    window.look("to-register")
    page.get_by_label("Client id").fill(CLIENT)
    page.get_by_role("button", name="Save the client id").click()
    page.get_by_role("button", name="Check").click()
    checks = page.get_by_role("table", name="What works")
    expect(checks.get_by_role("row", name="token ok")).to_contain_text(CLIENT)
    expect(checks.get_by_role("row", name="scope ok")).to_be_visible()
    expect(checks.get_by_text("failed")).to_have_count(0)
    window.look("checked-endpoint")
    window.walk()

    page.get_by_label("Resource types").fill("Patient Encounter")
    page.get_by_role("button", name="Pull", exact=True).click()
    expect(page.get_by_role("heading", name="Pull of clinic")).to_be_visible()
    ledger = page.get_by_role("table", name="Where every line went")  # the page follows the job to its end
    expect(ledger.get_by_role("row", name="Patient")).to_be_visible()
    expect(page.locator("[data-follow]")).to_have_count(0)
    window.look("pull")
    window.walk()
    (row,) = served.gateway.pulls.recent(10, "clinic")
    assert (row.state, row.complete) == ("committed", True)
    for entry in row.ledger:
        cells = ledger.get_by_role("row", name=entry["resource_type"]).get_by_role("cell")
        expect(cells.nth(1)).to_have_text(f"{entry['lines_read']:,}")

    with closing(JobBook(served.gateway)) as book:
        until(lambda: book.job(row.id).state == "done")  # a moment after the pull that it carried
    window.menu("Operations")
    expect(page.get_by_role("row", name=row.id)).to_contain_text("done")
    window.look("operations")
    page.get_by_role("link", name="Audit trail").click()
    expect(page.get_by_text("console/ida").first).to_be_visible()
    window.look("audit-trail")


def test_the_quality_manager_finds_a_gap_and_its_reason(served: Served, enter: Enter) -> None:
    window = enter("quinn", "quality")
    page = window.page
    window.menu("Quality")
    window.look("measures")
    page.get_by_role("link", name="Controlling High Blood Pressure").first.click()
    window.look("measure")
    page.get_by_role("link", name="Who has a gap").click()
    page.get_by_label("Status").select_option("open-gap")
    page.get_by_role("button", name="Filter").click()
    window.look("work-list")
    window.walk()
    with page.expect_download() as download:
        page.get_by_role("link", name="As CSV").click()
    listed = Path(download.value.path()).read_text().splitlines()
    shown = page.get_by_role("table").get_by_role("rowheader")
    members = shown.all_inner_texts()
    assert [line.split(",")[1] for line in listed[1:]][: len(members)] == members

    shown.first.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(members[0])
    expect(page.locator(".clause-true").first).to_be_visible()
    expect(page.locator(".clause-false").first).to_be_visible()
    expect(page.get_by_role("heading", name="What decided")).to_be_visible()
    expect(page.locator(".value", has_text="Condition/").first).to_be_visible()  # the evidence, by reference
    window.look("why")
    window.walk()


def test_the_contract_manager_traces_a_dollar_and_opens_a_dispute(served: Served, enter: Enter) -> None:
    window = enter("cora", "contracts")
    page = window.page
    window.menu("Contracts")
    window.look("contracts")
    settlement = max(served.gateway.settlements.runs(), key=lambda one: abs(one.total))
    assert settlement.total
    page.locator(f'a[href$="/settlements/{settlement.id}"]').first.click()
    expect(page.get_by_text(f"Total ${settlement.total:,.2f}")).to_be_visible()
    expect(page.locator("[data-chart] canvas").first).to_be_visible()
    window.look("settlement")
    window.walk()
    page.get_by_role("button", name="Recompute as of then").click()
    expect(page.get_by_text("The same, byte by byte.")).to_be_visible()
    page.get_by_role("button", name="Give notice").click()
    expect(page.get_by_role("button", name="Make final")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Statement as PDF").click()
    assert Path(download.value.path()).read_bytes().startswith(b"%PDF")

    paid = page.locator("table", has=page.get_by_role("columnheader", name="Arrangement")).get_by_role("rowheader")
    line = paid.first.inner_text()
    paid.first.get_by_role("link").click()
    expect(page.get_by_role("heading", name=line, level=1)).to_be_visible()
    expect(page.locator(".trace .trace li").first).to_be_visible()
    window.look("line")

    window.tab_to(page.get_by_label("Reason"))  # the rest without a mouse
    page.keyboard.press("ArrowDown")
    window.tab_to(page.get_by_label("Disputed amount"))
    page.keyboard.type("12.50")
    window.tab_to(page.get_by_label("What is wrong"))
    page.keyboard.type("A visit is missing.")
    window.tab_to(page.get_by_role("button", name="Open the dispute"))
    page.keyboard.press("Enter")
    expect(page.get_by_text("A visit is missing.")).to_be_visible()
    window.look("dispute")
    (dispute,) = served.gateway.settlements.disputes(run=settlement.id)
    assert (dispute.state, str(dispute.amount), dispute.filed_by) == ("open", "12.50", "cora")

    page.goto(f"/console/contracts/{settlement.contract}/what-if")
    window.look("what-if")
    window.walk()
