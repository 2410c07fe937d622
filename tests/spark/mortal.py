"""Workers that die while they work: what a lost process or machine looks like to Spark."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fhir_gateway.cluster import Cluster

#: What dies: the Python process of a task, or the executor (its JVM, with whatever it had computed and kept).
Victim = Literal["python", "executor"]


@dataclass(frozen=True)
class Deaths:
    """Who dies when: ``victim`` at each of these ``moments``, counted in answers that were computed but not given.

    ``folder`` is where the processes count together: a file for each answer.
    """

    folder: Path
    victim: Victim
    moments: frozenset[int]

    def answered(self) -> None:
        """An answer is there and was not given yet."""
        number = 0
        while True:
            try:
                os.close(os.open(self.folder / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                break
            except FileExistsError:
                number += 1
        if number in self.moments:
            # below the executor is pyspark's daemon, and below that the process of the task
            os.kill(os.getpid() if self.victim == "python" else _parent(os.getppid()), signal.SIGKILL)
            signal.pause()

    @property
    def answers(self) -> int:
        """How many were computed, those that died with their process too."""
        return len(list(self.folder.iterdir()))


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


class MortalCluster:
    """A cluster whose workers die at some moments."""

    def __init__(self, cluster: Cluster, deaths: Deaths) -> None:
        self._cluster, self._deaths = cluster, deaths

    def each(self, worker: Callable[[Any], Any], recipe: Any, tasks: Sequence[Any], what: str) -> Iterator[Any]:
        """As the cluster does, with deaths."""
        return self._cluster.each(Mortal, (worker, recipe, self._deaths), tasks, what)


class Mortal:
    """A worker that dies when it is told to."""

    def __init__(self, given: tuple[Callable[[Any], Any], Any, Deaths]) -> None:
        worker, recipe, self._deaths = given
        self._worker = worker(recipe)

    def __call__(self, task: Any) -> Any:
        """The answer, if it lives to give it."""
        answer = self._worker(task)
        self._deaths.answered()
        return answer


def stumbling(name: str) -> Callable[[int], int]:
    """A worker that stumbles, over a text that is nobody's business."""

    def work(_: int) -> int:
        raise ValueError(f"{name} has no birth date")

    return work
