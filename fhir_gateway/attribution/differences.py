"""Why the payer's roster and ours differ: a reason code for each member on one of them only.

What the payer computed by is not known here; the code is what would explain the difference, by our own evidence.
"""

from __future__ import annotations

from decimal import Decimal

import duckdb
import pyarrow as pa

from fhir_gateway.attribution.models import Attribution
from fhir_gateway.attribution.reconciliation import Reconciliation
from fhir_gateway.attribution.stability import near_misses

#: Reason codes, in the order they are tested.
DIFFERENCES = {
    "unknown-member": "the payer's number is of nobody known here, or of several",
    "decision": "somebody put the member on our list, or took him off",
    "other-list": "ours, and on another list of the contract, or not yet on this one",
    "tin-roster": "the payer names a provider whose number is not on the contract's list",
    "eligibility": "not eligible here: coverage, parts, residence, programmes, service area",
    "tie": "equal amounts, or decided by a tie-break",
    "selection": "decided by a selection or the roster, not by claims",
    "code-list": "our services with codes that do not count would have decided",
    "specialty": "our services by specialties that do not compete would have decided",
    "other-lines": "our services left out for another reason (place, day, version, denial) would have decided",
    "near-miss": "lost or won within 10 % or 50 of the measure",
    "plurality": "somebody else had clearly more",
    "no-claims": "no service of the entity is known here",
    "provider": "on both, with another provider",
    "period": "on both, with another period",
}

_ELIGIBILITY = (
    *("excluded-coverage", "split-months", "below-minimum-months", "not-resident", "other-programme"),
    *("criteria-not-met", "outside-service-area"),
)

_EXPLAINED = """
WITH mine AS (
  SELECT a.*, coalesce(own.amount, 0) AS own_amount, coalesce(lead.amount, 0) AS lead_amount,
    n.member IS NOT NULL AS near,
    a.entity = $entity AND a.runner_up IS NOT NULL AND (a.amount - a.runner_up_amount <= 50
      OR a.amount - a.runner_up_amount <= 0.10 * a.amount) AS won_by_a_hair
  FROM attributed a LEFT JOIN candidates own ON own.member = a.member AND own.competitor = $entity
    LEFT JOIN candidates lead ON lead.member = a.member AND lead.rank = 1
    LEFT JOIN near n ON n.member = a.member
), left_out AS (
  SELECT member, sum(allowed) FILTER (reason = 'code-list') AS code_list,
    sum(allowed) FILTER (reason = 'specialty') AS specialty,
    sum(allowed) FILTER (reason NOT IN ('code-list', 'specialty')) AS other, count(*) AS lines
  FROM evidence WHERE competitor = $entity GROUP BY member
)
SELECT d.finding, d.named, d.member,
  CASE WHEN d.finding = 'unknown-member' THEN 'unknown-member'
    WHEN d.finding = 'different-provider' THEN 'provider'
    WHEN d.finding = 'different-period' THEN 'period'
    WHEN m.method = 'decision' OR m.reason = 'removed-by-decision' THEN 'decision'
    WHEN d.finding = 'only-theirs' AND m.entity = $entity THEN 'other-list'
    WHEN d.finding = 'only-theirs' AND coalesce(d.their_tin, d.their_npi) IS NOT NULL
      AND NOT list_contains($tins, coalesce(d.their_tin, ''))
      AND NOT list_contains($npis, coalesce(d.their_npi, '')) THEN 'tin-roster'
    WHEN list_contains($eligibility, m.reason) THEN 'eligibility'
    WHEN m.reason = 'tie' OR m.tie_break IS NOT NULL THEN 'tie'
    WHEN m.method = 'selection' THEN 'selection'
    WHEN d.finding = 'only-ours' AND m.won_by_a_hair THEN 'near-miss'
    WHEN d.finding = 'only-ours' THEN 'plurality'
    WHEN coalesce(o.code_list, 0) > m.lead_amount - m.own_amount AND o.code_list > 0 THEN 'code-list'
    WHEN coalesce(o.specialty, 0) > m.lead_amount - m.own_amount AND o.specialty > 0 THEN 'specialty'
    WHEN coalesce(o.other, 0) > m.lead_amount - m.own_amount AND o.other > 0 THEN 'other-lines'
    WHEN m.near THEN 'near-miss'
    WHEN coalesce(o.lines, 0) = 0 AND m.own_amount = 0 THEN 'no-claims'
    ELSE 'plurality' END AS reason,
  coalesce(m.reason, 'entity:' || m.entity) AS detail, coalesce(m.near OR m.won_by_a_hair, FALSE) AS near_miss,
  m.step, m.own_amount, m.lead_amount
FROM differences d LEFT JOIN mine m USING (member) LEFT JOIN left_out o USING (member)
ORDER BY reason, d.named, d.member
"""


def explained(
    reconciliation: Reconciliation, attribution: Attribution, entity: str, evidence: pa.Table | None = None
) -> pa.Table:
    """The differences with reason codes (:data:`DIFFERENCES`).

    Columns: finding, named, member, reason, detail (the reason or entity we have), near_miss, step, own_amount and
    lead_amount (the entity's and the leader's). ``evidence`` (:func:`~.evidence.line_evidence` of the members that
    differ) tells lines that were left out from care that is not there; without it neither code list nor specialty is
    named.
    """
    ours = [one for one in attribution.participants if one.entity == entity]
    empty = pa.schema([("member", pa.string()), ("competitor", pa.string()), ("reason", pa.string())])
    empty = empty.append(pa.field("allowed", pa.decimal128(18, 4)))
    with duckdb.connect() as connection:
        connection.register("differences", reconciliation.differences())
        connection.register("attributed", attribution.table)
        connection.register("candidates", attribution.candidates)
        connection.register("near", near_misses(attribution, entity, Decimal("0.10"), Decimal(50)))
        left_out = evidence if evidence is not None else empty.empty_table()
        connection.register("all_evidence", left_out)
        connection.execute("CREATE VIEW evidence AS SELECT * FROM all_evidence WHERE reason IS NOT NULL")
        return connection.sql(
            _EXPLAINED,
            params={
                "entity": entity,
                "tins": [tin for one in ours for tin in one.tins],
                "npis": [npi for one in ours for npi in one.npis],
                "eligibility": list(_ELIGIBILITY),
            },
        ).to_arrow_table()
