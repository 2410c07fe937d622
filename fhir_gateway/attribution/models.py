"""Participants and results of attribution: plain values, no computation. Terms are in :mod:`.rules`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution.rules import AttributionTerms


@dataclass(frozen=True, slots=True)
class Participant:
    """An entity that competes as one: by its TINs, its NPIs, or (both given) those NPIs at those TINs; by its CCNs.

    ``service_area`` are county codes and ZIP codes, of the programmes that have one.
    """

    entity: str
    tins: tuple[str, ...] = ()
    npis: tuple[str, ...] = ()
    ccns: tuple[str, ...] = ()
    service_area: tuple[str, ...] = ()

    @classmethod
    def rivals(cls, table: pa.Table) -> tuple[Participant, ...]:
        """Participants of a table of entity, tin, npi and ccn: a row per number, or per clinician at a practice.

        Whose rows name a TIN and an NPI competes with those clinicians at that TIN alone.
        """
        found: dict[tuple[str, str | None], tuple[list[str], list[str], list[str]]] = {}
        for row in table.select(["entity", "tin", "npi", "ccn"]).to_pylist():
            at = row["tin"] if row["tin"] and row["npi"] else None
            numbers = found.setdefault((row["entity"], at), ([], [], []))
            for name, kept in zip(("tin", "npi", "ccn"), numbers, strict=True):
                if row[name] and row[name] not in kept[-1:]:
                    kept.append(row[name])
        return tuple(
            cls(
                entity,
                (at,) if at else tuple(dict.fromkeys(tins)),
                tuple(dict.fromkeys(npis)),
                tuple(dict.fromkeys(ccns)),
            )
            for (entity, at), (tins, npis, ccns) in found.items()
        )


_AMOUNT = pa.decimal128(28, 8)

#: One row per member. ``entity`` null means not attributed, then ``reason`` says why. A competitor that is no
#: participant is ``ccn:``, ``tin:``, ``organization:`` or ``npi:`` and its number. ``amount`` is in the measure of the
#: terms, ``rule`` their name and version, ``window_start`` and ``window_end`` the days whose services were compared.
ATTRIBUTION_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("entity", pa.string()),
        ("participant", pa.bool_()),
        ("method", pa.string()),
        ("step", pa.string()),
        ("tin", pa.string()),
        ("npi", pa.string()),
        ("amount", _AMOUNT),
        ("visits", pa.int64()),
        ("last_service", pa.date32()),
        ("runner_up", pa.string()),
        ("runner_up_amount", _AMOUNT),
        ("tie_break", pa.string()),
        ("months", _AMOUNT),
        ("coverage", pa.string()),
        ("reason", pa.string()),
        ("window_start", pa.date32()),
        ("window_end", pa.date32()),
        ("rule", pa.string()),
    ]
)

#: Every competitor of every member in the pass that settled him, best first.
CANDIDATE_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("step", pa.string()),
        ("rank", pa.int32()),
        ("competitor", pa.string()),
        ("participant", pa.bool_()),
        ("amount", _AMOUNT),
        ("visits", pa.int64()),
        ("last_service", pa.date32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Attribution:
    """Who is whose patient in a period, with the evidence: runners-up, ties, months, reasons."""

    table: pa.Table
    candidates: pa.Table
    terms: AttributionTerms
    period: tuple[date, date]
    participants: tuple[Participant, ...]

    @property
    def rivals(self) -> Literal["pooled", "single"]:
        """Whether rivals' lists were known. ``single``: each rival TIN stood alone, so more is attributed than by a
        payer who pools the participants of other organizations."""
        return "pooled" if len(self.participants) > 1 else "single"

    def members_of(self, entity: str) -> pa.Array:
        """Sorted members attributed to a participant."""
        chosen = self.table.filter(pc.equal(self.table["entity"], entity))
        return chosen["member"].combine_chunks()
