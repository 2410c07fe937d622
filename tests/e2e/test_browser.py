"""Three people at the console, in a browser: an endpoint is connected, a gap explained, a dollar traced and disputed.

``make test-browser`` finds or installs Chromium and runs this; without it the tests are skipped and say so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from playwright.sync_api import Browser, expect
from rich.console import Console
from starlette.routing import Match

from fhir_gateway.alerts.models import Alert
from fhir_gateway.auth.assertion import generate_key, public_key_set
from fhir_gateway.auth.registration import Registration
from fhir_gateway.console.accounts import Accounts
from fhir_gateway.console.app import with_console
from fhir_gateway.console.frame import Frame
from fhir_gateway.console.pages import PAGES
from fhir_gateway.console.roles import Role
from fhir_gateway.demo.steps import Steps
from fhir_gateway.demo.tour import Options, open_gateway, run
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import settlement_runs
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.calculations import calculation_id
from fhir_gateway.jobs.claim_quality import check_and_keep
from fhir_gateway.jobs.contract_versions import kept_document
from fhir_gateway.jobs.durable import Worker
from fhir_gateway.jobs.outreach import refresh
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.jobs.risk import score_members
from fhir_gateway.jobs.risk_gaps import compute_gaps
from fhir_gateway.jobs.utilization import compute, publish
from fhir_gateway.jobs.what_if import what_if
from fhir_gateway.sandbox.server.runner import SandboxServer
from fhir_gateway.server.serve import GatewayServer
from fhir_gateway.sources.endpoint import Endpoint
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


@dataclass(frozen=True)
class Filled:
    """Ids of a run of coding gaps and of a report of utilization."""

    gaps: str
    report: str


@pytest.fixture(scope="module")
def filled(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """What else pages show: scores, gaps, utilization, checks, calls, an alert, a refused line, what is half set up."""
    gateway, now = served.gateway, datetime(2026, 4, 1, tzinfo=UTC)
    score_members(gateway, "CMS-HCC-V28", 2026)
    gaps = compute_gaps(gateway, "V28", 2026, rate=Decimal(12000), now=now)
    for year in (2024, 2025):
        period = (date(year, 1, 1), date(year, 12, 31))
        report = publish(gateway, compute(gateway, period, dimensions=("sex", "age-band")), now).report
    check_and_keep(gateway, now)
    refresh(gateway, date(2025, 12, 31), now=now)
    member = gateway.lake.members()[0].as_py()
    gateway.alerts.post([Alert("admission", "a", "Admitted to hospital", now.isoformat(), member=member)], {})
    file = tmp_path_factory.mktemp("files") / "Patient.ndjson"
    file.write_text('{"resourceType":"Patient","id":"1"}\n{"resourceType":"Patient","id":"2","gender":"none"}\n')
    pull_files(gateway, [file], "files")
    with closing(JobBook(gateway)) as book:
        book.submit("claims", calculation_id("claims"), asked={"now": now.isoformat()})
    gateway.endpoints.add(Endpoint("half-way", "https://half-way.example/fhir"))
    asked = {"client_name": "Dashboard", "scope": "system/*.rs", "jwks": public_key_set(generate_key("ES384", "k"))}
    assert Registration(gateway.authorization.store, "open").register(asked, None).status == 201
    if not gateway.settlements.disputes():
        settled = gateway.settlements.runs()[0].id
        settlement_runs.notify(gateway, settled, now)
        line = next(iter(settlement_runs.settled(gateway, settled)[2].payable()))
        settlement_runs.open_dispute(gateway, settled, line.id, "claims", Decimal(10), "Claims are missing", "us", now)
    return Filled(gaps.run.id, report)


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
    window.walk()
    page.get_by_role("link", name="By who the members are").click()
    expect(page.locator("[data-chart] canvas").first).to_be_visible()
    expect(page.get_by_role("table", name="By Sex").get_by_role("row", name="Female")).to_be_visible()
    window.look("strata")
    page.get_by_label("Dimension").select_option("age")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("table", name="By Age")).to_be_visible()
    window.walk()
    page.go_back()
    page.go_back()
    page.get_by_role("link", name="By provider").click()
    page.get_by_label("By", exact=True).select_option("clinician")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("[data-chart] canvas")).to_be_visible()
    expect(page.get_by_text("variation than chance").first).to_be_visible()
    window.look("funnel")
    window.walk()
    page.go_back()
    page.go_back()
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


def test_the_quality_manager_follows_a_member(served: Served, enter: Enter) -> None:
    window = enter("mona", "quality")
    page = window.page
    window.menu("Population")
    window.look("population")
    page.get_by_role("link", name="Shared savings 2025").click()
    expect(page.get_by_role("table", name="Practices of the contract")).to_be_visible()
    window.look("attribution")
    window.walk()
    page.get_by_role("link", name="Churn and leakage").click()
    expect(page.get_by_role("table", name="Members by run")).to_be_visible()
    window.look("churn")
    page.go_back()
    page.get_by_role("table", name="members").get_by_role("rowheader").first.get_by_role("link").click()
    expect(page.get_by_role("heading", name="Who competed")).to_be_visible()
    window.look("attribution-of-a-member")
    page.get_by_role("link", name="Everything of this member").click()
    name = page.get_by_role("heading", level=1).inner_text()
    window.look("member")
    page.get_by_role("link", name="Find a member").click()
    page.get_by_label("Name").fill(name.split()[-1])
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("link", name=name).first).to_be_visible()
    window.look("found-members")
    assert name.split()[-1] not in page.url
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

    page.get_by_label("Answer").fill("Which visit?")
    page.get_by_role("button", name="Send the answer").click()
    said = page.get_by_role("table", name="The first first")
    expect(said.get_by_role("row")).to_have_count(3)
    page.get_by_label("Why").fill("It counts from now on.")
    page.get_by_role("button", name="Decide").click()
    expect(said.get_by_role("row", name="decided: upheld")).to_be_visible()
    window.look("decided-dispute")
    page.get_by_role("link", name="Disputes", exact=True).click()
    expect(page.get_by_role("row", name=dispute.id)).to_contain_text("upheld")
    window.look("disputes")

    page.goto(f"/console/contracts/{settlement.contract}/performance")
    expect(page.locator("[data-chart] canvas").first).to_be_visible()
    window.look("performance")
    window.walk()

    page.goto(f"/console/contracts/{settlement.contract}/what-if")
    window.look("what-if")
    window.walk()
    page.evaluate("document.body.dataset.mark = 'the same page'")
    slider = page.get_by_role("slider").first
    beside = page.locator(f"#{slider.get_attribute('data-with')}")
    agreed = Decimal(beside.input_value())
    window.tab_to(slider)
    for presses in (1, 2):
        page.keyboard.press("ArrowRight")
        moved = agreed + presses * Decimal(slider.get_attribute("step") or "")
        expect(beside).to_have_value(f"{moved.normalize():f}")
        expect(page.get_by_role("row", name="changed")).to_contain_text(f"{moved.normalize():f}")
    tried = what_if(served.gateway, str(kept_document(served.gateway, settlement.contract, settlement.version)),
                    {"changed": {beside.get_attribute("name") or "": moved}})[1]  # fmt: skip
    expect(page.get_by_role("row", name="changed")).to_contain_text(f"${tried.settlement.total:,.2f}")
    expect(page.locator("#outcome canvas")).to_be_visible()
    assert page.evaluate("document.body.dataset.mark") == "the same page"
    window.look("what-if-changed")

    page.goto(f"/console/contracts/{settlement.contract}/projection")
    page.get_by_label("Claims known as of").select_option("2025-06-30")
    page.get_by_role("button", name="Project").click()
    expect(page.get_by_role("heading", name="As of 2025-06-30")).to_be_visible()
    expect(page.locator("[data-chart] canvas").first).to_be_visible()
    window.look("projection")
    window.walk()


def test_reports_are_pages_that_everybody_can_read(served: Served, enter: Enter) -> None:
    window = enter("rita", "contracts")
    page = window.page
    window.menu("Reports")
    window.look("reports")
    window.walk()
    page.get_by_role("button", name="Quality report as HTML").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Quality report, 2025-01-01")
    assert page.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0 && one.alt)")
    window.look("quality-report")
    page.goto("/console/reports")
    page.get_by_label("Outlook as of").select_option("2025-06-30")
    page.get_by_role("button", name="Board summary as HTML").click()
    expect(page.get_by_role("heading", name="Outlook")).to_be_visible()
    window.look("board-summary")
    page.goto("/console/reports")
    with page.expect_download() as download:
        page.get_by_role("button", name="Board summary as PDF").click()
    assert Path(download.value.path()).read_bytes().startswith(b"%PDF")
    settlement = served.gateway.settlements.runs()[0]
    page.goto(f"/console/settlements/{settlement.id}/statement.html")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Settlement statement")
    window.look("statement")


def test_risk_utilization_claims_and_outreach_are_for_everybody(filled: Filled, enter: Enter) -> None:
    window = enter("olga", "outreach")
    page = window.page
    for part, *below in (
        ("Risk", f"risk/gaps/{filled.gaps}"),
        ("Utilization", f"utilization/{filled.report}?metric=paid-pmpm"),
        ("Claims", "claims/findings", "claims/edits"),
        ("Predictions",),
        ("Alerts",),
    ):
        window.menu(part)
        window.look(part.lower())
        window.walk()
        for address in below:
            page.goto(f"/console/{address}")
            window.look(address.partition("?")[0].replace("/", "-"))
    page.goto(f"/console/risk/gaps/{filled.gaps}")
    page.get_by_role("table").get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Risk of")
    window.look("risk-of-a-member")

    window.menu("Outreach")
    window.look("outreach")
    window.walk()
    page.get_by_role("table", name="items").get_by_role("link").first.click()
    window.look("outreach-item")
    page.get_by_label("State").select_option("contacted")
    page.get_by_label("Note").fill("Comes on Monday")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("row", name="Comes on Monday")).to_contain_text("console:olga")
    window.walk()


def test_the_it_manager_turns_keys_and_sees_what_lies_where(served: Served, enter: Enter) -> None:
    window = enter("igor", "it")
    page = window.page
    window.menu("Operations")
    page.get_by_role("link", name="Keys").click()
    window.look("keys")
    window.walk()
    name = served.gateway.endpoints.published_keys()[0].endpoint
    was = served.gateway.endpoints.signing_key(name).kid
    ours = page.get_by_role("table", name=f"Keys of {name}, the oldest first")
    page.get_by_role("button", name=f"Prepare the next key of {name}").click()
    expect(ours.get_by_role("row", name="next")).to_be_visible()
    window.look("keys-overlap")
    page.get_by_role("button", name=f"Use {name}").click()
    expect(ours.get_by_role("row", name="retired")).to_contain_text(was)
    page.get_by_role("button", name=f"Remove {was}").click()
    expect(ours.get_by_role("row", name=was)).to_have_count(0)
    window.menu("Operations")
    page.get_by_role("link", name="Storage").click()
    expect(page.get_by_role("row", name="ExplanationOfBenefit")).to_be_visible()
    window.look("storage")
    window.walk()

    page.goto("/console/alerts/channels")
    page.get_by_label("By").select_option("mail")
    page.get_by_label("Address").fill("care@example.org")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("row", name="care@example.org")).to_be_visible()
    window.look("channels")
    window.walk()
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("Nobody is told.")).to_be_visible()


#: Pages that nothing leads to in this population, and why.
NOT_THERE = {
    "/predictions/models/{model_id}": "a model is learned from a thousand members",
    "/predictions/{name}": "a list needs a model",
}


#: Addresses of one page that are read for their links: only some pulls have refused lines.
MOST_OF_A_KIND = 4


def test_every_page_is_looked_at(served: Served, filled: Filled, enter: Enter) -> None:
    """An address of each page, found by links from the first one: there is no page that nobody looked at."""
    frame = Frame(served.gateway)
    routes = [one for pages in PAGES for one in pages.router(frame).routes if isinstance(one, APIRoute)]
    wanted = [one for one in routes if "GET" in one.methods and not re.search(r"/events$|\.", one.path)]
    window, visits, waiting = enter("ada", "admin"), Counter[str](), ["/console/"]
    known, wrong = set(waiting), list[str]()
    while waiting:
        address = waiting.pop(0)
        path = address.partition("?")[0].removeprefix("/console") or "/"
        scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
        route = next((one.path for one in wanted if one.matches(scope)[0] is Match.FULL), None)
        if route is None or visits[route] == MOST_OF_A_KIND:
            continue
        visits[route] += 1
        window.page.goto(address)
        if visits[route] == 1:
            try:
                window.look(f"page-{re.sub(r'[^a-z]+', '-', route).strip('-') or 'first'}")
            except AssertionError as complaint:  # all of them are told at once
                wrong.append(str(complaint))
                window.forget()
        links = window.page.eval_on_selector_all("a[href]", "those => those.map((one) => one.getAttribute('href'))")
        follow = [one.partition("#")[0] for one in links if one.startswith("/console/")]
        waiting += [one for one in dict.fromkeys(follow) if one not in known]
        known |= set(follow)
    assert not wrong, "\n".join(wrong)
    assert {one.path for one in wanted} - set(visits) == set(NOT_THERE)
