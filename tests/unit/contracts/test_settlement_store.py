"""Versions, runs, postings and disputes in the control plane, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from fhir_gateway.contracts.disputes import Dispute
from fhir_gateway.contracts.runs import Run
from fhir_gateway.contracts.store import SettlementStore
from fhir_gateway.errors import ConflictError, NotFoundError
from tests.support.databases import KINDS, control_plane

D = Decimal
AT = datetime(2025, 10, 1, tzinfo=UTC)
DAY = date(2025, 10, 16)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SettlementStore]:
    with control_plane(request.param, tmp_path) as engine:
        yield SettlementStore(engine)


def run(name: str, total: str, **changes: object) -> Run:
    made = Run(
        id=name,
        contract="c",
        version="1",
        digest="d" * 64,
        kind="final",
        state="preliminary",
        through=DAY,
        paid_through=DAY,
        lake_version=3,
        evidence="e",
        as_of=AT,
        total=D(total),
        currency="USD",
        statement="s" * 64,
        by="me",
        made=AT,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def due(total: str) -> dict[str, tuple[str, Decimal]]:
    return {"ss": ("ss.payable", D(total))}


def test_runs_post_differences_and_supersede(store: SettlementStore) -> None:
    first = store.add(run("one", "100.10"), due("100.10"))
    assert first.posted == D("100.10")
    assert store.add(run("one", "100.10"), due("100.10")) == first
    second = store.add(run("two", "80.05", kind="amendment", amends="one"), due("80.05"))
    assert second.posted == D("-20.05")
    assert store.owed("c") == {"ss": D("80.05")}
    assert [(one.id, one.state) for one in store.runs("c")] == [("one", "superseded"), ("two", "preliminary")]
    assert store.run("two") == second
    assert store.runs("other") == []
    assert store.owed("other") == {}
    gone = store.add(run("three", "0", amends="two"), {})
    assert gone.posted == D("-80.05")  # an arrangement that is not there any more is taken back


def test_runs_at_once_post_one_after_the_other(store: SettlementStore) -> None:
    def settle(number: int) -> Run:
        return store.add(run(f"run-{number}", str(number)), due(str(number)))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(settle, range(1, 9)))
    last = store.runs("c")[-1]
    assert sum(one.posted for one in found) == last.total
    assert sum(store.owed("c").values()) == last.total


def test_a_run_moves_on_from_the_state_that_it_is_in(store: SettlementStore) -> None:
    store.add(run("one", "1"), due("1"))
    with pytest.raises(ConflictError, match="the settlement is preliminary"):
        store.move("one", ["review"], "final")
    assert store.move("one", ["preliminary"], "review", DAY).notice == DAY
    assert store.move("one", ["review"], "final").notice == DAY
    with pytest.raises(NotFoundError, match="no such settlement"):
        store.move("none", ["review"], "final")
    with pytest.raises(NotFoundError, match="no such settlement"):
        store.run("none")


def test_a_dispute_is_decided_once(store: SettlementStore) -> None:
    dispute = Dispute("d", "r", "c", "l", "claims", D("1.50"), "why", "me", AT, DAY, DAY, {"lines": [{"id": "l"}]})
    store.file(dispute)
    assert store.disputes("c") == store.disputes(run="r") == store.disputes() == [dispute]
    assert store.disputes("other") == []
    decided = replace(
        dispute, state="upheld", decided_by="payer", decided=AT, decision="yes", amendment="two", delta=D(-3)
    )
    store.decide(decided)
    assert store.dispute("d") == decided
    with pytest.raises(ConflictError, match="decided before"):
        store.decide(replace(decided, state="rejected"))
    assert store.dispute("d") == decided
    with pytest.raises(NotFoundError, match="no such dispute"):
        store.dispute("e")


def test_a_version_has_one_set_of_terms(store: SettlementStore) -> None:
    assert store.register("c", "1", "digest", "C", {"id": "c"}, AT) is True
    assert store.register("c", "1", "digest", "C", {"id": "c"}, AT) is False
    with pytest.raises(ConflictError, match="an amendment is a new version"):
        store.register("c", "1", "other", "C", {"id": "c"}, AT)
    assert store.register("c", "2", "other", "C", {"id": "c"}, AT) is True
    assert [(one["version"], one["terms"]) for one in store.versions("c")] == [("1", {"id": "c"}), ("2", {"id": "c"})]
    assert store.versions("x") == []
