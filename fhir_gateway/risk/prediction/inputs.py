"""What scores are computed from, out of the lake: diagnoses, stays, visits, laboratory results, procedures.

Clinical resources and claims say much the same; here both count, each once. Rows of one bucket or of all members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Protocol

import duckdb
import pyarrow as pa

from fhir_gateway.risk.prediction.models import DIAGNOSES, LABS, STAYS, VISITS
from fhir_gateway.risk.utilization import LINE_COLUMNS as LINE_COLUMNS
from fhir_gateway.risk.utilization import stays, visits

#: Columns of each resource type that are read here, by path.
PATHS: dict[str, tuple[str, ...]] = {
    "Condition": (
        *("code.coding.system", "code.coding.code", "verificationStatus.coding.code", "recordedDate", "onsetDateTime"),
        *("onsetPeriod.start", "clinicalStatus.coding.code", "abatementDateTime"),
    ),
    "Encounter": (
        *("status", "class.code", "period.start", "period.end", "serviceProvider.reference", "priority.coding.code"),
        *("hospitalization.admitSource.coding.code", "hospitalization.dischargeDisposition.coding.code"),
    ),
    "Observation": (
        *("status", "code.coding.system", "code.coding.code", "effectiveDateTime", "effectivePeriod.start"),
        *("effectiveInstant", "valueQuantity.value", "valueQuantity.code", "valueQuantity.unit"),
    ),
    "Procedure": ("status", "performedDateTime", "performedPeriod.start"),
}


class LakeSource(Protocol):
    """What is needed of the lake."""

    def read(
        self,
        resource_type: str,
        columns: Sequence[str] | None = None,
        bucket: int | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """Newest rows of a resource type."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Tables of :mod:`~fhir_gateway.risk.prediction.models`; ``uncoded`` counts by member conditions without ICD-10."""

    diagnoses: pa.Table
    stays: pa.Table
    emergency: pa.Table
    office: pa.Table
    labs: pa.Table
    procedures: pa.Table
    uncoded: pa.Table


def read_inputs(
    lake: LakeSource, lines: pa.Table, events: pa.Table, bucket: int | None = None, version: int | None = None
) -> Inputs:
    """Everything for the members of a bucket, or of all.

    ``lines`` are claim lines with :data:`LINE_COLUMNS`; ``events`` says which Encounters stand for an event of several
    sources (``identity.encounters.EVENT_SCHEMA``): copies of it are left out.
    """
    with duckdb.connect() as work:
        for name, paths in PATHS.items():
            work.register(name.lower() + "s", lake.read(name, list(paths), bucket=bucket, version=version))
        work.register("lines", lines)
        work.register("claim_stays", stays(lines))
        work.register("claim_visits", visits(lines))
        work.register("events", events)
        for statement in _sections().values():
            work.execute(statement)
        return Inputs(
            *(
                work.sql(f"SELECT * FROM said_{name} ORDER BY ALL").to_arrow_table().cast(schema)  # noqa: S608
                for name, schema in (
                    ("diagnoses", DIAGNOSES),
                    ("stays", STAYS),
                    ("emergency", VISITS),
                    ("office", VISITS),
                    ("labs", LABS),
                    ("procedures", VISITS),
                    ("uncoded", pa.schema([("member", pa.string()), ("conditions", pa.int64())])),
                )
            )
        )


@cache
def _sections() -> dict[str, str]:
    """Statements of ``inputs.sql`` by the comment line above each."""
    text = files(__package__).joinpath("inputs.sql").read_text("utf-8")
    parts = [part.partition("\n") for part in text.split("-- section: ")[1:]]
    return {name.strip(): statement for name, _, statement in parts}
