"""Checks of claims with what the gateway knows of their patients: the lake's, those of files, and those a client sends.

Claims of one source are judged beside claims of the same source: what another one sent of a claim is a copy of it, no
duplicate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution.entries import PROVIDER, active, extension
from fhir_gateway.claim_edits import CLAIM_PATHS, Checked, Context, TableStore, check, claim_rows, lake_rows
from fhir_gateway.claim_edits.denials import EOB_ANSWER, RESPONSE_ANSWER, denied_lines
from fhir_gateway.claim_edits.known import COVERAGE_COLUMNS, PATIENT_COLUMNS, coverages, patients
from fhir_gateway.claim_edits.models import ATTRIBUTED_SCHEMA, together
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.errors import InputError, Location, ResourceError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.clinical import ClinicalRows
from fhir_gateway.jobs.publish import published_id
from fhir_gateway.lake.claims import DIRECTORY_SCHEMA, directory
from fhir_gateway.lake.explain import issues
from fhir_gateway.lake.judge import judge
from fhir_gateway.lake.lines import read_blocks
from fhir_gateway.lake.scan import Scanner
from fhir_gateway.sources.files import stage_files
from fhir_gateway.sources.models import StagedFile

#: Claims that are checked at a time: more take more memory, fewer open the tables more often.
BATCH = 50_000
_NPI, _TIN = "http://hl7.org/fhir/sid/us-npi", "urn:oid:2.16.840.1.113883.4.4"


def claim_tables(gateway: Gateway) -> TableStore:
    """The imported reference tables."""
    return TableStore(gateway.data_folder / "claim-tables")


def check_lake(gateway: Gateway, names: Iterable[str] | None = None, source: str | None = None) -> Checked:
    """Check every claim of the lake, or of one source, by bucket: all earlier claims of a patient lie in the same."""
    chosen = None if names is None else list(names)
    lake, tables = gateway.lake, claim_tables(gateway)
    providers, lists = directory(lake), attributed(gateway)
    parts = []
    version = lake.version
    for bucket in range(lake.buckets_of(version)):
        rows = lake.read("Claim", CLAIM_PATHS, bucket=bucket, version=version)
        if not rows.num_rows:
            continue
        for name in sorted(pc.unique(rows["_source"]).to_pylist()):
            if source not in (None, name):
                continue
            mine = rows.filter(pc.equal(rows["_source"], name))
            claims = lake_rows(mine, _keys(mine))
            known = _known(gateway, name, providers, lists, bucket=bucket, version=version)
            # the batch is the history: every claim of these patients is in it
            denied = _denied(gateway, _own_id, source=name, bucket=bucket, version=version)
            known = replace(known, history=claims.slice(0, 0), denied=denied)
            parts.append(check(claims, known, tables, chosen))
    return together(parts)


def check_files(
    gateway: Gateway,
    paths: Sequence[Path | str],
    source: str | None = None,
    names: Iterable[str] | None = None,
    submitted: date | None = None,
) -> Checked:
    """Check the Claims of files (NDJSON, Bundles, folders, zips).

    ``source`` says whose ids patients, coverage and providers are named by; without it nothing is known of them.
    ResourceError names file, line, path and rule of a line that is no valid resource.
    """
    chosen = None if names is None else list(names)
    with tempfile.TemporaryDirectory() as folder:
        staged = stage_files(paths, source or "claims", Path(folder))
        claims = claim_rows([line for file in staged.files for line in _claims(file)])
    tables = claim_tables(gateway)
    if source:
        claims = _of_source(gateway, claims, source)
        providers, lists = directory(gateway.lake), attributed(gateway)
    parts, places = [], _by_member(claims)
    for place in places:
        batch = claims.take(pa.array(place))
        known = Context()
        if source:
            members = pc.unique(batch["member"].drop_null())
            past = gateway.lake.read("Claim", CLAIM_PATHS, members=members)
            past = past.filter(pc.equal(past["_source"], source))
            known = replace(
                _known(gateway, source, providers, lists, members=members),
                history=lake_rows(past, past["id"]),
                denied=_before(batch, _denied(gateway, _own_id, source=source, members=members)),
            )
        parts.append(check(batch, replace(known, submitted=submitted), tables, chosen))
    return _woven(parts, places)


def check_sent(
    gateway: Gateway,
    store: ResourceStore,
    reads: Callable[[str], bool],
    claims: Sequence[Mapping[str, Any]],
    submitted: date | None = None,
    names: Iterable[str] | None = None,
) -> tuple[Checked, list[str]]:
    """Check claims that a client sends, with references to what is served here; with the persons that it used data of.

    ``store`` is as the client sees it, ``reads`` says which types it may read: of what it may not see nothing is known,
    so that no answer tells of it.
    """
    chosen = None if names is None else list(names)
    keys = [one.get("id") or f"#{number}" for number, one in enumerate(claims, 1)]
    rows = claim_rows([orjson.dumps(one) for one in claims], keys)
    found = (
        {one.id for one in store.read_many(("Patient", one) for one in _members(rows))} if reads("Patient") else set()
    )
    told = np.array([one in found for one in rows["member"].to_pylist()], dtype=bool)
    base = Context(directory=_providers(store, reads, claims), submitted=submitted)
    tables = claim_tables(gateway)
    theirs = rows.filter(pa.array(told))
    known = _of_persons(gateway, base, reads, sorted(found))
    seen = check(theirs, replace(known, denied=_before(theirs, known.denied)), tables, chosen)
    unseen = check(rows.filter(pa.array(~told)), base, tables, chosen)
    return _woven([seen, unseen], [np.flatnonzero(told), np.flatnonzero(~told)]), sorted(found)


def _by_member(claims: pa.Table) -> list[np.ndarray]:
    """Numbers of rows in batches; all claims of a member are in the same one."""
    order = pc.sort_indices(claims, [("member", "ascending")]).to_numpy()
    members = claims["member"].take(pa.array(order))
    new = pc.fill_null(pc.not_equal(members[1:], members[:-1]), True).to_numpy() if len(order) else np.empty(0, bool)
    starts = np.concatenate([[0], np.flatnonzero(new) + 1]).astype(np.int64)
    cuts = np.unique(starts[np.searchsorted(starts, np.arange(0, len(order), BATCH), "left").clip(max=len(starts) - 1)])
    return [one for one in np.split(order, cuts[1:]) if len(one)]


def _woven(parts: Sequence[Checked], places: Sequence[np.ndarray]) -> Checked:
    """Parts of a batch in the order of the batch; ``places`` are the rows that each part had."""
    whole = together(parts)
    place = np.concatenate([np.empty(0, np.int64), *places]).astype(np.int64)

    def moved(table: pa.Table) -> pa.Table:
        rids = place[table["rid"].to_numpy()]
        return table.set_column(0, "rid", pa.array(rids)).take(pa.array(np.argsort(rids, kind="stable")))

    return replace(whole, claims=moved(whole.claims), findings=moved(whole.findings), unchecked=moved(whole.unchecked))


def _of_persons(gateway: Gateway, base: Context, reads: Callable[[str], bool], persons: Sequence[str]) -> Context:
    members, lake = pa.array(persons, pa.string()), gateway.lake
    known = replace(base, patients=patients(lake.read("Patient", PATIENT_COLUMNS, members=members)))
    if reads("Coverage"):
        known = replace(
            known, coverages=coverages(lake.read("Coverage", COVERAGE_COLUMNS, members=members), published_id)
        )
    if reads("Claim"):
        past = [one.body for one in ClinicalRows(gateway).of_members("Claim", persons)] if persons else []
        denied = _denied(gateway, published_id, reads, members=members)
        known = replace(known, history=claim_rows(past), denied=denied)
    return known


def _denied(
    gateway: Gateway,
    called: Callable[[str, str], str],
    reads: Callable[[str], bool] = lambda _: True,
    source: str | None = None,
    bucket: int | None = None,
    members: pa.Array | None = None,
    version: int | None = None,
) -> pa.Table:
    """What payers denied, as far as the answers may be read: of one source, or of all."""
    answers = []
    for kind, columns in (("ExplanationOfBenefit", EOB_ANSWER), ("ClaimResponse", RESPONSE_ANSWER)):
        rows = gateway.lake.read(kind, columns, bucket=bucket, members=members, version=version)
        mine = pc.equal(rows["_source"], source) if source is not None else pa.array([True] * rows.num_rows, pa.bool_())
        answers.append(rows.filter(mine) if reads(kind) else rows.slice(0, 0))
    return denied_lines(answers[0], answers[1], called)


def _before(claims: pa.Table, denied: pa.Table | None) -> pa.Table | None:
    """Denials of other claims than these: what is sent anew was not answered yet."""
    if denied is None:
        return None
    return denied.filter(pc.invert(pc.is_in(denied["claim"], value_set=claims["id"].combine_chunks())))


def _own_id(_: str, identity: str) -> str:
    return identity


def _providers(store: ResourceStore, reads: Callable[[str], bool], claims: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The providers that claims name by references, as served."""
    named = set()
    for claim in claims:
        for one in (claim.get("provider"), *(member.get("provider") for member in claim.get("careTeam", ()))):
            kind, _, identity = str((one or {}).get("reference", "")).rpartition("/")
            kind = kind.rpartition("/")[2]
            if kind in ("Organization", "Practitioner") and reads(kind):
                named.add((kind, identity))
    rows = []
    for stored in store.read_many(named):
        numbers = {one.get("system"): one.get("value") for one in stored.json().get("identifier", ())}
        row = {
            "source": "",
            "reference": f"{stored.type}/{stored.id}",
            "npi": numbers.get(_NPI),
            "tin": numbers.get(_TIN),
        }
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=DIRECTORY_SCHEMA)


