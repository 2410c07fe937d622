"""What a full pull did not bring any more: rows of a source that are in the lake and no longer at the sender.

Incremental pulls cannot see that something is gone unless the server says so; a full pull can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.factory import Gateway
from fhir_gateway.lake.columns import belongs_to_patients
from fhir_gateway.sources.download import GZIP_MAGIC
from fhir_gateway.sources.models import StagedFile
from fhir_gateway.sources.outcome import PullOutcome
from fhir_gateway.sources.tables import SourcePull

MOST_MISSING = 0.2
"""Share of a type's rows above which a full pull is not believed: an export that broke off looks like deletions."""

_MAX_LINE = 256 << 20


@dataclass(frozen=True, slots=True)
class Reconciled:
    """Ids to be deleted by type, and what the operator is to know."""

    deletions: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()


def reconcile(gateway: Gateway, row: SourcePull, outcome: PullOutcome) -> Reconciled:
    """Compare a pull with the lake; the sender's own deletions are always among the result.

    Only a complete pull is compared: no ``since``, patients or filters. Of a Group's pull these are the rows of those
    whose Patients it brought, all of the source's: who left the Group is not gone, and what belongs to no patient was
    perhaps not asked for. By the setting ``missing_rows`` what is missing is told, or deleted; never where more than
    :data:`MOST_MISSING` of a type is missing, or where references of the type could not be followed.
    """
    told = {kind: tuple(ids) for kind, ids in outcome.deletions.items()}
    asked = row.request
    narrowed = any(asked.get(name) for name in ("patients", "type_filters", "files"))
    if row.outcome.get("since") is not None or narrowed or not outcome.complete:
        return Reconciled(told)
    notes = []
    kinds = set(asked["types"] or gateway.lake.types()) & set(gateway.lake.types())
    members = None
    if asked.get("group"):
        members = _brought(gateway, row.source, outcome.staged.files)
        kinds = {kind for kind in kinds if belongs_to_patients(kind)}
    for kind in sorted(kinds):
        missing, stored = _missing(gateway, row.source, kind, outcome.staged.files, members)
        missing -= set(told.get(kind, ()))
        if not missing:
            continue
        words = f"{len(missing)} of {stored} rows of {kind} were not in this full pull"
        if kind in outcome.dangling or len(missing) > MOST_MISSING * stored:
            notes.append(f"{words}: too many to be believed, none was deleted")
        elif gateway.settings.missing_rows == "delete":
            told[kind] = (*told.get(kind, ()), *sorted(missing))
            notes.append(f"{words}: deleted")
        else:
            notes.append(f"{words}: kept; the setting missing_rows can have them deleted")
    return Reconciled(told, tuple(notes))


def _missing(
    gateway: Gateway, source: str, kind: str, files: Sequence[StagedFile], members: pa.Array | None
) -> tuple[set[str], int]:
    """Ids of a source's rows of a type that no file holds, and how many rows there are; of some members, or all."""
    rows = gateway.lake.read(kind, members=members, ordered=False)
    stored = rows.filter(pc.equal(rows["_source"], source))["id"].combine_chunks()
    if not len(stored):
        return set(), 0
    gone = stored.filter(pc.invert(pc.is_in(stored, value_set=_held(files, kind))))
    return set(gone.to_pylist()), len(stored)


def _brought(gateway: Gateway, source: str, files: Sequence[StagedFile]) -> pa.Array:
    """Members all of whose Patients of a source the files hold."""
    patients = gateway.lake.read("Patient", ordered=False)
    patients = patients.filter(pc.equal(patients["_source"], source))
    here = pc.is_in(patients["id"], value_set=_held(files, "Patient"))
    absent = patients.filter(pc.invert(here))["_member"]
    members = pc.unique(patients.filter(here)["_member"])
    return members.filter(pc.invert(pc.is_in(members, value_set=absent.combine_chunks())))


def _held(files: Sequence[StagedFile], kind: str) -> pa.Array:
    seen = [_ids(file, kind) for file in files if file.resource_type in (None, kind)]
    return pa.concat_arrays(seen) if seen else pa.array([], pa.string())


def _ids(file: StagedFile, kind: str) -> pa.Array:
    """Ids in a file of resources of a type, of those that are refused too: what is refused is not gone."""
    with file.path.open("rb") as opened:
        packed = opened.read(2) == GZIP_MAGIC
    with duckdb.connect() as connection:
        found: pa.Table = connection.sql(
            "select json->>'id' as id from read_ndjson_objects(?, ignore_errors=true, compression=?, "
            "maximum_object_size=?) where json->>'resourceType' = ? and json->>'id' is not null",
            params=[str(file.path), "gzip" if packed else "uncompressed", _MAX_LINE, kind],
        ).to_arrow_table()
    ids: pa.Array = found.column("id").combine_chunks()
    return ids.cast(pa.string())
