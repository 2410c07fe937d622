"""Evaluation by a cluster: what machines need beside the lake goes along, and they do what a process here does."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from fhir_gateway.cluster import Cluster
from fhir_gateway.cql.profiles import ProfilePolicy
from fhir_gateway.measures.evaluate import Evaluator
from fhir_gateway.measures.model import PartResult
from fhir_gateway.measures.population import Slice
from fhir_gateway.measures.processes import Recipe, SliceEvaluator


@dataclass(frozen=True, slots=True)
class Sent:
    """A recipe with the content of its packages, as Bundles in gzip: their paths are those of another machine."""

    recipe: Recipe
    packages: tuple[bytes, ...]

    @classmethod
    def of(cls, recipe: Recipe, evaluators: Sequence[Evaluator]) -> Sent:
        """What goes along with a recipe for these evaluators."""
        bundles = ({"resourceType": "Bundle", "entry": _entries(one)} for one in evaluators)
        return cls(recipe, tuple(gzip.compress(orjson.dumps(one), 1) for one in bundles))


def _entries(evaluator: Evaluator) -> list[dict[str, object]]:
    return [{"resource": resource} for resource in evaluator.package.resources]


def evaluator_of(sent: Sent) -> Callable[[Slice], list[PartResult]]:
    """On another machine: evaluates slices, with packages as they were sent."""
    with tempfile.TemporaryDirectory() as folder:
        packages: list[tuple[str, str, ProfilePolicy]] = []
        for content, (_, digest, profiles) in zip(sent.packages, sent.recipe.packages, strict=True):
            path = Path(folder) / f"{len(packages)}.json.gz"
            path.write_bytes(content)
            packages.append((str(path), digest, profiles))
        return SliceEvaluator(replace(sent.recipe, packages=tuple(packages))).evaluate


def evaluate_on(
    cluster: Cluster, recipe: Recipe, evaluators: Sequence[Evaluator], slices: Sequence[Slice]
) -> Iterator[list[PartResult]]:
    """Results of each slice, one per package, in the order of ``slices``."""
    what = evaluators[0].package.name if len(evaluators) == 1 else f"{len(evaluators)} measures"
    return cluster.each(evaluator_of, Sent.of(recipe, evaluators), slices, f"evaluate {what}")
