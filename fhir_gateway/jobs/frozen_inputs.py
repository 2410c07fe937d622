"""What a settlement rests on beside its lake version, contract version, attribution and measure results, kept with it.

Risk scores and reference tables are imported anew, metrics follow tables that are replaced: a settlement that is made
again as of then must find what was known then. Files are named after what they say, so nothing is kept twice.

::

    <data folder>/settlement-inputs/<sha-256>.arrow    a table
    <data folder>/settlement-inputs/<sha-256>.json     names of tables, what they were made of, outcomes, stamps
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from fhir_gateway.contracts.inputs import MeasureScore
from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway

#: The stamp of a settlement that names its frozen inputs.
STAMP = "inputs"


@dataclass(frozen=True, slots=True)
class FrozenInputs:
    """Tables of the contract that are no files and what they were made of; outcomes of metrics by canonical; stamps."""

    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    outcomes: Mapping[str, MeasureScore] = field(default_factory=dict)
    stamps: Mapping[str, str] = field(default_factory=dict)


def freeze(gateway: Gateway, inputs: FrozenInputs) -> dict[str, str]:
    """Keep inputs; the stamp that names them, none where there are none."""
    if not inputs.tables and not inputs.outcomes:
        return {}
    folder = _folder(gateway)
    told = {
        "tables": {name: _keep(folder, _bytes(table), "arrow") for name, table in inputs.tables.items()},
        "sources": dict(inputs.sources),
        "outcomes": {
            name: [one.numerator, one.denominator, None if one.score is None else str(one.score)]
            for name, one in inputs.outcomes.items()
        },
        "stamps": dict(inputs.stamps),
    }
    return {STAMP: _keep(folder, orjson.dumps(told, option=orjson.OPT_SORT_KEYS), "json")}


def thaw(gateway: Gateway, stamps: Mapping[str, str]) -> FrozenInputs | None:
    """The inputs that a settlement's stamps name; None where they name none. NotFoundError when not kept any more."""
    if STAMP not in stamps:
        return None
    folder = _folder(gateway)
    told: dict[str, Any] = orjson.loads(_read(folder, stamps[STAMP], "json"))
    return FrozenInputs(
        {name: _table(_read(folder, digest, "arrow")) for name, digest in told["tables"].items()},
        told["sources"],
        {
            name: MeasureScore(numerator, denominator, None if score is None else Decimal(score))
            for name, (numerator, denominator, score) in told["outcomes"].items()
        },
        told["stamps"] | {STAMP: stamps[STAMP]},
    )


def _folder(gateway: Gateway) -> Path:
    return gateway.data_folder / "settlement-inputs"


def _bytes(table: pa.Table) -> bytes:
    plain = table.combine_chunks().replace_schema_metadata(None)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, plain.schema) as writer:
        writer.write_table(plain)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _table(content: bytes) -> pa.Table:
    return pa.ipc.open_file(pa.BufferReader(content)).read_all()


def _keep(folder: Path, content: bytes, kind: str) -> str:
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{digest}.{kind}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, partial = tempfile.mkstemp(prefix=".keeping-", dir=folder)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(partial, path)
    return digest


def _read(folder: Path, digest: str, kind: str) -> bytes:
    path = folder / f"{digest}.{kind}"
    if not path.exists():
        raise NotFoundError("what this settlement was made of is not kept any more")
    return path.read_bytes()
