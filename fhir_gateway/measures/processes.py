"""Evaluation by several processes: each takes whole batches, and gives back the columns of their results.

Processes are started anew (``spawn``) rather than forked: the threads of Arrow, DuckDB and SQLAlchemy do not survive a
fork. Each opens the lake and compiles the packages once.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime
from multiprocessing.connection import wait
from pathlib import Path

import pyarrow as pa

from fhir_gateway.cql.evaluation import Failure
from fhir_gateway.cql.profiles import ProfilePolicy
from fhir_gateway.errors import ConfigurationError, GatewayError, Location
from fhir_gateway.garbage import spare_what_is_kept
from fhir_gateway.lake.store import Lake
from fhir_gateway.measures.copies import Copies
from fhir_gateway.measures.evaluate import Evaluator, evaluate_batch
from fhir_gateway.measures.model import GroupResult, PartResult, narrow
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.population import LakePopulation, Slice
from fhir_gateway.measures.supplement import Supplement, maps_of

#: Batches under way or waiting to be taken, for each process: more would pile up when the first is slow.
_AHEAD = 2
#: What a process takes with a batch of one measure, and what each further measure adds (bench/million.txt and
#: bench/many_measures.txt, rounded up).
_PROCESS_BYTES, _MEASURE_BYTES = 600 << 20, 30 << 20


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that another process needs to evaluate a slice of a lake: where things are, and what must be found there.

    ``packages`` are paths with the hash of their content and how profiles are read; ``supplements``, of each package
    or of none, what the gateway's terminology adds to it; ``withdrawn`` likewise, the members each is without.
    """

    lake: str
    buckets: int
    version: int
    packages: tuple[tuple[str, str, ProfilePolicy], ...]
    period: tuple[date, date]
    now: datetime
    supplements: tuple[Supplement | None, ...] = ()
    copies: Copies = "once"
    withdrawn: tuple[Mapping[str, Failure], ...] = ()


def processes_for(batches: int, measures: int, cores: int | None = None, memory: int | None = None) -> int:
    """How many processes to use when nobody says: one per core, but none for less than a full batch.

    Another process reads and compiles all packages first, which takes as long as evaluating them over some ten
    thousand members. Nor are there more than ``memory`` (default: what is free now) has room for.
    """
    memory = free_memory() if memory is None else memory
    room = memory // (_PROCESS_BYTES + measures * _MEASURE_BYTES)
    return max(1, min(cores or usable_cores(), batches, room))


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes that processes may still take: of the machine, and of the control group that this process is in."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError, ValueError, StopIteration):  # no Linux
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) << 10)
    with suppress(OSError, ValueError):  # no control group, or one without limit
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text() for name in ("memory.max", "memory.current"))
        found.append(max(int(limit) - int(used), 0))
    return min(found)


def evaluate_slices(recipe: Recipe, slices: Sequence[Slice], processes: int) -> Iterator[list[PartResult]]:
    """Results of each slice, one per package, in the order of ``slices`` whichever is done first.

    Raises the error of the first slice that has one, and GatewayError when a process dies.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(slices)), context, initializer=_prepare, initargs=(recipe,))
    try:
        waiting: deque[Future[list[PartResult]]] = deque()
        for cut in slices:
            if len(waiting) >= _AHEAD * processes:
                yield waiting.popleft().result()
            waiting.append(pool.submit(_evaluate, cut))
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise GatewayError(
            "a process of the evaluation ended before its batch was done (out of memory, or killed); nothing was stored"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def compact(part: PartResult) -> PartResult:
    """The same part in fewer bytes: narrow counts, and each value of supplemental data once."""
    supplemental = tuple(replace(found, value=found.value.dictionary_encode()) for found in part.supplemental)
    return replace(part, groups=tuple(map(_compact_group, part.groups)), supplemental=supplemental)


def _compact_group(group: GroupResult) -> GroupResult:
    populations = (replace(p, counts=narrow(p.counts), raw=narrow(p.raw)) for p in group.populations)
    return replace(group, populations=tuple(populations))


class SliceEvaluator:
    """What a process keeps from batch to batch; the lake is there already."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        supplements = recipe.supplements or (None,) * len(recipe.packages)
        packages = zip(recipe.packages, supplements, strict=True)
        self.evaluators = [_evaluator(*package, supplement) for package, supplement in packages]
        if recipe.withdrawn:
            without = zip(self.evaluators, recipe.withdrawn, strict=True)
            self.evaluators = [evaluator.without(members) for evaluator, members in without]
        lake = Lake.existing(recipe.lake)
        maps = maps_of(evaluator.package for evaluator in self.evaluators)
        self.population = LakePopulation(lake, version=recipe.version, maps=maps, copies=recipe.copies)

    def evaluate(self, cut: Slice) -> list[PartResult]:
        """Results of a slice, one per package."""
        batch = self.population.batch(cut)
        parts = evaluate_batch(self.evaluators, batch, self.recipe.period, self.recipe.now)
        return [compact(part) for part in parts]


_recipe: Recipe | None = None
_worker: SliceEvaluator | None = None


def _prepare(recipe: Recipe) -> None:
    """In a new process: one thread each, since there is a process for every core."""
    global _recipe
    _recipe = recipe
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Nobody waits for the results of a process whose parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _evaluate(cut: Slice) -> list[PartResult]:
    """In a process: evaluate a slice. What cannot be opened is raised here, where the parent sees why."""
    global _worker
    if _worker is None:
        assert _recipe is not None  # noqa: S101 - the pool prepares its processes
        _worker = SliceEvaluator(_recipe)
        spare_what_is_kept()  # the packages: what is left to collect is small
    else:
        gc.collect()  # tables of a batch know each other, and the collector of itself comes to them too late
    return _worker.evaluate(cut)


def _evaluator(path: str, content: str, profiles: ProfilePolicy, supplement: Supplement | None) -> Evaluator:
    package = MeasurePackage.load(Path(path), profiles=profiles)
    if package.package_hash != content:
        raise ConfigurationError("the package was changed during the evaluation", location=Location(file=path))
    if supplement is not None:
        package = supplement.applied(package)
    evaluator = Evaluator(package)
    evaluator.package = replace(package, resources=())  # the larger part of its memory
    return evaluator
