"""Tables as CSV files: by Arrow where nothing has to be quoted, quoted where something has."""

from __future__ import annotations

import csv
import io

import pyarrow as pa
import pytest

from fhir_gateway.console.files import csv_of_table


@pytest.mark.parametrize("name", ["plain", 'with "quotes", and a comma', "two\nlines"])
def test_what_is_written_is_read_again(name: str) -> None:
    table = pa.table({"measure": [name, name], "member": ["p1", None]})
    answer = csv_of_table(table, "made")
    rows = list(csv.reader(io.StringIO(bytes(answer.body).decode())))
    assert rows == [["measure", "member"], [name, "p1"], [name, ""]]
    assert answer.headers["content-disposition"] == 'attachment; filename="made.csv"'
