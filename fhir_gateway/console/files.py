"""Tables that pages give out as files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
from starlette.responses import Response


def csv_of_table(table: pa.Table, name: str) -> Response:
    """A table as a CSV file; written by Arrow, unless something in it has to be quoted."""
    sink = pa.BufferOutputStream()
    try:
        pa_csv.write_csv(table, sink, pa_csv.WriteOptions(quoting_style="none"))
    except pa.ArrowInvalid:
        columns = [table[one].to_pylist() for one in table.column_names]
        return csv_file(table.column_names, zip(*columns, strict=True), name)
    return _sent(sink.getvalue().to_pybytes(), name)


def csv_file(names: Sequence[str], rows: Iterable[Sequence[Any]], name: str) -> Response:
    """Rows under a header as a CSV file of that name."""
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows(rows)
    return _sent(text.getvalue().encode(), name)


def _sent(content: bytes, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(content, media_type="text/csv", headers=headers)
