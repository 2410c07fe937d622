"""Code systems that are in a package with their content: hierarchy, properties, and the filters of value sets.

https://hl7.org/fhir/R4/codesystem.html#filters says what the operators of ``ValueSet.compose.include.filter`` mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from fhir_gateway.errors import TerminologyError

Resource = Mapping[str, Any]

#: Properties of every code system (https://hl7.org/fhir/R4/codesystem-concept-properties.html).
_INACTIVE, _NOT_SELECTABLE = ("inactive", "status"), "notSelectable"
_ABOVE, _BELOW = ("parent", "subsumedBy"), ("child",)
_STANDARD = frozenset({"code", "display", "definition", *_INACTIVE, _NOT_SELECTABLE, *_ABOVE, *_BELOW})


class CodeSystem:
    """The concepts of one complete CodeSystem resource. Raises TerminologyError when it has not all its concepts."""

    def __init__(self, resource: Resource) -> None:
        self.url = str(resource["url"])
        self.version = resource.get("version")
        self.label = f"{self.url}|{self.version}" if self.version else self.url
        content = resource.get("content", "complete")
        if content != "complete":
            raise TerminologyError(f"code system {self.label} is in the package without its content ({content})")
        self._declared = {p["code"] for p in resource.get("property", ())}
        self._concepts: dict[str, Resource] = {}
        self._parents: dict[str, set[str]] = {}
        for concept, parent in _walk(resource.get("concept", ())):
            self._concepts.setdefault(concept["code"], concept)
            self._parents.setdefault(concept["code"], set()).update([parent] if parent else ())
        for code in self._concepts:
            self._parents[code] |= {str(v) for name in _ABOVE for v in self._values(code, name)}
            for below in (str(v) for name in _BELOW for v in self._values(code, name)):
                self._parents.setdefault(below, set()).add(code)
        if not self._concepts:
            raise TerminologyError(f"code system {self.label} is empty")

    @property
    def codes(self) -> frozenset[str]:
        """All codes, abstract and inactive ones as well."""
        return frozenset(self._concepts)

    @cached_property
    def selectable(self) -> frozenset[str]:
        """Codes that may be used as values: not those that only group others (``notSelectable``)."""
        return frozenset(c for c in self._concepts if True not in self._values(c, _NOT_SELECTABLE))

    @cached_property
    def inactive(self) -> frozenset[str]:
        """Codes that are not to be used any more."""
        return frozenset(
            c
            for c in self._concepts
            if any(v is True or v in ("inactive", "retired") for name in _INACTIVE for v in self._values(c, name))
        )

    def subsumes(self, above: str, below: str) -> bool:
        """Whether ``below`` is ``above`` or lies under it; TerminologyError for a code that is not here."""
        for code in (above, below):
            if code not in self._concepts:
                raise TerminologyError(f"code system {self.label} has no code {code}")
        return above == below or above in self._ancestors(below)

    def filtered(self, condition: Resource) -> frozenset[str]:
        """Selectable codes that one filter lets through; TerminologyError for a filter that cannot be answered."""
        name, op, value = condition["property"], condition["op"], str(condition.get("value", ""))
        if name == "concept" or op in _HIERARCHICAL:
            if op not in _HIERARCHICAL and op not in ("=", "in", "not-in"):
                raise self._refused(condition)
            return self._placed(op, value)
        test = self._test(condition, op, value)
        return frozenset(c for c in self.selectable if test(self._texts(c, name)))

    def _placed(self, op: str, value: str) -> frozenset[str]:
        """Codes by where they stand in the hierarchy, or by themselves."""
        if op in ("in", "not-in", "="):
            listed = {text.strip() for text in value.split(",")} if op != "=" else {value}
            return frozenset(c for c in self.selectable if (c in listed) != (op == "not-in"))
        if value not in self._concepts:
            raise TerminologyError(f"code system {self.label} has no code {value}, which a filter names")
        if op == "generalizes":
            return self.selectable & {value, *self._ancestors(value)}
        below = frozenset(c for c in self.selectable if value in self._ancestors(c))
        if op == "descendent-of":
            return below - {value}
        under = below | ({value} & self.selectable)
        return under if op == "is-a" else self.selectable - under

    def _test(self, condition: Resource, op: str, value: str) -> Callable[[list[str]], bool]:
        name = condition["property"]
        if name not in _STANDARD and name not in self._declared:
            raise self._refused(condition)
        if op == "=":
            return lambda texts: value in texts
        if op in ("in", "not-in"):
            listed = {text.strip() for text in value.split(",")}
            return lambda texts: bool(listed & set(texts)) != (op == "not-in")
        if op == "exists":
            return lambda texts: bool(texts) == (value != "false")
        if op == "regex":
            try:
                pattern = re.compile(value)
            except re.error as error:
                raise self._refused(condition) from error
            return lambda texts: any(pattern.fullmatch(text) for text in texts)
        raise self._refused(condition)

    def _refused(self, condition: Resource) -> TerminologyError:
        return TerminologyError(
            f"code system {self.label} cannot answer the filter "
            f"{condition.get('property')} {condition.get('op')} {condition.get('value')}"
        )

    def _texts(self, code: str, name: str) -> list[str]:
        if name == "code":
            return [code]
        if name in _ABOVE:
            return sorted(self._parents[code])
        if name in ("display", "definition"):
            text = self._concepts[code].get(name)
            return [text] if text else []
        return [str(v).lower() if isinstance(v, bool) else str(v) for v in self._values(code, name)]

    def _values(self, code: str, name: str) -> list[Any]:
        found = []
        for held in self._concepts[code].get("property", ()):
            if held.get("code") == name:
                value = next((v for k, v in held.items() if k.startswith("value")), None)
                found.append(value.get("code") if isinstance(value, Mapping) else value)
        return found

    def _ancestors(self, code: str) -> set[str]:
        above: set[str] = set()
        stack = [code]
        while stack:
            new = self._parents.get(stack.pop(), set()) - above
            above |= new
            stack.extend(new)
        return above


_HIERARCHICAL = frozenset({"is-a", "descendent-of", "is-not-a", "generalizes"})


def _walk(concepts: Any) -> Iterator[tuple[Resource, str | None]]:
    """Every concept and the code of the one that it stands in."""
    stack: list[tuple[Resource, str | None]] = [(concept, None) for concept in concepts]
    while stack:
        concept, parent = stack.pop()
        yield concept, parent
        stack.extend((inner, concept["code"]) for inner in concept.get("concept", ()))
