"""Which claim lines of a member counted for whom, and why the others did not: what a disputed attribution is shown
by."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution.eligibility import register, window_end, window_start
from fhir_gateway.attribution.models import Participant
from fhir_gateway.attribution.rules import AttributionTerms
from fhir_gateway.attribution.service import CLINICIANS
from fhir_gateway.attribution.services import (
    PROVIDER_SCHEMA,
    judging,
    judging_values,
    prepare_lines,
    prepare_owners,
    prepare_services,
    prepare_terms,
)

#: A row per claim line, in the order of the members' days. ``competitor`` is whose it is, by the terms' level of
#: pooling; ``reason`` null: it counted, else one of :data:`~.services.LINE_REASONS`.
EVIDENCE_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("member", "source", "eob")]
    + [("day", pa.date32())]
    + [(name, pa.string()) for name in ("tin", "npi", "specialty", "procedure", "place_of_service")]
    + [("allowed", pa.decimal128(18, 4)), ("paid", pa.decimal128(18, 4)), ("competitor", pa.string())]
    + [("participant", pa.bool_()), ("reason", pa.string())]
)

_FEW_LINES = 50_000

_EVIDENCE = """
SELECT j.member, j.source, j.eob, j.day, j.tin, j.npi, l.specialty, l.procedure, l.place_of_service, j.allowed, j.paid,
  o.owner AS competitor, o.participant,
  CASE WHEN NOT l.counts THEN 'superseded'
    WHEN l.denied THEN 'denied'
    WHEN j.day IS NULL OR j.day NOT BETWEEN $start AND $end THEN 'outside-window'
    WHEN coalesce(j.tin, j.npi, j.ccn, j.organization) IS NULL THEN 'no-provider'
    WHEN k.row IS NULL AND j.facility IS NULL AND $listed_only
      AND (l.bill_type IS NOT NULL OR l.claim_type IN ('inpatient', 'outpatient')) THEN 'facility-claim'
    WHEN k.row IS NULL AND j.lists = 0 AND NOT EXISTS (
      SELECT 1 FROM service_codes c WHERE c.code = l.procedure AND j.day BETWEEN c.since AND c.until) THEN 'code-list'
    WHEN k.row IS NULL AND j.needs_base THEN 'add-on'
    WHEN k.row IS NULL THEN 'place'
    WHEN o.entities > 1 THEN 'two-entities'
    WHEN j.groups = 0 THEN 'specialty' END AS reason
FROM judged j JOIN lines l ON l.row = j.row LEFT JOIN counting k ON k.row = j.row
LEFT JOIN all_owners o ON {owners}
ORDER BY j.member, j.day, l.row
"""


def line_evidence(
    lines: pa.Table,
    terms: AttributionTerms,
    period: tuple[date, date],
    participants: Sequence[Participant] = (),
    members: pa.Array | None = None,
    providers: pa.Table | None = None,
) -> pa.Table:
    """What became of each claim line (:data:`EVIDENCE_SCHEMA`) of these members; of all without ``members``.

    Windows are those of the widest pass; whether a line is in that of the pass that settled a member, its day tells.
    """
    if members is not None:
        lines = lines.filter(pc.is_in(lines["_member"], value_set=members.cast(pa.string())))
    lines = lines.append_column("row", pa.array(np.arange(lines.num_rows)))
    end = window_end(terms, period)
    months = [step.window_months for step in terms.passes] + [n.window_months for s in terms.passes for n in s.needs]
    window = (window_start(end, max(months, default=12)), end)
    knows = providers is not None
    # threads cost more than they save over the lines of one member
    with duckdb.connect(config={"threads": 1} if lines.num_rows < _FEW_LINES else {}) as connection:
        prepare_lines(connection, "lines", lines)
        register(connection, "providers", providers, PROVIDER_SCHEMA)
        connection.execute(CLINICIANS, {"day": period[1]})
        prepare_terms(connection, terms, participants)
        connection.execute("CREATE TABLE looked_at AS SELECT DISTINCT _member AS member FROM lines")
        prepare_services(connection, terms, window, "looked_at", providers=knows, more=", l.row")
        judged = judging(terms, providers=knows, more=", l.row, f.bit AS facility")
        connection.execute(f"CREATE TABLE judged AS {judged}", judging_values(terms))
        prepare_owners(connection, "SELECT DISTINCT tin, npi, ccn, organization FROM judged", "all_owners")
        keys = " AND ".join(f"o.{one} IS NOT DISTINCT FROM j.{one}" for one in ("tin", "npi", "ccn", "organization"))
        found = connection.sql(
            _EVIDENCE.format(owners=keys),
            params={"start": window[0], "end": window[1], "listed_only": terms.institutional == "listed"},
        ).to_arrow_table()
    return found.select(EVIDENCE_SCHEMA.names).cast(EVIDENCE_SCHEMA)
