"""Whom the crosswalk placed since a mark: never fewer than those who became somebody else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from sqlalchemy.engine import Engine

from fhir_gateway.errors import GatewayError
from fhir_gateway.identity.crosswalk import Crosswalk
from fhir_gateway.identity.stewardship import Stewardship
from fhir_gateway.lake.links import SCHEMA, Links, update_links
from tests.support.databases import KINDS, control_plane
from tests.support.patients import assign, patient

SOURCES = ("ehr", "payer", "hub")
IDS = tuple("123456")


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with control_plane(request.param, tmp_path) as opened:
        yield opened


class Forgetful:
    """The same crosswalk without its history: everybody is asked for."""

    def __init__(self, crosswalk: Crosswalk) -> None:
        self.assign, self.lookup = crosswalk.assign, crosswalk.lookup


def rows(links: pa.Table) -> set[tuple[str, ...]]:
    return {tuple(row.values()) for row in links.select(["_source", "_patient", "_member"]).to_pylist()}


@pytest.mark.parametrize("seed", range(6))
def test_links_by_history_are_those_of_asking_for_everybody(engine: Engine, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a seed, no secret
    crosswalk, stewardship = Crosswalk(engine), Stewardship(engine)
    short = whole = Links(SCHEMA.empty_table(), SCHEMA.empty_table())
    nobody = pa.table({"_patient": pa.array([], pa.string()), "_member": pa.array([], pa.string())})
    for _ in range(12):
        source = chance.choice(SOURCES)
        mentioned = pa.array(chance.sample(IDS, 2))  # some are referred to before they arrive
        if chance.random() < 0.6:
            arriving = {one: chance.choice("ABC") for one in chance.sample(IDS, 2)}
            assign(crosswalk, *(patient(source, one, mbi=number) for one, number in arriving.items()))
        persons = sorted(set(short.table["_member"].to_pylist()))
        try:
            if len(persons) > 1 and chance.random() < 0.4:
                stewardship.merge(*chance.sample(persons, 2), "ann", "test")
            for change in crosswalk.changes()[:1] if chance.random() < 0.3 else ():
                stewardship.unmerge(change.other, "ann", "test")
        except GatewayError:
            pass  # what cannot be decided any more
        if chance.random() < 0.2:
            continue  # somebody was placed, and the lake did not hear of it
        short = update_links(short.table, source, mentioned, nobody, crosswalk, 4, short.mark)
        whole = update_links(whole.table, source, mentioned, nobody, Forgetful(crosswalk), 4)
        assert rows(short.table) == rows(whole.table)
        assert sorted(map(str, short.moved.to_pylist())) == sorted(map(str, whole.moved.to_pylist()))
    again = update_links(short.table, "ehr", pa.array([], pa.string()), nobody, crosswalk, 4, short.mark)
    assert again.table is short.table or again.moved.num_rows == 0


def test_a_mark_of_another_crosswalk_tells_nothing(engine: Engine) -> None:
    crosswalk = Crosswalk(engine)
    assert crosswalk.placed_since(None)[1] is None
    first, _ = crosswalk.placed_since(None)
    assign(crosswalk, patient("ehr", "1"), patient("ehr", "2"))
    mark, placed = crosswalk.placed_since(first)
    assert placed is not None
    assert placed.num_rows == 2
    assert crosswalk.placed_since(mark)[1].num_rows == 0  # type: ignore[union-attr]
    for foreign in (mark.replace("2.", "3.", 1), f"{mark}0", "1.7." + mark.rpartition(".")[2]):
        assert crosswalk.placed_since(foreign)[1] is None
