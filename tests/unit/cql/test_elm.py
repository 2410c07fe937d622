"""Reading ELM libraries and telling their nodes apart."""

from __future__ import annotations

from fhir_gateway.cql.elm import read_library
from tests.unit.cql.conftest import library, literal


def test_digest_ignores_where_a_node_stands_but_not_what_it_says() -> None:
    elm = read_library(library({}))
    one, two = literal("Integer", 1), literal("Integer", 2)
    assert elm.digest(one) == elm.digest({**one, "locator": "3:1-3:1", "localId": "7"})
    assert elm.digest(one) != elm.digest(two)


def test_digests_of_nodes_that_are_gone_are_not_given_to_others() -> None:
    elm = read_library(library({}))
    digests = {elm.digest({"type": "ValueSetRef", "name": f"VS {number}"}) for number in range(200)}
    assert len(digests) == 200
