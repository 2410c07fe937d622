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
#: A row per stay or procedure of an episode; of transfers several. ``start`` and ``end`` are its days.
ANCHOR_SCHEMA = pa.schema(
    [(name, _TEXT) for name in ("episode", "member", "ccn", "hospital_npi", "attending", "operating")]
    + [("start", pa.date32()), ("end", pa.date32())]
)
#: Who takes part since when: hospitals by CCN or NPI, practices by TIN (and NPI, when only some of its clinicians do).
INITIATOR_SCHEMA = pa.schema(
    [(name, _TEXT) for name in ("entity", "tin", "npi", "ccn")] + [("start", pa.date32()), ("end", pa.date32())]
)
#: ``role`` says by whom the entity was found; without an entity ``reason`` is ``no-initiator`` or ``not-both``.
ACCOUNTABLE_SCHEMA = pa.schema([(name, _TEXT) for name in ("episode", "entity", "role", "number", "reason")])

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
), matched AS (
  SELECT d.episode, d.role, i.entity, d.npi AS number, i.start FROM doctors d JOIN seen s USING (episode, npi)
    JOIN initiators i ON i.tin = s.tin AND coalesce(i.npi = s.npi, i.npi IS NULL)
  WHERE coalesce(i.start <= d.start, TRUE) AND coalesce(i."end" >= d.start, TRUE)
  UNION ALL
  SELECT a.episode, 'hospital', i.entity, i.ccn, i.start FROM anchor a JOIN initiators i ON i.ccn = a.ccn
  WHERE coalesce(i.start <= a.start, TRUE) AND coalesce(i."end" >= a.start, TRUE)
  UNION ALL
  SELECT a.episode, 'hospital', i.entity, i.npi, i.start FROM anchor a
    JOIN initiators i ON i.npi = a.hospital_npi AND i.tin IS NULL AND i.ccn IS NULL
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
        connection.register("anchors", anchors.select(ANCHOR_SCHEMA.names).cast(ANCHOR_SCHEMA))
        connection.register("lines", lines)
        connection.register("initiators", initiators.select(INITIATOR_SCHEMA.names).cast(INITIATOR_SCHEMA))
        found = connection.sql(
            _FOUND.format(order="DESC" if of_transfers == "last" else "ASC"),
            params={"hierarchy": list(hierarchy), "all": list(needs)},
        ).to_arrow_table()
    return found.cast(ACCOUNTABLE_SCHEMA)
