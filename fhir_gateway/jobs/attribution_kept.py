"""What attribution found, before anybody's decisions, kept so that the next run is about those who changed.

Every member is judged by the member's own rows alone, by the directory, and by what is in no lake: selections, lists,
programmes and who won before. Where a run of the same contract and program is kept whose directory and lists were the
same, only members whose rows are others since are attributed; the outcome is that of attributing everybody.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.attribution import COVERAGE_COLUMNS, LINE_COLUMNS, Attribution
from fhir_gateway.cluster import Cluster
from fhir_gateway.contracts import COST_COLUMNS, Contract
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribution_facts import Known, facilities, known_directory, known_facts, run_before
from fhir_gateway.jobs.attribution_parts import SERVICE, Rows, Tables, attribute_rows, terms_of
from fhir_gateway.jobs.attribution_remote import attribute_on
from fhir_gateway.jobs.claim_lines import kept_claim_line_buckets, kept_claim_lines
from fhir_gateway.jobs.people import persons_of
from fhir_gateway.jobs.selections import selections_of

_HEADER = "header.json"
_TABLES = ("members", "candidates", "services")
#: Claim lines whose members are attributed at once: some 800 bytes each.
_TOGETHER = 750_000


@dataclass(frozen=True, slots=True)
class Found:
    """Who is whose patient by the data; ``services`` says which practice and clinician of the contract saw whom.

    ``stamps`` name what is neither in the lake nor in the contract.
    """

    attribution: Attribution
    services: pa.Table
    stamps: Mapping[str, Any]


def kept_lines(
    gateway: Gateway, contract: Contract, version: int, paid_through: date, members: pa.Array | None = None
) -> pa.Table:
    """Claim lines (of these members) with the columns that attribution and settlement of a contract look at."""
    return kept_claim_lines(gateway, version, paid_through, _columns(contract), contract.claims.precedence, members)


def _columns(contract: Contract) -> list[str]:
    return sorted({*LINE_COLUMNS, *COST_COLUMNS, *contract.needs().lines})


def of_members(gateway: Gateway, contract: Contract, version: int, members: pa.Array | None = None) -> Found:
    """Attribution of these members, or of everybody, on a lake version; ContractError without terms.

    Everybody is worked on some buckets at once, so memory does not grow with the members but for the outcome.
    """
    known = known_facts(gateway, contract, terms_of(contract), version, members)
    ccns = facilities(gateway, contract, version)
    if members is None:
        everybody = _in_parts(gateway, contract, version)
        parts = [attribute_rows(contract, rows, known.of(rows.members), ccns) for rows in everybody]
    else:
        parts = [attribute_rows(contract, _of(gateway, contract, version, members), known, ccns)]
    return _put_together(contract, parts, known)


def _of_everybody(gateway: Gateway, contract: Contract, version: int, cluster: Cluster | None) -> Found:
    """The same of everybody, by a cluster where there is one."""
    if cluster is None:
        return of_members(gateway, contract, version)
    known = known_facts(gateway, contract, terms_of(contract), version)
    parts = list(attribute_on(cluster, gateway, contract, version, known, _columns(contract)))
    return _put_together(contract, parts, known)


def _put_together(contract: Contract, parts: Sequence[Tables], known: Known) -> Found:
    table, candidates, services = zip(*parts, strict=True)
    attribution = Attribution(
        _sorted(table, ("member",)),
        _sorted(candidates, ("member", "rank")),
        terms_of(contract),
        contract.dates,
        tuple(contract.participants),
    )
    return Found(attribution, _sorted(services, SERVICE), known.stamps)


def _of(gateway: Gateway, contract: Contract, version: int, members: pa.Array) -> Rows:
    return Rows(
        kept_lines(gateway, contract, version, contract.claims.paid_through, members),
        gateway.lake.read("Coverage", COVERAGE_COLUMNS, version=version, members=members),
        persons_of(gateway, version, members=members),
    )


def _in_parts(gateway: Gateway, contract: Contract, version: int) -> Iterator[Rows]:
    """What is known of everybody, so many claim lines at once."""
    claims = contract.claims
    buckets = kept_claim_line_buckets(gateway, version, claims.paid_through, _columns(contract), claims.precedence)
    waiting: list[Rows] = []
    for bucket, lines in enumerate(buckets):
        coverage = gateway.lake.read("Coverage", COVERAGE_COLUMNS, bucket=bucket, version=version)
        waiting.append(Rows(lines, coverage, persons_of(gateway, version, bucket)))
        if sum(one.lines.num_rows for one in waiting) >= _TOGETHER or bucket + 1 == gateway.lake.buckets_of(version):
            names = ("lines", "coverage", "people")
            yield Rows(*(pa.concat_tables([getattr(one, name) for one in waiting]) for name in names))
            waiting = []


def _sorted(parts: Sequence[pa.Table], order: Sequence[str]) -> pa.Table:
    rows = pa.concat_tables(parts)
    return rows if len(parts) == 1 else rows.sort_by([(one, "ascending") for one in order]).combine_chunks()


def found(
    gateway: Gateway, contract: Contract, version: int, *, everybody: bool = False, cluster: Cluster | None = None
) -> Found:
    """Attribution on a lake version, of those who changed where there is a run to go by, unless ``everybody``; kept."""
    folder = gateway.data_folder / "attribution-runs" / contract.id
    world = _world(gateway, contract, version)
    since, path = _earlier(folder, world, version)
    if everybody or path is None:
        made = _of_everybody(gateway, contract, version, cluster)
    else:
        made = _gone_on(gateway, contract, version, since, path, cluster)
    if everybody or since != version:
        _keep(folder, made, {"world": world, "version": version})
    return made


def _gone_on(
    gateway: Gateway, contract: Contract, version: int, since: int, path: Path, cluster: Cluster | None
) -> Found:
    """A kept run with the members who changed since put in their place."""
    before = [pq.read_table(path / f"{name}.parquet") for name in _TABLES]
    stamps = orjson.loads((path / _HEADER).read_bytes())["stamps"]
    changed = gateway.lake.changes(since, version).members
    if 2 * len(changed) > before[0].num_rows:
        return _of_everybody(gateway, contract, version, cluster)
    if len(changed):
        anew = of_members(gateway, contract, version, changed)
        stamps = anew.stamps
        fresh = (anew.attribution.table, anew.attribution.candidates, anew.services)
        orders = (["member"], ["member", "rank"], SERVICE)
        before = [_replaced(*one, changed) for one in zip(before, fresh, orders, strict=True)]
    table, candidates, services = before
    attribution = Attribution(table, candidates, terms_of(contract), contract.dates, tuple(contract.participants))
    return Found(attribution, services, stamps)


def _replaced(before: pa.Table, fresh: pa.Table, order: Sequence[str], changed: pa.Array) -> pa.Table:
    """Rows of members, sorted, with those of the members who changed made anew."""
    stay = before.filter(pc.invert(pc.is_in(before["member"], value_set=changed)))
    return pa.concat_tables([stay, fresh]).combine_chunks().sort_by([(one, "ascending") for one in order])


def _earlier(folder: Path, world: str, version: int) -> tuple[int, Path | None]:
    """The kept run to go by, and its lake version."""
    for header in folder.glob(f"[!.]*/{_HEADER}"):
        stated = orjson.loads(header.read_bytes())
        if stated["world"] == world and stated["version"] <= version:
            return stated["version"], header.parent
    return 0, None


def _world(gateway: Gateway, contract: Contract, version: int) -> str:
    """A digest of all that an attribution rests on but the members' own rows."""
    nobody = pa.array([], pa.string())
    selections, programmes, batches = selections_of(gateway, contract, version, nobody)
    before, known = run_before(gateway, contract), facilities(gateway, contract, version)
    tables = [
        known_directory(gateway, version),
        *([] if known is None else [known]),
        *(one.sort_by([(name, "ascending") for name in one.column_names]) for one in (selections, programmes)),
    ]
    digest = hashlib.sha256(f"{contract.digest} {_program()} {batches} {before and before.name}".encode())
    for table in tables:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table.combine_chunks())
        digest.update(sink.getvalue())
    return digest.hexdigest()


@cache
def _program() -> str:
    """Changes with the program that attributes."""
    root = files("fhir_gateway")
    parts = [
        one.read_bytes()
        for folder in ("attribution", "attribution/methods", "lake", "jobs")
        for one in sorted(root.joinpath(folder).iterdir(), key=lambda one: one.name)
        if one.name.endswith((".py", ".sql")) and (folder not in ("lake", "jobs") or one.name.startswith(_LOOKED_AT))
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


#: Modules of other rooms that say what is attributed from.
_LOOKED_AT = ("attribution_", "claim", "people", "selections", "rosters", "macros")


def _keep(folder: Path, made: Found, header: Mapping[str, Any]) -> None:
    """Keep a run, whole or not at all, in the place of those before it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    tables = (made.attribution.table, made.attribution.candidates, made.services)
    for name, table in zip(_TABLES, tables, strict=True):
        pq.write_table(table, partial / f"{name}.parquet")
    (partial / _HEADER).write_bytes(orjson.dumps({**header, "stamps": dict(made.stamps)}))
    target = folder / f"{header['version']}-{partial.name.removeprefix('.saving-')}"
    os.rename(partial, target)
    for other in folder.glob("[!.]*"):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)  # somebody may be deleting it too
