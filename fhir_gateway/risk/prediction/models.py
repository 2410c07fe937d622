"""Shapes of what scores are computed from, and of what they come to. Days are ``date32``, all tables are Arrow."""

from __future__ import annotations

import pyarrow as pa

#: Diagnoses by anybody: ``code`` is ICD-10 without dot; a day that nobody said is null and counts as always. What is
#: ``lasting`` (a Condition that is active, without an end) counts from its day on, however long ago that was.
DIAGNOSES = pa.schema([("member", pa.string()), ("code", pa.string()), ("day", pa.date32()), ("lasting", pa.bool_())])
#: For whom, and from when to when (both included) diagnoses count.
ANCHORS = pa.schema([("key", pa.string()), ("member", pa.string()), ("since", pa.date32()), ("until", pa.date32())])
#: Stays in hospital. ``emergent``: not planned; ``oncology``: discharged by oncology. Null is unknown.
STAYS = pa.schema(
    [
        ("stay", pa.string()),
        ("member", pa.string()),
        ("admitted", pa.date32()),
        ("discharged", pa.date32()),
        ("emergent", pa.bool_()),
        ("oncology", pa.bool_()),
        ("died", pa.bool_()),
    ]
)
#: Days in an emergency department, or of any other kind of visit.
VISITS = pa.schema([("member", pa.string()), ("day", pa.date32())])
#: Laboratory results: ``analyte`` is ``haemoglobin`` (g/dL) or ``sodium`` (mmol/L).
LABS = pa.schema([("member", pa.string()), ("analyte", pa.string()), ("at", pa.string()), ("value", pa.float64())])
#: One score of one person or stay. ``missing`` names inputs that nobody gave: then ``partial``, and ``value`` is the
#: sum of what is known, the least that it can be.
SCORES = pa.schema(
    [
        ("score", pa.string()),
        ("key", pa.string()),
        ("member", pa.string()),
        ("day", pa.date32()),
        ("value", pa.int32()),
        ("band", pa.string()),
        ("partial", pa.bool_()),
        ("missing", pa.list_(pa.string())),
        ("components", pa.list_(pa.struct([("name", pa.string()), ("points", pa.int32())]))),
    ]
)
