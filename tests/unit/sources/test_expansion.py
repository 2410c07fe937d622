"""A terminology server that pages, lies, changes its mind and breaks off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from fhir_gateway.errors import SourceError
from fhir_gateway.sources.connect import open_source
from fhir_gateway.sources.endpoint import Endpoint
from fhir_gateway.sources.expansion import OriginBasicAuth, expand

URL = "http://vs/large"
BASE = "http://tx.example/fhir"


class TerminologyServer:
    """Answers ``$expand`` of one value set with ``codes``; ``spoil`` may change an answer."""

    def __init__(self, codes: int, spoil: Callable[[int, dict[str, Any]], Any] = lambda offset, page: page) -> None:
        self.codes = codes
        self.spoil = spoil
        self.asked: list[int] = []
        self.authorization: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        query = {name: values[0] for name, values in parse_qs(urlsplit(str(request.url)).query).items()}
        self.authorization.append(request.headers.get("Authorization"))
        if not request.url.path.endswith("/ValueSet/$expand"):
            return httpx.Response(404)
        offset, count = int(query["offset"]), int(query["count"])
        self.asked.append(offset)
        contains = [{"system": "s", "code": f"c{n}"} for n in range(offset, min(offset + count, self.codes))]
        used = [{"name": "used-codesystem", "valueUri": "http://snomed.info/sct|2025"}]
        page = {
            "resourceType": "ValueSet",
            "url": query["url"],
            "version": query.get("valueSetVersion", "7"),
            "expansion": {
                "identifier": "urn:uuid:1",
                "total": self.codes,
                "offset": offset,
                "parameter": [*used, {"name": "offset", "valueInteger": offset}],
                "contains": contains,
            },
        }
        page = self.spoil(offset, page)
        return page if isinstance(page, httpx.Response) else httpx.Response(200, json=page)


def run(server: TerminologyServer, folder: Path, version: str | None = None) -> dict[str, Any]:
    async def fetch() -> dict[str, Any]:
        transport = httpx.MockTransport(server)
        async with httpx.AsyncClient(transport=transport, auth=OriginBasicAuth(BASE, "apikey", "s3cret")) as client:
            endpoint = Endpoint("tx", BASE, auth="none")
            async with open_source(endpoint, None, client=client) as source:
                return await expand(source.session, URL, version, folder, count=10)

    return asyncio.run(fetch())


def test_all_pages_make_one_expansion_with_its_versions(tmp_path: Path) -> None:
    server = TerminologyServer(25)
    found = run(server, tmp_path, "7")
    assert server.asked == [0, 10, 20]
    expansion = found["expansion"]
    assert [one["code"] for one in expansion["contains"]] == [f"c{n}" for n in range(25)]
    assert (found["version"], expansion["total"], "offset" in expansion) == ("7", 25, False)
    assert expansion["parameter"][0]["valueUri"] == "http://snomed.info/sct|2025"
    assert all(one and one.startswith("Basic ") for one in server.authorization)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_expansion_goes_on_where_it_was(tmp_path: Path) -> None:
    refused = httpx.Response(403, json={"resourceType": "OperationOutcome", "issue": [{"code": "throttled"}]})
    broken = TerminologyServer(25, lambda offset, page: refused if offset == 20 else page)
    with pytest.raises(SourceError, match="403"):
        run(broken, tmp_path)
    server = TerminologyServer(25)
    assert len(run(server, tmp_path)["expansion"]["contains"]) == 25
    assert server.asked == [20]


def first_page_again(offset: int, page: dict[str, Any]) -> dict[str, Any]:
    page["expansion"]["contains"] = [{"system": "s", "code": f"c{n}"} for n in range(10)]
    return page


def another_total(offset: int, page: dict[str, Any]) -> dict[str, Any]:
    page["expansion"]["total"] += offset
    return page


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (first_page_again, "counts 25 codes and gives 10"),
        (another_total, "changed while it was read"),
        (lambda offset, page: httpx.Response(404, json={"resourceType": "OperationOutcome"}), "404"),
        (lambda offset, page: httpx.Response(200, text="<html>"), "not JSON"),
        (lambda offset, page: {"resourceType": "Bundle"}, "no ValueSet"),
        (lambda offset, page: page | {"url": "http://vs/other"}, "another value set"),
    ],
    ids=["ignores offset", "changes", "unknown", "not json", "no value set", "another one"],
)
def test_what_is_not_whole_is_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        run(TerminologyServer(25, spoil), tmp_path)


def test_without_a_total_the_last_page_is_the_short_one(tmp_path: Path) -> None:
    def untold(offset: int, page: dict[str, Any]) -> dict[str, Any]:
        del page["expansion"]["total"]
        return page

    found = run(TerminologyServer(15, untold), tmp_path)
    assert (found["expansion"]["total"], len(found["expansion"]["contains"])) == (15, 15)


def test_the_secret_is_not_sent_to_another_origin(tmp_path: Path) -> None:
    server = TerminologyServer(5)

    def elsewhere(offset: int, page: dict[str, Any]) -> Any:
        if len(server.asked) == 1:
            return httpx.Response(
                307, headers={"Location": "http://other.example/ValueSet/$expand?url=x&offset=0&count=9"}
            )
        return page | {"url": URL}

    server.spoil = elsewhere
    assert len(run(server, tmp_path)["expansion"]["contains"]) == 5
    assert [bool(one) for one in server.authorization] == [True, False]
