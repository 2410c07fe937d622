"""Numbers on the pages about quality and population, next to the same ones counted one member at a time.

Nothing here uses what the pages are made of but the kept runs' counts and the kept attribution.
"""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from fhir_gateway.console.frame import PATH
from fhir_gateway.demo.steps import Steps
from fhir_gateway.demo.tour import CONTRACTS, Options, open_gateway
from fhir_gateway.demo.tour import run as run_tour
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.attribution_runs import evidence_runs, newest_evidence
from fhir_gateway.jobs.evaluate import evaluate
from tests.support.console_people import Person, story

SAVINGS, PAY = "demo-shared-savings-2025", "demo-pay-for-performance-2025"
MEASURE, TITLE = "ControllingHighBloodPressure", "Controlling High Blood Pressure"
PRACTICE = "004703642"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    options = Options(folder=tmp_path_factory.mktemp("demo"), patients=700)
    made = open_gateway(options)
    run_tour(made, options, Steps(Console(quiet=True)))
    evaluate(made, (), (options.period[0].replace(year=2024), options.period[1].replace(year=2024)), now=options.as_of)
    earlier = options.folder / "earlier.toml"  # with claims paid by then only, somebody is another's patient
    text = next(one for one in CONTRACTS if "savings" in one.name).read_text(encoding="utf-8")
    earlier.write_text(text.replace("paid_through = 2026-03-31", "paid_through = 2025-12-31"), encoding="utf-8")
    attribute(made, str(earlier), now=options.as_of)
    attribute(made, str(next(one for one in CONTRACTS if "savings" in one.name)), now=options.as_of)
    yield made
    made.engine.dispose()


def run_of(gateway: Gateway, name: str = MEASURE, year: int = 2025) -> str:
    headers = {run: gateway.results.header(run) for run in gateway.results.runs()}
    (found,) = [run for run, one in headers.items() if one.name == name and one.period[0].year == year]
    return found


def counted(gateway: Gateway, run: str) -> dict[str, tuple[int, int]]:
    """Denominator (without exclusions and exceptions) and numerator of each member."""
    result = gateway.results.load(run)
    (group,) = result.groups
    counts = {one.code: one.counts.tolist() for one in group.populations}
    zero = [0] * len(result.members)
    taken = [counts.get(f"denominator-{name}", zero) for name in ("exclusion", "exception")]
    asked = [whole - a - b for whole, a, b in zip(counts["denominator"], *taken, strict=True)]
    met = [a - b for a, b in zip(counts["numerator"], counts.get("numerator-exclusion", zero), strict=True)]
    return dict(zip(result.members.to_pylist(), zip(asked, met, strict=True), strict=True))


def attributed(gateway: Gateway, contract: str) -> dict[str, dict[str, Any]]:
    folder = newest_evidence(gateway, contract)
    assert folder is not None
    return {row["member"]: row for row in pq.read_table(folder / "members.parquet").to_pylist()}


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def cells(page: str, caption: str) -> list[list[str]]:
    """The texts of a table's rows, by the beginning of its caption."""
    (table,) = re.findall(rf"<table>\s*<caption>{caption}.*?</table>", page, re.DOTALL)
    rows = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
    ]
    return [[html.unescape(re.sub("<[^>]+>", "", one)).strip() for one in row] for row in rows]


def wilson(met: int, of: int) -> tuple[float, float]:
    z, rate = 1.959964, met / of
    centre, half = rate + z * z / (2 * of), z * math.sqrt(rate * (1 - rate) / of + z * z / (4 * of * of))
    return (centre - half) / (1 + z * z / of), (centre + half) / (1 + z * z / of)


def tails(met: int, of: int, rate: float) -> tuple[float, float]:
    """Binomial probabilities of at most, and of at least, so many."""
    mass = [math.comb(of, n) * rate**n * (1 - rate) ** (of - n) for n in range(of + 1)]
    return math.fsum(mass[: met + 1]), math.fsum(mass[met:])


