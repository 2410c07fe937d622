"""Three people at the console: over the demo's population, by HTTP; what each sees, does, and may not."""

from __future__ import annotations

import hashlib
import html
import json
import re
from pathlib import Path

import anyio
import pytest
import sqlalchemy as sa
from rich.console import Console

from fhir_gateway.console.accounts import Accounts
from fhir_gateway.console.frame import HERE, PATH, local_path
from fhir_gateway.db.engine import snapshot
from fhir_gateway.demo.steps import Steps
from fhir_gateway.demo.tour import Options, open_gateway
from fhir_gateway.demo.tour import run as run_tour
from fhir_gateway.factory import Gateway
from fhir_gateway.server.audit import audit_events
from tests.support.console_people import PASSWORD, Person, story


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    options = Options(folder=tmp_path_factory.mktemp("demo"), patients=150)
    made = open_gateway(options)
    run_tour(made, options, Steps(Console(quiet=True)))
    return made


def links(page: str, pattern: str) -> list[str]:
    return [html.unescape(one) for one in re.findall(rf'href="({pattern})"', page)]


def test_nobody_sees_anything_before_signing_in(gateway: Gateway) -> None:
    async def told() -> None:
        person = Person(gateway)
        async with person.http as http:
            for address in ("/", "/contracts", "/operations/audit", "/endpoints/new"):
                answer = await http.get(PATH + address)
                assert answer.status_code == 303
                assert answer.headers["location"].startswith(f"{PATH}/sign-in?next=")
            assert "Password" in await person.get(f"{PATH}/sign-in")
            wrong = await http.post(f"{PATH}/sign-in", data={"name": "x", "password": "y"})
            assert wrong.status_code == 401
            assert "is wrong" in wrong.text
            assert not wrong.cookies
            other = {"origin": "https://elsewhere.example", "sec-fetch-site": "cross-site"}
            assert (await http.post(f"{PATH}/sign-in", data={}, headers=other)).status_code == 403
            assert (await http.post(f"{PATH}/operations/users", data={"name": "me"})).status_code == 303
            part = await http.get(f"{PATH}/contracts", headers={"HX-Request": "true"})
            assert part.headers["hx-redirect"] == f"{PATH}/sign-in"

    anyio.run(told)


@pytest.mark.parametrize(
    "path", ["https://elsewhere.example", "//elsewhere.example", "/fhir", f"{PATH}//x", f"{PATH}/\\x"]
)
def test_a_sign_in_leads_nowhere_else(path: str) -> None:
    assert local_path(path) == f"{PATH}/"
    assert local_path(f"{PATH}/contracts") == f"{PATH}/contracts"


def test_the_it_manager_connects_an_endpoint_and_reads_a_ledger(gateway: Gateway) -> None:
    async def tell(ida: Person) -> None:
        listed = await ida.get(f"{PATH}/endpoints")
        pulled = links(listed, f'{PATH}/pulls/[^"]+')
        assert len(pulled) == 2
        ledger = await ida.get(pulled[0])
        assert "Where every line went" in ledger
        assert "Patient" in ledger
        events = (await ida.http.get(f"{pulled[0]}/events")).text
        assert events.startswith("data: ")
        assert events.endswith("event: end\ndata: over\n\n")

        await ida.get(f"{PATH}/endpoints/new")
        made = await ida.post(f"{PATH}/endpoints", name="clinic", url="https://clinic.example/fhir", vendor="epic")
        page = await ida.get(made.headers["location"])
        key = gateway.endpoints.signing_key("clinic").kid
        assert key in page
        assert "/.well-known/jwks.json" in page
        await ida.post(f"{PATH}/endpoints/clinic", client_id="us")
        assert gateway.endpoints.get("clinic").client_id == "us"
        await ida.post(f"{PATH}/endpoints/clinic/keys", step="prepare", algorithm="RS384")
        (prepared,) = [one.kid for one in gateway.endpoints.keys("clinic") if one.state == "next"]
        await ida.get(f"{PATH}/endpoints/clinic")
        await ida.post(f"{PATH}/endpoints/clinic/keys", step="activate", kid=prepared)
        assert gateway.endpoints.signing_key("clinic").kid == prepared
        again = await ida.post(f"{PATH}/endpoints", 409, name="clinic", url="https://clinic.example/fhir")
        assert "clinic" in again.text
        wrong = await ida.post(f"{PATH}/endpoints", 400, name="Not a name", url="https://clinic.example/fhir")
        assert "Traceback" not in wrong.text
        await ida.get(f"{PATH}/pulls/nowhere", 404)
        jobs = await ida.get(f"{PATH}/operations")
        assert "Jobs" in jobs
        assert "console-page" in await ida.get(f"{PATH}/operations/audit?client=console/ida")
        await ida.get(f"{PATH}/contracts", 403)
        await ida.get(f"{PATH}/quality", 403)

    story(gateway, tell, "ida", "it")


