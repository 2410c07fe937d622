"""Published risk scores of everybody in the lake: computed by bucket, kept as columns, served as RiskAssessments."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.assessments import serve
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.prediction_inputs import Bucket, buckets
from fhir_gateway.jobs.publish import published_id
from fhir_gateway.risk.prediction.assessment import of_score
from fhir_gateway.risk.prediction.comorbidity import charlson, elixhauser, with_uncoded
from fhir_gateway.risk.prediction.models import ANCHORS, SCORES
from fhir_gateway.risk.prediction.stays import hospital, lace

SCORED = ("charlson", "elixhauser", "hospital", "lace")
"""Scores that need no training."""
LOOKBACK_DAYS = 365
"""Days up to the day asked about in which a diagnosis counts for Charlson and Elixhauser."""
SERVED_DAYS = 30
"""LACE and HOSPITAL are served of stays that ended within so many days: they foresee 30."""


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """One computation of published scores; ``counts`` by score: rows, and how many of them are partial."""

    run: str
    lake_version: int
    as_of: date
    counts: Mapping[str, tuple[int, int]]
    served: int


def score(gateway: Gateway, as_of: date | None = None, *, now: datetime | None = None) -> ScoreReport:
    """Compute and serve all published scores as of a day (default: today, in the gateway's zone).

    Charlson and Elixhauser of every member, LACE and HOSPITAL of every stay that had ended by then. The same lake and
    day are the same run.
    """
    now = instant(gateway, now)
    day = as_of or now.date()
    with hold(gateway, "predictions", wait=lambda: True):
        version = gateway.lake.version
        run = f"scores-{_digest(f'{version} {day} {_program()}')}"
        folder = gateway.data_folder / "predictions"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{run}.parquet"
        if not path.is_file():
            partial = path.with_suffix(".partial")
            with pq.ParquetWriter(partial, SCORES, compression="zstd") as writer:
                for bucket in buckets(gateway, version):
                    writer.write_table(scores_of(bucket, day))
            os.replace(partial, path)
        found = pq.read_table(path)
        rows = _assessed(served_rows(found, day))
        served = serve(gateway, rows, lambda row: of_score(row, now, encounter_of(row["stay"])), SCORED)
    counts = {
        name: (rows.num_rows, pc.sum(rows["partial"]).as_py() or 0)
        for name in SCORED
        for rows in [found.filter(pc.equal(found["score"], name))]
    }
    return ScoreReport(run, version, day, counts, served)


def scores_of(bucket: Bucket, day: date) -> pa.Table:
    """All published scores of a bucket as of a day, as rows of ``SCORES``."""
    inputs, members = bucket.inputs, bucket.persons["member"]
    anchors = pa.table(
        [
            members,
            members,
            pa.repeat(pa.scalar(day - timedelta(LOOKBACK_DAYS), pa.date32()), len(members)),
            pa.repeat(pa.scalar(day, pa.date32()), len(members)),
        ],
        schema=ANCHORS,
    )
    stays = inputs.stays.filter(pc.less_equal(inputs.stays["discharged"], pa.scalar(day, pa.date32())))
    by_codes = (
        charlson(inputs.diagnoses, anchors, ages=ages(bucket.persons, day)),
        elixhauser(inputs.diagnoses, anchors),
        lace(stays, inputs.emergency, inputs.diagnoses),
    )
    coded = [with_uncoded(one, inputs.uncoded) for one in by_codes]
    return pa.concat_tables([*coded, hospital(stays, inputs.labs, inputs.procedures)])


def ages(persons: pa.Table, day: date) -> pa.Table:
    """Whole years of members on a day (``key``, ``age``); null where nobody said when they were born."""
    with duckdb.connect() as work:
        work.register("persons", persons)
        return work.sql(
            "SELECT member AS key, date_sub('year', birth_date, $day)::INT AS age FROM persons", params={"day": day}
        ).to_arrow_table()


def served_rows(scores: pa.Table, day: date) -> pa.Table:
    """What is served of all scores: of persons what has points or misses something, of stays those of late."""
    of_stays = pc.is_in(scores["score"], value_set=pa.array(["lace", "hospital"]))
    late = pc.greater(scores["day"], pa.scalar(day - timedelta(SERVED_DAYS), pa.date32()))
    told = pc.not_equal(scores["value"], 0)
    return scores.filter(pc.if_else(of_stays, late, told))


def newest_scores(gateway: Gateway) -> pa.Table:
    """The scores that were computed last; NotFoundError when none were."""
    found = sorted((gateway.data_folder / "predictions").glob("scores-*.parquet"), key=_made)
    if not found:
        raise NotFoundError("no scores yet: fhir-gateway predict scores")
    return pq.read_table(found[-1])


def _made(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, path.name


def _assessed(scores: pa.Table) -> pa.Table:
    """Scores as what is served: with the Encounter of a stay that a source told of, null where none did."""
    with duckdb.connect() as work:
        work.register("scores", scores)
        return work.sql("""
            SELECT score AS method, * EXCLUDE (day), CASE WHEN score IN ('lace', 'hospital')
                AND NOT starts_with(key, 'claim/') THEN key END AS stay
            FROM scores
        """).to_arrow_table()


def encounter_of(stay: str | None) -> str | None:
    """The reference of the served Encounter of a stay, ``source/id``; None of none."""
    if stay is None:
        return None
    source, _, resource_id = stay.partition("/")
    return f"Encounter/{published_id(source, resource_id)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@cache
def _program() -> str:
    """Changes with the program and the code lists."""
    package = files("fhir_gateway.risk.prediction")
    names = ("comorbidity.py", "stays.py", "inputs.py", "inputs.sql")
    lists = (package.joinpath("codes", f"{name}.toml") for name in ("charlson", "elixhauser", "lace"))
    return _digest("".join(one.read_text("utf-8") for one in (*map(package.joinpath, names), *lists)))
