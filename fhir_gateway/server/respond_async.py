"""Asynchronous requests over HTTP (R4 async.html, R5 async-bundle.html, Bulk Data 3.0.0 sections 4 to 9).

An operation calls :meth:`RespondAsync.accept`; the client polls what ``Content-Location`` names. The finished poll is a
manifest in ``application/json`` with the files of the answer; a client that accepts ``application/fhir+json`` instead
gets the answer of an operation as a ``batch-response`` Bundle. Exports always have a manifest.

Poll URL and files exist for the client that asked and nobody else.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from functools import cached_property
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.requests import Answer, AnswerFile, Asked, RequestLog, revive, submit
from fhir_gateway.server import documentation
from fhir_gateway.server.access import access_of
from fhir_gateway.server.negotiation import preferences
from fhir_gateway.server.problems import FHIR_JSON, InsufficientScope, MissingToken, NotAcceptable, issue, outcome

PATH = "/$async"
#: Kinds whose finished poll is a manifest whatever the client accepts.
MANIFEST_ONLY = frozenset({"export", "davinci-data-export"})
NDJSON = "application/fhir+ndjson"

_JSON = "application/json"
_MOST_WAIT = 30
_LOST_SECONDS = 30.0
"""A request that takes longer than this may be nobody's: its job is looked at."""
_MOST_BUNDLE_BYTES = 2**26
_BLOCK = 1 << 18


