"""Bundles: who is accountable for an episode, by the provider of its anchor stay or procedure.

CJR and TEAM look at the hospital alone (``hierarchy=("hospital",)``; of a chain of transfers TEAM takes the hospital
that discharges last). BPCI Advanced goes from the physician group practice of the attending clinician to that of the
operating one to the hospital; a practice counts that initiates episodes and under which that clinician billed during
the anchor; of several the one that started first. Commercial bundles may need surgeon and facility to be contracted
both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import duckdb
import pyarrow as pa

from fhir_gateway.errors import ContractError

Role = Literal["attending", "operating", "hospital"]

_TEXT = pa.string()
#: Numbers that a hospital may be known by: of the stay, and of an initiator.
_HOSPITAL = {"ccn": "ccn", "hospital_npi": "npi", "hospital_tin": "tin", "organization": "organization"}
#: A row per stay or procedure of an episode; of transfers several. ``start`` and ``end`` are its days. Of the numbers
#: of its hospital (CCN, NPI, TIN, reference of the Organization) one is enough; columns of the others may be missing.
ANCHOR_SCHEMA = pa.schema(
    [(name, _TEXT) for name in ("episode", "member", *_HOSPITAL, "attending", "operating")]
    + [("start", pa.date32()), ("end", pa.date32())]
)
#: Who takes part since when: hospitals by CCN, NPI, TIN or Organization, practices by TIN (and NPI, when only some of
#: its clinicians do).
INITIATOR_SCHEMA = pa.schema(
    [(name, _TEXT) for name in ("entity", "tin", "npi", "ccn", "organization")]
    + [("start", pa.date32()), ("end", pa.date32())]
)
#: ``role`` says by whom the entity was found; without an entity ``reason`` is ``no-initiator`` or ``not-both``.
ACCOUNTABLE_SCHEMA = pa.schema([(name, _TEXT) for name in ("episode", "entity", "role", "number", "reason")])

#: What an initiator's row must not have for a number to be that of a hospital: with a TIN, an NPI is a clinician's.
_ALONE = {"ccn": (), "npi": ("tin", "ccn"), "tin": ("npi",), "organization": ()}

_FOUND = """
WITH anchor AS (
  SELECT * FROM anchors QUALIFY row_number() OVER (PARTITION BY episode ORDER BY "end" {order}, start {order}, ccn) = 1
), seen AS (
  SELECT DISTINCT a.episode, l.npi, l.tin FROM anchor a JOIN lines l ON l._member = a.member
    AND l.service_from BETWEEN a.start AND a."end" AND l.npi IN (a.attending, a.operating)
  WHERE l.counts AND NOT l.denied AND l.tin IS NOT NULL
), doctors AS (
  SELECT episode, start, 'attending' AS role, attending AS npi FROM anchor
  UNION ALL SELECT episode, start, 'operating', operating FROM anchor
), hospitals AS (
  {hospitals}
), numbers AS (  -- a clinician of a practice is no hospital
  {numbers}
), matched AS (
  SELECT d.episode, d.role, i.entity, d.npi AS number, i.start FROM doctors d JOIN seen s USING (episode, npi)
    JOIN initiators i ON i.tin = s.tin AND coalesce(i.npi = s.npi, i.npi IS NULL)
  WHERE coalesce(i.start <= d.start, TRUE) AND coalesce(i."end" >= d.start, TRUE)
  UNION ALL
  SELECT a.episode, 'hospital', i.entity, a.number, i.start FROM hospitals a
    JOIN numbers i ON i.kind = a.kind AND i.number = a.number
  WHERE coalesce(i.start <= a.start, TRUE) AND coalesce(i."end" >= a.start, TRUE)
), found AS (
  SELECT * FROM matched WHERE list_contains($hierarchy, role)
  QUALIFY row_number() OVER (PARTITION BY episode ORDER BY list_position($hierarchy, role), start NULLS FIRST, entity,
    number) = 1
), roles AS (
  SELECT episode, list_has_all(list(DISTINCT role), $all) AS complete FROM matched GROUP BY episode
)
SELECT a.episode, CASE WHEN r.complete THEN f.entity END AS entity, CASE WHEN r.complete THEN f.role END AS role,
  CASE WHEN r.complete THEN f.number END AS number,
  CASE WHEN f.entity IS NULL THEN 'no-initiator' WHEN NOT r.complete THEN 'not-both' END AS reason
FROM anchor a LEFT JOIN found f USING (episode) LEFT JOIN roles r USING (episode)
ORDER BY a.episode
"""


def anchor_provider(
    anchors: pa.Table,
    lines: pa.Table,
    initiators: pa.Table,
    hierarchy: Sequence[Role] = ("attending", "operating", "hospital"),
    *,
    needs: Sequence[Role] = (),
    of_transfers: Literal["first", "last"] = "last",
) -> pa.Table:
    """Who is accountable for each episode (:data:`ACCOUNTABLE_SCHEMA`), a row per episode.

    ``lines`` are claim lines (``_member``, ``npi``, ``tin``, ``service_from``, ``counts``, ``denied``). ``needs`` are
    roles that must all be with initiators.
    """
    known = {"attending", "operating", "hospital"}
    if not hierarchy or not known >= {*hierarchy, *needs}:
        raise ContractError(f"hierarchy: roles are {', '.join(sorted(known))}")
    with duckdb.connect() as connection:
        connection.register("anchors", _complete(anchors, ANCHOR_SCHEMA))
        connection.register("lines", lines)
        connection.register("initiators", _complete(initiators, INITIATOR_SCHEMA))
        found = connection.sql(
            _FOUND.format(
                order="DESC" if of_transfers == "last" else "ASC",
                hospitals=" UNION ALL ".join(
                    f"SELECT episode, start, '{kind}' AS kind, {column} AS number FROM anchor"  # noqa: S608 our own names
                    for column, kind in _HOSPITAL.items()
                ),
                numbers=" UNION ALL ".join(
                    f"SELECT entity, start, \"end\", '{kind}' AS kind, {kind} AS number FROM initiators"  # noqa: S608
                    f" WHERE {' AND '.join(f'{one} IS NULL' for one in _ALONE[kind]) or 'TRUE'}"
                    for kind in _HOSPITAL.values()
                ),
            ),
            params={"hierarchy": list(hierarchy), "all": list(needs)},
        ).to_arrow_table()
    return found.cast(ACCOUNTABLE_SCHEMA)


def _complete(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a schema; text columns that the table lacks are null."""
    for field in schema:
        if field.name not in table.column_names and field.type == _TEXT:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names).cast(schema)
