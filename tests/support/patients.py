"""Patients of sources, as the crosswalk and the linkage get them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from fhir_gateway.identity.crosswalk import Crosswalk
from fhir_gateway.r4.spec import arrow_type, column_structure

_ELEMENTS = ("identifier", "name", "birthDate", "gender", "telecom", "address")
SCHEMA = pa.schema(
    [("_source", pa.string()), ("id", pa.string())]
    + [(name, arrow_type(column_structure("Patient")[name])) for name in _ELEMENTS]
)
MBI = "http://hl7.org/fhir/sid/us-mbi"


def patient(
    source: str,
    patient_id: str,
    name: str = "",
    birth: str | None = "1950-03-14",
    gender: str | None = "female",
    *,
    phone: str | None = None,
    street: str | None = None,
    code: str = "85003",
    mbi: str | None = None,
    suffix: str | None = None,
    former: str | None = None,
) -> dict[str, Any]:
    """``name`` is ``Given Family``."""
    given, _, family = name.partition(" ")
    names = [{"use": "official", "family": family, "given": [given], "suffix": [suffix] if suffix else None}]
    if former:
        names.append({"use": "maiden", "family": former})
    return {
        "_source": source,
        "id": patient_id,
        "identifier": [{"system": MBI, "value": mbi}] if mbi else [],
        "name": names if name else [],
        "birthDate": birth,
        "gender": gender,
        "telecom": [{"system": "phone", "value": phone}] if phone else [],
        "address": [{"line": [street], "postalCode": code}] if street else [],
    }


def table(*patients: dict[str, Any]) -> pa.Table:
    """Rows as the lake gives them."""
    return pa.Table.from_pylist(list(patients), schema=SCHEMA)


def assign(crosswalk: Crosswalk, *patients: dict[str, Any]) -> None:
    """Each source's patients arrive, sources in the order of their first patient."""
    for source in dict.fromkeys(one["_source"] for one in patients):
        crosswalk.assign(source, table(*(one for one in patients if one["_source"] == source)))


def person(crosswalk: Crosswalk, source: str, patient_id: str) -> str:
    """Who that patient is."""
    found: str = crosswalk.lookup(source, pa.array([patient_id]))[0].as_py()
    return found
