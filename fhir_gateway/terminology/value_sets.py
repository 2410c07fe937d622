"""Value sets resolved from the resources of one package.

A value set is its ``expansion`` when it has one, else its ``compose``: explicit concepts, whole code systems that are
in the package, filters that these can answer, imports of other value sets, and exclusions
(https://hl7.org/fhir/R4/valueset.html#compose). What would need a terminology server (code systems that are not
here, filters that they cannot answer, truncated expansions) is refused with the url: a value set that silently lacks
codes gives wrong counts, which is worse than no counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fhir_gateway.errors import TerminologyError
from fhir_gateway.terminology.canonical import content_hash, split_canonical, version_order
from fhir_gateway.terminology.code_systems import CodeSystem

Code = tuple[str, str]  # (system, code)
Resource = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ValueSet:
    """A resolved value set: canonical url, business version and its member codes."""

    url: str
    version: str | None
    codes: frozenset[Code]


class ValueSets:
    """The value sets and code systems of a package, resolved on first use.

    ``accept_empty`` names value sets (urls) that may really be empty; any other empty one is refused.
    """

    def __init__(self, resources: Iterable[Resource], *, accept_empty: Iterable[str] = ()) -> None:
        """Index ``resources``; those that are neither ValueSet nor CodeSystem are ignored."""
        resources = tuple(resources)
        self._value_sets = _by_url(resources, "ValueSet")
        self._code_systems = _by_url(resources, "CodeSystem")
        self._accept_empty = frozenset(accept_empty)
        self._resolved: dict[tuple[str, str | None], ValueSet] = {}
        self._hierarchies: dict[tuple[str, str | None], CodeSystem] = {}
        #: sha256 over the canonical content of all value sets and code systems, independent of their order
        self.hash = content_hash(r for r in resources if r.get("resourceType") in ("ValueSet", "CodeSystem"))

    @property
    def accept_empty(self) -> frozenset[str]:
        """Urls of value sets that may be empty."""
        return self._accept_empty

    @property
    def urls(self) -> tuple[str, ...]:
        """Canonical urls of all value sets here, sorted."""
        return tuple(sorted(self._value_sets))

    def resolve(self, url: str, version: str | None = None) -> ValueSet:
        """Return the value set ``url`` (or ``url|version``); the newest version when none is asked for.

        Raises TerminologyError when it is missing, empty, or cannot be computed from what the package holds.
        """
        return self._resolve(url, version, ())

    def code_system(self, url: str, version: str | None = None) -> ValueSet:
        """Return all codes of the code system ``url``; TerminologyError when it is not complete in the package."""
        system = self.hierarchy(url, version)
        return ValueSet(system.url, system.version, frozenset((system.url, code) for code in system.codes))

    def hierarchy(self, url: str, version: str | None = None) -> CodeSystem:
        """Return the code system ``url`` itself; TerminologyError when it is not complete in the package."""
        base, pinned = split_canonical(url)
        key = (base, version or pinned)
        if key not in self._hierarchies:
            self._hierarchies[key] = CodeSystem(_pick(self._code_systems, "code system", *key))
        return self._hierarchies[key]

    def require(self, references: Iterable[str], code_systems: Iterable[str] = ()) -> tuple[ValueSet, ...]:
        """Resolve all ``references`` (``url`` or ``url|version``); one TerminologyError lists every one that fails."""
        found: list[ValueSet] = []
        problems: list[str] = []
        for resolve, wanted in ((self.resolve, references), (self.code_system, code_systems)):
            for reference in sorted(set(wanted)):
                try:
                    found.append(resolve(reference))
                except TerminologyError as error:
                    problems.append(error.message)
        if problems:
            raise TerminologyError("; ".join(dict.fromkeys(problems)))
        return tuple(found)

    def _resolve(self, url: str, version: str | None, above: tuple[str, ...]) -> ValueSet:
        base, pinned = split_canonical(url)
        key = (base, version or pinned)
        known = self._resolved.get(key)
        if known is not None:
            return known
        resource = _pick(self._value_sets, "value set", *key)
        label = _label(base, resource.get("version"))
        if label in above:
            raise TerminologyError(f"value set {label} includes itself: {' -> '.join((*above, label))}")
        codes = self._codes(resource, (*above, label))
        if not codes and base not in self._accept_empty:
            raise TerminologyError(f"value set {_label(base, resource.get('version'))} is empty")
        resolved = ValueSet(base, resource.get("version"), codes)
        self._resolved[key] = resolved
        return resolved

    def _codes(self, resource: Resource, above: tuple[str, ...]) -> frozenset[Code]:
        expansion = resource.get("expansion")
        if expansion is not None:
            codes, listed = _expanded(expansion.get("contains", ()))
            if listed >= expansion.get("total", 0):
                return frozenset(codes)
            if "compose" not in resource:
                raise TerminologyError(
                    f"value set {_label(resource['url'], resource.get('version'))} is truncated: "
                    f"{listed} of {expansion['total']} codes"
                )
        compose = resource.get("compose", {})
        included: set[Code] = set()
        for include in compose.get("include", ()):
            included |= self._component(include, resource, above)
        for exclude in compose.get("exclude", ()):
            included -= self._component(exclude, resource, above)
        return frozenset(included)

    def _component(self, component: Resource, resource: Resource, above: tuple[str, ...]) -> frozenset[Code]:
        """Codes of one include or exclude: its system part and every imported value set, intersected."""
        parts: list[frozenset[Code]] = []
        system = component.get("system")
        if system is None and ("concept" in component or "filter" in component):
            raise TerminologyError(
                f"value set {_label(resource['url'], resource.get('version'))} has concepts or filters without a system"
            )
        if system is not None and "concept" in component:
            parts.append(frozenset((system, concept["code"]) for concept in component["concept"]))
        elif system is not None:
            parts.append(self._of_system(component, resource))
        parts.extend(self._resolve(reference, None, above).codes for reference in component.get("valueSet", ()))
        return frozenset.intersection(*parts) if parts else frozenset()

    def _of_system(self, component: Resource, resource: Resource) -> frozenset[Code]:
        """Codes of a whole code system, or those that all filters let through."""
        try:
            system = self.hierarchy(component["system"], component.get("version"))
            codes = system.selectable
            for condition in component.get("filter", ()):
                codes &= system.filtered(condition)
        except TerminologyError as error:
            raise TerminologyError(
                f"value set {_label(resource['url'], resource.get('version'))} has no complete expansion and cannot be "
                f"computed: {error.message}; expand it with a terminology server first"
            ) from error
        if resource.get("compose", {}).get("inactive") is False:
            codes -= system.inactive
        return frozenset((system.url, code) for code in codes)


def _by_url(resources: Sequence[Resource], resource_type: str) -> dict[str, list[Resource]]:
    index: dict[str, list[Resource]] = {}
    for resource in resources:
        if resource.get("resourceType") == resource_type and resource.get("url"):
            index.setdefault(resource["url"], []).append(resource)
    for versions in index.values():
        versions.sort(key=lambda resource: version_order(resource.get("version")))
    return index


def _pick(index: Mapping[str, Sequence[Resource]], kind: str, url: str, version: str | None) -> Resource:
    """The resource of that version, or the newest; the message says which versions are here."""
    versions = index.get(url, ())
    if not versions:
        raise TerminologyError(f"{kind} {_label(url, version)} is missing")
    if version is None:
        return versions[-1]
    for resource in versions:
        if resource.get("version") == version:
            return resource
    here = ", ".join(str(resource.get("version")) for resource in versions)
    raise TerminologyError(f"{kind} {_label(url, version)} is missing; present in version {here}")


def _label(url: str, version: str | None) -> str:
    return f"{url}|{version}" if version else url


def _expanded(contains: Iterable[Resource]) -> tuple[set[Code], int]:
    """Codes of an expansion and the number of its entries, nested ones included; abstract entries are not members."""
    codes: set[Code] = set()
    listed = 0
    stack = list(contains)
    while stack:
        entry = stack.pop()
        listed += 1
        stack.extend(entry.get("contains", ()))
        if "code" in entry and not entry.get("abstract"):
            codes.add((entry.get("system", ""), entry["code"]))
    return codes, listed
