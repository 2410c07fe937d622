"""The routes of the RESTful interactions, for every served type and for the whole system."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fhir_gateway.db.search.clinical import ONE_VERSION
from fhir_gateway.server import documentation
from fhir_gateway.server.bundles import Bundles
from fhir_gateway.server.changing import Changing
from fhir_gateway.server.history import History
from fhir_gateway.server.interactions import Interactions
from fhir_gateway.server.patching import Patching
from fhir_gateway.server.reading import Reading
from fhir_gateway.server.registry import SERVED, WRITES, ServedType
from fhir_gateway.server.searching import Searching


def routes(
    interactions: Interactions, changing: Changing, patching: Patching, bundles: Bundles, base_path: str
) -> list[BaseRoute]:
    """All of them, below the FHIR base; those of one type are told from operations by their names.

    Routes, not a router to be included: for each of several hundred that would build another one at the first request.
    """
    found = APIRouter(prefix=base_path)
    _add_system(found, interactions, bundles)
    for name, served in SERVED.items():
        _add_type(found, name, interactions)
        _add_changes(found, served, changing, patching)
    return found.routes


def shortcuts(interactions: Interactions, changing: Changing, patching: Patching, base_path: str) -> list[BaseRoute]:
    """The interactions with all types as a few routes, to be asked first.

    The router tries one route after the other, several hundred of them: for a read that took longer than the read.
    What these do not match, and what the documentation says, is that of ``routes``.
    """
    reading, searching, history = Reading(interactions), Searching(interactions), History(interactions)

    async def search(request: Request) -> Response:
        return await searching.search(request, request.path_params["resource_type"])

    async def read(request: Request) -> Response:
        return await reading.read(request, request.path_params["resource_type"], request.path_params["id"])

    async def vread(request: Request) -> Response:
        kind, identity, version = (request.path_params[name] for name in ("resource_type", "id", "vid"))
        return await reading.vread(request, kind, identity, version)

    async def history_instance(request: Request) -> Response:
        return await history.of_instance(request, request.path_params["resource_type"], request.path_params["id"])

    async def create(request: Request) -> Response:
        return await changing.create(request, request.path_params["resource_type"])

    async def update(request: Request) -> Response:
        return await changing.update(request, request.path_params["resource_type"], request.path_params["id"])

    async def patch(request: Request) -> Response:
        return await patching.patch(request, request.path_params["resource_type"], request.path_params["id"])

    async def delete(request: Request) -> Response:
        return await changing.delete(request, request.path_params["resource_type"], request.path_params["id"])

    kinds, written = (f"{base_path}/{{resource_type:{one.name}}}" for one in (_Served, _Written))
    identity = f"{{id:{_Id.name}}}"
    found = (
        ("GET", f"{kinds}/{identity}", read),
        ("GET", kinds, search),
        ("POST", f"{kinds}/_search", search),
        ("GET", f"{kinds}/{identity}/_history", history_instance),
        ("GET", f"{kinds}/{identity}/_history/{{vid}}", vread),
        ("POST", written, create),
        ("PUT", f"{written}/{identity}", update),
        ("PATCH", f"{written}/{identity}", patch),
        ("DELETE", f"{written}/{identity}", delete),
    )
    return [Route(path, work, methods=[method], include_in_schema=False) for method, path, work in found]


class _Served(StringConvertor):
    """A served type, in a path."""

    name = "served"
    regex = "|".join(sorted(SERVED))


class _Written(StringConvertor):
    """A type that clients may create, update, patch and delete, in a path."""

    name = "written"
    regex = "|".join(sorted(name for name, one in SERVED.items() if one.writes >= WRITES))


class _Id(StringConvertor):
    """A FHIR id, in a path; no operation looks like one."""

    name = "fhirid"
    regex = r"[A-Za-z0-9\-.]{1,64}"


for _convertor in (_Served, _Written, _Id):
    register_url_convertor(_convertor.name, _convertor())


def _add_system(routes: APIRouter, interactions: Interactions, bundles: Bundles) -> None:
    searching, history = Searching(interactions), History(interactions)
    tags: list[Any] = ["system"]

    @routes.post("", tags=tags, **documentation.bundle())
    async def batch(request: Request) -> Response:
        return await bundles.handle(request)

    @routes.get("/_history", tags=tags, **documentation.history(documentation.EVERYTHING))
    async def history_system(request: Request) -> Response:
        return await history.of_system(request)

    @routes.get("", tags=tags, **documentation.search_system())
    async def search_system(request: Request) -> Response:
        return await searching.search_system(request)

    @routes.post("/_search", tags=tags, **documentation.search_system(form=True))
    async def search_system_form(request: Request) -> Response:
        return await searching.search_system(request)

    # the base with a slash behind it: clients build it so, and a redirect would lose the body
    routes.add_api_route("/", batch, methods=["POST"], include_in_schema=False)
    routes.add_api_route("/", search_system, methods=["GET"], include_in_schema=False)


def _add_type(routes: APIRouter, name: str, interactions: Interactions) -> None:
    reading, searching, history = Reading(interactions), Searching(interactions), History(interactions)
    tags: list[Any] = [name]

    @routes.get(f"/{name}", tags=tags, **documentation.search(name))
    async def search(request: Request) -> Response:
        return await searching.search(request, name)

    @routes.post(f"/{name}/_search", tags=tags, **documentation.search_form(name))
    async def search_form(request: Request) -> Response:
        return await searching.search(request, name)

    if name not in ONE_VERSION:

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


def _add_changes(routes: APIRouter, served: ServedType, changing: Changing, patching: Patching) -> None:
    """What clients may write of a type; for everything else there is no route (405)."""
    name = served.name
    tags: list[Any] = [name]
    if "create" in served.writes:

        @routes.post(f"/{name}", tags=tags, **documentation.create(name))
        async def create(request: Request) -> Response:
            return await changing.create(request, name)

    if "update" in served.writes:

        @routes.put(f"/{name}", tags=tags, **documentation.update(name, conditional=True))
        async def update_by_criteria(request: Request) -> Response:
            return await changing.update(request, name, None)

        @routes.put(f"/{name}/{{id}}", tags=tags, **documentation.update(name))
        async def update(request: Request, id: str) -> Response:
            return await changing.update(request, name, id)

    if "patch" in served.writes:

        @routes.patch(f"/{name}", tags=tags, **documentation.patch(name, conditional=True))
        async def patch_by_criteria(request: Request) -> Response:
            return await patching.patch(request, name, None)

        @routes.patch(f"/{name}/{{id}}", tags=tags, **documentation.patch(name))
        async def patch(request: Request, id: str) -> Response:
            return await patching.patch(request, name, id)

    if "delete" in served.writes:

        @routes.delete(f"/{name}", tags=tags, **documentation.delete(name, conditional=True))
        async def delete_by_criteria(request: Request) -> Response:
            return await changing.delete(request, name, None)

        @routes.delete(f"/{name}/{{id}}", tags=tags, **documentation.delete(name))
        async def delete(request: Request, id: str) -> Response:
            return await changing.delete(request, name, id)
