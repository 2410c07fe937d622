"""Mapped codings stand beside what was sent, wherever a CodeableConcept is."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from fhir_gateway.r4.spec import arrow_type, column_structure
from fhir_gateway.terminology.concept_maps import CodeMap

LOCAL, LOINC = "urn:lab:codes", "http://loinc.org"


def concept_map(*targets: tuple[str, str, str]) -> dict[str, Any]:
    elements = [{"code": c, "target": [{"code": t, "equivalence": e}]} for c, t, e in targets]
    return {
        "resourceType": "ConceptMap",
        "url": "http://maps/lab",
        "version": "1",
        "group": [{"source": LOCAL, "target": LOINC, "element": elements}],
    }


MAP = CodeMap.of(
    [concept_map(("A1C", "4548-4", "equivalent"), ("A1C", "17856-6", "wider"), ("GLU", "2345-7", "inexact"))]
)


def concept(*codings: tuple[str | None, str | None], text: str | None = None) -> dict[str, Any]:
    return {"coding": [{"system": s, "code": c} for s, c in codings], "text": text}


def observations(*rows: dict[str, Any] | None) -> pa.Table:
    layout = column_structure("Observation")
    names = ("code", "component")
    schema = pa.schema([pa.field(name, arrow_type(layout[name])) for name in names])
    return pa.Table.from_pylist([row or {} for row in rows], schema=schema)


def codes(row: dict[str, Any]) -> list[tuple[str | None, str | None]]:
    return [(coding["system"], coding["code"]) for coding in (row["code"] or {}).get("coding") or ()]


def test_a_mapped_coding_is_added_and_the_original_stays() -> None:
    rows = observations(
        None,
        {"code": concept((LOCAL, "A1C"), ("urn:other", "x"), text="HbA1c")},
        {"code": concept((LOCAL, "GLU"))},
        {"code": {"coding": None, "text": "no code"}},
        {"code": concept((LOINC, "8867-4")), "component": [{"code": concept((LOCAL, "A1C"))}, {"code": None}]},
    )
    mapped = MAP.apply(rows)
    assert mapped.schema == rows.schema
    found = mapped.to_pylist()
    assert [codes(row) for row in found] == [
        [],
        [(LOCAL, "A1C"), ("urn:other", "x"), (LOINC, "17856-6"), (LOINC, "4548-4")],
        [(LOCAL, "GLU")],
        [],
        [(LOINC, "8867-4")],
    ]
    assert found[1]["code"]["coding"][2]["display"] == "mapped from urn:lab:codes|A1C by http://maps/lab|1"
    assert found[1]["code"]["text"] == "HbA1c"
    assert found[3] == rows.to_pylist()[3]
    assert codes(found[4]["component"][0]) == [(LOCAL, "A1C"), (LOINC, "17856-6"), (LOINC, "4548-4")]
    assert found[4]["component"][1]["code"] is None
    for one, other in zip(found, rows.to_pylist(), strict=True):
        assert codes(one)[: len(codes(other))] == codes(other)


def test_slices_and_chunks_are_mapped_alike() -> None:
    rows = observations(*({"code": concept((LOCAL, "A1C" if n % 3 else "B"))} for n in range(10)))
    whole = MAP.apply(rows).to_pylist()
    parts = pa.concat_tables([rows.slice(0, 3), rows.slice(3, 4), rows.slice(7)])
    assert MAP.apply(parts).to_pylist() == whole
    assert MAP.apply(rows.slice(4)).to_pylist() == whole[4:]


def test_rows_without_mapped_systems_are_left_as_they_are() -> None:
    rows = observations({"code": concept((LOINC, "8867-4"))}, {"code": concept((None, "A1C"))})
    assert MAP.apply(rows) == rows
    assert not CodeMap.of([])
    assert MAP.hash != CodeMap.of([concept_map(("A1C", "4548-4", "equivalent"))]).hash