def test_a_measure_has_rate_target_benchmark_and_trend(gateway: Gateway) -> None:
    async def tell(quinn: Person) -> None:
        page = await quinn.get(f"{PATH}/quality")
        (row,) = [one for one in cells(page, "Measures, as of") if one[0].startswith(TITLE) and one[1] == "everybody"]
        now, before = (list(counted(gateway, run_of(gateway, year=year)).values()) for year in (2025, 2024))
        rates = [sum(met for _, met in one) / sum(of for of, _ in one) for one in (now, before)]
        assert row[2] == "2025-01-01 to 2025-12-31"
        assert row[3] == f"{rates[0] * 100:.1f} %"
        assert row[4].lstrip("+−") == f"{abs(rates[0] - rates[1]) * 100:.1f} %"
        assert row[4].startswith("+" if rates[0] > rates[1] else "−")
        # contracts: at least 45 %, a benchmark of 75 % (pay for performance), and those of shared savings
        assert f"≥ 45.0 % {'met' if rates[0] >= 0.45 else 'not met'}" in row[6]
        assert "≥ 75.0 %" in row[7]

        measure = await quinn.get(f"{PATH}/quality/{run_of(gateway)}")
        points = cells(measure, "Rate by period")[1:]
        assert [one[0] for one in points] == ["2024-01-01 to 2024-12-31", "2025-01-01 to 2025-12-31"]
        assert [one[3] for one in points] == [f"{one * 100:.1f} %" for one in reversed(rates)]
        (chart,) = re.findall(r'data-chart="([^"]+)"', measure)
        series = orjson.loads(html.unescape(chart))["series"]
        assert series[0]["data"] == pytest.approx(list(reversed(rates)), abs=1e-4)
        assert any(one["name"].startswith("target") and one["data"] == [0.45, 0.45] for one in series)

    story(gateway, tell, "quinn", "quality")


def test_strata_add_up_have_intervals_and_hide_the_few(gateway: Gateway) -> None:
    run = run_of(gateway)
    sexes = {}
    for row in gateway.lake.read("Patient", ["gender"]).select(["_member", "gender"]).to_pylist():
        sexes[row["_member"]] = row["gender"]
    by_sex: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for member, (of, met) in counted(gateway, run).items():
        by_sex[sexes[member]][0] += of
        by_sex[sexes[member]][1] += met

    async def tell(quinn: Person) -> None:
        rows = rows_of((await quinn.http.get(f"{PATH}/quality/{run}/strata.csv")).text)
        assert {one["dimension"] for one in rows} >= {
            "race",
            "ethnicity",
            "sex",
            "age",
            "payer",
            "language",
            "adi-quintile",
        }
        shown = {one["stratum"]: one for one in rows if one["dimension"] == "sex" and not one["hidden"]}
        for sex, (of, met) in by_sex.items():
            one = shown[sex]
            assert (float(one["denominator"]), float(one["numerator"])) == (of, met)
            assert (float(one["low"]), float(one["high"])) == pytest.approx(wilson(met, of), abs=1e-6)
        for one in rows:
            numbers = [float(one[name]) for name in ("denominator", "numerator") if one[name]]
            assert not any(0 < number < 11 for number in numbers), one
            assert not (len(numbers) == 2 and 0 < numbers[0] - numbers[1] < 11), one
            assert one["hidden"] == "yes" or one["denominator"]
        assert any(one["hidden"] for one in rows)
        page = await quinn.get(f"{PATH}/quality/{run}/strata?dimension=sex")
        table = {one[0]: one[1:] for one in cells(page, "By Sex")[1:]}
        for sex, (of, met) in by_sex.items():
            assert table[sex.capitalize()][:3] == [f"{of:,}", f"{met:,}", f"{met / of * 100:.1f} %"]
        assert "data-chart" in page
        every = await quinn.get(f"{PATH}/quality/{run}/strata")
        assert "hidden" in every

    story(gateway, tell, "quinn", "quality")


