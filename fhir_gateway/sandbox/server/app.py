"""Build the sandbox application from a folder."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from fhir_gateway.auth.routes import router as authorization_routes
from fhir_gateway.auth.service import AuthorizationServer
from fhir_gateway.db.engine import create_engine
from fhir_gateway.errors import ConfigurationError
from fhir_gateway.sandbox.server.bulk import bulk_routes
from fhir_gateway.sandbox.server.capability import capability_statement
from fhir_gateway.sandbox.server.export import ExportJobs
from fhir_gateway.sandbox.server.folder import ResourceFolder
from fhir_gateway.sandbox.server.outcome import FHIR_JSON, answer_errors
from fhir_gateway.sandbox.server.parameters import form_parameters, preferences
from fhir_gateway.sandbox.server.search import Search


def create_app(
    folder: Path,
    *,
    base_url: str,
    clients: Mapping[str, Mapping[str, Any] | str],
    name: str = "Sandbox",
    scopes: str = "system/*.rs",
    token_lifetime_seconds: int = 300,
    rows_per_file: int = 100_000,
    file_lifetime_seconds: float = 3600,
    retry_after: int = 1,
    executor: Executor | None = None,
) -> FastAPI:
    """Serve ``folder`` at ``{base_url}/fhir``; ResourceError when a file holds what no server could hold.

    ``clients`` maps client ids to their JWK Set, or to the URL of it; each may be granted ``scopes``. Tokens, jobs and
    unpacked files live as long as the application (``app.state.close()`` ends them, as does its lifespan).
    ``executor`` runs the export jobs; by default two threads.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder")
    base_url = base_url.rstrip("/")
    with ExitStack() as opened:  # closed on an error, else by the application
        spool = Path(tempfile.mkdtemp(prefix="fhir-gateway-sandbox-"))
        opened.callback(shutil.rmtree, spool, ignore_errors=True)
        resources = ResourceFolder(folder, spool)
        engine = create_engine("sqlite://")
        opened.callback(engine.dispose)
        authorization = AuthorizationServer(
            engine,
            auth_url=f"{base_url}/auth",
            token_lifetime_seconds=token_lifetime_seconds,
            supported_types=resources.types,
        )
        authorization.store.create_tables()
        for client_id, keys in clients.items():
            url, inline = (keys, None) if isinstance(keys, str) else (None, keys)
            authorization.register_client(client_id, scopes=scopes, jwks=inline, jwks_url=url)
        jobs = ExportJobs(
            resources,
            spool / "export",
            executor or ThreadPoolExecutor(2, thread_name_prefix="sandbox-export"),
            rows_per_file=rows_per_file,
            file_lifetime_seconds=file_lifetime_seconds,
            retry_after=retry_after,
        )
        opened.callback(jobs.close)
        close = opened.pop_all().close

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(close)

    app = FastAPI(title=name, lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.close = close
    weakref.finalize(app, close)  # for an application whose lifespan never ran
    app.include_router(authorization_routes(authorization))
    _describe(app, resources, authorization, name, f"{base_url}/fhir")
    app.include_router(bulk_routes(resources, jobs, authorization.verify, base_url=base_url, retry_after=retry_after))
    _serve(app, Search(resources, f"{base_url}/fhir"), authorization)
    answer_errors(app)
    return app


def _describe(
    app: FastAPI, resources: ResourceFolder, authorization: AuthorizationServer, name: str, fhir_url: str
) -> None:
    statement = capability_statement(
        name=name,
        fhir_url=fhir_url,
        types=resources.types,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        authorization=authorization,
    )

    @app.get("/fhir/metadata")
    async def metadata() -> Response:
        """The CapabilityStatement, open to everyone."""
        return JSONResponse(statement, media_type=FHIR_JSON, headers={"Access-Control-Allow-Origin": "*"})


def _serve(app: FastAPI, search: Search, authorization: AuthorizationServer) -> None:
    def find(request: Request, resource_type: str, form: bytes = b"") -> Response:
        authorization.verify(request.headers.get("authorization")).require(resource_type, "s")
        lenient = "handling=lenient" in preferences(request.headers.getlist("prefer"))
        parameters = [*request.query_params.multi_items(), *form_parameters(form)]
        return Response(search.bundle(resource_type, parameters, lenient=lenient), media_type=FHIR_JSON)

    @app.get("/fhir/{resource_type}")
    def search_by_get(request: Request, resource_type: str) -> Response:
        """Search a type."""
        return find(request, resource_type)

    @app.post("/fhir/{resource_type}/_search")
    async def search_by_post(request: Request, resource_type: str) -> Response:
        """Search a type with parameters in a form."""
        return await run_in_threadpool(find, request, resource_type, await request.body())

    @app.get("/fhir/{resource_type}/{resource_id}")
    def read(request: Request, resource_type: str, resource_id: str) -> Response:
        """Read a resource, byte for byte as it is stored."""
        authorization.verify(request.headers.get("authorization")).require(resource_type, "r")
        return Response(search.read(resource_type, resource_id), media_type=FHIR_JSON)
