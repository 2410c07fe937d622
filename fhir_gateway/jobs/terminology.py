"""Work on terminology: import it, have it expanded by a server, and report where data lack the codes of measures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from fhir_gateway.errors import ConfigurationError, TerminologyError
from fhir_gateway.factory import Gateway
from fhir_gateway.lake.columns import table_schema
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.retrieves import CodedRetrieve, coded_retrieves
from fhir_gateway.measures.supplement import Supplement, maps_of, supplement, supplemented
from fhir_gateway.sources.connect import open_source
from fhir_gateway.sources.endpoint import Endpoint
from fhir_gateway.sources.expansion import PAGE, OriginBasicAuth, expand
from fhir_gateway.sources.outcome import Progress
from fhir_gateway.sources.session import new_client
from fhir_gateway.sources.vendors import vendor_profile
from fhir_gateway.terminology.canonical import split_canonical
from fhir_gateway.terminology.coverage import Coverage, coverage
from fhir_gateway.terminology.reading import Resource, read_resources
from fhir_gateway.terminology.store import TYPES, Imported

Effective = tuple[date | None, date | None]


def import_files(
    gateway: Gateway, paths: Sequence[Path], effective: Effective | None = None, *, replace: bool = False
) -> Imported:
    """Import the terminology of files and folders; all of it or nothing."""
    found = [one for path in paths for one in read_resources(path) if one[1].get("resourceType") in TYPES]
    if not found:
        raise ConfigurationError("there is no ValueSet, CodeSystem or ConceptMap in these files")
    return gateway.terminology.put(found, effective=effective, replace=replace)


def import_expansions(
    gateway: Gateway,
    server: str,
    references: Iterable[str],
    effective: Effective | None = None,
    *,
    basic: tuple[str, str] | None = None,
    replace: bool = False,
    count: int = PAGE,
    progress: Progress | None = None,
) -> Imported:
    """Have value sets (``url`` or ``url|version``) expanded by a server and import them.

    ``server`` is a registered endpoint or a FHIR base URL; ``basic`` is a user and secret for HTTP Basic. Each value
    set is stored when it is whole, so that an interrupted import goes on with the others.
    """
    wanted = sorted(set(references))
    if not wanted:
        return Imported((), (), ())
    if "://" in server:
        endpoint, credential = Endpoint("terminology", server.rstrip("/"), auth="none"), None
    else:
        endpoint = gateway.endpoints.get(server)
        credential = gateway.endpoints.credential(server)
    folder = gateway.staging_folder / "terminology"

    async def fetch() -> Imported:
        done: list[Imported] = []
        client = new_client(vendor_profile(endpoint.vendor))
        if basic is not None:
            client.auth = OriginBasicAuth(endpoint.base_url, *basic)
        async with client, open_source(endpoint, credential, client=client, progress=progress) as source:
            for reference in wanted:
                url, version = split_canonical(reference)
                resource: Resource = await expand(source.session, url, version, folder, count)
                done.append(
                    gateway.terminology.put([(endpoint.base_url, resource)], effective=effective, replace=replace)
                )
        return Imported(
            tuple(name for one in done for name in one.stored),
            tuple(name for one in done for name in one.unchanged),
            tuple(name for one in done for name in one.replaced),
        )

    return asyncio.run(fetch())


def missing(gateway: Gateway, packages: Sequence[str], on: date) -> list[str]:
    """Value sets that packages need and neither they nor the store have in force on a day."""
    found: set[str] = set()
    for path in _paths(gateway, packages):
        package = supplemented(MeasurePackage.load(path), gateway.terminology, on)
        for reference in package.references().value_sets:
            try:
                package.value_sets.resolve(reference)
            except TerminologyError:
                found.add(reference)
    return sorted(found)


def lock(gateway: Gateway, package: str, on: date) -> tuple[Path, Supplement]:
    """Write which content of the store a package uses into its terminology lock; also the first time."""
    from fhir_gateway.measures.supplement import LOCK, write_lock

    path = gateway.measure_package(package)
    if not path.is_dir():
        raise ConfigurationError("only a package in a folder can be locked")
    (path / LOCK).unlink(missing_ok=True)
    made = supplement(MeasurePackage.load(path), gateway.terminology, on)
    return write_lock(path, made), made


@dataclass(frozen=True, slots=True)
class Criterion:
    """How the data of one source are coded for what a measure looks for; ``coverage`` None: no such resources."""

    measure: str
    retrieve: CodedRetrieve
    source: str
    coverage: Coverage | None

    @property
    def covered(self) -> bool:
        """Whether any resource of the source can meet the criterion."""
        return self.coverage is not None and self.coverage.member > 0


def criteria_coverage(gateway: Gateway, packages: Sequence[str], on: date) -> list[Criterion]:
    """Coverage of every coded criterion of measures, in every source of the newest lake version.

    Concept maps in force are applied, as evaluation does.
    """
    lake = gateway.lake
    version = lake.version
    sources = sorted(set(lake.read("Patient", version=version)["_source"].to_pylist()))
    found: list[Criterion] = []
    known: dict[tuple[str, str, str], dict[str, Coverage]] = {}
    for path in _paths(gateway, packages):
        package = supplemented(MeasurePackage.load(path), gateway.terminology, on)
        package.preflight()
        maps = maps_of([package])
        for retrieve in coded_retrieves(package):
            if retrieve.path is None or not (retrieve.value_set or retrieve.codes):
                continue
            key = (retrieve.resource_type, retrieve.path, f"{package.terminology_hash} {retrieve.label}")
            if key not in known:
                wanted = package.value_sets.resolve(retrieve.value_set).codes if retrieve.value_set else retrieve.codes
                known[key] = {}
                for column in _columns(retrieve.resource_type, retrieve.path):
                    rows = lake.read(retrieve.resource_type, [column], version=version)
                    for one in coverage(maps.apply(rows) if maps else rows, column, wanted):
                        known[key][one.source] = one
            found += [Criterion(package.name, retrieve, one, known[key].get(one)) for one in sources]
    return found


def _columns(resource_type: str, path: str) -> list[str]:
    """The column of a retrieve's element; of a choice, that of its CodeableConcept."""
    names = table_schema(resource_type).names
    return [name for name in (path, f"{path}CodeableConcept") if name in names][:1]


def _paths(gateway: Gateway, packages: Sequence[str]) -> list[Path]:
    paths = [gateway.measure_package(name) for name in packages] or gateway.measure_packages()
    if not paths:
        raise ConfigurationError(f"there are no measure packages in {gateway.measures_folder}")
    return paths
