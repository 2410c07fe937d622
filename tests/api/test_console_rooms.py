"""Risk, utilization, claims, outreach, alerts, keys, storage: pages say what was kept, and to whom it may be said."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
import sqlalchemy as sa
from rich.console import Console
from test_console import Person, links, story
from test_console_money import SAVINGS, SHIPPED, table

from fhir_gateway.alerts.models import Alert
from fhir_gateway.claim_edits.rates import clean_rates, edit_rates
from fhir_gateway.config import Threshold
from fhir_gateway.console.frame import PATH, money, number, size
from fhir_gateway.console.roles import ROLES, Role
from fhir_gateway.console.tables_of import ROWS
from fhir_gateway.db.audience import Audience
from fhir_gateway.demo.tour import Options, Steps, open_gateway
from fhir_gateway.demo.tour import run as run_tour
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import outreach
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.claim_checks import check_lake
from fhir_gateway.jobs.claim_quality import check_and_keep
from fhir_gateway.jobs.risk import RiskReport, score_members
from fhir_gateway.jobs.risk_gaps import GapReport, compute_gaps
from fhir_gateway.jobs.utilization import UtilizationReport, compute, publish
from fhir_gateway.server.audit import audit_events

NOW = datetime(2026, 4, 1, tzinfo=UTC)
LABEL = f"contract:{SAVINGS}"


class Filled:
    """The demo with everything computed that the pages show."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.risk: RiskReport = score_members(gateway, "CMS-HCC-V28", 2026)
        self.gaps: GapReport = compute_gaps(gateway, "V28", 2026, rate=Decimal(12000), now=NOW)
        self.utilization: dict[tuple[int, str | None], UtilizationReport] = {}
        for year in (2024, 2025):
            for whose in (None, str(SHIPPED)):
                period = (date(year, 1, 1), date(year, 12, 31))
                found = compute(gateway, period, contract=whose, dimensions=("sex", "age-band"))
                self.utilization[year, whose and SAVINGS] = publish(gateway, found, NOW)
        check_and_keep(gateway, NOW)
        outreach.refresh(gateway, date(2025, 12, 31), now=NOW)
        self.members: set[str] = set(gateway.resources.seen_by(Audience.of([LABEL])).members() or ())
        assert self.members
        self.strangers = sorted(set(gateway.lake.members().to_pylist()) - self.members)
        some = sorted(self.members)[0], self.strangers[0]
        alerts = [Alert("admission", one, f"Admitted {n}", NOW.isoformat(), member=one) for n, one in enumerate(some)]
        alerts.append(Alert("threshold", "t", "The rate is below", NOW.isoformat(), contract=SAVINGS))
        alerts.append(Alert("endpoint-failed", "e", "A pull failed", NOW.isoformat()))
        gateway.alerts.post(alerts, {})


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    options = Options(folder=tmp_path_factory.mktemp("demo"), patients=200)
    made = open_gateway(options)
    run_tour(made, options, Steps(Console(quiet=True)))
    made.engine.dispose()
    watched = Threshold(contract=SAVINGS, line="savings.rate", value=Decimal("0.02"))
    gateway = Gateway(made.settings.model_copy(update={"alert_thresholds": (watched,)}))
    yield Filled(gateway)
    gateway.engine.dispose()


@pytest.mark.parametrize("role", list(ROLES))
def test_each_role_has_the_doors_of_its_permissions(filled: Filled, role: Role) -> None:
    doors = {
        "see-population": ("risk", "utilization", "claims", "predictions", "outreach", "alerts"),
        "see-contracts": ("contracts", "disputes"),
        "see-operations": ("operations", "operations/keys", "operations/storage", "alerts/channels"),
    }

    async def tell(person: Person) -> None:
        for permission, addresses in doors.items():
            for address in addresses:
                await person.get(f"{PATH}/{address}", 200 if permission in ROLES[role] else 403)

    story(filled.gateway, tell, f"role-{role}", role)


