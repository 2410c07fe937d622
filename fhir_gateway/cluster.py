"""What a cluster of machines has to be able to do for us: carry out a function over tasks, elsewhere.

The rooms that have something to spread (measures, attribution, the lake, exports) know this and no more; Spark is in
:mod:`fhir_gateway.spark`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

Recipe = TypeVar("Recipe")
Task = TypeVar("Task")
Answer = TypeVar("Answer")


class Cluster(Protocol):
    """Processes on other machines that see the lake where we see it, and have this program."""

    def each(
        self, worker: Callable[[Recipe], Callable[[Task], Answer]], recipe: Recipe, tasks: Sequence[Task], what: str
    ) -> Iterator[Answer]:
        """The answer of ``worker(recipe)`` to each task, in the order of the tasks, each once whatever dies meanwhile.

        ``worker`` is a function or class of this program that a process finds by its name and calls once. What it makes
        may be asked the same task again, also by another process at the same time (a machine was lost, or is slow), so
        it changes nothing but by its answer. Recipe, tasks and answers are pickled. A GatewayError of a task is raised
        here as it is; GatewayError also when the cluster gives up. ``what`` is shown to whoever watches the cluster.
        """
