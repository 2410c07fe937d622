"""The first entry of a table's Delta log: what the table is, and its first files.

The library takes ten milliseconds to declare a table of some thousand fields and as many again for its first files; a
first pull founds a table per resource type. Written as the Delta protocol says
(https://github.com/delta-io/delta/blob/master/PROTOCOL.md); all that follows is written by the library.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from fhir_gateway.errors import GatewayError
from fhir_gateway.lake.columns import table_schema
from fhir_gateway.lake.places import Place, publish

_NAMES = {
    pa.string(): "string",
    pa.bool_(): "boolean",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.timestamp("us", "UTC"): "timestamp",
}


def found_table(
    path: Place,
    resource_type: str,
    partition_by: Sequence[str],
    configuration: Mapping[str, str],
    files: Sequence[Mapping[str, Any]],
) -> None:
    """Write version 0 of the table at ``path`` with ``files`` (fields of ``add`` actions)."""
    now = int(time.time() * 1000)
    about = {
        "id": str(uuid.uuid4()),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": _schema_text(resource_type),
        "partitionColumns": list(partition_by),
        "createdTime": now,
        "configuration": dict(configuration),
    }
    actions: list[dict[str, Any]] = [
        {"commitInfo": {"timestamp": now, "operation": "CREATE TABLE", "operationParameters": {}}},
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {"metaData": about},
        *({"add": {**file, "dataChange": True}} for file in files),
    ]
    log = path / "_delta_log"
    if isinstance(log, Path):
        log.mkdir(parents=True, exist_ok=True)
    publish(log / f"{0:020d}.json", "".join(json.dumps(action) + "\n" for action in actions).encode())


@lru_cache(maxsize=256)
def _schema_text(resource_type: str) -> str:
    return json.dumps(delta_type(pa.struct(table_schema(resource_type))), separators=(",", ":"))


def delta_type(stored: pa.DataType) -> Any:
    """An Arrow type in the words of Delta; everything may be null."""
    if pa.types.is_list(stored):
        return {"type": "array", "elementType": delta_type(stored.value_type), "containsNull": True}
    if pa.types.is_struct(stored):
        fields = [{"name": f.name, "type": delta_type(f.type), "nullable": True, "metadata": {}} for f in stored]
        return {"type": "struct", "fields": fields}
    if pa.types.is_decimal(stored):
        return f"decimal({stored.precision},{stored.scale})"
    if stored not in _NAMES:
        raise GatewayError(f"Delta tables have no type {stored}")
    return _NAMES[stored]