@pytest.mark.parametrize("by", ["practice", "clinician"])
def test_providers_side_by_side_are_those_of_the_attribution(gateway: Gateway, by: str) -> None:
    run, column = run_of(gateway), "tin" if by == "practice" else "npi"
    whose = attributed(gateway, SAVINGS)
    expected: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for member, (of, met) in counted(gateway, run).items():
        provider = whose[member][column] or "nobody"
        expected[provider][0] += of
        expected[provider][1] += met

    async def tell(quinn: Person) -> None:
        address = f"contract={SAVINGS}&by={by}"
        rows = rows_of((await quinn.http.get(f"{PATH}/quality/{run}/providers.csv?{address}")).text)
        found = {one["provider"]: [float(one["denominator"]), float(one["numerator"])] for one in rows}
        assert found == {name: numbers for name, numbers in expected.items() if numbers[0]}
        page = await quinn.get(f"{PATH}/quality/{run}/providers?{address}")
        known = [numbers for name, numbers in expected.items() if name != "nobody" and numbers[0]]
        centre = sum(met for _, met in known) / sum(of for of, _ in known)
        assert f"<strong>{centre * 100:.1f} %</strong>" in page
        (chart,) = re.findall(r'data-chart="([^"]+)"', page)
        series = orjson.loads(html.unescape(chart))["series"]
        points = sorted(point["value"] for one in series if one["type"] == "scatter" for point in one["data"])
        assert points == [
            [of, pytest.approx(met / of)] for of, met in sorted(known, key=lambda one: (one[0], one[1] / one[0]))
        ]
        for one in rows:
            if one["provider"] != "nobody":
                least, most = tails(int(float(one["numerator"])), int(float(one["denominator"])), centre)
                near, far = (limit >= min(least, most) for limit in (0.025, 0.001))
                words = "99.8 %" if far else "95 %" if near else ""
                assert one["position"] == (f"{'above' if most < least else 'below'} {words}" if words else "inside")
        assert "variation than chance" in page
        assert len(cells(page, "Control limits")) == len(rows) + 1

    story(gateway, tell, "quinn", "quality")


def test_the_work_list_is_filtered_by_status_practice_and_clinician(gateway: Gateway) -> None:
    run = run_of(gateway)
    whose = attributed(gateway, SAVINGS)
    open_ones = {member for member, (of, met) in counted(gateway, run).items() if of and met < of}
    practice = Counter(whose[one]["tin"] for one in open_ones if whose[one]["tin"]).most_common(1)[0][0]
    clinician = Counter(whose[one]["npi"] for one in open_ones if whose[one]["tin"] == practice).most_common(1)[0][0]

    async def tell(quinn: Person) -> None:
        async def listed(query: str) -> set[str]:
            rows = rows_of((await quinn.http.get(f"{PATH}/quality/{run}/gaps.csv?contract={SAVINGS}&{query}")).text)
            page = await quinn.get(f"{PATH}/quality/{run}/gaps?contract={SAVINGS}&{query}")
            assert f"<caption>{len(rows):,} members" in page
            return {one["member"] for one in rows}

        assert await listed("") == open_ones
        assert await listed("status=open-gap") == open_ones
        assert not await listed("status=closed-gap") & open_ones
        of_practice = {one for one in open_ones if whose[one]["tin"] == practice}
        assert await listed(f"tin={practice}") == of_practice
        assert await listed(f"tin={practice}&npi={clinician}") == {
            one for one in of_practice if whose[one]["npi"] == clinician
        }
        await quinn.get(f"{PATH}/quality/{run}/gaps?contract=nowhere", 404)
        last = await quinn.get(f"{PATH}/quality/{run}/gaps?page=1000")
        assert "Page" not in last or "Next" not in last

    story(gateway, tell, "quinn", "quality")


def test_a_member_is_found_by_name_and_shown_whole(gateway: Gateway) -> None:
    run = run_of(gateway)
    whose = attributed(gateway, SAVINGS)
    member = next(one for one, (of, met) in counted(gateway, run).items() if of and met < of and whose[one]["tin"])
    patient = gateway.resources.read("Patient", member).json()
    name = patient["name"][0]

    async def tell(quinn: Person) -> None:
        await quinn.get(f"{PATH}/members")
        sought = {"name": name["family"], "birthdate": patient["birthDate"]}
        found = (await quinn.post(f"{PATH}/members", 200, **sought)).text
        assert f"{PATH}/members/{member}" in found
        await quinn.post(f"{PATH}/members", 400)
        await quinn.post(f"{PATH}/members", 400, birthdate="yesterday")
        page = await quinn.get(f"{PATH}/members/{member}")
        assert name["family"] in page
        assert whose[member]["tin"] in page
        assert f"{PATH}/quality/{run}/members/{member}" in page
        assert "open-gap" in page
        why = await quinn.get(f"{PATH}/quality/{run}/members/{member}")
        assert 'class="clause-false' in why
        evidence = await quinn.get(f"{PATH}/population/{SAVINGS}/members/{member}")
        assert "Who competed" in evidence
        assert whose[member]["tin"] in evidence
        await quinn.get(f"{PATH}/members/nobody", 404)

    story(gateway, tell, "quinn", "quality")