def attributed(gateway: Gateway) -> pa.Table | None:
    """Who is on which attribution list when, and with whom; None when there is no list."""
    rows = []
    providers: dict[str, tuple[str | None, str | None]] = {}
    store = gateway.resources
    groups = [one.json() for one in store.read_many(("Group", one) for one in store.ids("Group", []))]
    for group in groups:
        for entry in active(group).values():
            reference = str(extension(entry, PROVIDER).get("valueReference", {}).get("reference", ""))
            if reference and reference not in providers:
                providers[reference] = _numbers(store, reference)
            npi, tin = providers.get(reference, (None, None))
            period = entry.get("period", {})
            rows.append(
                {
                    "member": str(entry["entity"].get("reference", "")).rpartition("/")[2],
                    "npi": npi,
                    "tin": tin,
                    "attributed_from": _day(period.get("start")),
                    "attributed_to": _day(period.get("end")),
                }
            )
    return pa.Table.from_pylist(rows, schema=ATTRIBUTED_SCHEMA) if groups else None


def _numbers(store: ResourceStore, reference: str) -> tuple[str | None, str | None]:
    kind, _, identity = reference.rpartition("/")
    found = store.read_many([(kind.rpartition("/")[2], identity)])
    numbers = {one.get("system"): one.get("value") for stored in found for one in stored.json().get("identifier", ())}
    return numbers.get(_NPI), str(numbers[_TIN]).replace("-", "") if numbers.get(_TIN) else None