def test_the_quality_manager_finds_a_gap_and_its_reason(gateway: Gateway) -> None:
    async def tell(quinn: Person) -> None:
        measures = await quinn.get(f"{PATH}/quality")
        runs = links(measures, f'{PATH}/quality/m[^"/]+')
        assert len(runs) == 4
        with_gaps = 0
        for run in runs:
            await quinn.get(run)
            gaps = await quinn.get(f"{run}/gaps")
            total = int(re.search(r"<caption>([\d,]+) members", gaps)[1].replace(",", ""))  # type: ignore[index]
            text = (await quinn.http.get(f"{run}/gaps.csv")).text
            assert len(text.splitlines()) == total + 1
            for member in links(gaps, f'{run}/members/[^"]+')[:1]:
                with_gaps += 1
                why = await quinn.get(member)
                assert "What decided" in why
                assert 'class="clause-' in why
        assert with_gaps
        await quinn.get(f"{PATH}/quality/m0000000000000000", 404)
        await quinn.get(f"{PATH}/endpoints", 403)
        await quinn.get(f"{PATH}/operations/users", 403)

    story(gateway, tell, "quinn", "quality")


def test_the_contract_manager_traces_a_dollar_and_disputes_it(gateway: Gateway) -> None:
    async def tell(cora: Person) -> None:
        settlements = links(await cora.get(f"{PATH}/contracts"), f'{PATH}/settlements/[^"/]+')
        assert len(settlements) == 2
        for address in settlements:
            page = await cora.get(address)
            run = gateway.settlements.run(address.rpartition("/")[2])
            assert f"${run.total:,.2f}" in page
            for line in links(page, f'{address}/lines/[^"]+'):
                assert "Where it comes from" in await cora.get(line)
            for form, kind in (("csv", "text/csv"), ("json", "application/json"), ("pdf", "application/pdf")):
                answer = await cora.http.get(f"{address}/statement.{form}")
                assert answer.headers["content-type"].startswith(kind)
                assert len(answer.content) > 500
            again = await cora.post(f"{address}/recompute", 200)
            assert "The same, byte by byte." in again.text

        run_id = settlements[0].rpartition("/")[2]
        page = await cora.get(settlements[0])
        line = links(page, f'{settlements[0]}/lines/[^"]+')[0]
        about = {"line": line.rpartition("/")[2], "reason": "quality", "amount": "12.50", "text": "a visit is missing"}
        assert "after its notice" in (await cora.post(f"{settlements[0]}/disputes", 409, **about)).text
        await cora.post(f"{settlements[0]}/notice")
        assert gateway.settlements.run(run_id).state == "review"
        assert "Open a dispute" in await cora.get(line)
        opened = (await cora.post(f"{settlements[0]}/disputes", **about)).headers["location"]
        assert "a visit is missing" in await cora.get(opened)
        await cora.post(f"{settlements[0]}/final", 409)
        await cora.post(opened, state="rejected", text="it is there, twice")
        assert "it is there, twice" in await cora.get(opened)
        (dispute,) = gateway.settlements.disputes(run=run_id)
        assert (dispute.state, dispute.filed_by, dispute.decided_by) == ("rejected", "cora", "cora")

        contract = gateway.settlements.run(run_id).contract
        assert "Terms" in await cora.get(f"{PATH}/contracts/{contract}")
        form = await cora.get(f"{PATH}/contracts/{contract}/what-if")
        terms = re.findall(r'name="((?:arrangements|measures)\.[^"]+)"[^>]*value="([^"]+)"', form)
        assert terms
        name, value = next((name, value) for name, value in terms if 0 < float(value) < 1)
        compared = await cora.post(f"{PATH}/contracts/{contract}/what-if", 200, **{name: str(float(value) / 2)})
        assert "as agreed" in compared.text
        assert "data-chart" in compared.text
        await cora.post(f"{PATH}/contracts/{contract}/what-if", 400, **dict(terms))  # nothing is changed
        await cora.get(f"{PATH}/contracts/nowhere", 404)

        members = await cora.get(f"{PATH}/population/{contract}")
        evidence = await cora.get(links(members, f'{PATH}/population/{contract}/members/[^"]+')[0])
        assert "Who competed" in evidence
        await cora.get(f"{PATH}/population/{contract}/churn")
        assert "Their list" in await cora.get(f"{PATH}/population/{contract}/roster")
        await cora.get(f"{PATH}/endpoints", 403)

    story(gateway, tell, "cora", "contracts")


