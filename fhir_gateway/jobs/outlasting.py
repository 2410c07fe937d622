"""Work that outlasts its database: a step that lost the control plane is done again once that answers.

Every step may be repeated, as after a kill; so nothing but waiting is needed when a database restarts or fails over.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from fhir_gateway.db.engine import snapshot
from fhir_gateway.errors import ControlPlaneError, GatewayError, Location, StorageFull
from fhir_gateway.factory import Gateway
from fhir_gateway.faults import known
from fhir_gateway.lake.places import place_of

FIRST, LONGEST = 0.5, 15.0
"""Seconds between two questions whether the database answers: the first time, and at most."""
MOST = 10
"""How often a step is done again that lost a database which answers in between: it may be what ends it."""

T = TypeVar("T")
_log = logging.getLogger("fhir_gateway.jobs")


class Abandoned(BaseException):
    """Whoever waits is to leave."""


def outlast(gateway: Gateway, work: Callable[[], T], leave: Callable[[float], bool]) -> T:
    """Do some work until the database lasts as long; ``leave`` waits so many seconds and says whether to leave.

    Errors of the disk and of the database come out as ours, which say what and where.
    """
    for number in range(1 + MOST):
        try:
            return work()
        except GatewayError as error:
            if not isinstance(error, ControlPlaneError) or number == MOST:
                raise
            lost: Exception = error
        except Exception as error:
            found = located(gateway, known(error))
            if found is None:
                raise
            if not isinstance(found, ControlPlaneError) or number == MOST:
                raise found from error
            lost = error
        _log.warning("the control plane went away in the middle of a step (%s); waiting for it", type(lost).__name__)
        _await(gateway, leave)
    raise AssertionError("the last time returns or raises")


def located(gateway: Gateway, error: GatewayError | None) -> GatewayError | None:
    """The error; of a full disk that does not say where, with the folder of ours that has least room."""
    if isinstance(error, StorageFull) and error.location.file is None:
        lake = place_of(gateway.settings.resolved_lake_url)
        folders = [gateway.settings.data_dir, Path(tempfile.gettempdir())]
        where = fullest([*folders, lake] if isinstance(lake, Path) else folders)
        return StorageFull(error.message, location=Location(file=str(where)))
    return error


def fullest(folders: Iterable[Path]) -> Path:
    """The folder on whose disk there is least room."""
    return min((one.resolve() for one in folders if one.exists()), key=lambda one: shutil.disk_usage(one).free)


def _await(gateway: Gateway, leave: Callable[[float], bool]) -> None:
    pause = FIRST
    while not leave(pause):
        try:
            with snapshot(gateway.engine) as connection:
                connection.execute(sa.text("SELECT 1"))
        except Exception as error:
            if not isinstance(known(error), ControlPlaneError):
                raise
            pause = min(2 * pause, LONGEST)
        else:
            return
    raise Abandoned
