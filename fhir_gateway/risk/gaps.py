"""Coding gaps of a model in a clinical evaluation period: what is closed, what is asked for again, what is suspected.

* ``historic``: the category of a lasting condition was in claims of the months before the period. Closed when it is
  in claims of the period too, else open.
* ``net-new``: in claims of the period and not before. Closed.
* ``suspected``: evidence suggests it (:mod:`.suspecting`) and no claim that counts says it, nor one above it in its
  hierarchy. Open.

A decision of the payer (refuted, evidence under review, opened again) stands over what follows from claims. A category
is superseded by one above it that is closed or pending, an open one by an open historic one too. An open gap is worth
the coefficient of its category less those it would supersede, normalised, less coding intensity, times a rate.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.errors import InputError
from fhir_gateway.risk.hcc.payment import decimals, normalised, paid
from fhir_gateway.risk.hcc.tables import SEGMENTS, ModelTables
from fhir_gateway.risk.hcc.years import PaymentYear
from fhir_gateway.risk.suspecting import SUSPECT_SCHEMA

#: Findings of a category in claims. ``reference`` is that of the served claim.
FINDING_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("cc", pa.string()),
        ("diagnosis", pa.string()),
        ("day", pa.date32()),
        ("reference", pa.string()),
        ("npi", pa.string()),
    ]
)
#: What a payer decided about a category of a member; the newest of a member, model and category stands.
DECISION_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("model", pa.string()),
        ("cc", pa.string()),
        ("status", pa.string()),
        ("decided", pa.date32()),
    ]
)
DECISIONS = ("open-gap", "invalid-gap", "pending")
_REFERENCES = 5  # of each category: the newest

#: A row per member and category. ``npi`` is who said it last; ``weight`` is what closing it would add to the payment
#: score, ``value`` that times the rate; both are null of whom has no score.
GAP_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("cc", pa.string()),
        ("label", pa.string()),
        ("cc_type", pa.string()),
        ("evidence_status", pa.string()),
        ("evidence_date", pa.date32()),
        ("hierarchical_status", pa.string()),
        ("diagnoses", pa.list_(pa.string())),
        ("references", pa.list_(pa.string())),
        ("last", pa.date32()),
        ("npi", pa.string()),
        ("rules", pa.list_(pa.string())),
        ("confidence", pa.string()),
        ("weight", pa.decimal128(9, 3)),
        ("value", pa.decimal128(18, 2)),
    ]
)

_SETS = """
CREATE TEMP TABLE found AS
WITH said AS (
  SELECT member, cc, FALSE AS now, diagnosis, day, reference, npi FROM before
    SEMI JOIN chronic USING (cc)
  UNION ALL SELECT member, cc, TRUE, diagnosis, day, reference, npi FROM present
)
SELECT member, cc, bool_or(now) AS is_now, bool_or(NOT now) AS is_before,
  list_sort(list(DISTINCT diagnosis)) AS diagnoses, min(day) FILTER (now) AS first, max(day) AS last,
  arg_max(npi, (day, reference)) AS npi,
  list_transform(list_sort(list(DISTINCT {'day': day, 'reference': reference}), 'DESC'), lambda x: x.reference)
    AS refs
FROM said GROUP BY member, cc;

CREATE TEMP TABLE suggested AS
SELECT s.member, s.cc, list_sort(list(DISTINCT s.rule)) AS rules, min(s.day) AS first, max(s.day) AS last,
  list_sort(list(DISTINCT s.diagnosis) FILTER (s.diagnosis IS NOT NULL)) AS diagnoses,
  CASE max(CASE s.confidence WHEN 'high' THEN 3 WHEN 'medium' THEN 2 ELSE 1 END)
    WHEN 3 THEN 'high' WHEN 2 THEN 'medium' ELSE 'low' END AS confidence,
  list_transform(list_sort(list(DISTINCT {'day': s.day, 'reference': s.reference}), 'DESC'), lambda x: x.reference)
    AS refs
FROM suspected s
WHERE NOT EXISTS (FROM found f WHERE f.member = s.member AND f.cc = s.cc)
  AND NOT EXISTS (FROM found f JOIN hierarchy h ON h.parent = f.cc WHERE f.member = s.member AND h.child = s.cc)
  AND EXISTS (FROM people p WHERE p.member = s.member)
GROUP BY s.member, s.cc;

CREATE TEMP TABLE stated AS
WITH each AS (
  SELECT f.member, f.cc, CASE WHEN is_before THEN 'historic' ELSE 'net-new' END AS cc_type,
    CASE WHEN is_now THEN 'closed-gap' ELSE 'open-gap' END AS status, coalesce(first, $start) AS since,
    diagnoses, refs, last, npi, []::VARCHAR[] AS rules, NULL AS confidence
  FROM found f SEMI JOIN people USING (member)
  UNION ALL
  SELECT member, cc, 'suspected', 'open-gap', greatest(first, $start), coalesce(diagnoses, []), refs, last, NULL, rules,
    confidence
  FROM suggested
)
SELECT e.* EXCLUDE (status, since),
  coalesce(d.status, e.status) AS status, coalesce(d.decided, e.since) AS since