def test_a_practice_sees_itself_alone(gateway: Gateway) -> None:
    """A user with a practice's label sees what a FHIR client with it would: nothing of the others."""
    groups = [one.json() for one in gateway.resources.search("Group").resources]
    labels = {
        coding["code"] for group in groups for coding in group["meta"]["security"] if coding["code"].startswith("org")
    }
    assert labels
    label = sorted(labels)[0]

    async def tell(pat: Person) -> None:
        await pat.get(f"{PATH}/endpoints", 403)
        await pat.get(f"{PATH}/operations", 403)
        await pat.get(f"{PATH}/")
        mine = set(Accounts(gateway.engine, gateway.secrets).all()[-1].audience.labels or ())
        members = gateway.resources.seen_by(Accounts(gateway.engine, gateway.secrets).all()[-1].audience).members()
        assert mine == {label}
        assert members is not None
        for contract in links(await pat.get(f"{PATH}/population"), f'{PATH}/population/[^"]+'):
            shown = links(await pat.get(contract), f'{contract}/members/[^"]+')
            assert {one.rpartition("/")[2] for one in shown} <= set(members)
            await pat.get(f"{contract}/churn", 404)
        for run in gateway.settlements.runs():
            answer = await pat.http.get(f"{PATH}/settlements/{run.id}")
            seen = gateway.resources.seen_by(Accounts(gateway.engine, gateway.secrets).all()[-1].audience)
            visible = {one.id for one in seen.read_many([("MeasureReport", run.id)])}
            assert (answer.status_code == 200) == (run.id in visible)
        for run in gateway.results.runs():
            stranger = next(one for one in gateway.lake.members().to_pylist() if one not in members)
            assert (await pat.http.get(f"{PATH}/quality/{run}/members/{stranger}")).status_code == 404
            listed = (await pat.http.get(f"{PATH}/quality/{run}/gaps.csv")).text.splitlines()[1:]
            assert {line.split(",")[1] for line in listed} <= set(members)

    story(gateway, tell, "zoe", "admin", labels=[label])


def test_forms_of_others_change_nothing_and_users_are_the_admins_business(gateway: Gateway) -> None:
    async def tell(ann: Person) -> None:
        await ann.get(f"{PATH}/operations/users")
        new = {"name": "new", "password": PASSWORD, "viewer": "yes", "no_code": "yes"}
        refused = await ann.post(f"{PATH}/operations/users", 403, token="made-up", **new)
        assert "load the page again" in refused.text
        await ann.post(f"{PATH}/operations/users", 403, token="", **new)
        made = await ann.post(f"{PATH}/operations/users", 200, **new)
        assert "new may sign in" in made.text
        await ann.post(f"{PATH}/operations/users", 400, name="other", password="short", viewer="yes")
        await ann.post(f"{PATH}/operations/users/new/disable")
        assert {one.name: one.disabled for one in Accounts(gateway.engine, gateway.secrets).all()}["new"]
        await ann.post(f"{PATH}/operations/users/ann/disable", 403)
        await ann.get(f"{PATH}/operations/clients")
        assert (await ann.http.post(f"{PATH}/operations/users", data={"x": "y" * 300_000})).status_code == 400
        await ann.get(f"{PATH}/nowhere", 404)
        await ann.post(f"{PATH}/sign-out")
        assert (await ann.http.get(f"{PATH}/")).status_code == 303

    story(gateway, tell, "ann", "admin")

    async def tell_it(iris: Person) -> None:
        await iris.get(f"{PATH}/operations/users")
        fields = {"name": "mine", "password": PASSWORD, "viewer": "yes", "no_code": "yes"}
        await iris.get(f"{PATH}/endpoints/new")
        await iris.post(f"{PATH}/operations/users", 403, **fields)

    story(gateway, tell_it, "iris", "it")


def test_every_page_is_in_the_audit_trail_with_whose_data_it_showed(gateway: Gateway) -> None:
    async def tell(vic: Person) -> None:
        run = links(await vic.get(f"{PATH}/quality"), f'{PATH}/quality/m[^"/]+')[0]
        await vic.get(f"{run}/gaps")
        await vic.get(f"{PATH}/contracts/nowhere", 404)

    story(gateway, tell, "vic", "viewer", "it")
    with snapshot(gateway.engine) as connection:
        rows = connection.execute(sa.select(audit_events).where(audit_events.c.client_id == "console/vic")).mappings()
        found = [(row["interaction"], row["status"], row["persons"]) for row in rows]
    assert ("console-sign-in", 303, None) in found
    assert any(kind == "console-page" and status == 200 and persons for kind, status, persons in found)
    assert any(status == 404 for _, status, _ in found)


def test_vendored_files_are_those_of_the_lock() -> None:
    folder = HERE / "static" / "vendor"
    lock = json.loads((folder / "vendor.lock.json").read_text())
    held = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.suffix == ".js"
    }
    assert held == {one["file"]: one["sha256"] for one in lock}
    assert all((folder / one["licence"]).exists() for one in lock)
    assert Path(HERE / "static" / "console.css").exists()
