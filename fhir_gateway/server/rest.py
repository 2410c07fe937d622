"""The routes of the RESTful interactions, for every served type and for the whole system."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.server import documentation
from fhir_gateway.server.history import History
from fhir_gateway.server.interactions import Interactions
from fhir_gateway.server.reading import Reading
from fhir_gateway.server.registry import SERVED
from fhir_gateway.server.searching import Searching


def router(interactions: Interactions) -> APIRouter:
    """All of them, below the FHIR base; those of one type are told from operations by their names."""
    routes = APIRouter()
    _add_system(routes, interactions)
    for name in SERVED:
        _add_type(routes, name, interactions)
    return routes


def _add_system(routes: APIRouter, interactions: Interactions) -> None:
    searching, history = Searching(interactions), History(interactions)
    tags: list[Any] = ["system"]

    @routes.get("/_history", tags=tags, **documentation.history("everything"))
    async def history_system(request: Request) -> Response:
        return await history.of_system(request)

    @routes.get("", tags=tags, **documentation.search_system())
    async def search_system(request: Request) -> Response:
        return await searching.search_system(request)

    @routes.post("/_search", tags=tags, **documentation.search_system(form=True))
    async def search_system_form(request: Request) -> Response:
        return await searching.search_system(request)


def _add_type(routes: APIRouter, name: str, interactions: Interactions) -> None:
    reading, searching, history = Reading(interactions), Searching(interactions), History(interactions)
    tags: list[Any] = [name]

    @routes.get(f"/{name}", tags=tags, **documentation.search(name))
    async def search(request: Request) -> Response:
        return await searching.search(request, name)

    @routes.post(f"/{name}/_search", tags=tags, **documentation.search_form(name))
    async def search_form(request: Request) -> Response:
        return await searching.search(request, name)

    @routes.get(f"/{name}/_history", tags=tags, **documentation.history(f"all of {name}"))
    async def history_type(request: Request) -> Response:
        return await history.of_type(request, name)

    @routes.get(f"/{name}/{{id}}", tags=tags, **documentation.read(name))
    async def read(request: Request, id: str) -> Response:
        return await reading.read(request, name, id)

    @routes.get(f"/{name}/{{id}}/_history", tags=tags, **documentation.history(f"one {name}"))
    async def history_instance(request: Request, id: str) -> Response:
        return await history.of_instance(request, name, id)

    @routes.get(f"/{name}/{{id}}/_history/{{vid}}", tags=tags, **documentation.vread(name))
    async def vread(request: Request, id: str, vid: str) -> Response:
        return await reading.vread(request, name, id, vid)