FROM each e LEFT JOIN decisions d
  ON d.member = e.member AND d.cc = e.cc AND (e.cc_type <> 'net-new' OR d.status = 'pending');

CREATE TEMP TABLE placed AS
SELECT s.*, EXISTS (
    FROM stated o JOIN hierarchy h ON h.parent = o.cc
    WHERE o.member = s.member AND h.child = s.cc AND (o.status IN ('closed-gap', 'pending')
      OR (o.status = 'open-gap' AND o.cc_type = 'historic' AND s.status = 'open-gap'))
  ) AS superseded
FROM stated s
"""

_ROWS = """
WITH stands AS ( -- what a category would supersede of what stands by claims
  SELECT c.member, h.parent AS cc, sum(k.thousandths) AS thousandths
  FROM placed c JOIN people m USING (member) JOIN hierarchy h ON h.child = c.cc
  JOIN weights k ON k.segment = m.segment AND k.cc = c.cc
  WHERE c.status = 'closed-gap' AND NOT c.superseded GROUP BY ALL
)
SELECT p.member, p.cc, l.label, p.cc_type, p.status AS evidence_status, p.since AS evidence_date,
  CASE WHEN p.superseded THEN 'applied-superseded' ELSE 'applied-not-superseded' END AS hierarchical_status,
  p.diagnoses, p.refs[1:$most] AS references, p.last, p.npi, p.rules, p.confidence,
  CASE WHEN w.thousandths IS NULL THEN NULL
    WHEN p.superseded OR p.status NOT IN ('open-gap', 'pending') THEN 0
    ELSE greatest(0, w.thousandths - coalesce(s.thousandths, 0)) END::BIGINT AS gain
FROM placed p JOIN people m USING (member) JOIN labels l USING (cc)
LEFT JOIN weights w ON w.segment = m.segment AND w.cc = p.cc
LEFT JOIN stands s ON s.member = p.member AND s.cc = p.cc
ORDER BY p.member, l.number
"""


def find_gaps(
    tables: ModelTables,
    year: PaymentYear,
    people: pa.Table,
    before: pa.Table,
    present: pa.Table,
    suspected: pa.Table,
    decisions: pa.Table,
    period: tuple[date, date],
    rate: Decimal,
) -> pa.Table:
    """Gaps (:data:`GAP_SCHEMA`) of ``people`` (``member`` and ``segment``), in the order of categories.

    ``before`` and ``present`` (:data:`FINDING_SCHEMA`) are of claims before and in the period, ``suspected``
    (:data:`SUSPECT_SCHEMA`) is evidence; ``decisions`` have one row for a member and category. ``rate`` is what a score
    of 1 pays in a year.
    """
    with duckdb.connect() as connection:
        for name, table in {
            "people": people.select(["member", "segment"]),
            "before": before.select(FINDING_SCHEMA.names),
            "present": present.select(FINDING_SCHEMA.names),
            "suspected": suspected.select(SUSPECT_SCHEMA.names),
            "decisions": decisions.select(["member", "cc", "status", "decided"]),
            **_of_model(tables),
        }.items():
            connection.register(name, table)
        for statement in _SETS.split(";\n"):
            connection.execute(statement, {"start": period[0]} if "$start" in statement else None)
        rows = connection.sql(_ROWS, params={"most": _REFERENCES}).to_arrow_table()
    gain = rows["gain"]
    worth = pc.fill_null(gain, 0).to_numpy().astype("int64")
    factor = tables.year.normalisation
    if factor is not None:
        worth = paid(normalised(worth, factor), year.coding_intensity)
    weight = decimals(worth, gain.is_valid().to_numpy())
    value = pc.round(pc.multiply(weight, pa.scalar(rate, pa.decimal128(14, 2))), 2, "half_towards_infinity")
    rows = rows.drop_columns(["gain"]).append_column("weight", weight)
    return rows.append_column("value", value.cast(pa.decimal128(18, 2))).select(GAP_SCHEMA.names).cast(GAP_SCHEMA)


def check_decisions(decisions: pa.Table) -> None:
    """InputError for a status that is no decision of a payer."""
    if pc.any(pc.invert(pc.fill_null(pc.is_in(decisions["status"], pa.array(DECISIONS)), False))).as_py():
        raise InputError(f"status is one of {', '.join(DECISIONS)}: a gap is closed by a claim")


def _of_model(tables: ModelTables) -> dict[str, pa.Table]:
    ccs = tables.ccs
    pairs = [(ccs[parent], ccs[child]) for parent, children in tables.children for child in children]
    return {
        "hierarchy": pa.table({"parent": [one for one, _ in pairs], "child": [one for _, one in pairs]}),
        "chronic": pa.table({"cc": [cc for cc in ccs if cc in tables.chronic]}),
        "labels": pa.table({"cc": ccs, "label": [tables.labels[cc] for cc in ccs], "number": range(len(ccs))}),
        "weights": pa.table(
            {
                "segment": [segment for segment in SEGMENTS for _ in ccs],
                "cc": [cc for _ in SEGMENTS for cc in ccs],
                "thousandths": tables.weights[:, : len(ccs)].reshape(-1),
            }
        ),
    }
