"""Who will need unplanned acute care most, by models of the own lake: learned, judged, and ranked with reasons.

Of claims up to a day: a model learns from what was known two years ago what the next year brought, is judged by
the year after that, and then, learned anew from it, ranks everybody as of the day. Models are not
kept: the same lake and day give the same ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.prediction_inputs import Bucket, buckets
from fhir_gateway.jobs.predictions import LOOKBACK_DAYS, serve
from fhir_gateway.risk.prediction.assessment import assessment
from fhir_gateway.risk.prediction.cards import as_markdown
from fhir_gateway.risk.prediction.comorbidity import charlson, elixhauser
from fhir_gateway.risk.prediction.features import FEATURES, TARGETS, matrix, rows
from fhir_gateway.risk.prediction.models import ANCHORS
from fhir_gateway.risk.prediction.training import card, contributions, judge, tiers, train

_YEAR = timedelta(365)
_REASONS = 3


@dataclass(frozen=True, slots=True)
class WorkList:
    """A ranked list: ``table`` has member, expected_cost, expected_avoidable, tier, reasons; ``cards`` by target."""

    as_of: date
    table: pa.Table
    cards: Mapping[str, Mapping[str, Any]]
    served: int


def work_list(gateway: Gateway, as_of: date | None = None, *, now: datetime | None = None) -> WorkList:
    """Learn, judge and rank as of a day (default: today); InputError when the lake has too little to learn from."""
    now = instant(gateway, now)
    day = as_of or now.date()
    with hold(gateway, "predictions", wait=lambda: True):
        version = gateway.lake.version
        before, between, present = _tables(gateway, version, day)
        cards: dict[str, Mapping[str, Any]] = {}
        expected: dict[str, Any] = {}
        reasons: list[list[str]] = []
        features = matrix(present)
        for target in TARGETS:
            window = {"learned_from": str(day - 2 * _YEAR), "judged_by": str(day - _YEAR), "as_of": str(day)}
            judged = judge(train(before, target), between)
            cards[target] = card(judged, target=target, lake_version=version, learned=before.num_rows, **window)
            model = train(between, target)
            expected[target] = model.predict(features)
            if target == "next_acute_cost":
                reasons = _reasons(contributions(model, features))
        avoidable = expected["next_acute_cost"]
        ranked = pa.table(
            {
                "member": present["member"],
                "expected_cost": np.round(expected["next_cost"], 2),
                "expected_avoidable": np.round(avoidable, 2),
                "tier": tiers(avoidable),
                "reasons": pa.array(reasons, pa.list_(pa.string())),
            }
        ).sort_by([("expected_avoidable", "descending"), ("member", "ascending")])
        _keep(gateway, ranked, cards)
        told = ranked.filter(pc.not_equal(ranked["tier"], "rest")).to_pylist()
        basis = f"Model {cards['next_acute_cost']['id']}; expected unplanned acute cost of the next year"
        serve(
            gateway,
            [
                assessment(
                    "work-list",
                    one["member"],
                    one["member"],
                    now,
                    band=one["tier"],
                    reasons=one["reasons"],
                    basis=f"{basis}: {one['expected_avoidable']:.0f}.",
                )
                for one in told
            ],
            ("work-list",),
        )
    return WorkList(day, ranked, cards, len(told))


def newest_work_list(gateway: Gateway) -> pa.Table:
    """The list that was made last; NotFoundError when none was."""
    path = gateway.data_folder / "predictions" / "work-list.parquet"
    if not path.is_file():
        raise NotFoundError("no work list yet: fhir-gateway predict work-list")
    return pq.read_table(path)


def _tables(gateway: Gateway, version: int, day: date) -> list[pa.Table]:
    """Rows of the three days: two years before, a year before, and the day itself; sorted by member."""
    parts: list[list[pa.Table]] = [[], [], []]
    for bucket in buckets(gateway, version):
        for number, at in enumerate((day - 2 * _YEAR, day - _YEAR, day)):
            parts[number].append(_rows(bucket, at))
    return [pa.concat_tables(one).sort_by("member") for one in parts]


def _rows(bucket: Bucket, day: date) -> pa.Table:
    members = bucket.persons["member"]
    size, eve = len(members), day - timedelta(1)
    since = pa.repeat(pa.scalar(eve - timedelta(LOOKBACK_DAYS), pa.date32()), size)
    anchors = pa.table([members, members, since, pa.repeat(pa.scalar(eve, pa.date32()), size)], schema=ANCHORS)
    scores = (charlson(bucket.inputs.diagnoses, anchors), elixhauser(bucket.inputs.diagnoses, anchors))
    return rows(bucket.persons, bucket.inputs, bucket.lines, *scores, day)


def _reasons(found: np.ndarray) -> list[list[str]]:
    order = np.argsort(-found, axis=1, kind="stable")[:, :_REASONS]
    return [
        [f"{FEATURES[one].replace('_', ' ')} {values[one]:+.0f}" for one in places if values[one] > 0]
        for places, values in zip(order, found, strict=True)
    ]


def _keep(gateway: Gateway, ranked: pa.Table, cards: Mapping[str, Mapping[str, Any]]) -> None:
    folder = gateway.data_folder / "predictions"
    folder.mkdir(mode=0o700, exist_ok=True)
    for one in cards.values():
        (folder / f"{one['id']}.json").write_bytes(orjson.dumps(one, option=orjson.OPT_INDENT_2))
        (folder / f"{one['id']}.md").write_text(as_markdown(one), encoding="utf-8")
    partial = folder / "work-list.partial"
    pq.write_table(ranked, partial, compression="zstd")
    os.replace(partial, folder / "work-list.parquet")
