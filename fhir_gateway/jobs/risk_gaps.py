"""Coding gaps of everybody in the lake, by a model of CMS-HCC: kept as columns, served by ``$report``.

The clinical evaluation period is the year whose services count for the payment year. Claims of the two years before it
are what recapture looks at; evidence for suspecting is looked for from the year before the period on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from importlib.resources import files

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.errors import InputError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.claim_lines import kept_claim_lines
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.publish import published_id
from fhir_gateway.jobs.risk import engine_digest, kept_diagnoses, members_of, stated_members
from fhir_gateway.risk.gaps import DECISION_SCHEMA, FINDING_SCHEMA, find_gaps
from fhir_gateway.risk.hcc import payment_year, score
from fhir_gateway.risk.hcc.tables import model_tables
from fhir_gateway.risk.kept_gaps import RISK_MODELS
from fhir_gateway.risk.reports import model_measure
from fhir_gateway.risk.store import RiskRun
from fhir_gateway.risk.suspecting import (
    CONDITION_COLUMNS,
    MEDICATION_COLUMNS,
    OBSERVATION_COLUMNS,
    PROCEDURE_LINE_COLUMNS,
    SUSPECT_SCHEMA,
    observation_codes,
    problem_list,
    suspects,
)

UNACCEPTED = {"procedure": "unaccepted-service", "bill-type": "unaccepted-bill", "audio-only": "audio-only-visit"}
"""Rules of suspecting by a diagnosis on a claim that does not count, by why it does not."""
PROBLEM_LIST = "problem-list"
_PUBLISHED = date(2026, 11, 1)  # of the Measures that reports refer to


@dataclass(frozen=True, slots=True)
class GapReport:
    """A kept run of coding gaps; ``counts`` by type and status, ``value`` of the open ones."""

    run: RiskRun
    model: str
    period: tuple[date, date]
    members: int
    counts: Mapping[tuple[str, str], int]
    value: Decimal


def compute_gaps(
    gateway: Gateway,
    model: str,
    year: int,
    *,
    as_of: date | None = None,
    rate: Decimal = Decimal(0),
    lookback_months: int = 24,
    deadline: date | None = None,
    proposed: bool = False,
    now: datetime | None = None,
) -> GapReport:
    """Coding gaps of everybody by a model (V24 or V28) for a payment year, as of a day (default: today).

    ``rate`` is what a score of 1 pays in a year. The same lake version, day and statements give the same run.
    """
    if not 1 <= lookback_months <= 24:
        raise InputError("lookback: is from 1 to 24 months")
    moment = instant(gateway, now)
    holding = payment_year(year, proposed=proposed)
    tables = model_tables(holding.model(model))
    period = (date(holding.collection, 1, 1), date(holding.collection, 12, 31))
    day = min(as_of or moment.date(), period[1])
    if day < period[0]:
        raise InputError(f"as of: services for payment year {year} begin on {period[0].isoformat()}")
    version = gateway.lake.version
    stated, statements = stated_members(gateway)
    decisions, decided = decisions_of(gateway, model, period[0])
    header = {
        "model": model,
        "year": year,
        "period": [one.isoformat() for one in period],
        "as_of": day.isoformat(),
        "deadline": deadline.isoformat() if deadline else None,
        "rate": str(rate),
        "lookback_months": lookback_months,
        "lake_version": version,
        "statements": statements,
        "decisions": decided,
        "engine": f"{engine_digest()}-{_digest()}",
        **holding.stamps(),
    }
    run = hashlib.sha256(orjson.dumps(header, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
    kept = gateway.risk.newest("gaps", **header)
    if kept is not None:
        return _report(gateway.risk.keep("gaps", kept.id, dict(kept.header), {}))
    members = members_of(gateway, year, version, stated)
    diagnoses = kept_diagnoses(gateway, version)
    since = _months_before(period[0], lookback_months)
    counts = pc.is_null(diagnoses["reason"])
    days = diagnoses["service_date"]

    def between(first: date, last: date) -> pa.ChunkedArray:
        return pc.and_(pc.greater_equal(days, pa.scalar(first)), pc.less_equal(days, pa.scalar(last)))

    before = diagnoses.filter(pc.and_(counts, pc.and_(between(since, period[0]), pc.less(days, pa.scalar(period[0])))))
    present = diagnoses.filter(pc.and_(counts, between(period[0], day)))
    elsewhere = diagnoses.filter(
        pc.and_(pc.is_in(diagnoses["reason"], pa.array(list(UNACCEPTED))), between(_months_before(period[0], 12), day))
    )
    scored = score(members, present, model, year, proposed=proposed)
    found = {
        name: _findings(members, rows, model, year, proposed) for name, rows in (("before", before), ("now", present))
    }
    suspected = pa.concat_tables(
        [
            *_evidence(gateway, model, version, (_months_before(period[0], 12), day)),
            _suspected(members, _named(elsewhere), model, year, proposed),
            _suspected(members, _problems(gateway, version, day), model, year, proposed),
        ]
    )
    suspected = suspected.set_column(
        suspected.schema.get_field_index("reference"), "reference", _served(suspected["source"], suspected["reference"])
    )
    gaps = find_gaps(
        tables,
        holding,
        scored.scores.select(["member", "segment"]),
        found["before"],
        found["now"],
        suspected,
        decisions,
        period,
        rate,
    )
    named = next(one for one in RISK_MODELS if one.version == model.removeprefix("V"))
    gateway.resources.put(model_measure(named, f"CMS-HCC risk adjustment model {model}", _PUBLISHED))
    header["generated"] = moment.isoformat()
    return _report(gateway.risk.keep("gaps", run, header, {"gaps": gaps}))


def decisions_of(gateway: Gateway, model: str, since: date) -> tuple[pa.Table, list[str]]:
    """The newest decision about each member and category of a model in a period, and the imports they are from."""
    runs = gateway.risk.runs("decisions")
    if not runs:
        return DECISION_SCHEMA.empty_table(), []
    tables = [run.table("decisions") for run in runs]
    table = pa.concat_tables(tables)
    wanted = pc.and_(pc.equal(table["model"], model), pc.greater_equal(table["decided"], pa.scalar(since)))
    table = table.append_column("at", pa.array(np.arange(table.num_rows))).filter(wanted)
    table = table.sort_by([("decided", "ascending"), ("at", "ascending")])
    table = table.set_column(table.schema.get_field_index("at"), "at", pa.array(np.arange(table.num_rows)))
    newest = table.group_by(["member", "cc"]).aggregate([("at", "max")])
    return table.take(newest["at_max"]).select(DECISION_SCHEMA.names), [run.id for run in runs]


def _findings(members: pa.Table, diagnoses: pa.Table, model: str, year: int, proposed: bool) -> pa.Table:
    """Categories that diagnoses lead to by the tables of the year."""
    evidence = score(members, diagnoses, model, year, proposed=proposed).evidence
    rows = diagnoses.take(evidence["row"])
    reference = _served(rows["source"], pc.binary_join_element_wise("ExplanationOfBenefit", rows["eob"], "/"))
    columns = [evidence["member"], evidence["cc"], rows["diagnosis"], rows["service_date"], reference, rows["npi"]]
    return pa.table(columns, FINDING_SCHEMA.names).cast(FINDING_SCHEMA)


def _named(diagnoses: pa.Table) -> pa.Table:
    """Diagnoses of claims that do not count, as evidence."""
    rules = pa.array(UNACCEPTED.values()).take(pc.index_in(diagnoses["reason"], pa.array(list(UNACCEPTED))))
    reference = pc.binary_join_element_wise("ExplanationOfBenefit", diagnoses["eob"], "/")
    names = ["member", "diagnosis", "day", "source", "reference", "rule", "confidence"]
    columns = [diagnoses["member"], diagnoses["diagnosis"], diagnoses["service_date"], diagnoses["source"], reference]
    confidence = pc.if_else(pc.equal(diagnoses["reason"], "procedure"), "low", "medium")  # a test may look for it only
    return pa.table([*columns, rules, confidence], names)


def _problems(gateway: Gateway, version: int, day: date) -> pa.Table:
    """Conditions that stand, as evidence: a problem list is none of a visit."""
    rows = problem_list(gateway.lake.read("Condition", list(CONDITION_COLUMNS), version=version), day)
    rows = rows.append_column("rule", pa.repeat(pa.scalar(PROBLEM_LIST), rows.num_rows))
    return rows.append_column("confidence", pa.repeat(pa.scalar("high"), rows.num_rows))


def _suspected(members: pa.Table, rows: pa.Table, model: str, year: int, proposed: bool) -> pa.Table:
    """Categories that coded evidence leads to."""
    evidence = score(members, rows, model, year, proposed=proposed).evidence
    at = rows.take(evidence["row"])
    columns = [evidence["member"], evidence["cc"], *(at[name] for name in SUSPECT_SCHEMA.names[2:])]
    return pa.table(columns, SUSPECT_SCHEMA.names).cast(SUSPECT_SCHEMA)


def _evidence(gateway: Gateway, model: str, version: int, window: tuple[date, date]) -> list[pa.Table]:
    """What observations, drugs and procedures suggest."""
    lake = gateway.lake
    codes = {"code.coding.code": observation_codes()}
    lines = kept_claim_lines(gateway, version, None, list(PROCEDURE_LINE_COLUMNS))
    return [
        suspects(
            "observation",
            lake.read("Observation", list(OBSERVATION_COLUMNS), version=version, coded=codes),
            model,
            window,
        ),
        suspects(
            "medication", lake.read("MedicationRequest", list(MEDICATION_COLUMNS), version=version), model, window
        ),
        suspects("procedure", lines, model, window),
    ]


def _served(sources: pa.ChunkedArray, references: pa.ChunkedArray) -> pa.Array:
    """References under which we serve the resources."""
    pairs = pa.table([sources, references], ["source", "reference"])
    each = pairs.group_by(["source", "reference"]).aggregate([])
    served = {}
    for source, reference in zip(each["source"].to_pylist(), each["reference"].to_pylist(), strict=True):
        kind, _, resource_id = reference.partition("/")
        served[source, reference] = f"{kind}/{published_id(source, resource_id)}"
    found = [served[pair] for pair in zip(sources.to_pylist(), references.to_pylist(), strict=True)]
    return pa.array(found, pa.string())


def _months_before(day: date, months: int) -> date:
    """The first of a month so many months before the first of this one."""
    number = day.year * 12 + day.month - 1 - months
    return date(number // 12, number % 12 + 1, 1)


@cache
def _digest() -> str:
    room = files("fhir_gateway.risk")
    parts = [room.joinpath(name).read_bytes() for name in ("gaps.py", "suspecting.py", "suspects.toml")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _report(run: RiskRun) -> GapReport:
    gaps = run.table("gaps")
    pairs = zip(gaps["cc_type"].to_pylist(), gaps["evidence_status"].to_pylist(), strict=True)
    first, last = (date.fromisoformat(one) for one in run.header["period"])
    value = pc.sum(gaps.filter(pc.equal(gaps["evidence_status"], "open-gap"))["value"]).as_py()
    members = len(pc.unique(gaps["member"]))
    return GapReport(run, run.header["model"], (first, last), members, Counter(pairs), value or Decimal(0))
