"""What others know, out of CSV files: scores of other models, what FHIR does not say of members, payers' decisions.

A file is kept as it was read, with its SHA-256; the newest import wins. Members are named by a number of theirs (an
identifier of Patient or Coverage, with its system where numbers of several systems clash) or by their id here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.contracts.given import read_table
from fhir_gateway.errors import InputError, Location
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.risk import is_ours
from fhir_gateway.jobs.rosters import persons_of_numbers
from fhir_gateway.risk.gaps import DECISION_SCHEMA, check_decisions
from fhir_gateway.risk.hcc.eligibility import STATED_SCHEMA
from fhir_gateway.risk.hcc.tables import SEGMENTS
from fhir_gateway.risk.hcc.years import MODELS
from fhir_gateway.risk.store import MEMBER_SCORE_SCHEMA

KINDS = ("scores", "members", "decisions")
_MEMBER = (pa.field("member_id", pa.string(), nullable=False), pa.field("member_system", pa.string()))
_SCORE = pa.decimal128(18, 8)
SCORE_COLUMNS = pa.schema(
    [
        *_MEMBER,
        pa.field("model", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("period_start", pa.date32(), nullable=False),
        pa.field("period_end", pa.date32(), nullable=False),
        pa.field("raw", _SCORE),
        pa.field("normalised", _SCORE),
    ]
)
MEMBER_COLUMNS = pa.schema(
    [
        *_MEMBER,
        pa.field("year", pa.int64(), nullable=False),
        *(pa.field(name, STATED_SCHEMA.field(name).type) for name in STATED_SCHEMA.names[2:]),
    ]
)
DECISION_COLUMNS = pa.schema(
    [
        *_MEMBER,
        *(pa.field(name, DECISION_SCHEMA.field(name).type, nullable=False) for name in DECISION_SCHEMA.names[1:]),
    ]
)


@dataclass(frozen=True, slots=True)
class RiskImport:
    """A kept part of a file: rows of known members, and how many members of it nobody here is."""

    run: str
    what: str
    rows: int
    unknown: int


def import_file(gateway: Gateway, path: Path, kind: str, *, by: str, now: datetime | None = None) -> list[RiskImport]:
    """Keep a CSV file of a kind; of scores, one import for each model, version and period in it.

    InputError names line and column that is wrong. Lines of unknown members are left out and counted.
    """
    if kind not in KINDS:
        raise InputError(f"kind is one of {', '.join(KINDS)}")
    schema = {"scores": SCORE_COLUMNS, "members": MEMBER_COLUMNS, "decisions": DECISION_COLUMNS}[kind]
    table = read_table(path, schema, kind)
    header = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "imported": instant(gateway, now).isoformat(),
        "by": by,
    }
    known = _members(gateway, table)
    if kind == "scores":
        return _scores(gateway, known, header, path)
    unknown = table.num_rows - known.num_rows
    if kind == "members":
        _check(known, "segment", SEGMENTS, path)
        rows = known.select(STATED_SCHEMA.names).cast(STATED_SCHEMA)
    else:
        _check(known, "model", MODELS, path)
        check_decisions(known)
        rows = known.select(DECISION_SCHEMA.names).cast(DECISION_SCHEMA)
    return [_keep(gateway, kind, header | {"rows": rows.num_rows}, rows, kind, unknown)]


def _scores(gateway: Gateway, known: pa.Table, header: dict[str, Any], path: Path) -> list[RiskImport]:
    """An import for each model, version and period."""
    if pc.any(pc.and_(known["raw"].is_null(), known["normalised"].is_null())).as_py():
        raise InputError("scores: a row has neither raw nor normalised", location=Location(file=str(path), rule="csv"))
    keys = ["model", "version", "period_start", "period_end"]
    found = []
    for key in known.group_by(keys).aggregate([]).sort_by([(name, "ascending") for name in keys]).to_pylist():
        if is_ours(key["model"]):
            raise InputError(f"scores: {key['model']} is computed here; imported scores have another model name")
        chosen = known
        for name in keys:
            chosen = chosen.filter(pc.equal(chosen[name], pa.scalar(key[name], chosen.schema.field(name).type)))
        if len(pc.unique(chosen["member"])) != chosen.num_rows:
            raise InputError(f"scores: a member has two scores of {key['model']} {key['version']} for one period")
        score = pc.coalesce(chosen["normalised"], chosen["raw"])
        columns = [chosen["member"], chosen["raw"], chosen["normalised"], score]
        rows = pa.table(columns, names=MEMBER_SCORE_SCHEMA.names).cast(MEMBER_SCORE_SCHEMA)
        about = {
            "model": key["model"],
            "version": key["version"],
            "year": key["period_start"].year,
            "period": [key["period_start"].isoformat(), key["period_end"].isoformat()],
            "rows": rows.num_rows,
        }
        what = f"{key['model']} {key['version']}, {about['period'][0]} to {about['period'][1]}"
        found.append(_keep(gateway, "scores", header | about, rows, what, 0))
    return found


def _keep(gateway: Gateway, kind: Any, header: dict[str, Any], rows: pa.Table, what: str, unknown: int) -> RiskImport:
    text = f"{kind} {what} {header['sha256']} {rows.num_rows}"
    run = hashlib.sha256(text.encode()).hexdigest()[:16]
    gateway.risk.keep(kind, run, header, {kind: rows})
    return RiskImport(run, what, rows.num_rows, unknown)


def _members(gateway: Gateway, table: pa.Table) -> pa.Table:
    """The rows of members that somebody here is, with ``member``."""
    numbers = list(zip(table["member_system"].to_pylist(), table["member_id"].to_pylist(), strict=True))
    persons = persons_of_numbers(gateway, numbers)
    here = set(gateway.lake.members().to_pylist())
    found = [persons.get(one, one[1] if one[0] is None and one[1] in here else None) for one in numbers]
    named = table.append_column("member", pa.array(found, pa.string()))
    return named.filter(named["member"].is_valid())


def _check(table: pa.Table, column: str, allowed: tuple[str, ...], path: Path) -> None:
    known = pc.is_in(table[column], value_set=pa.array(allowed))
    if pc.any(pc.and_(table[column].is_valid(), pc.invert(known))).as_py():
        raise InputError(f"{column} is one of {', '.join(allowed)}", location=Location(file=str(path), rule="csv"))