def test_risk_scores_and_gaps_are_those_of_the_runs(filled: Filled) -> None:
    gaps = filled.gaps.run.table("gaps").to_pylist()
    still_open = [one for one in gaps if one["evidence_status"] == "open-gap"]

    async def tell(quinn: Person) -> None:
        page = await quinn.get(f"{PATH}/risk")
        (row,) = table(page, "The newest of each model")
        assert row[:3] == ["CMS-HCC-V28", "2026", number(filled.risk.scored)]
        assert filled.risk.mean is not None
        assert abs(float(row[3]) - filled.risk.mean) <= 0.0005
        assert money(filled.gaps.value) in page
        kinds = {(row[0], row[1]): int(row[2].replace(",", "")) for row in table(page, "Gaps by kind")}
        assert kinds == dict(filled.gaps.counts)
        listed = await quinn.get(f"{PATH}/risk/gaps/{filled.gaps.run.id}")
        assert f"{len(still_open):,} gaps" in listed
        shown = table(listed, f"{len(still_open):,} gaps")
        values = sorted((one["value"] for one in still_open if one["value"] is not None), reverse=True)
        assert [row[9] for row in shown][: len(values)] == [money(one) for one in values][:ROWS]
        first = links(listed, f'{PATH}/risk/members/[^"]+')[0]
        one = await quinn.get(first)
        mine = [gap for gap in gaps if gap["member"] == first.rpartition("/")[2]]
        assert {row[0] for row in table(one, "As of")} == {f"{gap['cc']}: {gap['label']}" for gap in mine}
        parts = table(one, "What the score is the sum of")
        score = re.search(r"<dt>Raw</dt><dd>([\d.]+)", one)
        assert score is not None
        assert sum(Decimal(row[3]) for row in parts) == Decimal(score[1])
        await quinn.get(f"{PATH}/risk/members/p0000000000000000", 404)
        await quinn.get(f"{PATH}/risk/gaps/none", 404)

    story(filled.gateway, tell, "quinn", "quality")

    async def tell_limited(pat: Person) -> None:
        page = await pat.get(f"{PATH}/risk/gaps/{filled.gaps.run.id}?status=")
        shown = {one.rpartition("/")[2] for one in links(page, f'{PATH}/risk/members/[^"]+')}
        theirs = [gap for gap in gaps if gap["member"] in filled.members]
        assert f"{len(theirs):,} gaps" in page
        assert shown <= filled.members
        await pat.get(f"{PATH}/risk/members/{filled.strangers[0]}", 404)
        (row,) = table(await pat.get(f"{PATH}/risk"), "The newest of each model")
        scores = [one for one in filled.risk.run.table("scores").to_pylist() if one["member"] in filled.members]
        assert row[2] == number(sum(one["score"] is not None for one in scores))

    story(filled.gateway, tell_limited, "pat", "quality", labels=[LABEL])


def test_utilization_is_what_was_reported_with_its_course(filled: Filled) -> None:
    ours, mine = filled.utilization[2025, None], filled.utilization[2025, SAVINGS]
    before = filled.utilization[2024, None]

    def paid(found: UtilizationReport) -> str:
        score = found.utilization.score("paid-pmpm")
        assert score is not None
        return money(round(score, 2))

    async def tell(quinn: Person) -> None:
        page = await quinn.get(f"{PATH}/utilization")
        rows = {row[0]: row for row in table(page, "The newest report")}
        assert rows["everybody"][3] == paid(ours)
        assert rows[SAVINGS][3] == paid(mine)
        report = await quinn.get(f"{PATH}/utilization/{ours.report}?metric=paid-pmpm")
        assert [row[1] for row in table(report, "Paid per member per month by period")] == [paid(before), paid(ours)]
        by_sex = {row[0]: row[3] for row in table(report, "Paid per member per month by sex")}
        expected = {}
        for sex in by_sex:
            score = ours.utilization.score("paid-pmpm", "sex", sex)
            expected[sex] = money(None if score is None else round(score, 2))
        assert len(expected) > 1
        assert by_sex == expected
        every = await quinn.get(f"{PATH}/utilization/{ours.report}?metric=members")
        rows = {row[0]: row for row in table(every, "This period")}
        assert rows["Members"][1] == number(int(ours.utilization.row("members")["numerator"]))
        await quinn.get(f"{PATH}/utilization/none", 404)

    story(filled.gateway, tell, "quinn", "quality")

    async def tell_limited(pat: Person) -> None:
        assert [row[0] for row in table(await pat.get(f"{PATH}/utilization"), "The newest report")] == [SAVINGS]
        await pat.get(f"{PATH}/utilization/{ours.report}", 404)
        await pat.get(f"{PATH}/utilization/{mine.report}")

    story(filled.gateway, tell_limited, "pat", "quality", labels=[LABEL])


