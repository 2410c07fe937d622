"""The first entry of a table's log, which we write, as the Delta library reads it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Schema

from fhir_gateway.errors import GatewayError
from fhir_gateway.lake.columns import table_schema
from fhir_gateway.lake.founding import delta_type, found_table


@pytest.mark.parametrize("resource_type", ["Patient", "Observation", "ExplanationOfBenefit", "Questionnaire"])
def test_the_library_reads_what_was_founded(tmp_path: Path, resource_type: str) -> None:
    file = {
        "path": "_bucket=3/part-1.parquet",
        "partitionValues": {"_bucket": "3"},
        "size": 12,
        "modificationTime": 1000,
        "stats": '{"numRecords": 7}',
    }
    found_table(tmp_path, resource_type, ["_bucket"], {"delta.dataSkippingNumIndexedCols": "0"}, [file])
    table = DeltaTable(str(tmp_path))
    assert table.version() == 0
    assert table.schema().to_json() == Schema.from_arrow(table_schema(resource_type)).to_json()
    assert table.metadata().partition_columns == ["_bucket"]
    assert table.metadata().configuration == {"delta.dataSkippingNumIndexedCols": "0"}
    added = pa.table(table.get_add_actions(flatten=True))
    assert added.select(["path", "num_records", "partition._bucket"]).to_pylist() == [
        {"path": "_bucket=3/part-1.parquet", "num_records": 7, "partition._bucket": 3}
    ]


def test_a_type_that_delta_does_not_have() -> None:
    with pytest.raises(GatewayError, match="Delta tables have no type duration"):
        delta_type(pa.duration("s"))
