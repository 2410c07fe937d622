"""Claims as rows of nested columns: those that edits read, out of a lake or out of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from fhir_gateway.lake.columns import transform_structure
from fhir_gateway.r4.spec import arrow_type, column_structure, narrowed

_PROVIDER = ("reference", "identifier.system", "identifier.value")
_CODING = ("coding.system", "coding.code")


def _below(element: str, paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{element}.{path}" for path in paths)


#: What is read of a Claim, for :meth:`fhir_gateway.lake.store.Lake.read`.
CLAIM_PATHS = (
    *("status", "use", "created", "billablePeriod", "type.coding.code"),
    *_below("identifier", ("system", "value")),
    *_below("patient", ("reference",)),
    *_below("insurer", (*_PROVIDER, "display")),
    *_below("provider", _PROVIDER),
    *_below("related", ("claim.reference", "claim.identifier.value", "reference.value", "relationship.coding.code")),
    *_below("careTeam", ("sequence", *_below("provider", _PROVIDER), *_below("qualification", _CODING))),
    *_below("supportingInfo", (*_below("category", ("coding.code",)), *_below("code", _CODING))),
    *_below(
        "diagnosis",
        ("sequence", *_below("diagnosisCodeableConcept", _CODING), "diagnosisReference.reference", "type.coding.code"),
    ),
    *_below(
        "insurance",
        ("sequence", "focal", "coverage.reference", "coverage.display", "preAuthRef", "claimResponse.reference"),
    ),
    *_below(
        "item",
        (
            *("sequence", "careTeamSequence", "diagnosisSequence", "servicedDate", "servicedPeriod", "factor"),
            *("revenue.coding.code", "modifier.coding.code", "locationCodeableConcept.coding.code"),
            *("quantity.value", "unitPrice.value", "net.value", "net.currency"),
            *_below("productOrService", _CODING),
            *_below("detail", _below("productOrService", _CODING)),
        ),
    ),
    *_below("total", ("value", "currency")),
)
_STRUCTURE = narrowed(column_structure("Claim"), CLAIM_PATHS)
#: Rows of claims: what they are called, the claim's own id, whose they are, and what is read of them.
CLAIM_SCHEMA = pa.schema(
    [("key", pa.string()), ("id", pa.string()), ("member", pa.string())]
    + [(name, arrow_type(part)) for name, part in _STRUCTURE.items()]
)


def claim_rows(lines: Sequence[bytes] | Sequence[str] | pa.Array, keys: Sequence[str] | None = None) -> pa.Table:
    """Rows (:data:`CLAIM_SCHEMA`) of Claims as JSON, which must be valid R4.

    A claim is called by ``keys``, else by its id; its member is what its ``patient`` refers to, without the type.
    """
    raw = lines if isinstance(lines, pa.Array) else pa.array(map(_text, lines), pa.string())
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("given", pa.table({"n": pa.array(range(len(raw)), pa.int64()), "raw": raw}))
        found = connection.sql(
            "SELECT json_transform(raw, ?) AS row FROM given ORDER BY n",
            params=[transform_structure({"id": "VARCHAR", **_STRUCTURE})],
        ).to_arrow_table()
    row = found["row"].combine_chunks()
    if isinstance(row, pa.ChunkedArray):  # of nothing there are no chunks
        row = row.chunk(0) if row.num_chunks else pa.array([], row.type)
    parts = dict(zip((one.name for one in row.type), row.flatten(), strict=True))
    table = pa.table({"id": parts["id"], **{name: parts[name] for name in _STRUCTURE}})
    named = pa.array(keys, pa.string()) if keys is not None else table["id"]
    return _finished(table.append_column("key", named).append_column("member", _patients(parts["patient"])))


def lake_rows(rows: pa.Table, keys: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Rows (:data:`CLAIM_SCHEMA`) of what a lake read with :data:`CLAIM_PATHS`."""
    return _finished(rows.append_column("key", keys).rename_columns({"_member": "member"}))


def _text(line: bytes | str) -> str:
    return line.decode() if isinstance(line, bytes) else line


def _patients(patient: pa.StructArray) -> pa.Array:
    import pyarrow.compute as pc

    reference = pc.struct_field(patient, "reference")
    found = pc.extract_regex(reference, r"(?:^|/)Patient/(?P<id>[A-Za-z0-9.\-]{1,64})(?:/_history/[^/]+)?$")
    return pc.struct_field(found, "id")


def _finished(table: pa.Table) -> pa.Table:
    """In the columns of the schema; what the lake left out since nothing fills it is null."""
    columns: dict[str, Any] = {}
    for one in CLAIM_SCHEMA:
        there = one.name in table.column_names
        columns[one.name] = table[one.name].cast(one.type) if there else pa.nulls(table.num_rows, one.type)
    return pa.table(columns, schema=CLAIM_SCHEMA)