def test_claims_are_as_clean_as_the_check_says(filled: Filled) -> None:
    checked = check_lake(filled.gateway)
    (overall,) = clean_rates(checked)

    async def tell(ida: Person) -> None:
        page = await ida.get(f"{PATH}/claims")
        assert f"<dt>Claims</dt><dd>{overall['claims']:,}</dd><dt>Clean</dt><dd>{overall['clean']:,} (" in page
        shown = [(row[0], row[3], row[4]) for row in table(page, "Edits with findings")]
        assert shown == [(one["edit"], number(one["claims"]), number(one["findings"])) for one in edit_rates(checked)]
        edit = edit_rates(checked)[0]
        assert f"{edit['findings']:,} findings" in await ida.get(f"{PATH}/claims/findings?edit={edit['edit']}")
        assert "88 edits" in await ida.get(f"{PATH}/claims/edits")

    story(filled.gateway, tell, "ira", "admin")

    async def tell_limited(pat: Person) -> None:
        page = await pat.get(f"{PATH}/claims")
        mine = checked.claims.filter([one in filled.members for one in checked.claims["member"].to_pylist()])
        assert f"<dt>Claims</dt><dd>{mine.num_rows:,}</dd>" in page
        assert "Denials" not in page  # which are summed up of everybody
        assert "Check all claims" not in page
        keys = {row[0] for row in table(await pat.get(f"{PATH}/claims/findings"), "")}
        assert keys <= set(mine["key"].to_pylist())
        await pat.post(f"{PATH}/claims/check", 403)

    story(filled.gateway, tell_limited, "pat", "admin", labels=[LABEL])


def test_a_check_of_all_claims_is_a_job(filled: Filled) -> None:
    async def tell(ida: Person) -> None:
        await ida.get(f"{PATH}/claims")
        asked = (await ida.post(f"{PATH}/claims/check")).headers["location"]
        assert "claims" in await ida.get(asked)
        assert asked in await ida.get(f"{PATH}/operations?state=waiting")
        assert asked not in await ida.get(f"{PATH}/operations?state=failed")

    story(filled.gateway, tell, "ira", "admin")
    book = JobBook(filled.gateway)
    waiting = book.jobs(["waiting"])
    assert "claims" in {one.kind for one in waiting}
    assert book.jobs(["waiting"], skip=len(waiting)) == []
    book.close()


