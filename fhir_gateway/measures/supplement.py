"""Terminology that a package lacks, from the gateway's store: what its criteria can reach, and nothing else.

The package's own value sets and code systems come first, in the version asked for; then the store: that version, or,
where the measure names none, the one in force on the first day of the measurement period. The terminology hash covers
what was taken, and the lock ``terminology.lock.json`` beside the Measure, where there is one, holds it to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.errors import Location, MeasureError
from fhir_gateway.measures.content import read_json
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.terminology import ValueSets
from fhir_gateway.terminology.canonical import content_hash, split_canonical
from fhir_gateway.terminology.concept_maps import CodeMap
from fhir_gateway.terminology.store import Entry, TerminologyStore

LOCK = "terminology.lock.json"
Resource = Mapping[str, Any]


@dataclass(frozen=True)
class Supplement:
    """What the store adds to a package: resources with where they are from, and concept maps in force."""

    entries: tuple[Entry, ...] = ()
    resources: tuple[Resource, ...] = ()
    maps: tuple[Resource, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.resources or self.maps)

    def applied(self, package: MeasurePackage) -> MeasurePackage:
        """The package with these value sets, its terminology hash over all of it."""
        if not self:
            return package
        everything = (*package.resources, *self.resources)
        value_sets = ValueSets(everything, accept_empty=package.value_sets.accept_empty)
        if self.maps:
            value_sets.hash = content_hash([*_terminology(everything), *self.maps])
        return replace(package, value_sets=value_sets, supplement=self)


def supplemented(package: MeasurePackage, store: TerminologyStore, on: date) -> MeasurePackage:
    """The package with what ``store`` adds to it; see :func:`supplement`."""
    return supplement(package, store, on).applied(package)


def supplement(package: MeasurePackage, store: TerminologyStore, on: date) -> Supplement:
    """What ``store`` has of the terminology that the criteria of ``package`` reach and the package lacks.

    MeasureError when the package's terminology lock names another content; TerminologyError when a value set is stored,
    but not in the version asked for or none of it is in force on that day.
    """
    own = {(r["resourceType"], r.get("url")): r for r in _terminology(package.resources)}
    versions = {(r["resourceType"], r.get("url"), r.get("version")) for r in _terminology(package.resources)}
    needed = package.references()
    pending = [("ValueSet", one) for one in needed.value_sets] + [("CodeSystem", one) for one in needed.code_systems]
    entries: dict[tuple[str, str], Entry] = {}
    resources: list[Resource] = []
    seen: set[tuple[str, str]] = set()
    while pending:
        kind, reference = pending.pop()
        if (kind, reference) in seen:
            continue
        seen.add((kind, reference))
        url, version = split_canonical(reference)
        if (kind, url) in own and (version is None or (kind, url, version) in versions):
            resource: Resource = own[kind, url]
        else:
            found = store.find(kind, reference, on)
            if found is None:
                continue  # the package's preflight says so, with all others that are missing
            entry, resource = found
            if (kind, entry.canonical) not in entries:
                entries[kind, entry.canonical] = entry
                resources.append(resource)
        pending += _composed_of(resource)
    maps = tuple(resource for _, resource in store.in_force("ConceptMap", on))
    made = Supplement(tuple(entries.values()), tuple(resources), maps)
    _verify(package, made)
    return made


def lock_of(made: Supplement) -> dict[str, Any]:
    """The content of a terminology lock: what was taken from the store, its hash, and where the store had it from."""
    return {
        "resources": {
            f"{entry.resource_type} {entry.canonical}": {"sha256": entry.digest, "from": entry.origin}
            for entry in sorted(made.entries, key=lambda one: (one.resource_type, one.canonical))
        },
        "maps": content_hash(made.maps) if made.maps else None,
    }


def write_lock(path: Path, made: Supplement) -> Path:
    """Write the terminology lock of the package in the folder ``path``."""
    file = path / LOCK
    file.write_bytes(orjson.dumps(lock_of(made), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return file


def maps_of(packages: Iterable[MeasurePackage]) -> CodeMap | None:
    """The mappings to apply to what the measures of one run read; None when there are none."""
    maps = {one["url"]: one for package in packages if package.supplement for one in package.supplement.maps}
    return CodeMap.of(maps.values()) or None


def _verify(package: MeasurePackage, made: Supplement) -> None:
    file = package.path / LOCK if package.path is not None else None
    if file is None or not file.is_file():
        return
    locked, present = read_json(file), lock_of(made)
    before, now = locked.get("resources", {}), present["resources"]
    problems = [f"{name} is missing" for name in before.keys() - now.keys()]
    problems += [f"{name} was not locked" for name in now.keys() - before.keys()]
    problems += [
        f"{name} was changed" for name in before.keys() & now.keys() if before[name]["sha256"] != now[name]["sha256"]
    ]
    if locked.get("maps") != present["maps"]:
        problems.append("other concept maps are in force")
    if problems:
        raise MeasureError(
            f"the terminology differs from its lock: {'; '.join(sorted(problems))}", location=Location(file=str(file))
        )


def _terminology(resources: tuple[Resource, ...]) -> Iterator[Resource]:
    return (one for one in resources if one["resourceType"] in ("ValueSet", "CodeSystem"))


def _composed_of(resource: Resource) -> Iterator[tuple[str, str]]:
    """References of a value set that has to be computed: imported value sets, and code systems taken whole."""
    if resource["resourceType"] != "ValueSet" or _is_expanded(resource):
        return
    compose = resource.get("compose", {})
    for component in (*compose.get("include", ()), *compose.get("exclude", ())):
        yield from (("ValueSet", reference) for reference in component.get("valueSet", ()))
        if "system" in component and "concept" not in component:
            version = component.get("version")
            yield "CodeSystem", f"{component['system']}|{version}" if version else component["system"]


def _is_expanded(resource: Resource) -> bool:
    expansion = resource.get("expansion")
    return expansion is not None and len(expansion.get("contains", ())) >= expansion.get("total", 0)
