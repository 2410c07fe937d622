"""Attribution by a cluster: a task is a bucket of the lake, judged as this machine would judge it.

Of what is in no lake (selections, programmes, who won before) a task brings what is about the members of its bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from fhir_gateway.attribution import COVERAGE_COLUMNS
from fhir_gateway.cluster import Cluster
from fhir_gateway.contracts import Contract
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribution_facts import Known, facilities, known_directory
from fhir_gateway.jobs.attribution_parts import Rows, Tables, attribute_rows
from fhir_gateway.jobs.people import people_of
from fhir_gateway.lake.buckets import bucket_of
from fhir_gateway.lake.claims import claims
from fhir_gateway.lake.store import Lake


@dataclass(frozen=True, slots=True)
class AttributionRecipe:
    """All that is the same for every bucket: ``columns`` of claim lines are looked at."""

    lake: str
    version: int
    contract: Contract
    columns: tuple[str, ...]
    directory: pa.Table
    facilities: pa.Table | None
    clinicians: pa.Table | None


@dataclass(frozen=True, slots=True)
class BucketTask:
    """A bucket, and what is known of its members beside the lake, without clinicians."""

    bucket: int
    known: Known


class BucketAttribution:
    """On another machine: attributes bucket after bucket."""

    def __init__(self, recipe: AttributionRecipe) -> None:
        self._recipe = recipe
        self._lake = Lake.existing(recipe.lake)

    def __call__(self, task: BucketTask) -> Tables:
        """The tables of one bucket's members."""
        recipe, lake, bucket = self._recipe, self._lake, task.bucket
        contract, version = recipe.contract, recipe.version
        paid_through, precedence = contract.claims.paid_through, contract.claims.precedence
        lines = claims(lake, bucket, version, paid_through, precedence, recipe.directory)
        rows = Rows(
            lines.select(list(recipe.columns)),
            lake.read("Coverage", COVERAGE_COLUMNS, bucket=bucket, version=version),
            people_of(lake, version, bucket),
        )
        known = replace(task.known, facts=replace(task.known.facts, providers=recipe.clinicians))
        return attribute_rows(contract, rows, known.of(rows.members), recipe.facilities)


def attribute_on(
    cluster: Cluster, gateway: Gateway, contract: Contract, version: int, known: Known, columns: list[str]
) -> Iterator[Tables]:
    """The tables of each bucket's members."""
    recipe = AttributionRecipe(
        gateway.lake.url,
        version,
        contract,
        tuple(columns),
        known_directory(gateway, version),
        facilities(gateway, contract, version),
        known.facts.providers,
    )
    tasks = [BucketTask(number, part) for number, part in enumerate(_parts(known, gateway.lake.buckets_of(version)))]
    return cluster.each(BucketAttribution, recipe, tasks, f"attribute {contract.id}")


def _parts(known: Known, buckets: int) -> Iterator[Known]:
    """What is known of the members of each bucket."""
    facts = known.facts
    selections = _by_bucket(known.selections, buckets)
    names = ("residence", "programmes", "previous")
    tables = {name: _by_bucket(getattr(facts, name), buckets) for name in names}
    for number in range(buckets):
        theirs = {name: tables[name][number] for name in names}
        yield Known(replace(facts, providers=None, **theirs), selections[number], {})


def _by_bucket(table: pa.Table | None, buckets: int) -> list[pa.Table | None]:
    """The rows of each bucket's members; nothing where there is no table."""
    if table is None:
        return [None] * buckets
    names = table["member"].combine_chunks().dictionary_encode()
    of_names = np.array([bucket_of(one, buckets) for one in names.dictionary.to_pylist()], np.int64)
    at = of_names[names.indices.to_numpy()] if len(names) else np.empty(0, np.int64)
    return [table.filter(pa.array(at == number)) for number in range(buckets)]
