"""A cluster without machines: all that is sent is pickled, and done here."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any


class PickledCluster:
    """Does the tasks of a :class:`fhir_gateway.cluster.Cluster` one after the other, some of them twice."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def each(self, worker: Callable[[Any], Any], recipe: Any, tasks: Sequence[Any], what: str) -> Iterator[Any]:
        """Answers in order; what is sent comes back as another process would see it."""
        self.said.append(what)
        made, its = pickle.loads(pickle.dumps((worker, recipe)))  # noqa: S301 - our own
        work = made(its)
        for number, task in enumerate(tasks):
            there = pickle.dumps(task)
            answer = pickle.dumps(work(pickle.loads(there)))  # noqa: S301 - our own
            if number % 3 == 0:
                answer = pickle.dumps(work(pickle.loads(there)))  # noqa: S301 - our own
            yield pickle.loads(answer)  # noqa: S301 - our own
