"""What the face says of itself: CapabilityStatement, SMART discovery, OpenAPI."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from fhir_face import BASE, client_for, new_gateway

from fhir_gateway.db.search.clinical import ONE_VERSION
from fhir_gateway.db.search.parameters import search_parameters
from fhir_gateway.server import openapi
from fhir_gateway.server.app import create_app
from fhir_gateway.server.registry import SERVED, TYPE_OPERATIONS

REPOSITORY = Path(__file__).resolve().parents[2]


def fetch(path: str) -> Any:
    async def fetched() -> Any:
        async with client_for(create_app(new_gateway())) as http:
            response = await http.get(path)
            assert response.status_code == 200
            return response.json()

    return asyncio.run(fetched())


def test_the_capability_statement_lists_what_is_served() -> None:
    statement = fetch("/fhir/metadata")
    assert statement["fhirVersion"] == "4.0.1"
    assert statement["implementation"]["url"] == BASE
    (rest,) = statement["rest"]
    resources = {resource["type"]: resource for resource in rest["resource"]}
    assert set(resources) == set(SERVED)
    for name, resource in resources.items():
        offered = {one["code"] for one in resource["interaction"]}
        written = SERVED[name].writes | SERVED[name].own_writes
        assert offered - {"history-type"} == {"read", "vread", "search-type", "history-instance", *written}
        assert ("history-type" in offered) == (name not in ONE_VERSION)
        listed = {one["name"] for one in resource["searchParam"]}
        assert {"_id", "_lastUpdated"} < listed
        assert listed <= {"_id", "_lastUpdated", *search_parameters(name)}
    for name, resource in resources.items():
        told = {(one["name"], one["definition"]) for one in resource["operation"]}
        served = (*SERVED[name].operations, *TYPE_OPERATIONS)
        assert told == {(one.code, definition) for one in served for definition in (one.definition, *one.also)}


def test_parameters_that_r4_lacks_are_defined_in_profiles_or_by_a_guide() -> None:
    lock = json.loads((REPOSITORY / "profiles" / "guides.lock.json").read_text(encoding="utf-8"))
    guides = tuple(guide["canonical"] for guide in lock["guides"])
    ours = {}
    for file in (REPOSITORY / "profiles").glob("SearchParameter-*.json"):
        parameter = json.loads(file.read_text(encoding="utf-8"))
        (base,) = parameter["base"]
        ours[parameter["url"]] = (base, parameter["code"], parameter["type"])
    used = set()
    for resource in fetch("/fhir/metadata")["rest"][0]["resource"]:
        for parameter in resource["searchParam"]:
            url = parameter["definition"]
            if url in ours:
                assert ours[url] == (resource["type"], parameter["name"], parameter["type"])
                used.add(url)
            else:
                assert url.startswith(("http://hl7.org/fhir/SearchParameter/", *guides)), url
    assert used == set(ours)


def test_smart_discovery_names_absolute_addresses_and_backend_services() -> None:
    document = fetch("/fhir/.well-known/smart-configuration")
    assert document["token_endpoint"] == "https://gateway.example/auth/token"
    assert "client_credentials" in document["grant_types_supported"]
    assert document["code_challenge_methods_supported"] == ["S256"]


def test_the_committed_openapi_document_is_that_of_the_code() -> None:
    committed = (REPOSITORY / "openapi" / "openapi.json").read_text(encoding="utf-8")
    assert committed == openapi.current(), "run: python -m fhir_gateway.server.openapi"
