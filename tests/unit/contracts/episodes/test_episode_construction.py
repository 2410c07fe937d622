"""Triggers, anchors, windows, and which anchors stand: the edge cases of real claims."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from episode_parts import day, definition, found, line, stay

from fhir_gateway.contracts.episodes import ELIGIBILITY_SCHEMA, Initiator, shipped_definition
from fhir_gateway.contracts.episodes.construct import DEATH_SCHEMA

D = Decimal
INPATIENT_ONLY = [{"family": "LEJR", "match": {"claim_type": ["inpatient"], "drg": ["469-470"]}}]


def deaths(member: str, on: str) -> dict[str, Any]:
    return {"deaths": pa.Table.from_pylist([{"member": member, "died": day(on)}], schema=DEATH_SCHEMA)}


def eligible(*spans: tuple[str, str, str]) -> dict[str, Any]:
    rows = [{"member": member, "start": day(start), "end": day(end)} for member, start, end in spans]
    schema = pa.schema([field.with_nullable(True) for field in ELIGIBILITY_SCHEMA])
    return {"eligibility": pa.Table.from_pylist(rows, schema=schema)}


def reasons(rows: list[dict[str, Any]]) -> list[str | None]:
    return [row["reason"] for row in rows]


def test_stay_opens_and_window_ends_days_after_discharge() -> None:
    (one,) = found(stay("a", "c", "03-01", "03-04", 20000, "470"))
    assert (one["family"], one["price_group"], one["anchor"]) == ("LEJR", "470", "c")
    assert (one["window_start"], one["window_end"]) == (day("03-01"), day("04-03"))
    (counted,) = found(stay("a", "c", "03-01", "03-04", 20000, "470"), window={"days": 30, "first_day": "discharge"})
    assert counted["window_end"] == day("04-02")
    (before,) = found(stay("a", "c", "03-01", "03-04", 20000, "470"), window={"days": 90, "lead_days": 3})
    assert (before["window_start"], before["window_end"]) == (day("02-26"), day("06-02"))


def test_procedure_opens_at_its_day_and_has_its_price_group() -> None:
    claim = line("a", "c", "03-01", 9000, claim_type="outpatient", procedure="27447", bill_type="131")
    (one,) = found(claim, line("a", "p", "03-01", 1500, procedure="27447"))
    assert (one["price_group"], one["anchor_start"], one["anchor_end"]) == ("470", day("03-01"), day("03-01"))
    assert one["actual"] == 10500


def test_commercial_trigger_by_procedure_place_and_diagnosis() -> None:
    match = {"procedure": ["29881"], "place_of_service": ["24"], "diagnosis": ["M23*"]}
    rules = [{"family": "arthroscopy", "match": match}]
    claim = {"procedure": "29881", "place_of_service": "24"}
    rows = found(
        line("a", "1", "03-01", 900, diagnosis="M23.205", **claim),
        line("b", "2", "03-01", 900, diagnosis="S83.2", **claim),
        triggers=rules,
    )
    assert [(row["member"], row["price_group"]) for row in rows] == [("a", "29881")]


def test_cancelled_or_reversed_anchor_is_no_episode() -> None:
    # lines that do not count are not there; an adjustment counts beside its version
    assert found(line("a", "p", "03-05", 100)) == []
    (one,) = found(
        stay("a", "c", "03-01", "03-04", 20000, "470"), stay("a", "c", "03-01", "03-04", -20000, "470", eob="c2")
    )
    assert one["reason"] == "unpaid"
    (kept,) = found(
        stay("a", "c", "03-01", "03-04", 20000, "470"), stay("a", "c", "03-01", "03-04", -500, "470", eob="c2")
    )
    assert (kept["reason"], kept["actual"]) == (None, 19500)


@pytest.mark.parametrize(("second", "price"), [("03-04", "469"), ("03-05", "469")])
def test_transfer_is_one_anchor_of_the_last_hospital(second: str, price: str) -> None:
    rows = (
        stay("a", "c1", "03-01", "03-04", 12000, "470"),
        stay("a", "c2", second, "03-09", 9000, "469", organization="Organization/b"),
    )
    (one,) = found(*rows)
    assert (one["price_group"], one["organization"]) == (price, "Organization/b")
    assert (one["anchor_start"], one["anchor_end"]) == (day("03-01"), day("03-09"))
    assert dict(one["costs"]) == {"anchor": 21000}
    (first,) = found(*rows, transfers={"anchor": "first"})
    assert (first["price_group"], first["organization"], first["anchor_end"]) == ("470", "Organization/a", day("03-09"))


def test_transfer_after_more_days_is_a_readmission() -> None:
    rows = found(
        stay("a", "c1", "03-01", "03-04", 12000, "470"),
        stay("a", "c2", "03-07", "03-09", 9000, "871", organization="Organization/b"),
    )
    assert [(row["anchor_end"], row["readmissions"]) for row in rows] == [(day("03-04"), 1)]


def test_same_day_readmission() -> None:
    rows = (stay("a", "c1", "03-01", "03-04", 12000, "470"), stay("a", "c2", "03-04", "03-09", 9000, "871"))
    (one,) = found(*rows)
    assert (one["anchor_end"], one["readmissions"]) == (day("03-09"), 0)
    (apart,) = found(*rows, transfers={"same_day_readmission": "readmission"})
    assert (apart["anchor_end"], apart["readmissions"]) == (day("03-04"), 1)


def test_interim_claims_of_a_stay_are_one() -> None:
    (one,) = found(
        stay("a", "c1", "03-01", "03-15", 12000, "470", bill_type="112"),
        stay("a", "c2", "03-16", "03-20", 4000, "470", bill_type="0114"),
    )
    assert (one["anchor_end"], one["actual"]) == (day("03-20"), 16000)


def test_observation_before_the_stay_is_part_of_the_lead_days() -> None:
    observation = line("a", "o", "02-28", 800, claim_type="outpatient", revenue_code="0762", bill_type="131")
    (one,) = found(stay("a", "c", "03-01", "03-04", 20000, "470"), observation, window={"days": 30, "lead_days": 3})
    assert one["actual"] == 20800
    assert found(observation) == []


def test_procedure_on_a_day_of_the_stay_is_the_same_event() -> None:
    (one,) = found(
        stay("a", "c", "03-01", "03-04", 20000, "470"),
        line("a", "o", "03-01", 9000, claim_type="outpatient", procedure="27447"),
    )
    assert (one["anchor"], one["actual"]) == ("c", 29000)


@pytest.mark.parametrize(
    ("on_death", "died", "reason"),
    [
        ("cancel", "03-20", "died"),
        ("cancel", "05-20", None),
        ("cancel_in_anchor", "03-20", None),
        ("cancel_in_anchor", "03-04", "died"),
        ("keep", "03-03", None),
    ],
)
def test_death(on_death: str, died: str, reason: str | None) -> None:
    (one,) = found(stay("a", "c", "03-01", "03-04", 20000, "470"), sources=deaths("a", died), on_death=on_death)
    assert one["reason"] == reason


def test_eligible_for_anchor_and_window() -> None:
    claim = stay("a", "c", "03-01", "03-04", 20000, "470")
    spans = ("a", "01-01", "03-31"), ("a", "04-01", "12-31")
    (adjacent,) = found(claim, sources=eligible(*spans))
    assert adjacent["reason"] is None
    (switched,) = found(claim, sources=eligible(("a", "01-01", "03-20")))  # another plan from then on
    assert switched["reason"] == "not-eligible"
    (nobody,) = found(claim, sources=eligible(("b", "01-01", "12-31")))
    assert nobody["reason"] == "not-eligible"
    dead = eligible(("a", "01-01", "03-20")) | deaths("a", "03-20")
    (until_death,) = found(claim, sources=dead, on_death="keep")
    assert until_death["reason"] is None


def test_roster_and_other_hospitals() -> None:
    rows = (
        stay("a", "c1", "03-01", "03-04", 20000, "470"),
        stay("b", "c2", "03-01", "03-04", 20000, "470", tin="200000002"),
    )
    assert reasons(found(*rows, sources={"roster": pa.array(["b"])})) == ["not-in-population", None]
    hospital = Initiator(name="mine", tins=("100000001",))
    own, other = found(*rows, initiators=(hospital,))
    assert (own["entity"], own["reason"]) == ("mine", None)
    assert (other["entity"], other["reason"], other["actual"]) == (None, "other-provider", 20000)


def test_episode_that_is_not_over_yet_is_open() -> None:
    claim = stay("a", "c", "03-01", "03-04", 20000, "470")
    assert reasons(found(claim, sources={"through": day("04-02")})) == ["open"]
    assert reasons(found(claim, sources={"through": day("04-03")})) == [None]


def both(**changes: Any) -> list[dict[str, Any]]:
    """Right hip in March, left hip in April."""
    return found(
        stay("a", "c1", "03-01", "03-04", 20000, "470"),
        stay("a", "c2", "04-01", "04-05", 18000, "469"),
        line("a", "p", "04-20", 100),
        tables=None,
        **changes,
    )


def test_trigger_in_an_open_episode_is_a_readmission() -> None:
    first, second = both(services=[{"id": "all", "match": {}}])
    assert (first["reason"], second["reason"], second["first"]) == (None, "readmission", first["episode"])
    assert (first["actual"], first["readmissions"], second["actual"]) == (38000, 1, None)


def test_trigger_in_an_open_episode_cancels() -> None:
    first, second = both(on_retrigger="cancel")
    assert reasons([first, second]) == ["retriggered", None]
    assert (first["actual"], second["actual"]) == (None, 18100)


def test_trigger_in_an_open_episode_replaces_the_anchor() -> None:
    first, second = both(on_retrigger="replace", services=[{"id": "all", "match": {}}])
    assert reasons([first, second]) == ["replaced", None]
    assert (second["window_start"], second["window_end"], second["price_group"]) == (day("03-01"), day("05-05"), "469")
    assert (second["actual"], second["first"]) == (38100, first["episode"])


def test_a_chain_of_triggers_opens_the_next_after_the_window() -> None:
    starts = ["01-05", "01-20", "02-10", "02-25", "03-20"]
    rows = [stay("a", f"c{n}", start, start, 100, "470") for n, start in enumerate(starts)]
    kept = found(*rows, services=[{"id": "all", "match": {}}])
    # windows: to 4 Feb, from 10 Feb to 12 March, from 20 March
    assert reasons(kept) == [None, "readmission", None, "readmission", None]
    assert [row["first"] - kept[0]["episode"] for row in kept] == [0, 0, 2, 2, 4]
    assert reasons(found(*rows, on_retrigger="cancel")) == [
        "retriggered",
        "retriggered",
        "retriggered",
        "retriggered",
        None,
    ]


def test_one_that_cannot_stand_does_not_stop_another() -> None:
    rows = found(stay("a", "c1", "03-01", "03-04", 0, "470"), stay("a", "c2", "03-20", "03-22", 20000, "470"))
    assert reasons(rows) == ["unpaid", None]


@pytest.mark.parametrize(("period_day", "there"), [("anchor_start", False), ("anchor_end", True), ("window_end", True)])
def test_episode_over_the_new_year_belongs_to_the_year_of_a_day(period_day: str, there: bool) -> None:
    rows = found(stay("a", "c", "2025-12-29", "2026-01-02", 20000, "470"), period_day=period_day)
    assert bool(rows) is there
    late = found(
        stay("a", "c", "12-20", "12-24", 20000, "470"), line("a", "p", "2027-01-10", 50), period_day=period_day
    )
    assert bool(late) is (period_day != "window_end")
    assert [row["actual"] for row in late] == ([20050] if late else [])


def test_price_group_that_has_another_name_by_now() -> None:
    remap = [
        {"group": "470", "becomes": "522", "before": date(2026, 3, 1), "match": {"diagnosis": ["S72*"]}},
    ]
    rows = found(
        stay("a", "c1", "02-01", "02-04", 20000, "470", diagnosis="S72.001A"),
        stay("b", "c2", "02-01", "02-04", 20000, "470", diagnosis="M16.11"),
        stay("c", "c3", "03-01", "03-04", 20000, "470", diagnosis="S72.001A"),
        remap=remap,
    )
    assert [row["price_group"] for row in rows] == ["522", "470", "470"]


def test_allowed_or_paid() -> None:
    claim = stay("a", "c", "03-01", "03-04", 20000, "470", allowed=D(21000))
    assert found(claim)[0]["actual"] == 20000  # coinsurance left out
    assert found(claim, amount="allowed")[0]["actual"] == 21000
    assert found(claim | {"denied": True}, amount="allowed") == []


def test_definitions_of_programmes_have_no_problems() -> None:
    team = shipped_definition("team")
    assert team.problems("x") == []
    assert (team.window.days, len(team.families)) == (30, 5)
    assert shipped_definition("cjr").problems("x") == []
    assert shipped_definition("bpci_advanced").problems("x") == []


def test_contradictions_are_named() -> None:
    match = {"drg": ["482-480", "1-22"], "mdc": ["99"]}
    wrong = definition(
        triggers=[{"family": "x", "match": match}],
        window={"days": 0, "first_day": "discharge"},
        services=[{"id": "anchor", "match": {}}, {"id": "a", "match": {}}, {"id": "a", "match": {}}],
        milestones=[{"id": "m", "match": {}, "first": 9, "last": 3, "share": D("0.6")}] * 2,
    ).problems("e")
    assert wrong == [
        "e.window.days: day 1 is the day of discharge, so there is at least one",
        "e.triggers.0.match.drg: '482-480' is no range from a lower to a higher code of the same length",
        "e.triggers.0.match.drg: '1-22' is no range from a lower to a higher code of the same length",
        "e.triggers.0.match.mdc: there is no category '99'",
        "e.services: two are 'a'",
        "e.milestones: two are 'm'",
        "e.services: 'anchor' are the anchor's own claims",
        "e.milestones.m.last: before its first day",
        "e.milestones.m.last: before its first day",
        "e.milestones: their shares sum to 1.2, above 1",
    ]