class RespondAsync:
    """Accepts requests of one gateway and answers for them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._log = RequestLog(gateway)
        self._base = gateway.settings.public_url.rstrip("/") + "/fhir"

    @cached_property
    def _book(self) -> JobBook:
        return JobBook(self._gateway)

    def close(self) -> None:
        """Let go of the book of jobs."""
        if book := self.__dict__.pop("_book", None):
            book.close()

    def accept(self, request: Request, token: AccessToken, kind: str, payload: Mapping[str, Any]) -> Response:
        """Take a request that was found to be in order; 202 with where to poll. Blocks: not for the event loop.

        ``kind`` is one of :data:`fhir_gateway.jobs.requests.KINDS`, ``payload`` what it does, as JSON. Raises
        TooManyRequests.
        """
        separate = preferences(request).separate_export_status
        asked = self._log.accept(
            token.client_id, kind, payload, self._url_of(request), token.audience, separate_status=separate
        )
        submit(self._book, asked.id)
        headers = {"Content-Location": self._base + f"{PATH}/{asked.id}"}
        if separate:
            headers["Preference-Applied"] = "respond-async, separate-export-status"
        body = outcome(issue("information", "informational", "accepted: poll the Content-Location"))
        return Response(orjson.dumps(body), 202, headers, FHIR_JSON)

    def router(self) -> APIRouter:
        """Routes of polls and files, below the FHIR base."""
        routes = APIRouter(tags=["asynchronous requests"])

        @routes.get(PATH + "/{id}", **documentation.async_status())
        async def poll(request: Request, id: str) -> Response:
            _begin(request, "async-status")
            return await run_in_threadpool(self._poll, request, id)

        @routes.delete(PATH + "/{id}", **documentation.async_delete())
        async def delete(request: Request, id: str) -> Response:
            _begin(request, "async-delete")
            return await run_in_threadpool(self._delete, request, id)

        @routes.get(PATH + "/{id}/{name}", **documentation.async_file())
        async def file(request: Request, id: str, name: str) -> Response:
            _begin(request, "async-file")
            return await run_in_threadpool(self._file, request, id, name)

        return routes

    def _poll(self, request: Request, id: str) -> Response:
        asked, _ = self._theirs(request, id)
        if not asked.finished:
            age = time.time() - asked.created
            if not 0 <= age <= _LOST_SECONDS:  # below zero when the clock was set back: looked after as well
                revive(self._gateway, self._book, asked.id)
            wait = min(_MOST_WAIT, 1 + int(max(0.0, age) / 10))
            response = Response(None, 202, {"Retry-After": str(wait), "X-Progress": asked.progress or asked.state})
        elif asked.failure is not None:
            response = self._failed(request, asked, asked.failure)
        else:
            response = self._answered(request, asked)
        if asked.separate_status:
            response.headers["X-Export-Status"] = f"{response.status_code} {HTTPStatus(response.status_code).phrase}"
            response.status_code = 200
        return response

    def _failed(self, request: Request, asked: Asked, failure: Mapping[str, Any]) -> Response:
        told = outcome(issue("error", failure["issue"], failure["message"], failure["path"]))
        status = int(failure["status"])
        if self._as_bundle(request, asked):
            entry = {"response": {"status": f"{status} {HTTPStatus(status).phrase}", "outcome": told}}
            return _json(_bundle([entry]), FHIR_JSON, asked)
        return Response(orjson.dumps(told), status, media_type=FHIR_JSON)

    def _answered(self, request: Request, asked: Asked) -> Response:
        folder = self._log.folder(asked.id)
        try:
            answer = Answer.read(folder)
            if self._as_bundle(request, asked):
                if sum((folder / one.name).stat().st_size for one in answer.output) > _MOST_BUNDLE_BYTES:
                    raise NotAcceptable("too much for a Bundle: poll with Accept: application/json for a manifest")
                lines = [line for one in answer.output for line in (folder / one.name).read_bytes().splitlines()]
                entries = [{"resource": orjson.Fragment(line), "response": {"status": "200 OK"}} for line in lines]
                return _json(_bundle(entries), FHIR_JSON, asked)
        except FileNotFoundError:  # deleted at this moment
            raise NotFoundError("there is no such request") from None
        return _json(self._manifest(asked, answer), _JSON, asked)

    def _manifest(self, asked: Asked, answer: Answer) -> dict[str, Any]:
        def listed(files: tuple[AnswerFile, ...]) -> list[dict[str, Any]]:
            where = f"{self._base}{PATH}/{asked.id}"
            return [
                {"type": one.type, "url": f"{where}/{one.name}", "count": one.count}
                if one.type
                else {"url": f"{where}/{one.name}"}  # of several types, with lines that are no resources asked for
                for one in files
            ]

        return {
            "transactionTime": answer.transaction_time,
            "request": asked.url,
            "requiresAccessToken": True,
            "output": listed(answer.output),
            "deleted": listed(answer.deleted),
            "error": listed(answer.error),
            **answer.more,
        }

    def _delete(self, request: Request, id: str) -> Response:
        asked, _ = self._theirs(request, id)
        self._log.delete(asked.id, self._book)
        body = outcome(issue("information", "informational", "deleted"))
        return Response(orjson.dumps(body), 202, media_type=FHIR_JSON)

    def _file(self, request: Request, id: str, name: str) -> Response:
        """A file of an answer, gzipped or in ranges; only those that the answer lists."""
        asked, token = self._theirs(request, id)
        folder = self._log.folder(asked.id)
        try:
            answer = Answer.read(folder) if asked.state == "done" else None
        except FileNotFoundError:
            answer = None
        listed = {} if answer is None else {one.name: one for one in (*answer.output, *answer.deleted, *answer.error)}
        if name not in listed:
            raise NotFoundError("there is no such file")
        about = listed[name].type
        if about not in ("OperationOutcome", "Bundle", "Parameters") and not _may_read(token, about, asked):
            raise InsufficientScope(f"the token needs system/{about}.r")
        access_of(request).resource_type = about
        path = folder / name
        headers = {"Vary": "Accept-Encoding"}
        if "range" not in request.headers and _takes_gzip(request.headers.get("accept-encoding", "")):
            try:
                opened = path.open("rb")  # what is open can be read to its end, even when it is deleted meanwhile
            except FileNotFoundError:
                raise NotFoundError("there is no such file") from None
            headers["Content-Encoding"] = "gzip"
            return StreamingResponse(_gzipped(opened), headers=headers, media_type=NDJSON)
        if not path.is_file():
            raise NotFoundError("there is no such file")
        return FileResponse(path, headers=headers, media_type=NDJSON)

    def _theirs(self, request: Request, id: str) -> tuple[Asked, AccessToken]:
        """The request, if it is the caller's, who may still see as much as when it was made; NotFoundError."""
        header = request.headers.get("authorization")
        if not header:
            raise MissingToken("a bearer token is needed")
        token = self._gateway.authorization.verify(header)
        access = access_of(request)
        access.identify(token.client_id, token.purpose)
        asked = self._log.get(id)
        now, then = token.audience.labels, asked.audience.labels
        if asked.client_id != token.client_id or not (now is None or (then is not None and then <= now)):
            raise NotFoundError("there is no such request")
        return asked, token

    def _as_bundle(self, request: Request, asked: Asked) -> bool:
        return asked.kind not in MANIFEST_ONLY and "application/fhir+json" in request.headers.get("accept", "").lower()

    def _url_of(self, request: Request) -> str:
        """The kick-off's URL at our public address; its Host header says nothing."""
        query = request.url.query
        return self._gateway.settings.public_url.rstrip("/") + request.url.path + (f"?{query}" if query else "")


def _begin(request: Request, interaction: str) -> None:
    access_of(request).interaction = interaction


def _may_read(token: AccessToken, resource_type: str, asked: Asked) -> bool:
    """Whether a token's scopes are as wide as those that the answer was made for."""
    if token.allows(resource_type, "r"):
        return True
    same = token.audience.restriction(resource_type) == asked.audience.restriction(resource_type)
    return same and token.allows(resource_type, "r", some=True)


def _bundle(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "batch-response", "entry": entries}


def _json(body: Mapping[str, Any], media_type: str, asked: Asked) -> Response:
    expires = {} if asked.expires is None else {"Expires": formatdate(asked.expires, usegmt=True)}
    return Response(orjson.dumps(body), 200, expires, media_type)


def _takes_gzip(header: str) -> bool:
    """Whether ``Accept-Encoding`` names gzip with a weight above zero."""
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if name in ("gzip", "x-gzip"):
            return not any(one.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for one in parameters)
    return False


def _gzipped(opened: Any) -> Iterator[bytes]:
    """The file compressed as it is read: fast rather than small, since JSON of one type shrinks anyway."""
    stream = zlib.compressobj(1, zlib.DEFLATED, 31)
    with opened:
        while block := opened.read(_BLOCK):
            if packed := stream.compress(block):
                yield packed
    yield stream.flush()
