"""Routes of Bulk Data export: kick-off on three levels, status, manifest, files, delete."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.errors import InputError, NotFoundError
from fhir_gateway.sandbox.server.export import ExportJob, ExportJobs, Level, manifest, understand
from fhir_gateway.sandbox.server.folder import ResourceFolder
from fhir_gateway.sandbox.server.outcome import FHIR_JSON, operation_outcome
from fhir_gateway.sandbox.server.parameters import Parameters, preferences, resource_parameters

NDJSON = "application/fhir+ndjson"
_GZIP_LEVEL = 1  # the network it saves is a loopback or a LAN: do not make the CPU the bottleneck
_CHUNK_BYTES = 1024 * 1024


def bulk_routes(
    folder: ResourceFolder,
    jobs: ExportJobs,
    verify: Callable[[str | None], AccessToken],
    *,
    base_url: str,
    retry_after: int,
) -> APIRouter:
    """Build the routes; ``base_url`` is the server's, FHIR is below ``/fhir`` and jobs below ``/bulk``."""
    routes = APIRouter()

    async def kick_off(request: Request, level: Level, group_id: str | None = None) -> Response:
        body = await request.body()
        return await run_in_threadpool(_kick_off, request, body, level, group_id)

    def _kick_off(request: Request, body: bytes, level: Level, group_id: str | None) -> Response:
        token = verify(request.headers.get("authorization"))
        preferred = preferences(request.headers.getlist("prefer"))
        if "respond-async" not in preferred:
            raise InputError("an export needs the header Prefer: respond-async")
        query = f"?{request.url.query}" if request.url.query else ""
        asked = understand(
            folder,
            token,
            [*request.query_params.multi_items(), *_body_parameters(request.method, body)],
            level=level,
            request=f"{base_url}{request.url.path}{query}",
            group_id=group_id,
            lenient="handling=lenient" in preferred,
        )
        job = jobs.start(asked)
        return JSONResponse(
            operation_outcome("information", "informational", "the export was started"),
            202,
            {"Content-Location": f"{base_url}/bulk/{job.id}"},
            media_type=FHIR_JSON,
        )

    @routes.api_route("/fhir/$export", methods=["GET", "POST"])
    async def system_export(request: Request) -> Response:
        """Export everything."""
        return await kick_off(request, "system")

    @routes.api_route("/fhir/Patient/$export", methods=["GET", "POST"])
    async def patient_export(request: Request) -> Response:
        """Export the compartments of all patients."""
        return await kick_off(request, "patient")

    @routes.api_route("/fhir/Group/{group_id}/$export", methods=["GET", "POST"])
    async def group_export(request: Request, group_id: str) -> Response:
        """Export the compartments of the Group's patients."""
        return await kick_off(request, "group", group_id)

    @routes.get("/bulk/{job_id}")
    def status(request: Request, job_id: str) -> Response:
        """Progress while the job runs, then its manifest."""
        job = jobs.find(job_id, verify(request.headers.get("authorization")).client_id)
        if not job.finished:
            return Response(status_code=202, headers={"X-Progress": job.progress, "Retry-After": str(retry_after)})
        if job.failure() is not None:
            outcome = operation_outcome("error", "processing", "the export failed; start another")
            return JSONResponse(outcome, 500, media_type=FHIR_JSON)
        _refuse_expired(job)
        headers = {"Expires": formatdate(job.expires_at, usegmt=True)}
        return JSONResponse(manifest(job, lambda name: f"{base_url}/bulk/{job.id}/{name}"), headers=headers)

    @routes.delete("/bulk/{job_id}")
    def delete(request: Request, job_id: str) -> Response:
        """Cancel the job, or say that its files are no longer needed."""
        jobs.delete(jobs.find(job_id, verify(request.headers.get("authorization")).client_id))
        outcome = operation_outcome("information", "informational", "the export was deleted")
        return JSONResponse(outcome, 202, media_type=FHIR_JSON)

    @routes.get("/bulk/{job_id}/{name}")
    def download(request: Request, job_id: str, name: str) -> Response:
        """A file of the export, as it lies or gzipped on the way."""
        token = verify(request.headers.get("authorization"))
        job = jobs.find(job_id, token.client_id)
        file = next((file for file in (*job.output, *job.errors) if file.name == name), None)
        if file is None:
            raise NotFoundError("the export has no such file")
        if file in job.output:
            token.require(file.resource_type, "rs")
        _refuse_expired(job)
        path = job.folder / file.name
        headers = {"Vary": "Accept-Encoding", "Cache-Control": "no-store"}
        if accepts_gzip(request.headers.get("accept-encoding")):
            return StreamingResponse(
                _gzipped(_open(path)), media_type=NDJSON, headers=headers | {"Content-Encoding": "gzip"}
            )
        return FileResponse(path, media_type=NDJSON, headers=headers)

    return routes


def accepts_gzip(accept_encoding: str | None) -> bool:
    """True when the header allows gzip: named (or ``*``) with a weight other than 0 (RFC 9110 section 12.5.3)."""
    weights = {}
    for part in (accept_encoding or "").lower().split(","):
        coding, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        weights[coding] = weight.strip("0.") != ""
    return weights.get("gzip", weights.get("*", False))


def _body_parameters(method: str, body: bytes) -> Parameters:
    if method != "POST" or not body.strip():
        return []
    try:
        return resource_parameters(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise InputError("the body is no JSON") from error


def _refuse_expired(job: ExportJob) -> None:
    if job.expired:
        raise HTTPException(410, "the files of this export have expired")


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _gzipped(source: BinaryIO) -> Iterator[bytes]:
    packer = zlib.compressobj(_GZIP_LEVEL, wbits=31)  # 31: with gzip header and trailer
    with source:
        while chunk := source.read(_CHUNK_BYTES):
            if packed := packer.compress(chunk):
                yield packed
    yield packer.flush()
