"""Tables that pages give out as files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any

from starlette.responses import Response


def csv_file(names: Sequence[str], rows: Iterable[Sequence[Any]], name: str) -> Response:
    """Rows under a header as a CSV file of that name."""
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows(rows)
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(text.getvalue(), media_type="text/csv", headers=headers)
