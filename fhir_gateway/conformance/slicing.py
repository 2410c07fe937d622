"""Which slice an instance is of: discriminators value, pattern, exists, type and profile (R4 profiling 5.1.0.14)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from fhir_gateway.conformance.items import Item, Scope, resource_item
from fhir_gateway.conformance.profile import Node, Profiles, Slicing
from fhir_gateway.conformance.values import CodeBook, codings, matches_pattern, member

#: Extensions are told apart by their url, whether or not a profile says so.
BY_URL = Slicing((("value", "url"),), closed=False)
_STEP = re.compile(r"extension\('([^']+)'\)|resolve\(\)|ofType\((\w+)\)|\$this|[A-Za-z][\w\[\]]*")


class Undecided(Exception):
    """A discriminator needs something that is not at hand; the text says what."""


class Slicer:
    """Matches instances to slices."""

    def __init__(
        self,
        profiles: Profiles,
        codes: CodeBook,
        conforms: Callable[[Item, str, Mapping[str, Any], Scope], bool | None],
    ) -> None:
        self._profiles = profiles
        self._codes = codes
        self._conforms = conforms

    def belongs(self, item: Item, slice_: Node, slicing: Slicing, holder: Mapping[str, Any], scope: Scope) -> bool:
        """True when every discriminator says that the item is of this slice. Raises Undecided."""
        if not slicing.discriminators:
            raise Undecided("the slicing has no discriminator")
        return all(self._says(kind, path, item, slice_, holder, scope) for kind, path in slicing.discriminators)

    def _says(self, kind: str, path: str, item: Item, slice_: Node, holder: Mapping[str, Any], scope: Scope) -> bool:
        steps = [match.group(0) for match in _STEP.finditer(path)]
        nodes, items = self._along(slice_, item, steps, holder, scope)
        node = nodes[-1] if nodes and len(nodes) == len(steps) + 1 else None
        if kind == "exists":
            wanted = node is None or node.max != 0
            return wanted == bool(items[-1])
        if kind == "type":
            if node is None or node.types is None:
                raise Undecided("the slice names no type at its discriminator")
            wanted_types = {one.code for one in node.types}
            return any(one.type in wanted_types for one in items[-1])
        if kind == "profile":
            return self._of_profile(node, items[-1], holder, scope)
        return self._by_value(nodes, items)

    def _along(
        self, slice_: Node, item: Item, steps: list[str], holder: Mapping[str, Any], scope: Scope
    ) -> tuple[list[Node], list[list[Item]]]:
        """Rules and instances at each step of a discriminator's path; the rules may end earlier."""
        nodes: list[Node] = [slice_]
        items: list[list[Item]] = [[item]]
        for step in steps:
            if step == "$this":
                following, below = nodes[-1] if len(nodes) == len(items) else None, items[-1]
            elif step == "resolve()":
                below = [found for one in items[-1] if (found := _target(one, holder, scope))]
                if items[-1] and not below:
                    raise Undecided("it resolves a reference that is not at hand")
                following = nodes[-1] if len(nodes) == len(items) else None
            elif step.startswith("ofType("):
                wanted = step[7:-1]
                below = [one for one in items[-1] if one.type == wanted]
                following = nodes[-1] if len(nodes) == len(items) else None
            elif step.startswith("extension("):
                url = step[11:-2]
                below = [one for up in items[-1] for one in up.children("extension") if one.fields().get("url") == url]
                following = self._extension_rules(nodes[-1], url) if len(nodes) == len(items) else None
            else:
                below = [one for up in items[-1] for one in self._children(up, step)]
                following = self._rules(nodes[-1], step) if len(nodes) == len(items) else None
            if following is not None:
                nodes.append(following)
            items.append(below)
        return nodes, items

    @staticmethod
    def _children(item: Item, name: str) -> list[Item]:
        if name in item.definition.choices:
            return item.children(f"{name}[x]")
        return item.children(name)

    def _rules(self, node: Node, name: str) -> Node | None:
        """Rules of a child, also by the profile of the node's type (``extension.value`` of a known extension)."""
        for one in (node, *self._typed(node)):
            found = one.children.get(name) or one.children.get(f"{name}[x]")
            if found is not None:
                return found
        return None

    def _typed(self, node: Node) -> list[Node]:
        roots = []
        for rule in node.types or ():
            for url in rule.profiles:
                profile = self._profiles.get(url)
                if profile is not None:
                    roots.append(profile.root)
        return roots

    def _extension_rules(self, node: Node, url: str) -> Node | None:
        holder = node.children.get("extension")
        for one in holder.slices.values() if holder else ():
            if extension_url(one, self._profiles) == url:
                return one
        return None

    def _by_value(self, nodes: list[Node], items: list[list[Item]]) -> bool:
        """Each value, pattern or required binding of the slice on the way, and below its end, holds for an instance."""
        decided = False
        for node, instances in zip(nodes, items, strict=False):
            for rule in _valued(node, deep=node is nodes[-1] and len(nodes) == len(items)):
                decided = True
                if not any(self._meets(one, rule) for one in instances):
                    return False
        if not decided:
            raise Undecided("the slice fixes nothing at its discriminator")
        return True

    def _meets(self, item: Item, rule: tuple[list[str], Node]) -> bool:
        steps, node = rule
        found = [item]
        for step in steps:
            found = [one for up in found for one in up.children(step)]
        if node.fixed is not None:
            return any(one.value == node.fixed for one in found)
        if node.pattern is not None:
            return any(matches_pattern(one.value, node.pattern) for one in found)
        codes = self._codes.codes(node.binding[1]) if node.binding else None
        if codes is None:
            raise Undecided("its value set is not at hand")
        return any(member(codings(one.value, one.type), codes, one.type) for one in found)

    def _of_profile(self, node: Node | None, items: list[Item], holder: Mapping[str, Any], scope: Scope) -> bool:
        if node is None or not node.types:
            raise Undecided("the slice names no profile at its discriminator")
        urls = [url for rule in node.types for url in (*rule.profiles, *rule.targets)]
        codes = {rule.code for rule in node.types if not rule.profiles}
        unknown = False
        for item in items:
            if item.type in codes:
                return True
            for url in urls:
                answer = self._conforms(item, url, holder, scope)
                if answer:
                    return True
                unknown |= answer is None
        if unknown:
            raise Undecided("a profile of its slices is not installed")
        return False


def extension_url(slice_: Node, profiles: Profiles) -> str | None:
    """The url of the extensions that a slice is about: by its profile, or fixed in it."""
    for rule in slice_.types or ():
        for canonical in rule.profiles:
            return canonical.partition("|")[0]
    url = slice_.children.get("url")
    return str(url.fixed) if url is not None and url.fixed is not None else None


def _valued(node: Node, *, deep: bool, steps: tuple[str, ...] = ()) -> list[tuple[list[str], Node]]:
    """The fixed values, patterns and required bindings at a node, and below it when ``deep``."""
    found: list[tuple[list[str], Node]] = []
    bound = node.binding is not None and node.binding[0] == "required"
    if node.fixed is not None or node.pattern is not None or (bound and deep):
        found.append((list(steps), node))
    if deep:
        for name, child in node.children.items():
            found += _valued(child, deep=True, steps=(*steps, name))
    return found


def _target(item: Item, holder: Mapping[str, Any], scope: Scope) -> Item | None:
    text = item.value.get("reference") if isinstance(item.value, dict) else None
    found = scope.target(text, holder) if isinstance(text, str) else None
    return resource_item(found, f"{item.path}.resolve()") if found is not None else None
