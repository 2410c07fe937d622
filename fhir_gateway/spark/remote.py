"""What runs in a Python process of an executor."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fhir_gateway.errors import GatewayError

if TYPE_CHECKING:
    from pyspark import Broadcast

#: Spark keeps the process for many tasks; what was made for the last recipe is kept as long.
_made: dict[str, Callable[[Any], Any]] = {}


def carry_out(digest: str, shared: Broadcast[bytes], task: bytes) -> bytes:
    """The pickled answer to a task, or the error of ours that it raised.

    Other errors are Spark's to try again; of them only type and place are said, since Spark logs what it is told and a
    text may hold values.
    """
    try:
        if digest not in _made:
            _made.clear()
            pa.set_cpu_count(1)  # there is a process for every core
            pa.set_io_thread_count(1)
            worker, recipe = pickle.loads(shared.value)  # noqa: S301 - of our own driver
            _made[digest] = worker(recipe)
        answer = _made[digest](pickle.loads(task))  # noqa: S301 - of our own driver
    except GatewayError as error:
        return pickle.dumps(error)
    except Exception as error:  # noqa: BLE001 - told without its text
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise RuntimeError(f"{type(error).__name__} in {place.filename}, line {place.lineno}") from None
    return pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL)
