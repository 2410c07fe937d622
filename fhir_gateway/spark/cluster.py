"""A Spark cluster as :class:`~fhir_gateway.cluster.Cluster`: tasks become small jobs, some under way at once."""

from __future__ import annotations

import hashlib
import pickle
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from fhir_gateway.cluster import Answer, Recipe, Task
from fhir_gateway.errors import GatewayError
from fhir_gateway.spark.remote import carry_out

if TYPE_CHECKING:
    from pyspark import SparkContext

#: Tasks under way or waiting for each core: a core that is done has the next, and no more answers pile up.
_AHEAD = 2
#: Jobs at once at most; each has a thread here and one in the JVM.
_JOBS = 32


class SparkCluster:
    """Carries out tasks as Spark jobs, and gives answers in order while later ones are computed.

    One job of all tasks would give its answers at the end, all at once: they need not fit into memory.
    """

    def __init__(self, context: SparkContext) -> None:
        self._context = context

    def each(
        self, worker: Callable[[Recipe], Callable[[Task], Answer]], recipe: Recipe, tasks: Sequence[Task], what: str
    ) -> Iterator[Answer]:
        """As :meth:`fhir_gateway.cluster.Cluster.each` says."""
        context = self._context
        payload = pickle.dumps((worker, recipe), protocol=pickle.HIGHEST_PROTOCOL)
        shared = context.broadcast(payload)
        function = partial(carry_out, hashlib.sha256(payload).hexdigest(), shared)
        group = f"fhir-gateway-{uuid.uuid4().hex}"

        def job(first: int, some: Sequence[Task]) -> list[bytes]:
            context.setJobGroup(group, f"{what}, {first + 1} to {first + len(some)} of {len(tasks)}")
            pickled = [pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL) for task in some]
            found: list[bytes] = context.parallelize(pickled, len(pickled)).map(function).collect()
            return found

        pool = ThreadPoolExecutor(_JOBS, thread_name_prefix="spark-job")
        waiting: deque[Future[list[bytes]]] = deque()
        begun = done = 0
        try:
            while done < len(tasks):
                room = _AHEAD * context.defaultParallelism  # executors come and go
                while begun < len(tasks) and (begun == done or begun - done < room):
                    some = tasks[begun : begun + -(-room // _JOBS)]
                    waiting.append(pool.submit(job, begun, some))
                    begun += len(some)
                for answer in _answers(waiting.popleft()):
                    done += 1
                    yield answer
        finally:
            if waiting:
                context.cancelJobGroup(group)
            pool.shutdown(wait=True, cancel_futures=True)
            shared.unpersist()


def _answers(job: Future[list[bytes]]) -> Iterator[Any]:
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        found = job.result()
    except (Py4JError, PySparkException) as error:
        raise GatewayError(
            f"Spark gave up on a task after it failed several times ({_reason(error)}); nothing was stored"
        ) from None
    for one in found:
        answer = pickle.loads(one)  # noqa: S301 - of our own executors
        if isinstance(answer, GatewayError):
            raise answer
        yield answer


def _reason(error: Exception) -> str:
    """What :func:`~fhir_gateway.spark.remote.carry_out` said, or that a process or machine was lost."""
    text = str(error)
    _, told, rest = text.rpartition("RuntimeError: ")
    return rest.splitlines()[0] if told else "its process or machine was lost each time; see Spark's log"