def test_who_calls_people_says_what_became_of_it(filled: Filled) -> None:
    store = filled.gateway.outreach
    left, total = store.page(["open"], ROWS)
    assert total == sum(count for (_, state), count in store.counts().items() if state == "open") > ROWS

    async def tell(olga: Person) -> None:
        page = await olga.get(f"{PATH}/outreach")
        assert f"{total:,} items" in page
        shown = links(page, f'{PATH}/outreach/[^"]+')
        assert [one.rpartition("/")[2] for one in shown] == [one["id"] for one in left]
        second = links(await olga.get(f"{PATH}/outreach?page=2"), f'{PATH}/outreach/[^"]+')
        assert not set(shown) & set(second)
        item = await olga.get(shown[0])
        assert "How to reach them" in item
        await olga.post(shown[0], 409, state="done")
        await olga.post(shown[0], 400, state="elsewhere")
        await olga.post(shown[0], state="contacted", note="Will come on Monday")
        assert "Will come on Monday" in await olga.get(shown[0])
        (event,) = [one for one in store.history(left[0]["id"]) if one.state == "contacted"]
        assert (event.by, event.note) == ("console:olga", "Will come on Monday")
        store.block([left[1]["member"]], "test", NOW)
        barred = await olga.get(shown[1])
        assert "They may not be called: do-not-contact" in barred
        assert "<dt>Telephone</dt>" not in barred
        await olga.get(f"{PATH}/outreach/nobody", 404)

    story(filled.gateway, tell, "olga", "outreach")

    async def tell_limited(pat: Person) -> None:
        theirs = [one for one in store.items().to_pylist() if one["member"] in filled.members]
        assert f"{len(theirs):,} items" in await pat.get(f"{PATH}/outreach")
        other = next(one for one in store.items().to_pylist() if one["member"] not in filled.members)
        await pat.get(f"{PATH}/outreach/{other['id']}", 404)
        await pat.get(f"{PATH}/outreach/{theirs[0]['id']}")
        await pat.post(f"{PATH}/outreach/{theirs[0]['id']}", 403, state="contacted")

    story(filled.gateway, tell_limited, "pat", "outreach", "admin", labels=[LABEL])


def test_alerts_channels_and_who_hears_of_whom(filled: Filled) -> None:
    hook = "https://hooks.example.org/a-secret-path"

    async def tell(ida: Person) -> None:
        page = await ida.get(f"{PATH}/alerts")
        assert "4 alerts" in page
        assert "savings.rate" in page
        assert "1 alerts" in await ida.get(f"{PATH}/alerts?kind=threshold")
        for address in links(page, f"{PATH}/alerts/[0-9a-f]+"):
            await ida.get(address)
        await ida.get(f"{PATH}/alerts/channels")
        fields = {"medium": "webhook", "target": hook, "kind-admission": "yes", "contract": SAVINGS}
        made = await ida.post(f"{PATH}/alerts/channels", 200, **fields)
        secret = html.unescape(re.search(r"<pre>([^<]+)</pre>", made.text)[1])  # type: ignore[index]
        (channel,) = filled.gateway.alerts.channels()
        assert filled.gateway.alerts.secret(channel.id) == secret.encode()
        assert (channel.kinds, channel.contract, channel.target) == (("admission",), SAVINGS, hook)
        listed = await ida.get(f"{PATH}/alerts/channels")
        assert secret not in listed
        assert "a-secret-path" not in listed
        assert "https://hooks.example.org/" in listed
        assert "address such as" in (await ida.post(f"{PATH}/alerts/channels", 400, medium="mail", target="x y")).text
        await ida.post(f"{PATH}/alerts/channels", 400, medium="webhook", target="gopher://x")
        await ida.post(f"{PATH}/alerts/channels", 404, medium="mail", target="a@example.org", contract="none")
        await ida.post(f"{PATH}/alerts/channels", medium="mail", target="care@example.org")
        for one in filled.gateway.alerts.channels():
            await ida.post(f"{PATH}/alerts/channels/{one.id}/remove")
        assert filled.gateway.alerts.channels() == []

    story(filled.gateway, tell, "ira", "admin")

    async def tell_limited(pat: Person) -> None:
        page = await pat.get(f"{PATH}/alerts")
        assert "2 alerts" in page  # their member's, and their contract's
        assert "A pull failed" not in page
        assert filled.strangers[0] not in page
        for identity, alert in filled.gateway.alerts.page(10)[0]:
            seen = alert.member in filled.members or alert.contract == SAVINGS
            await pat.get(f"{PATH}/alerts/{identity}", 200 if seen else 404)
        await pat.get(f"{PATH}/alerts/channels", 403)

    story(filled.gateway, tell_limited, "pat", "admin", labels=[LABEL])


