"""What predictions and outreach are computed from, of one bucket of members after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.factory import Gateway
from fhir_gateway.identity.encounters import PATHS as EVENT_PATHS
from fhir_gateway.identity.encounters import same_events
from fhir_gateway.jobs.claim_lines import kept_claim_lines
from fhir_gateway.jobs.people import persons_of
from fhir_gateway.lake.claims import directory
from fhir_gateway.risk.prediction.inputs import LINE_COLUMNS, Inputs, read_inputs


@dataclass(frozen=True, slots=True)
class Bucket:
    """Members of a bucket (``persons_of``), what is known of them, and their claim lines."""

    persons: pa.Table
    inputs: Inputs
    lines: pa.Table


def buckets(gateway: Gateway, version: int) -> Iterator[Bucket]:
    """Everything by bucket, as of a lake version."""
    lake = gateway.lake
    persons = persons_of(gateway, version)
    lines = kept_claim_lines(gateway, version, None, LINE_COLUMNS)
    providers = directory(lake, version)
    precedence = tuple(one.name for one in gateway.endpoints.all())
    for number in range(lake.buckets_of(version)):
        members = lake.members(number, version)
        if not len(members):
            continue
        mine = lines.filter(pc.is_in(lines["_member"], value_set=members))
        encounters = lake.read("Encounter", list(EVENT_PATHS), bucket=number, version=version)
        events = same_events(encounters, providers, precedence)
        yield Bucket(
            persons.filter(pc.is_in(persons["member"], value_set=members)),
            read_inputs(lake, mine, events, number, version),
            mine,
        )
