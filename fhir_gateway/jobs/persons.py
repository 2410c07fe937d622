"""Work on persons: link the patients that are alike, and let lake and served resources follow what was decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.errors import ConfigurationError
from fhir_gateway.factory import Gateway
from fhir_gateway.identity.linkage import Linkage, LinkageReport
from fhir_gateway.identity.model import SHIPPED, LinkageModel
from fhir_gateway.identity.models import Review
from fhir_gateway.identity.records import ELEMENTS
from fhir_gateway.identity.stewardship import Stewardship
from fhir_gateway.jobs.publish import publish

MODEL = "linkage.toml"
"""A linkage model of this name in the data folder takes the place of the one that is shipped."""


@dataclass(frozen=True, slots=True)
class Followed:
    """Patients whose rows moved to another person, and the lake version after it."""

    patients: int
    lake_version: int


def stewardship(gateway: Gateway) -> Stewardship:
    """Decisions about persons."""
    return Stewardship(gateway.engine)


def model_of(gateway: Gateway, path: Path | None = None) -> LinkageModel:
    """The linkage model at ``path``, else that of the data folder, else the shipped one."""
    own = gateway.data_folder / MODEL
    return LinkageModel.load(path or (own if own.is_file() else SHIPPED))


def link(gateway: Gateway, path: Path | None = None) -> LinkageReport:
    """Compare all patients of the newest lake version, link and propose. The lake follows with :func:`follow`."""
    return Linkage(gateway.engine, model_of(gateway, path)).run(_patients(gateway))


def estimate(gateway: Gateway, version: str) -> LinkageModel:
    """A linkage model with weights estimated from the lake."""
    patients = _patients(gateway)
    if patients.num_rows < 2:
        raise ConfigurationError("there are too few patients in the lake to estimate anything")
    return Linkage(gateway.engine, model_of(gateway)).estimate(patients, version)


def follow(gateway: Gateway) -> Followed:
    """Move the rows of those who became another person, in a lake version of its own, and serve them so."""
    moved = gateway.lake.reassign(gateway.persons)
    if moved:
        publish(gateway)
    return Followed(moved, gateway.lake.version)


def side_by_side(gateway: Gateway, review: Review) -> Iterator[dict[str, Any]]:
    """What the two patients of a review have in each element that the linkage compares, for the eyes of who decides."""
    rows = gateway.lake.read("Patient", [*ELEMENTS, "identifier"])
    first = _one(rows, review.source, review.patient_id)
    second = _one(rows, review.other_source, review.other_patient_id)
    for element in (*ELEMENTS, "identifier"):
        yield {"element": element, "first": _shown(first.get(element)), "second": _shown(second.get(element))}


def _patients(gateway: Gateway) -> pa.Table:
    return gateway.lake.read("Patient", ELEMENTS)


def _one(rows: pa.Table, source: str | None, patient: str | None) -> dict[str, Any]:
    found = rows.filter((pc.field("_source") == source) & (pc.field("id") == patient)).to_pylist()
    return found[0] if found else {}


def _shown(value: Any) -> str:
    """An element as one line of text: the leaves that say something to a reader."""
    if isinstance(value, list):
        return "; ".join(filter(None, map(_shown, value)))
    if isinstance(value, dict):
        hidden = ("id", "system", "use", "extension", "type", "period", "assigner", "rank")
        return " ".join(filter(None, (_shown(one) for name, one in value.items() if name not in hidden)))
    return "" if value is None else str(value)