def test_keys_are_rotated_from_one_page(filled: Filled) -> None:
    endpoints = filled.gateway.endpoints
    name = endpoints.published_keys()[0].endpoint
    was = endpoints.signing_key(name).kid
    address = f"{PATH}/operations/keys/{name}"

    async def tell(ida: Person) -> None:
        page = await ida.get(f"{PATH}/operations/keys")
        assert was in page
        assert "A rotation begins with preparing the next" in page
        assert "PRIVATE" not in page
        await ida.post(address, 400, step="prepare", algorithm="none")
        await ida.post(address, 400, step="forget")
        await ida.post(address, step="prepare", algorithm="RS384")
        (following,) = [one for one in endpoints.published_keys() if one.state == "next"]
        assert following.algorithm == "RS384"
        assert {key["kid"] for key in endpoints.public_jwks(name)["keys"]} == {was, following.kid}  # they overlap
        assert endpoints.signing_key(name).kid == was
        page = await ida.get(f"{PATH}/operations/keys")
        assert "published beside the one that signs" in page
        await ida.post(address, step="activate", kid=following.kid)
        assert endpoints.signing_key(name).kid == following.kid
        assert "The old one stays published" in await ida.get(f"{PATH}/operations/keys")
        await ida.post(address, 409, step="remove", kid=following.kid)
        await ida.post(address, step="remove", kid=was)
        assert [one.kid for one in endpoints.published_keys() if one.endpoint == name] == [following.kid]
        await ida.post(f"{PATH}/operations/keys/nobody", 404, step="prepare")

    story(filled.gateway, tell, "ida", "it")


def test_storage_is_what_lies_there(filled: Filled) -> None:
    lake = filled.gateway.lake
    files = {
        one.resource_type: list((filled.gateway.data_folder / "lake" / one.resource_type).rglob("*.parquet"))
        for one in lake.stored()
    }

    async def tell(ida: Person) -> None:
        page = await ida.get(f"{PATH}/operations/storage")
        rows = {row[0]: row for row in table(page, "As of the newest version")}
        assert set(rows) == {*lake.types(), "All"}
        for name, those in files.items():
            assert rows[name][1] == number(sum(one.rows for one in lake.stored() if one.resource_type == name))
            assert rows[name][2] == size(sum(one.stat().st_size for one in those))
            assert rows[name][3] == number(len(those))
        versions = table(page, f"{lake.version:,} versions")
        assert [row[0] for row in versions] == [str(one) for one in range(lake.version, 0, -1)]
        assert [row[5] for row in versions] == [
            number(sum(entry.lines_read for entry in one.ledger.entries)) for one in reversed(lake.versions())
        ]
        assert "free (" in page
        assert {rows[name][7] for name in files} == {"compact"}
        asked = [
            (await ida.post(f"{PATH}/operations/storage/{kind}")).headers["location"] for kind in ("compact", "retain")
        ]
        await ida.post(f"{PATH}/operations/storage/burn", 404)
        listed = await ida.get(f"{PATH}/operations?state=waiting")
        assert all(address in listed for address in asked)

    story(filled.gateway, tell, "ida", "it")


def test_the_audit_trail_leads_to_what_is_older(filled: Filled) -> None:
    row = {"recorded": NOW, "request_id": "r", "client_id": "many", "interaction": "read", "parameters": ""}
    with filled.gateway.engine.begin() as connection:
        connection.execute(
            sa.insert(audit_events), [{**row, "status": 200, "resource_id": f"n{n:03d}"} for n in range(230)]
        )

    async def tell(ida: Person) -> None:
        address, seen = f"{PATH}/operations/audit?client=many", []
        while address:
            page = await ida.get(address)
            seen += re.findall(r"<td>(n\d{3})</td>", page)
            older = links(page, r"\?[^\"]*before=\d+")
            address = f"{PATH}/operations/audit{older[0]}" if older else ""
        assert seen == [f"n{n:03d}" for n in reversed(range(230))]

    story(filled.gateway, tell, "ida", "it")
