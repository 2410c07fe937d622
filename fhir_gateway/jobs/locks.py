"""Locks of the gateway's jobs, between all its processes (:mod:`fhir_gateway.db.locks`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from fhir_gateway.db import locks
from fhir_gateway.factory import Gateway


def hold(
    gateway: Gateway,
    name: str,
    refusal: str = "it is held elsewhere",
    *,
    wait: Callable[[], bool] | None = None,
    once: bool = False,
    fresh: bool = False,
) -> AbstractContextManager[None]:
    """Hold the lock of that name; ConflictError with `refusal` when somebody else does and `wait` says not to wait.

    ``once`` leaves nothing behind of a lock whose name nobody will ask for again; ``fresh``: nobody had it before.
    """
    return locks.hold(gateway.engine, gateway.data_folder, name, refusal, wait=wait, once=once, fresh=fresh)
