"""Models of the own lake: learned as of a day, judged, kept as versions; retired, and checked by what came since.

Of what is known on the eve of a day the last year judges: the recipe is learned from the year before it and judged by
it, and then learned anew, with it, for use. A model that was learned as of a day scores that day and later ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.equity.dimensions import DIMENSIONS
from fhir_gateway.errors import InputError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.equity import member_dimensions
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.prediction_inputs import Bucket, buckets
from fhir_gateway.jobs.utilization import tables_folder
from fhir_gateway.risk.prediction.cards import card
from fhir_gateway.risk.prediction.comorbidity import charlson, elixhauser
from fhir_gateway.risk.prediction.drift import drift, profile
from fhir_gateway.risk.prediction.features import matrix, rows
from fhir_gateway.risk.prediction.judging import Groups, judge
from fhir_gateway.risk.prediction.models import ANCHORS
from fhir_gateway.risk.prediction.readmission import DAYS, stay_rows, windows
from fhir_gateway.risk.prediction.store import ModelStore, StoredModel
from fhir_gateway.risk.prediction.targets import COST_TARGETS, READMISSION, TARGETS
from fhir_gateway.risk.prediction.training import Model, medians, train
from fhir_gateway.risk.utilization.planned import planned_stays
from fhir_gateway.risk.utilization.tables import Tables, load_imported

YEAR = timedelta(365)
LOOKBACK_DAYS = 365
"""Days in which a diagnosis counts for the comorbidities that are features."""
SUBGROUPS = ("age", "sex", "race", "ethnicity", "payer", "dual")
"""Dimensions of the equity room by which models are judged."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a target is learned from: rows before the judging year, rows of it, and the days of each."""

    before: pa.Table
    between: pa.Table
    learned: pa.Table
    windows: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Check:
    """A version against what came after it was learned: ``tests`` as on a card, ``drift`` by feature."""

    model: StoredModel
    tests: Mapping[str, Any]
    drift: Mapping[str, float]


def model_store(gateway: Gateway) -> ModelStore:
    """Where the gateway keeps its models."""
    return ModelStore(gateway.data_folder / "predictions")


def learn(
    gateway: Gateway,
    as_of: date | None = None,
    targets: Sequence[str] = tuple(TARGETS),
    *,
    now: datetime | None = None,
) -> list[StoredModel]:
    """Learn, judge and keep a version for each target as of a day (default: today).

    InputError when there is too little to learn from. The same lake, day and program give the same versions.
    """
    now = instant(gateway, now)
    if unknown := sorted(set(targets) - TARGETS.keys()):
        raise InputError(f"there is no model of {', '.join(unknown)}: {', '.join(TARGETS)}")
    with hold(gateway, "predictions", wait=lambda: True):
        return learned(gateway, as_of or now.date(), targets, now)


def learned(gateway: Gateway, day: date, targets: Sequence[str], now: datetime) -> list[StoredModel]:
    """As :func:`learn`, for who holds the lock ``predictions``."""
    import sklearn

    version = gateway.lake.version
    lessons = _lessons(gateway, version, day, targets)
    made: list[tuple[Model, dict[str, Any]]] = []
    for target in targets:
        lesson = lessons[target]
        judged_on = date.fromisoformat(lesson.windows["judged_by"][0])
        groups = groups_of(gateway, lesson.between["member"], judged_on)
        tests = judge(train(lesson.before, target), lesson.between, groups)
        model = train(lesson.learned, target)
        features = matrix(lesson.learned, model.about.features)
        about = card(
            model.about,
            tests,
            as_of=day,
            learned_at=now,
            lake_version=version,
            learned=lesson.learned.num_rows,
            windows=lesson.windows,
            scikit_learn=sklearn.__version__,
            medians=[None if np.isnan(one) else one for one in medians(features).tolist()],
            profile=profile(features, model.about.features),
        )
        made.append((model, about))
    store = model_store(gateway)
    return [store.keep(model, about) for model, about in made]


def models_for(gateway: Gateway, targets: Sequence[str], day: date, now: datetime) -> dict[str, StoredModel]:
    """By target the version in force on a day; what has none is learned as of it. For who holds the lock."""
    store = model_store(gateway)
    found = {target: store.in_force(target, day) for target in targets}
    if missing := [target for target, one in found.items() if one is None]:
        found |= {one.model.target: one for one in learned(gateway, day, missing, now)}
    return {target: one for target, one in found.items() if one is not None}


def retire(gateway: Gateway, identity: str, by: str, why: str, *, now: datetime | None = None) -> StoredModel:
    """Take a version out of force; the one before it is in force again, if there is one."""
    if not why.strip() or "\n" in why:
        raise InputError("say in one line why the model is retired")
    with hold(gateway, "predictions", wait=lambda: True):
        return model_store(gateway).retire(identity, by, why, instant(gateway, now))


def check(gateway: Gateway, as_of: date | None = None, *, now: datetime | None = None) -> list[Check]:
    """Judge the versions in force by what came after they were learned, as far as it is known on the eve of a day.

    A version of which nothing is known yet is left out: an amount needs a year, a readmission 31 days.
    """
    now = instant(gateway, now)
    day = as_of or now.date()
    with hold(gateway, "predictions", wait=lambda: True):
        version, store = gateway.lake.version, model_store(gateway)
        parts: dict[str, list[pa.Table]] = {}
        able = {name: one for name in TARGETS if (one := store.in_force(name, day)) is not None}
        since = {name: date.fromisoformat(one.card["as_of"]) for name, one in able.items()}
        able = {name: one for name, one in able.items() if since[name] <= _known(name, day)}
        for bucket in buckets(gateway, version) if able else ():
            for name in able:
                span = (max(since[name], _known(name, day) - YEAR), _known(name, day))
                found = (
                    readmission_rows(bucket, span, planning(gateway)) if name == READMISSION else _rows(bucket, span[1])
                )
                parts.setdefault(name, []).append(found)
        checks = []
        for name, one in able.items():
            table = pa.concat_tables(parts[name]).sort_by("member")
            if table.num_rows:
                groups = groups_of(gateway, table["member"], day)
                checks.append(Check(one, judge(one.model, table, groups), drift_of(one, table)))
    return checks


