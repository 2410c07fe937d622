"""Risk scores of everybody in the lake, kept as columns: by our CMS-HCC, or as somebody else computed them.

A model has a name: ``CMS-HCC`` is what Medicare pays by in a year (the blend of its models), ``CMS-HCC-V24`` and
``CMS-HCC-V28`` are its models alone; any other name is of imported scores. The same lake version, tables and statements
give the same run.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.attribution import member_months
from fhir_gateway.attribution.eligibility import COVERAGE_COLUMNS
from fhir_gateway.errors import InputError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.claim_lines import kept_claim_lines
from fhir_gateway.jobs.people import persons_of
from fhir_gateway.risk.hcc import RiskScores, payment_year, score
from fhir_gateway.risk.hcc.diagnoses import (
    DIAGNOSIS_EOB_COLUMNS,
    DIAGNOSIS_LINE_COLUMNS,
    DIAGNOSIS_SCHEMA,
    counting,
    risk_diagnoses,
)
from fhir_gateway.risk.hcc.eligibility import MONTHS_SCHEMA, RISK_COVERAGE_COLUMNS, STATED_SCHEMA, risk_members
from fhir_gateway.risk.hcc.payment import blended, decimals
from fhir_gateway.risk.store import MEMBER_SCORE_SCHEMA, RiskRun

BLEND = "CMS-HCC"
_OURS = {BLEND: None, "CMS-HCC-V24": "V24", "CMS-HCC-V28": "V28"}


@dataclass(frozen=True, slots=True)
class RiskReport:
    """A kept run of scores: members with one, members without by reason, and the mean score."""

    run: RiskRun
    model: str
    year: int
    lake_version: int
    scored: int
    unscored: Mapping[str, int]
    mean: float | None


def is_ours(model: str) -> bool:
    """Whether we compute the model."""
    return model in _OURS


def score_members(
    gateway: Gateway, model: str, year: int, *, proposed: bool = False, version: int | None = None
) -> RiskReport:
    """Score everybody by a model in a payment year, by a lake version (default: the newest).

    InputError for a model that is not ours, and for a year without tables.
    """
    if model not in _OURS:
        raise InputError(
            f"model: there is no {model} here to compute (there are {', '.join(_OURS)}); import its scores"
        )
    holding = payment_year(year, proposed=proposed)
    one = _OURS[model]
    models = tuple(holding.blend) if one is None else (holding.model(one).model,)
    version = gateway.lake.version if version is None else version
    stated, statements = stated_members(gateway)
    header = {
        "model": model,
        "year": year,
        "models": list(models),
        "lake_version": version,
        "statements": statements,
        "engine": engine_digest(),
        **holding.stamps(),
    }
    run = hashlib.sha256(orjson.dumps(header, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
    kept = gateway.risk.newest("scores", **header)
    if kept is not None:
        return _report(gateway.risk.keep("scores", kept.id, header, {}))
    members = members_of(gateway, year, version, stated)
    diagnoses = counting(kept_diagnoses(gateway, version), [holding.collection])
    found = {name: score(members, diagnoses, name, year, proposed=proposed) for name in models}
    return _report(gateway.risk.keep("scores", run, header, _tables(found, members, diagnoses, model)))


def members_of(gateway: Gateway, year: int, version: int, stated: pa.Table | None = None) -> pa.Table:
    """Who the members of a lake version are in a payment year (:data:`fhir_gateway.risk.hcc.MEMBER_SCHEMA`)."""
    columns = list(dict.fromkeys((*COVERAGE_COLUMNS, *RISK_COVERAGE_COLUMNS)))
    coverage = gateway.lake.read("Coverage", columns, version=version)
    before = (date(year - 1, 1, 1), date(year - 1, 12, 31))
    counted = member_months(coverage.select(["_member", "_source", "id", *COVERAGE_COLUMNS]), before, "any_day")
    each = counted.group_by("member").aggregate([("months", "sum")])
    everybody = pa.table({"member": pc.unique(coverage["_member"].drop_null())})
    months = everybody.join(each, "member", join_type="left outer")
    months = pa.table(
        [months["member"], pc.fill_null(months["months_sum"].cast(pa.float64()), 0.0)], MONTHS_SCHEMA.names
    )
    if stated is None:
        stated, _ = stated_members(gateway)
    return risk_members(persons_of(gateway, version), coverage, months, stated, year)


def stated_members(gateway: Gateway) -> tuple[pa.Table, list[str]]:
    """What was stated about members, of each member and year as of the latest import; and the imports it is from."""
    runs = gateway.risk.runs("members")
    tables = [
        run.table("members").append_column("at", pa.array([n] * run.header["rows"])) for n, run in enumerate(runs)
    ]
    if not tables:
        return STATED_SCHEMA.empty_table(), []
    table = pa.concat_tables(tables).sort_by([("at", "descending")])
    first = table.append_column("row", pa.array(np.arange(table.num_rows)))
    latest = first.group_by(["member", "year"]).aggregate([("row", "min")])
    return table.take(latest["row_min"]).select(STATED_SCHEMA.names), [run.id for run in runs]


def kept_diagnoses(gateway: Gateway, version: int) -> pa.Table:
    """Diagnoses of all claims of a lake version (:data:`DIAGNOSIS_SCHEMA`), derived once, bucket by bucket."""
    folder = gateway.data_folder / "risk" / "diagnoses"
    path = folder / f"{version}-{engine_digest()}.parquet"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _derive(gateway, version, path)
        for other in folder.glob("[!.]*.parquet"):
            if other != path:
                other.unlink(missing_ok=True)
    return pq.read_table(path)


def _derive(gateway: Gateway, version: int, path: Path) -> None:
    lines = kept_claim_lines(gateway, version, None, list(DIAGNOSIS_LINE_COLUMNS))
    descriptor, partial = tempfile.mkstemp(prefix=".deriving-", dir=path.parent)
    os.close(descriptor)
    try:
        with pq.ParquetWriter(partial, DIAGNOSIS_SCHEMA, compression="zstd", compression_level=1) as writer:
            for bucket in range(gateway.lake.buckets_of(version)):
                eobs = gateway.lake.read("ExplanationOfBenefit", DIAGNOSIS_EOB_COLUMNS, bucket=bucket, version=version)
                mine = lines.filter(pc.is_in(lines["_member"], value_set=pc.unique(eobs["_member"]).drop_null()))
                writer.write_table(risk_diagnoses(eobs, mine))
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


@cache
def engine_digest() -> str:
    """Changes with the program that scores: what another one kept is not taken for this one's."""
    parts = [one.read_bytes() for one in sorted(files("fhir_gateway.risk.hcc").iterdir(), key=lambda one: one.name)
             if one.name.endswith((".py", ".toml"))]  # fmt: skip
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _tables(found: Mapping[str, RiskScores], members: pa.Table, diagnoses: pa.Table, model: str) -> dict[str, pa.Table]:
    """What is kept of a run: the score that counts, and of each model its parts and their evidence."""
    kept: dict[str, list[pa.Table]] = {"models": [], "components": [], "evidence": []}
    for name, one in found.items():
        label = pa.scalar(name)
        kept["models"].append(one.scores.append_column("model", pa.repeat(label, one.scores.num_rows)))
        kept["components"].append(one.components.append_column("model", pa.repeat(label, one.components.num_rows)))
        claims = diagnoses.drop_columns(["member", "reason"]).take(one.evidence["row"])
        evidence = one.evidence.drop_columns(["row"])
        for column in claims.column_names:
            evidence = evidence.append_column(column, claims[column])
        kept["evidence"].append(evidence.append_column("model", pa.repeat(label, evidence.num_rows)))
    first = next(iter(found.values()))
    scored = first.scores["reason"].is_null().to_numpy()
    if model == BLEND:
        year = first.year
        factors = all(year.models[name].normalisation is not None for name in year.blend)
        total = decimals(blended({name: one.payments for name, one in found.items()}, year), scored & factors)
        raw = pa.nulls(members.num_rows, pa.decimal128(9, 3)) if len(found) > 1 else first.scores["raw"]
        normal = pa.nulls(members.num_rows, pa.decimal128(9, 3)) if len(found) > 1 else first.scores["normalised"]
        columns = [first.scores["member"], raw, normal, total]
    else:
        columns = [first.scores[name] for name in ("member", "raw", "normalised", "payment")]
    columns[3] = pc.coalesce(columns[3], columns[2], columns[1])
    scores = pa.table(columns, names=MEMBER_SCORE_SCHEMA.names).cast(MEMBER_SCORE_SCHEMA)
    scores = scores.append_column("reason", first.scores["reason"])
    return {"scores": scores, "members": members, **{name: pa.concat_tables(parts) for name, parts in kept.items()}}


def _report(run: RiskRun) -> RiskReport:
    scores = run.table("scores")
    reasons: dict[str, Any] = {}
    if "reason" in scores.column_names:
        reasons = {one["values"]: one["counts"] for one in pc.value_counts(scores["reason"].drop_null()).to_pylist()}
    present = scores["score"].drop_null()
    mean = pc.mean(present.cast(pa.float64())).as_py()
    version = int(run.header.get("lake_version", 0))
    return RiskReport(run, run.header["model"], run.header["year"], version, len(present), reasons, mean)
