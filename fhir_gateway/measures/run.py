"""A run: measures evaluated together over a lake, batch by batch, straight into the store of results.

At no time are there more results in memory than those of some batches, however large the population is.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import date, datetime

import pyarrow as pa

from fhir_gateway.cluster import Cluster
from fhir_gateway.errors import ConfigurationError
from fhir_gateway.lake.changes import Changes
from fhir_gateway.lake.store import Lake
from fhir_gateway.measures.copies import Copies
from fhir_gateway.measures.evaluate import Evaluator, evaluate_batch, nobody
from fhir_gateway.measures.model import PartResult
from fhir_gateway.measures.population import BATCH_MEMBERS, LakePopulation, Slice
from fhir_gateway.measures.processes import Recipe, evaluate_slices, processes_for
from fhir_gateway.measures.remote import evaluate_on
from fhir_gateway.measures.reuse import Earlier, NotReusable, earlier, joined, set_aside_of
from fhir_gateway.measures.store import ResultStore
from fhir_gateway.measures.supplement import maps_of

#: Told after each batch: members done, members in all.
Tell = Callable[[int, int], None]


def evaluate_lake(
    evaluators: Sequence[Evaluator],
    lake: Lake,
    period: tuple[date, date],
    now: datetime,
    store: ResultStore,
    *,
    version: int | None = None,
    processes: int | None = None,
    batch_members: int = BATCH_MEMBERS,
    copies: Copies = "once",
    reuse: bool = False,
    tell: Tell | None = None,
    cluster: Cluster | None = None,
) -> tuple[str, ...]:
    """Evaluate measures over everybody in ``lake`` and save the results; the ids of their runs, in the same order.

    ``processes`` is by default what :func:`processes_for` says; it changes nothing in the results. When a batch fails,
    nothing is stored. ``copies`` of one visit by several sources count once, or all of them. A measure is evaluated
    again where only the whole population shows which members have to fail (:func:`Evaluator.without`). With ``cluster``
    it evaluates the batches, and the same comes of it.

    With ``reuse`` only those are evaluated whose data changed since a run of the same measure, content and period,
    where there is one to go by; the results are the same (:mod:`fhir_gateway.measures.reuse`).
    """
    maps = maps_of(evaluator.package for evaluator in evaluators)
    population = LakePopulation(lake, version=version, batch_members=batch_members, maps=maps, copies=copies)
    if reuse:
        return _evaluate_changed(
            evaluators,
            lake,
            period,
            now,
            store,
            population,
            processes=processes,
            batch_members=batch_members,
            tell=tell,
            cluster=cluster,
        )
    slices = population.slices()
    total = sum(len(cut.members) for cut in slices)
    full = total // max((len(cut.members) for cut in slices), default=1)
    processes = processes or processes_for(full, len(evaluators))
    if cluster is not None and slices:
        parts = evaluate_on(cluster, recipe_of(evaluators, lake, population, period, now), evaluators, slices)
    elif processes > 1 and len(slices) > 1:
        recipe = recipe_of(evaluators, lake, population, period, now)
        parts = evaluate_slices(recipe, slices, processes)
    else:
        parts = _evaluate_here(evaluators, population, slices, period, now)
    with ExitStack() as stack:
        headers = [
            evaluator.header(population.lake_version, period, now, population.copies) for evaluator in evaluators
        ]
        writers = [stack.enter_context(store.writing(header)) for header in headers]
        done = 0
        if tell:
            tell(done, total)
        for found in parts:
            for writer, part in zip(writers, found, strict=True):
                writer.add(part)
            done += len(found[0].members)
            if tell:
                tell(done, total)
        runs: list[str] = []
        for evaluator, writer in zip(evaluators, writers, strict=True):
            odd = writer.odd_ones()
            if odd:
                runs += evaluate_lake(
                    [evaluator.without(odd)],
                    lake,
                    period,
                    now,
                    store,
                    version=population.lake_version,
                    processes=processes,
                    batch_members=batch_members,
                    copies=copies,
                    cluster=cluster,
                )
            else:
                runs.append(writer.finish())
        return tuple(runs)


def _evaluate_changed(
    evaluators: Sequence[Evaluator],
    lake: Lake,
    period: tuple[date, date],
    now: datetime,
    store: ResultStore,
    population: LakePopulation,
    *,
    processes: int | None,
    batch_members: int,
    tell: Tell | None,
    cluster: Cluster | None,
) -> tuple[str, ...]:
    """Evaluate those who changed where there is a run to go by, and everybody for the other measures."""
    version, copies = population.lake_version, population.copies
    known: dict[int, Earlier] = {}
    changes: dict[int, Changes] = {}
    for number, evaluator in enumerate(evaluators):
        found = earlier(evaluator, store, evaluator.header(version, period, now, copies), changes, lake)
        if found is not None:
            known[number] = found
    runs: dict[int, str] = {}
    if known:
        slices = [cut.members for cut in population.slices()]
        total = sum(map(len, slices))
        for since in sorted({one.result.lake_version or 0 for one in known.values()}):
            numbers = [number for number, one in known.items() if one.result.lake_version == since]
            some = [evaluators[number] for number in numbers]
            members = changes[since].members
            if not slices or 2 * len(members) > total:
                continue  # as fast as looking for them

            def evaluated(
                version: int | None,
                some: Sequence[Evaluator] = some,
                members: pa.Array = members,
            ) -> list[list[PartResult]]:
                changed = LakePopulation(
                    lake,
                    version=version,
                    members=members.to_pylist(),
                    batch_members=batch_members,
                    maps=maps_of(evaluator.package for evaluator in some),
                    copies=copies,
                )
                cuts = changed.slices() if len(members) else ()
                return list(_evaluate_here(some, changed, cuts, period, now))

            if tell:
                tell(total - len(members), total)
            anew = evaluated(version)
            none = evaluate_batch(some, nobody(), period, now)
            set_aside = [[0] * len(some)]
            if any(set_aside_of(known[number].result) for number in numbers):
                set_aside = [[part.copies for part in parts] for parts in evaluated(since)]
            for place, number in enumerate(numbers):
                header = evaluators[number].header(version, period, now, copies)
                try:
                    with store.writing(header) as writer:
                        for part in joined(
                            known[number],
                            evaluators[number],
                            [parts[place] for parts in anew],
                            none[place],
                            sum(counts[place] for counts in set_aside),
                            slices,
                        ):
                            writer.add(part)
                        runs[number] = writer.finish()
                except NotReusable:
                    continue
            if tell:
                tell(total, total)
    rest = [number for number in range(len(evaluators)) if number not in runs]
    if rest:
        done = evaluate_lake(
            [evaluators[number] for number in rest],
            lake,
            period,
            now,
            store,
            version=version,
            processes=processes,
            batch_members=batch_members,
            copies=copies,
            tell=tell,
            cluster=cluster,
        )
        runs |= dict(zip(rest, done, strict=True))
    return tuple(runs[number] for number in range(len(evaluators)))


def _evaluate_here(
    evaluators: Sequence[Evaluator],
    population: LakePopulation,
    slices: Sequence[Slice],
    period: tuple[date, date],
    now: datetime,
) -> Iterator[list[PartResult]]:
    if not slices:
        yield evaluate_batch(evaluators, nobody(), period, now)
    for number, cut in enumerate(slices):
        if number:
            gc.collect()  # tables of a batch know each other, and the collector of itself comes to them too late
        yield evaluate_batch(evaluators, population.batch(cut), period, now)


def recipe_of(
    evaluators: Sequence[Evaluator], lake: Lake, population: LakePopulation, period: tuple[date, date], now: datetime
) -> Recipe:
    """What other processes need to do the same; ConfigurationError for a package that was not loaded from a path."""
    packages = []
    for evaluator in evaluators:
        package = evaluator.package
        if package.path is None:
            raise ConfigurationError(f"measure {package.name} has no folder that processes can read")
        packages.append((str(package.path), package.package_hash, package.profiles))
    version = population.lake_version
    assert version is not None  # noqa: S101 - of a lake
    supplements = tuple(evaluator.package.supplement for evaluator in evaluators)
    return Recipe(
        lake.url,
        lake.buckets,
        version,
        tuple(packages),
        period,
        now,
        supplements,
        population.copies,
        tuple(evaluator.withdrawn for evaluator in evaluators),
    )