def _day(text: str | None) -> date | None:
    """The day of a period that we wrote ourselves, which are whole days."""
    return date.fromisoformat(text[:10]) if text and len(text) >= 10 else None


def _known(
    gateway: Gateway,
    source: str,
    providers: pa.Table,
    lists: pa.Table | None,
    bucket: int | None = None,
    members: pa.Array | None = None,
    version: int | None = None,
) -> Context:
    """What one source says of patients and coverage, and its directory."""
    lake = gateway.lake
    covered = lake.read("Coverage", COVERAGE_COLUMNS, bucket=bucket, members=members, version=version)
    covered = covered.filter(pc.equal(covered["_source"], source))
    return Context(
        patients=patients(lake.read("Patient", PATIENT_COLUMNS, bucket=bucket, members=members, version=version)),
        coverages=coverages(covered, _own_id),
        attributed=lists,
        directory=providers.filter(pc.equal(providers["source"], source)),
    )


def _of_source(gateway: Gateway, claims: pa.Table, source: str) -> pa.Table:
    """Claims with the persons that the source's patients are."""
    ids = pc.unique(claims["member"].drop_null())
    persons = gateway.persons.lookup(source, ids)
    place = pc.index_in(claims["member"], value_set=ids)
    return claims.set_column(claims.schema.get_field_index("member"), "member", persons.take(place.combine_chunks()))


def _members(rows: pa.Table) -> list[str]:
    found: list[str] = pc.unique(rows["member"].drop_null()).to_pylist()
    return found


def _keys(rows: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(rows["_source"], rows["id"], "-")


def _claims(file: StagedFile) -> Iterator[bytes]:
    """The Claims of a file, each on a line, checked."""
    scanner = Scanner()
    for block in read_blocks(file):
        scanned = scanner.scan(block, None, file.name, 0)
        for refused in scanned.refused:
            place = Location(file=refused.file, line=refused.line, path=refused.path, rule=refused.rule)
            raise ResourceError(refused.message, location=place)
        for kind, rows in scanned.rows:
            if kind == "Claim":
                for at, size in zip(rows["_at"].to_pylist(), rows["_size"].to_pylist(), strict=True):
                    yield block.text[at : at + size]


def sent_claims(body: bytes) -> list[Mapping[str, Any]]:
    """The claims of a body: a Claim, a Bundle of Claims, or NDJSON. ResourceError names line, path and rule."""
    lines = [(number, text) for number, text in enumerate(body.splitlines(), 1) if text.strip()]
    if len(lines) > 1:
        try:
            orjson.loads(lines[0][1])
        except orjson.JSONDecodeError:  # one resource over many lines
            lines = [(1, body)]
    found: list[Mapping[str, Any]] = []
    for number, text in lines:
        resource, issue = judge(text, None)
        if issue is None or issue.rule not in ("not-json", "depth", "duplicate-key"):
            issue = next(issues(resource, contained=True), None)  # what is not stored needs no id
        if issue is not None:
            raise ResourceError(issue.message, location=Location(line=number, path=issue.path, rule=issue.rule))
        found += _unpacked(resource, number)
    if not found:
        raise InputError("there is no Claim in the body", location=Location(rule="required"))
    return found


def _unpacked(resource: Mapping[str, Any], number: int) -> list[Mapping[str, Any]]:
    if resource["resourceType"] == "Claim":
        return [resource]
    if resource["resourceType"] != "Bundle":
        raise InputError("neither a Claim nor a Bundle", location=Location(line=number, rule="resourceType"))
    inner = [one.get("resource", {}) for one in resource.get("entry", ())]
    return [one for one in inner if one.get("resourceType") == "Claim"]
