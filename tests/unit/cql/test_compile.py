"""What cannot run is refused before any patient is looked at, and the error says where."""

from __future__ import annotations

import pytest

from fhir_gateway.cql import compile_library
from fhir_gateway.errors import LibraryError, MeasureError, TerminologyError, UnsupportedElm
from fhir_gateway.terminology import ValueSets
from tests.unit.cql.conftest import FHIR, Evaluate, library, literal


def test_unknown_node_names_library_definition_locator_and_node() -> None:
    elm = library({"Numerator": {"type": "Teleport", "locator": "12:3-12:9", "operand": literal("Integer", 1)}})
    with pytest.raises(UnsupportedElm, match=r"Test\|1, definition 'Numerator', at 12:3-12:9, node Teleport"):
        compile_library([elm], ("Test", "1"), ValueSets([]))


def test_only_what_is_asked_for_is_compiled() -> None:
    elm = library({"Good": literal("Boolean", "true"), "Bad": {"type": "Teleport"}})
    compiled = compile_library([elm], ("Test", "1"), ValueSets([]), ["Good"])
    with pytest.raises(UnsupportedElm, match="Bad"):
        compiled.require(["Bad"])


def test_missing_value_set_is_refused_with_its_url() -> None:
    elm = library(
        {
            "All": {
                "type": "Retrieve",
                "dataType": FHIR + "Condition",
                "codeProperty": "code",
                "codes": {"type": "ValueSetRef", "name": "VS"},
            }
        },
        valueSets={"def": [{"name": "VS", "id": "http://example.org/vs"}]},
    )
    with pytest.raises(TerminologyError, match=r"http://example.org/vs"):
        compile_library([elm], ("Test", "1"), ValueSets([]))


def test_missing_library_lists_what_was_found() -> None:
    elm = library(
        {"A": {"type": "ExpressionRef", "name": "X", "libraryName": "C"}},
        includes={"def": [{"localIdentifier": "C", "path": "Common", "version": "2"}]},
    )
    other = library({"X": literal("Boolean", "true")}, name="Common", version="1")
    with pytest.raises(LibraryError, match=r"Common\|2.*versions found: 1"):
        compile_library([elm, other], ("Test", "1"), ValueSets([]))


def test_definition_that_refers_to_itself_is_refused() -> None:
    elm = library({"A": {"type": "ExpressionRef", "name": "A"}})
    with pytest.raises(MeasureError, match="refers to itself"):
        compile_library([elm], ("Test", "1"), ValueSets([]))


def test_unknown_resource_type_is_refused(evaluate: Evaluate) -> None:
    with pytest.raises(UnsupportedElm, match="not a FHIR R4 resource"):
        evaluate({"A": {"type": "Retrieve", "dataType": FHIR + "Starship"}})
