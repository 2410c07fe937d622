"""Models of a lake's own members as a story: learned and judged, kept, ranking with reasons, retired, gone stale."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from fhir_gateway.cli.app import app
from fhir_gateway.console.accounts import User
from fhir_gateway.console.app import with_console
from fhir_gateway.console.sessions import Sessions
from fhir_gateway.db.audience import Audience
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import prediction_models as job
from fhir_gateway.jobs.outreach import listed, refresh
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.jobs.work_lists import newest_readmission_list, readmission_list, work_list
from tests.support.sick_population import sick_lake

DAY, EARLIER = date(2025, 6, 30), date(2025, 5, 1)
NOW = datetime(2025, 6, 30, 12, tzinfo=UTC)
TARGETS = ("next_cost", "next_acute_cost", "readmission_30")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """A lake of which all models were learned as of a day, and that of readmissions as of an earlier day too."""
    gateway = sick_lake(tmp_path_factory.mktemp("sick"), 1100)
    job.learn(gateway, EARLIER, ["readmission_30"], now=NOW)
    job.learn(gateway, DAY, now=NOW)
    return gateway


@pytest.fixture
def untaught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever learns now fails."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a model is learned though there is one")

    monkeypatch.setattr(job, "train", refuse)


def cards(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """Of each target the card of the version in force."""
    found = {target: job.model_store(gateway).in_force(target, DAY) for target in TARGETS}
    return {target: dict(one.card) for target, one in found.items() if one is not None}


def test_cards_say_what_was_learned_and_for_whom_it_is_wrong(gateway: Gateway) -> None:
    found = cards(gateway)
    assert set(found) == set(TARGETS)
    for card in found.values():
        assert (card["as_of"], card["lake_version"], card["use"]) == (
            "2025-06-30", 1, "outreach and care; never settlement"
        )  # fmt: skip
        assert card["windows"]["judged_learned"][1] < card["windows"]["judged_by"][0]
        assert len(card["tests"]["calibration"]) == 10
        judged = {name.partition(":")[0] for name in card["tests"]["subgroups"]}
        assert judged == {"Age", "Sex", "Race (OMB 1997)", "Ethnicity (OMB 1997)", "Payer", "Dual status"}
        assert not {"race", "ethnicity", "payer", "dual"} & set(card["features"])
    card = found["readmission_30"]
    metrics = card["tests"]["metrics"]
    assert metrics["auc"]["low"] > 0.55  # those who are sick come back: that is there to be learned
    assert metrics["observed_to_expected"]["low"] < 1 < metrics["observed_to_expected"]["high"]
    races = {name.partition(": ")[2]: one for name, one in card["tests"]["subgroups"].items() if "Race" in name}
    # who sent this lake made them come back more often than anything else says, and the model does not know it
    assert races["Black or African American"]["low"] > 1
    assert races["White"]["observed_to_expected"] < 1
    # of the stays that the judging year has, those before it taught
    assert card["tests"]["stays"] < card["learned"]


def test_the_same_lake_and_day_are_the_same_versions(gateway: Gateway) -> None:
    before = [one.id for one in job.model_store(gateway).models()]
    later = datetime(2025, 7, 1, tzinfo=UTC)
    again = job.learn(gateway, DAY, ["readmission_30"], now=later)
    assert [one.id for one in again] == [before[-1]]
    assert sorted(one.id for one in job.model_store(gateway).models()) == sorted(before)
    assert again[0].card["learned_at"] == NOW.isoformat(timespec="seconds")


def assessments(gateway: Gateway, method: str) -> list[dict[str, Any]]:
    found = gateway.resources.ids("RiskAssessment", [("method", method)])
    return [one.json() for one in gateway.resources.read_many(("RiskAssessment", id) for id in found)]


@pytest.mark.usefixtures("untaught")
def test_a_work_list_ranks_by_expected_avoidable_cost_with_reasons(gateway: Gateway) -> None:
    found = work_list(gateway, DAY, now=NOW)
    rows = found.table.to_pylist()
    assert len(rows) == 1100
    costs = [one["expected_avoidable"] for one in rows]
    assert costs == sorted(costs, reverse=True)
    tiers = [one["tier"] for one in rows]
    assert tiers == ["top-5"] * 55 + ["next-15"] * 165 + ["rest"] * 880
    assert found.models["next_acute_cost"].id == cards(gateway)["next_acute_cost"]["id"]
    assert found.warnings() == []
    served = {one["subject"]["reference"].partition("/")[2]: one for one in assessments(gateway, "work-list")}
    assert set(served) == {one["member"] for one in rows[:220]}
    first = served[rows[0]["member"]]
    assert gateway.validator.validate(first).valid
    [prediction] = first["prediction"]
    assert prediction["qualitativeRisk"]["coding"][0]["code"] == "top-5"
    assert prediction["outcome"]["coding"][0]["code"] == "avoidable-cost"
    assert prediction["rationale"] == "; ".join(rows[0]["reasons"])
    assert rows[0]["reasons"]
    assert all(" +" in one for one in rows[0]["reasons"])
    assert rows[500]["reasons"] is None
    [note] = first["note"]
    assert found.models["next_acute_cost"].id in note["text"]
    assert f"{rows[0]['expected_avoidable']:.0f}." in note["text"]
    assert gateway.resources.seen_by(Audience.of(["contract:other"])).ids("RiskAssessment") == []


@pytest.mark.usefixtures("untaught")
def test_the_first_of_the_work_list_are_called(gateway: Gateway) -> None:
    top = {one["member"] for one in work_list(gateway, DAY, now=NOW).table.to_pylist() if one["tier"] == "top-5"}
    assert refresh(gateway, DAY, now=NOW).reasons["rising-risk"] == len(top) == 55
    listed_for_it = {
        row["member"]
        for row in listed(gateway, now=NOW)
        for reason in row["reasons"]
        if reason["reason"] == "rising-risk" and "avoidable cost" in reason["text"]
    }
    assert listed_for_it == top


@pytest.mark.usefixtures("untaught")
def test_who_left_hospital_is_ranked_by_the_chance_to_come_back(gateway: Gateway) -> None:
    found = readmission_list(gateway, DAY, now=NOW)
    rows = found.table.to_pylist()
    assert found.table.equals(newest_readmission_list(gateway))
    assert all(date(2025, 5, 31) <= one["discharged"] <= DAY for one in rows)
    chances = [one["probability"] for one in rows]
    assert chances == sorted(chances, reverse=True)
    assert 0 < min(chances) < np.mean(chances) < max(chances) < 1
    served = {one["id"]: one for one in assessments(gateway, "readmission-30")}
    assert len(served) == found.served == len(rows)
    assert {one["prediction"][0]["probabilityDecimal"] for one in served.values()} == set(chances)
    assert all(gateway.validator.validate(one).valid for one in list(served.values())[:3])
    assert any("points" in one["prediction"][0].get("rationale", "") for one in served.values())
    # nobody who is in hospital again is there to be called
    assert len({one["member"] for one in rows}) == len(rows)
    versions = {one.id: one.version for one in gateway.resources.search("RiskAssessment", []).resources}
    readmission_list(gateway, DAY, now=datetime(2025, 6, 30, 13, tzinfo=UTC))
    assert {one.id: one.version for one in gateway.resources.search("RiskAssessment", []).resources} == versions


def test_a_version_is_judged_by_what_came_after_it(gateway: Gateway) -> None:
    store = job.model_store(gateway)
    [early, late] = store.models("readmission_30")
    found = store.in_force("readmission_30", date(2025, 6, 29))
    assert found is not None
    assert found.id == early.id
    [checked] = job.check(gateway, date(2025, 6, 29), now=NOW)
    assert checked.model.id == early.id
    assert 0 < checked.tests["stays"] < 200  # of May alone
    assert checked.tests["metrics"]["observed_to_expected"]["value"] > 0
    assert set(checked.drift) == set(early.card["features"])
    assert late.id not in [one.model.id for one in job.check(gateway, DAY, now=NOW)]


@pytest.mark.usefixtures("untaught")
def test_drift_is_said_when_those_ranked_are_others(gateway: Gateway) -> None:
    """A year on without claims nobody looks like those who taught."""
    found = work_list(gateway, date(2026, 6, 30), now=NOW)
    assert any(one.startswith("next_cost has drifted in ") and "cost" in one for one in found.warnings())
    about = json.loads((gateway.data_folder / "predictions" / "work-list.json").read_bytes())
    assert about["warnings"] == found.warnings()
    assert about["models"]["next_cost"] == found.models["next_cost"].id
    assert about["drift"]["next_cost"]["cost"] > 0.25


@pytest.fixture
def prompt(gateway: Gateway) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        folder = str(gateway.settings.data_dir)
        result = CliRunner().invoke(app, [*arguments], env={"FHIR_GATEWAY_DATA_DIR": folder})
        assert result.exit_code == 0, result.output
        return result.output

    return run


@pytest.mark.usefixtures("untaught")
def test_at_the_prompt_versions_are_listed_shown_and_retired(
    gateway: Gateway, prompt: Callable[..., str], tmp_path: Path
) -> None:
    rows = json.loads(prompt("--json", "predict", "models"))
    assert [one["target"] for one in rows].count("readmission_30") == 2
    assert {one["retired"] for one in rows} == {None}
    old, new = (one.id for one in job.model_store(gateway).models("readmission_30"))
    text = prompt("predict", "card", new)
    assert "| Race (OMB 1997): Black or African American |" in text
    assert json.loads(prompt("--json", "predict", "card", new))["id"] == new
    assert new in prompt("predict", "readmissions", "--as-of", "2025-06-30")
    prompt("predict", "retire", new, "--why", "wrong for one group")
    [row] = [one for one in json.loads(prompt("--json", "predict", "models")) if one["model"] == new]
    assert row["retired"].endswith(": wrong for one group")
    # new data come, and the version before it scores them: nothing is learned
    file = tmp_path / "more.ndjson"
    file.write_text(json.dumps({"resourceType": "Patient", "id": "later", "birthDate": "1950-01-01"}))
    pull_files(gateway, [file], "payer")
    assert old in prompt("predict", "readmissions", "--as-of", "2025-06-30")
    assert new not in prompt("predict", "readmissions", "--as-of", "2025-06-30")


def test_the_console_shows_lists_and_cards(gateway: Gateway) -> None:
    made, stays = work_list(gateway, DAY, now=NOW), readmission_list(gateway, DAY, now=NOW)
    cookie = Sessions(gateway.engine).start(User("vera", "local", ("viewer",)))

    async def told() -> None:
        transport = httpx.ASGITransport(with_console(gateway))
        async with httpx.AsyncClient(transport=transport, base_url=gateway.settings.public_url) as http:
            http.cookies.set("console", cookie)

            async def page(address: str, status: int = 200) -> str:
                answer = await http.get(f"/console/predictions{address}")
                assert answer.status_code == status
                return answer.text

            overview = await page("")
            for model in job.model_store(gateway).models():
                assert f"/console/predictions/models/{model.id}" in overview
                card = await page(f"/models/{model.id}")
                assert "For whom it does worse" in card
                assert str(model.card["tests"]["metrics"]["observed_to_expected"]["value"]) in card
            ranked = await page("/work-list")
            assert f"{made.table.num_rows:,} rows" in ranked
            shown = re.findall(r'<th scope="row">(p[0-9a-f]{16})</th>', ranked)
            assert shown == made.table["member"].to_pylist()[: len(shown)]
            assert len(shown) == 50
            tier = made.table["tier"][0].as_py()
            rows = made.table["tier"].to_pylist().count(tier)
            assert f"{rows:,} rows" in await page(f"/work-list?tier={tier}")
            assert f"{stays.table.num_rows:,} rows" in await page("/readmissions")
            await page("/models/none", 404)
            await page("/elsewhere", 404)

    anyio.run(told)
