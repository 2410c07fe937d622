"""Serve what we define: the resources of ``profiles/`` and our CapabilityStatement, beside everything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fhir_gateway.conformance.definitions import KINDS
from fhir_gateway.factory import Gateway


def publish_definitions(gateway: Gateway, more: Iterable[Mapping[str, Any]] = ()) -> int:
    """Bring the served definitions up to those of this version and ``more``; returns how many changed.

    What an earlier version defined and this one does not is deleted; its versions stay.
    """
    own = [gateway.definitions.read(one) for one in gateway.definitions if one.package is None]
    wanted = [*own, *more]
    outcome = gateway.resources.put_many(wanted)
    kept = {(str(one["resourceType"]), str(one["id"])) for one in wanted}
    gone = [(kind, name) for kind in KINDS for name in gateway.resources.ids(kind) if (kind, name) not in kept]
    for kind, name in gone:
        gateway.resources.delete(kind, name)
    return outcome.created + outcome.updated + len(gone)
