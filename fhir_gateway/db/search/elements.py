"""Where the elements of a search parameter are in a resource, and what its references point to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fhir_gateway.r4.spec import type_definition


@dataclass(frozen=True, slots=True)
class Elements:
    """Yields elements of a resource; it has none when it has none of the top-level members ``roots``."""

    roots: frozenset[str]
    find: Callable[[Mapping[str, Any]], Iterator[Any]]
    paths: tuple[str, ...] = ()  # dotted, where that is all there is to say

    def __call__(self, resource: Mapping[str, Any]) -> Iterator[Any]:
        """Yield the elements of a resource."""
        return iter(()) if self.roots.isdisjoint(resource) else self.find(resource)


def path(*paths: str) -> Elements:
    """Return a function that yields all elements at the given dotted paths; lists are flattened on the way."""
    split = [(first, tuple(rest)) for first, *rest in (one.split(".") for one in paths)]

    def elements(resource: Mapping[str, Any]) -> Iterator[Any]:
        for first, rest in split:
            child = resource.get(first)
            if child is not None:
                yield from _descend(child, rest)

    return Elements(frozenset(first for first, _ in split), elements, paths)


def targets_of(resource_type: str, dotted: str) -> frozenset[str]:
    """Target types of the Reference or canonical at a path."""
    *above, last = dotted.split(".")
    for name in above:
        resource_type = type_definition(resource_type).elements[name].type
    return frozenset(type_definition(resource_type).elements[last].targets) - {"Resource"}


def _descend(node: Any, steps: tuple[str, ...]) -> Iterator[Any]:
    if isinstance(node, list):
        for one in node:
            yield from _descend(one, steps)
    elif not steps:
        yield node
    elif isinstance(node, dict):
        child = node.get(steps[0])
        if child is not None:
            yield from _descend(child, steps[1:])


def extension(url: str, value: str, at: str | None = None) -> Elements:
    """Return a function that yields ``value`` of each extension ``url`` of the resource, or of its element ``at``."""
    holders = path(f"{at}.extension" if at else "extension")

    def elements(resource: Mapping[str, Any]) -> Iterator[Any]:
        for one in holders(resource):
            if one.get("url") == url and value in one:
                yield one[value]

    return Elements(holders.roots, elements)
