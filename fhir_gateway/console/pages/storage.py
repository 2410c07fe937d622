"""Storage: what lies where and how large it is, the lake's tables and versions, and how much room is left."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.tables_of import ROWS, Rows
from fhir_gateway.db.engine import snapshot
from fhir_gateway.errors import NotFoundError
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.calculations import calculation_id
from fhir_gateway.lake.store import COMPACTED
from fhir_gateway.lake.versions import LakeVersion

Page = Annotated[int, Query(ge=1, le=1_000_000)]
#: Files of a folder that are looked at: of one with more the page says that it is at least as large.
_MOST_FILES = 5_000
#: Jobs that look after the lake: what each is asked.
_CARE: Mapping[str, Mapping[str, Any]] = {"compact": {"files": COMPACTED}, "retain": {}}


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies below the data folder; ``whole`` is False where there are more files than were looked at."""

    name: str
    files: int
    bytes: int
    whole: bool = True


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    See = Annotated[Session, Depends(frame.see("see-operations"))]
    Do = Annotated[Form, Depends(frame.do("do-operations"))]

    @routes.get("/operations/storage")
    def storage(request: Request, _: See, page: Page = 1) -> Response:
        tables = gateway.lake.stored()
        newest = gateway.lake.version
        pages = max(1, -(-newest // ROWS))
        page = min(page, pages)
        last = newest - (page - 1) * ROWS
        versions = list(_versions(frame, range(last, max(last - ROWS, 0), -1)))
        disk = shutil.disk_usage(gateway.data_folder)
        return frame.page(
            request,
            "storage.html",
            tables=tables,
            many=COMPACTED,
            found=Rows(versions, newest, page),
            lake_url=gateway.lake.url,
            buckets=gateway.lake.buckets,
            folders=sorted(_folders(gateway.data_folder), key=lambda one: -one.bytes),
            data_folder=gateway.data_folder,
            disk=disk,
            free_share=disk.free / disk.total if disk.total else 0.0,
            database=(gateway.engine.dialect.name, _database_size(gateway.engine)),
        )

    @routes.post("/operations/storage/{kind}")
    def care(kind: str, _: Do) -> Response:
        """Put files together, or remove those that nobody needs, in the background."""
        if kind not in _CARE:
            raise NotFoundError("files are compacted or retained")
        job = calculation_id(kind)
        with closing(JobBook(gateway)) as book:
            book.submit(kind, job, asked={**_CARE[kind], "now": datetime.now(UTC).isoformat()})
        return RedirectResponse(f"{PATH}/operations/jobs/{job}", 303)

    return routes


def _versions(frame: Frame, numbers: range) -> Iterator[LakeVersion]:
    for number in numbers:
        with suppress(NotFoundError):
            yield frame.gateway.lake.described(number)


def _folders(root: Path) -> Iterator[Folder]:
    """What lies directly in a folder, each with all below it."""
    for entry in os.scandir(root):
        if entry.is_dir(follow_symlinks=False):
            yield _sized(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Folder(entry.name, 1, entry.stat(follow_symlinks=False).st_size)


def _sized(folder: Path) -> Folder:
    files = size = 0
    waiting = [str(folder)]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # gone meanwhile
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
                continue
            with suppress(OSError):
                size += entry.stat(follow_symlinks=False).st_size
                files += 1
        if files >= _MOST_FILES:
            return Folder(folder.name, files, size, not waiting)
    return Folder(folder.name, files, size)


def _database_size(engine: sa.Engine) -> int:
    """Bytes of the control plane."""
    query = (
        "select pg_database_size(current_database())"
        if engine.dialect.name == "postgresql"
        else "select page_count * page_size from pragma_page_count(), pragma_page_size()"
    )
    with snapshot(engine) as connection:
        return int(connection.scalar(sa.text(query)) or 0)