def _known(target: str, day: date) -> date:
    """The last day whose outcome is known on the eve of a day."""
    return day - YEAR if TARGETS[target].kind == "amount" else day - timedelta(DAYS + 1)


def drift_of(stored: StoredModel, table: pa.Table) -> dict[str, float]:
    """How far rows are from those that a version has learned from, by feature."""
    features = stored.model.about.features
    return drift(stored.card["profile"], matrix(table, features), features)


def groups_of(gateway: Gateway, members: pa.ChunkedArray, day: date) -> Groups:
    """Which rows are in which stratum on a day, by title of dimension and stratum."""
    dimensions = member_dimensions(gateway, day)
    place = pc.index_in(members.combine_chunks(), value_set=dimensions.members)
    known = place.is_valid().to_numpy(zero_copy_only=False)
    rows = place.fill_null(0).to_numpy()
    found = {}
    for name in SUBGROUPS:
        column, about = dimensions.columns[name], DIMENSIONS[name]
        codes = np.where(known, column.codes[rows], -1) if len(dimensions.members) else np.full(len(rows), -1)
        found[about.title] = {
            about.strata.get(code, code): codes == number for number, code in enumerate(column.strata)
        }
    return found


def planning(gateway: Gateway) -> Tables:
    """The value sets by which a readmission is planned, with those that were imported."""
    return load_imported(tables_folder(gateway))


def member_rows(gateway: Gateway, version: int, days: Sequence[date]) -> list[pa.Table]:
    """Rows of members as of each day, sorted by member."""
    parts: list[list[pa.Table]] = [[] for _ in days]
    for bucket in buckets(gateway, version):
        for number, at in enumerate(days):
            parts[number].append(_rows(bucket, at))
    return [pa.concat_tables(one).sort_by("member") for one in parts]


def readmission_rows(bucket: Bucket, span: tuple[date, date], tables: Tables) -> pa.Table:
    """Rows of stays of a bucket that ended between two days."""
    stays = bucket.inputs.stays
    days = pc.subtract(stays["discharged"].cast(pa.int32()), pa.scalar(LOOKBACK_DAYS, pa.int32()))
    since = days.cast(pa.date32())
    anchors = pa.table([stays["stay"], stays["member"], since, stays["discharged"]], schema=ANCHORS)
    diagnoses, planned = bucket.inputs.diagnoses, planned_stays(bucket.lines, tables)
    first, second = charlson(diagnoses, anchors), elixhauser(diagnoses, anchors)
    return stay_rows(bucket.persons, bucket.inputs, planned, first, second, *span)


def _lessons(gateway: Gateway, version: int, day: date, targets: Iterable[str]) -> dict[str, Lesson]:
    """Everything that targets are learned from, out of one walk over the buckets."""
    wanted, tables = set(targets), planning(gateway)
    days, (first, second) = (day - 2 * YEAR, day - YEAR), windows(day)
    parts: dict[str, list[pa.Table]] = {name: [] for name in ("before", "between", "first", "second")}
    for bucket in buckets(gateway, version):
        if wanted & set(COST_TARGETS):
            parts["before"].append(_rows(bucket, days[0]))
            parts["between"].append(_rows(bucket, days[1]))
        if READMISSION in wanted:
            both = readmission_rows(bucket, (first[0], second[1]), tables)
            early = pc.less_equal(both["discharged"], pa.scalar(first[1], pa.date32()))
            parts["first"].append(both.filter(early))
            parts["second"].append(both.filter(pc.invert(early)))
    found: dict[str, Lesson] = {}
    for name in wanted:
        one, two = ("first", "second") if name == READMISSION else ("before", "between")
        if not parts[one]:
            raise InputError(f"too little to learn {name} from: there are no members")
        order = [("member", "ascending"), ("stay", "ascending")] if name == READMISSION else [("member", "ascending")]
        early_rows, late_rows = (pa.concat_tables(parts[part]).sort_by(order) for part in (one, two))
        if name == READMISSION:
            said = {"judged_learned": first, "judged_by": second, "learned": (first[0], second[1])}
            learned_rows = pa.concat_tables([early_rows, late_rows])
        else:  # by what is known at a day, and what the year from it on brings
            year = timedelta(364)
            said = {"judged_learned": (days[0], days[0] + year), "judged_by": (days[1], days[1] + year)}
            said["learned"] = said["judged_by"]
            learned_rows = late_rows
        spans = {key: (one[0].isoformat(), one[1].isoformat()) for key, one in said.items()}
        found[name] = Lesson(early_rows, late_rows, learned_rows, spans)
    return found


def _rows(bucket: Bucket, day: date) -> pa.Table:
    members = bucket.persons["member"]
    size, eve = len(members), day - timedelta(1)
    since = pa.repeat(pa.scalar(eve - timedelta(LOOKBACK_DAYS), pa.date32()), size)
    anchors = pa.table([members, members, since, pa.repeat(pa.scalar(eve, pa.date32()), size)], schema=ANCHORS)
    scores = (charlson(bucket.inputs.diagnoses, anchors), elixhauser(bucket.inputs.diagnoses, anchors))
    return rows(bucket.persons, bucket.inputs, bucket.lines, *scores, day)
