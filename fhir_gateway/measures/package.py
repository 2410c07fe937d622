"""Measure packages: a Measure, its CQL libraries as ELM, and its terminology, as their steward publishes them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from fhir_gateway.cql.profiles import ProfilePolicy
from fhir_gateway.errors import InputError, LibraryError, Location, MeasureError
from fhir_gateway.lake.explain import issues
from fhir_gateway.measures.content import Resource, read_content, read_json
from fhir_gateway.measures.definition import MeasureDefinition, read_measure
from fhir_gateway.measures.elm_references import Elm, LibraryId, References, identifier, include_closure, references
from fhir_gateway.measures.lock import lock_path, verify
from fhir_gateway.terminology import ValueSets
from fhir_gateway.terminology.canonical import content_hash, split_canonical

if TYPE_CHECKING:
    from fhir_gateway.measures.supplement import Supplement

ELM_JSON = "application/elm+json"
#: Sections of a library (ELM schema, ``Library``); each holds a list ``def``.
_SECTIONS = ("usings", "includes", "parameters", "codeSystems", "valueSets", "codes", "concepts", "statements")


@dataclass(frozen=True)
class MeasurePackage:
    """A measure ready to be compiled: everything its primary library includes is here.

    ``libraries`` are the ELM ``library`` objects of the primary library and its includes, the primary first. ``path``
    is where it was loaded from. ``profiles`` says whether ``meta.profile`` of the data is believed
    (:mod:`fhir_gateway.cql.profiles`); the other choice gives the package another hash, since it gives other results.
    ``supplement`` is what the gateway's terminology adds (:mod:`fhir_gateway.measures.supplement`).
    """

    measure: Resource
    definition: MeasureDefinition
    primary: LibraryId
    libraries: tuple[Elm, ...]
    value_sets: ValueSets
    package_hash: str
    resources: tuple[Resource, ...] = field(repr=False)
    path: Path | None = None
    profiles: ProfilePolicy = "declared"
    supplement: Supplement | None = field(default=None, repr=False)

    @classmethod
    def load(
        cls, path: str | Path, *, accept_empty: Iterable[str] = (), profiles: ProfilePolicy = "declared"
    ) -> MeasurePackage:
        """Load a folder or a Bundle (``.json``, ``.json.gz``).

        ``accept_empty`` names value sets (urls) that may be empty; with ``profiles`` ``content`` resources are told
        apart by what they hold alone, whatever profiles they declare. Raises MeasureError when there is not exactly one
        Measure or the content differs from the package's lock, LibraryError when a library is missing or in another
        version, InputError for files that are damaged.
        """
        path = Path(path)
        content = read_content(path)
        try:
            return cls._of(path, content, accept_empty, profiles)
        except (AttributeError, KeyError, TypeError) as error:
            raise _misshapen(content, error) from error

    @classmethod
    def _of(
        cls, path: Path, content: list[tuple[str, Resource]], accept_empty: Iterable[str], profiles: ProfilePolicy
    ) -> MeasurePackage:
        measure = _the_measure(path, content)
        libraries = _elm_libraries(content)
        primary = _primary(measure, content)
        closure = include_closure(libraries, primary)
        resources = tuple(resource for _, resource in content)
        if lock_path(path).is_file():
            verify(read_json(lock_path(path)), resources, path)
        return cls(
            measure=measure,
            definition=read_measure(measure),
            primary=primary,
            libraries=tuple(closure),
            value_sets=ValueSets(resources, accept_empty=accept_empty),
            package_hash=_hash(resources, profiles),
            resources=resources,
            path=path,
            profiles=profiles,
        )

    @property
    def url(self) -> str:
        """Canonical url of the Measure."""
        return str(self.measure["url"])

    @property
    def version(self) -> str:
        """Business version of the Measure."""
        return str(self.measure["version"])

    @property
    def name(self) -> str:
        """Computer-friendly name of the Measure (its id when it has none)."""
        return str(self.measure.get("name") or self.measure.get("id"))

    @property
    def title(self) -> str:
        """Title for people."""
        return str(self.measure.get("title") or self.name)

    @property
    def terminology_hash(self) -> str:
        """sha256 over the canonical content of all value sets and code systems."""
        return self.value_sets.hash

    def references(self) -> References:
        """Definitions and terminology that the population criteria can reach."""
        return references(self.libraries, self.primary, self.definition.expressions)

    def preflight(self) -> References:
        """Check that all terminology the criteria can reach is here and not empty.

        Raises TerminologyError that lists everything missing, before anything is compiled or run.
        """
        needed = self.references()
        self.value_sets.require(needed.value_sets, needed.code_systems)
        return needed


def _hash(resources: tuple[Resource, ...], profiles: ProfilePolicy) -> str:
    """sha256 over the content; of another policy than the default, over it and the policy."""
    content = content_hash(resources)
    return content if profiles == "declared" else hashlib.sha256(f"{content}\nprofiles {profiles}".encode()).hexdigest()


def _the_measure(path: Path, content: list[tuple[str, Resource]]) -> Resource:
    measures = [(name, resource) for name, resource in content if resource["resourceType"] == "Measure"]
    if not measures:
        raise MeasureError("the package has no Measure", location=Location(file=str(path)))
    if len(measures) > 1:
        listed = ", ".join(f"{resource.get('url')} in {name}" for name, resource in measures)
        raise MeasureError(f"the package has {len(measures)} Measures: {listed}", location=Location(file=str(path)))
    name, measure = measures[0]
    for element in ("url", "version"):
        if not measure.get(element):
            raise MeasureError(
                "a Measure needs its url and version", location=Location(name, path=f"Measure.{element}")
            )
    return measure


def _elm_libraries(content: list[tuple[str, Resource]]) -> dict[LibraryId, tuple[str, Elm]]:
    """ELM by (name, version), with the file it came from."""
    libraries: dict[LibraryId, tuple[str, Elm]] = {}
    for name, resource in content:
        if resource["resourceType"] == "Library":
            elm = _elm(name, resource)
            if elm is not None:
                libraries[identifier(elm)] = (name, elm)
    return libraries


def _elm(file: str, resource: Resource) -> Elm | None:
    for attachment in resource.get("content", ()):
        if attachment.get("contentType") == ELM_JSON and "data" in attachment:
            location = Location(file, path=f"Library({resource.get('name') or resource.get('id')}).content")
            try:
                elm: Any = _decoded(attachment["data"])
                identifier(elm)
            except (ValueError, KeyError, TypeError) as error:  # of base64, JSON or what is in it
                raise InputError("the ELM is not base64 of an ELM JSON library", location=location) from error
            for name in _SECTIONS:
                if not _is_section(elm.get(name, {})):
                    raise InputError(f"the ELM's {name} are not of the shape of the ELM schema", location=location)
            return dict(elm)
    return None


@lru_cache(maxsize=64)
def _decoded(data: str) -> Any:
    """The ELM of an attachment, which nobody changes: packages of one publisher bring the same libraries along.

    Loaded together, the published measures take half the time and memory.
    """
    return orjson.loads(base64.b64decode(data, validate=True))["library"]


def _is_section(section: Any) -> bool:
    """Whether a section of ELM has a list of definitions, whose expressions are nodes."""
    definitions = section.get("def", []) if isinstance(section, dict) else None
    return isinstance(definitions, list) and all(
        isinstance(one, dict) and isinstance(one.get("expression", {}), dict) for one in definitions
    )


def _misshapen(content: list[tuple[str, Resource]], error: Exception) -> Exception:
    """Which element of the package has the wrong shape; the error itself when none has."""
    for name, resource in content:
        if resource["resourceType"] in ("Measure", "Library"):
            for issue in issues(resource, contained=True):
                if issue.rule in ("type", "cardinality"):
                    return MeasureError(issue.message, location=Location(name, path=issue.path, rule=issue.rule))
    return error


def _primary(measure: Resource, content: list[tuple[str, Resource]]) -> LibraryId:
    """Name and version of the ELM in the Library that ``Measure.library`` names."""
    declared = measure.get("library", ())
    if len(declared) != 1:
        raise MeasureError(f"Measure.library must name exactly one library, it names {len(declared)}")
    url, version = split_canonical(declared[0])
    found: list[str] = []
    for name, resource in content:
        if resource["resourceType"] != "Library" or resource.get("url") != url:
            continue
        if version in (None, resource.get("version")):
            elm = _elm(name, resource)
            if elm is None:
                raise LibraryError(f"library {declared[0]} in {name} has no content of type {ELM_JSON}")
            return identifier(elm)
        found.append(f"version {resource.get('version')!r} in {name}")
    here = ", ".join(found) or ", ".join(
        f"{resource.get('url')}|{resource.get('version')} in {name}"
        for name, resource in content
        if resource["resourceType"] == "Library"
    )
    raise LibraryError(f"Measure.library {declared[0]} is not in the package; found {here or 'no library'}")