def test_churn_is_what_two_attributions_differ_in(gateway: Gateway) -> None:
    before, now = (
        {
            row["member"]
            for row in pq.read_table(folder / "members.parquet").to_pylist()
            if row["entity"] == "cholla-accountable-care"
        }
        for folder, _ in evidence_runs(gateway, SAVINGS)[-2:]
    )
    assert before != now

    async def tell(quinn: Person) -> None:
        page = await quinn.get(f"{PATH}/population/{SAVINGS}/churn")
        last = cells(page, "Members by run")[-1]
        share = 1 - len(before & now) / len(before)
        assert last[1:] == [f"{len(now):,}", f"{len(now - before):,}", f"{len(before - now):,}", f"{share * 100:.1f} %"]
        (row,) = [
            one for one in cells(await quinn.get(f"{PATH}/population"), "Contracts, and when") if "Shared" in one[0]
        ]
        assert row[2:5] == last[1:4]

    story(gateway, tell, "quinn", "quality")


def test_a_practice_sees_its_own_numbers_and_no_small_ones(gateway: Gateway) -> None:
    run = run_of(gateway)
    whose = attributed(gateway, SAVINGS)
    numbers = counted(gateway, run)
    mine = {one for one, row in whose.items() if row["tin"] == PRACTICE}
    of, met = (sum(numbers[one][place] for one in mine if one in numbers) for place in (0, 1))
    others = {row["tin"] for row in whose.values() if row["tin"]} - {PRACTICE}

    async def tell(pat: Person) -> None:
        page = await pat.get(f"{PATH}/quality")
        (row,) = [one for one in cells(page, "Measures, as of") if one[0].startswith(TITLE)]
        assert row[1] == "own members"
        assert (row[3], row[5]) == (f"{met / of * 100:.1f} %", str(of))
        for address in (
            "",
            "/gaps",
            "/strata",
            "/strata.csv",
            "/providers",
            "/providers?by=clinician",
            "/providers.csv",
        ):
            answer = await pat.http.get(f"{PATH}/quality/{run}{address}")
            assert answer.status_code == 200, address
            assert not any(tin in answer.text for tin in others), address
        rows = rows_of((await pat.http.get(f"{PATH}/quality/{run}/providers.csv?by=clinician")).text)
        own = {row["npi"] for row in whose.values() if row["tin"] == PRACTICE}
        assert {one["provider"] for one in rows} <= own | {"nobody"}
        assert any(one["hidden"] for one in rows)
        for one in rows + rows_of((await pat.http.get(f"{PATH}/quality/{run}/strata.csv")).text):
            shown = [float(one[name]) for name in ("denominator", "numerator") if one[name]]
            assert not any(0 < number < 11 for number in shown), one
            assert not (len(shown) == 2 and 0 < shown[0] - shown[1] < 11), one
        listed = rows_of((await pat.http.get(f"{PATH}/quality/{run}/gaps.csv")).text)
        assert {one["member"] for one in listed} == {
            one for one in mine if one in numbers and numbers[one][0] and numbers[one][1] < numbers[one][0]
        }
        stranger = next(one for one in numbers if one not in mine)
        await pat.get(f"{PATH}/members/{stranger}", 404)
        await pat.get(f"{PATH}/population/{SAVINGS}/members/{stranger}", 404)
        await pat.get(f"{PATH}/population/{PAY}", 404)  # a contract of another practice
        shown_members = set(
            re.findall(rf"{PATH}/population/{SAVINGS}/members/([^\"]+)", await pat.get(f"{PATH}/population/{SAVINGS}"))
        )
        assert shown_members
        assert shown_members <= mine
        trend = cells(await pat.get(f"{PATH}/quality/{run}"), "Rate by period")[1:]
        assert trend[-1][1:] == [str(of), str(met), f"{met / of * 100:.1f} %"]

    story(gateway, tell, "pia", "admin", labels=[f"organization:{PRACTICE}"])
