"""What the gateway logs, and how: a line for each event, as text or as JSON, with the id of the request it belongs to;
as JSON also with the id of its trace, while traces are exported.

Messages and fields name interactions, types, counts and ids of requests and jobs; never persons, values or secrets.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from fhir_gateway.telemetry.spans import trace_id

#: The request that is being answered, in the context of its work.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_TEXT = "%(asctime)s %(levelname)s %(name)s %(request_id)s %(message)s"
_RENAMED = {"asctime": "time", "levelname": "level", "name": "logger"}


class _Requests(logging.Filter):
    """Adds the request's id to each record, and the trace's where there is one."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get() or "-"
        if (trace := trace_id()) is not None:
            record.trace_id = trace
        return True


def configure(form: Literal["text", "json"], level: str) -> None:
    """Log to standard error from now on; replaces what was configured before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Requests())
    handler.setFormatter(JsonFormatter(_TEXT, rename_fields=_RENAMED) if form == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("fhir_gateway").setLevel(level.upper())
    logging.getLogger("uvicorn.error").setLevel(level.upper())
