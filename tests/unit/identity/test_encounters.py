"""Copies of one visit or stay count once; what merely looks alike counts for itself."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.identity.encounters import ELEMENTS, same_events
from fhir_gateway.r4.spec import arrow_type, column_structure

LAYOUT = column_structure("Encounter")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("_source", "id", "_member")]
    + [(name, arrow_type(LAYOUT[name])) for name in ELEMENTS]
)
DIRECTORY = pa.table(
    {
        "source": ["ehr", "ehr", "payer", "payer"],
        "reference": ["Organization/1", "Organization/2", "Organization/x", "Organization/y"],
        "npi": ["1000000001", "1000000002", "1000000001", None],
        "tin": pa.array([None, None, None, None], pa.string()),
    }
)


def encounter(
    source: str, name: str, start: str | None, end: str | None = None, kind: str = "AMB", **more: Any
) -> dict[str, Any]:
    at = {"reference": f"Organization/{more['at']}"} if "at" in more else None
    return {
        "_source": source,
        "id": name,
        "_member": more.get("member", "p1"),
        "status": more.get("status", "finished"),
        "class": {"code": kind},
        "period": {"start": start, "end": end or start},
        "serviceProvider": at,
    }


def groups(*rows: dict[str, Any], precedence: tuple[str, ...] = ()) -> tuple[list[list[str]], list[str]]:
    found = same_events(pa.Table.from_pylist(list(rows), schema=SCHEMA), DIRECTORY, precedence).to_pylist()
    events: dict[int, list[str]] = {}
    for row in found:
        events.setdefault(row["event"], []).append(row["id"])
        assert row["copies"] == sum(other["event"] == row["event"] for other in found)
    return [events[event] for event in sorted(events)], [row["id"] for row in found if row["stands"]]


DAY = "2025-03-01T08:00:00Z"


def test_a_clinical_and_a_claims_copy_are_one_event() -> None:
    visit, claim = encounter("ehr", "e", DAY, at="1"), encounter("payer", "c", "2025-03-01", at="x")
    assert groups(visit, claim) == ([["e", "c"]], ["e"])
    assert groups(visit, claim, precedence=("payer", "ehr")) == ([["e", "c"]], ["c"])
    assert groups() == ([], [])


@pytest.mark.parametrize(
    "other",
    [
        encounter("ehr", "c", DAY),  # a source does not copy itself
        encounter("payer", "c", "2025-03-02"),
        encounter("payer", "c", DAY, kind="EMER"),
        encounter("payer", "c", DAY, member="p2"),
        encounter("payer", "c", DAY, status="cancelled"),
        encounter("payer", "c", "2025-03"),
        encounter("payer", "c", None),
    ],
)
def test_others_are_events_of_their_own(other: dict[str, Any]) -> None:
    assert groups(encounter("ehr", "e", DAY), other) == ([["e"], ["c"]], ["e", "c"])


def test_other_organizations_are_other_events_and_unknown_ones_agree() -> None:
    assert len(groups(encounter("ehr", "e", DAY, at="2"), encounter("payer", "c", DAY, at="x"))[0]) == 2
    assert len(groups(encounter("ehr", "e", DAY, at="2"), encounter("payer", "c", DAY, at="y"))[0]) == 1


def test_stays_are_copies_when_their_days_overlap() -> None:
    stay = encounter("ehr", "e", "2025-03-01", "2025-03-05", "IMP")
    assert groups(stay, encounter("payer", "c", "2025-03-02", "2025-03-05", "ACUTE"))[0] == [["e", "c"]]
    assert groups(stay, encounter("payer", "c", "2025-03-06", "2025-03-09", "IMP"))[0] == [["e"], ["c"]]
    readmitted = encounter("ehr", "e2", "2025-03-05", "2025-03-08", "IMP")
    claims = (
        encounter("payer", "c", "2025-03-01", "2025-03-05", "IMP"),
        encounter("payer", "d", "2025-03-05", "2025-03-08", "IMP"),
    )
    assert groups(stay, readmitted, *claims)[0] == [["e", "c"], ["e2", "d"]]


def test_two_visits_of_a_day_stay_two() -> None:
    both = [encounter(source, f"{source}{n}", DAY) for source in ("ehr", "payer") for n in (1, 2)]
    events, standing = groups(*both)
    assert (events, standing) == ([["ehr1", "payer1"], ["ehr2", "payer2"]], ["ehr1", "ehr2"])
    assert groups(both[0], both[1], both[2])[0] == [["ehr1", "payer1"], ["ehr2"]]


def test_three_sources_have_one_event() -> None:
    assert groups(*(encounter(source, source, DAY) for source in ("lab", "ehr", "payer"))) == (
        [["lab", "ehr", "payer"]],
        ["ehr"],
    )
