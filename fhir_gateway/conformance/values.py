"""Fixed values and patterns of ElementDefinition, and codes of value sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fhir_gateway.conformance.definitions import Definitions
from fhir_gateway.r4 import rules

Codes = Mapping[str, frozenset[str]]  # system -> codes


def matches_pattern(value: Any, pattern: Any) -> bool:
    """True when the value holds everything that the pattern holds (ElementDefinition.pattern[x])."""
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(
            name in value and matches_pattern(value[name], one) for name, one in pattern.items()
        )
    if isinstance(pattern, list):
        return isinstance(value, list) and all(any(matches_pattern(one, part) for one in value) for part in pattern)
    return bool(value == pattern) and isinstance(value, bool) == isinstance(pattern, bool)


class CodeBook:
    """Codes of value sets, as far as the definitions at hand list them; each is worked out once."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._known: dict[str, Codes | None] = {}

    def codes(self, value_set: str) -> Codes | None:
        """System -> codes; None when the value set is not at hand, or takes codes in a way that we cannot follow."""
        if value_set not in self._known:
            self._known[value_set] = None  # a value set that includes itself has no codes of its own
            self._known[value_set] = self._work_out(value_set)
        return self._known[value_set]

    def _work_out(self, value_set: str) -> Codes | None:
        resource = self._definitions.resource(value_set, "ValueSet")
        if resource is not None:
            return self._composed(resource)
        url = value_set.partition("|")[0]
        core = rules.codes(url)
        if core is None and url.startswith("http://terminology.hl7.org/ValueSet/"):
            # HL7 moved R4's value sets there and kept their names; code systems already had their new address in R4.
            core = rules.codes(url.replace("http://terminology.hl7.org/", "http://hl7.org/fhir/", 1))
        return core

    def _composed(self, resource: Mapping[str, Any]) -> Codes | None:
        expansion = resource.get("expansion", {}).get("contains")
        if expansion:
            return _merged({one["system"]: frozenset({one["code"]})} for one in _flat(expansion) if "system" in one)
        compose = resource.get("compose", {})
        if compose.get("exclude") or not compose.get("include"):
            return None
        parts = [self._included(include) for include in compose["include"]]
        return None if any(part is None for part in parts) else _merged(part for part in parts if part is not None)

    def _included(self, include: Mapping[str, Any]) -> Codes | None:
        if "filter" in include:
            return None
        system = include.get("system")
        own: Codes | None = None
        if system is not None:
            if "concept" in include:
                own = {system: frozenset(one["code"] for one in include["concept"])}
            else:
                found = self._definitions.resource(system, "CodeSystem")
                if found is None or found.get("content") != "complete":
                    return None
                own = {system: frozenset(one["code"] for one in _flat(found.get("concept", ())))}
        for other in include.get("valueSet", ()):  # R4: what is in all of them
            codes = self.codes(other)
            if codes is None:
                return None
            own = codes if own is None else {name: own[name] & codes[name] for name in own.keys() & codes.keys()}
        return own


def codings(value: Any, fhir_type: str) -> list[tuple[str | None, str | None]]:
    """(system, code) pairs of a coded value; of a plain code the system is None."""
    if fhir_type == "CodeableConcept" and isinstance(value, dict):
        found = value.get("coding", ())
    elif fhir_type in ("Coding", "Quantity") and isinstance(value, dict):
        found = [value]
    else:
        return [(None, value)] if isinstance(value, str) else []
    return [(one.get("system"), one.get("code")) for one in found if isinstance(one, dict)]


def member(pairs: list[tuple[str | None, str | None]], codes: Codes, fhir_type: str) -> bool:
    """True when one of the codings is in the value set; a plain code counts in any system."""
    if fhir_type in ("CodeableConcept", "Coding", "Quantity"):
        return any(system in codes and code in codes[system] for system, code in pairs if system is not None)
    return any(code in names for _, code in pairs for names in codes.values())


def _flat(concepts: Any) -> Iterator[Mapping[str, Any]]:
    for one in concepts:
        if "code" in one:
            yield one
        yield from _flat(one.get("concept", one.get("contains", ())))


def _merged(parts: Iterator[Codes] | Any) -> Codes:
    merged: dict[str, frozenset[str]] = {}
    for part in parts:
        for system, names in part.items():
            merged[system] = merged.get(system, frozenset()) | names
    return merged
