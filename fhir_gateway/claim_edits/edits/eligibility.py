"""Whether the patient was covered, by whom first, and whether somebody answers for him."""

from __future__ import annotations

from functools import partial

from fhir_gateway.claim_edits.models import Edit

_edit = partial(Edit, family="eligibility")
_X12 = "X12 005010X279A1 (271 eligibility); X12 005010X222A1 loop 2000B"

EDITS = (
    _edit(
        id="insurance-focal",
        severity="reject",
        issue="invalid",
        message="not exactly one insurance is focal: it is not clear who is to judge the claim",
        fix="Set Claim.insurance.focal on the one that the claim goes to.",
        source="R4 Claim.insurance.focal",
        query="""
            SELECT rid, 'Claim.insurance' AS path, NULL AS other FROM c
            WHERE len(list_filter(coalesce(insurance, []), lambda x: x.focal)) <> 1""",
    ),
    _edit(
        id="coverage-status",
        severity="reject",
        issue="business-rule",
        message="the coverage that the claim goes to is not active",
        fix="Ask the payer for the coverage that was active on the day of service.",
        source=_X12,
        needs=("coverage",),
        query="""
            SELECT c.rid, 'Claim.insurance.where(focal).coverage' AS path, NULL AS other
            FROM c JOIN coverages v ON v.member = c.member
              AND v.coverage = typed_reference(c.focal.coverage.reference)
            WHERE v.status <> 'active'""",
    ),
    _edit(
        id="coverage-not-active",
        severity="deny-likely",
        issue="business-rule",
        message="no coverage of the patient was active on the day of service",
        fix="Ask the payer for eligibility on that day.",
        source=_X12,
        needs=("coverage",),
        query="""
            SELECT l.rid, at_item(l.position, 'serviced') AS path, NULL AS other FROM l JOIN c USING (rid)
            WHERE NOT EXISTS (
              SELECT 1 FROM coverages v WHERE v.member = l.member AND v.status = 'active'
                AND l.service_from >= coalesce(v.covered_from, DATE '0001-01-01')
                AND l.service_from <= coalesce(v.covered_to, DATE '9999-12-31')
                AND v.coverage = coalesce(typed_reference(c.focal.coverage.reference), v.coverage))
              AND l.service_from IS NOT NULL""",
    ),
    _edit(
        id="other-payer-primary",
        severity="deny-likely",
        issue="business-rule",
        message="another active coverage of the patient pays before the one that the claim goes to",
        fix="Bill the primary payer first, and name both insurances.",
        source="Medicare Secondary Payer, 42 CFR 411; X12 005010X222A1 loop 2320",
        needs=("coverage",),
        query="""
            SELECT DISTINCT c.rid, 'Claim.insurance.where(focal).coverage' AS path, NULL AS other
            FROM c JOIN coverages mine ON mine.member = c.member
              AND mine.coverage = typed_reference(c.focal.coverage.reference)
            JOIN coverages other ON other.member = c.member AND other.status = 'active' AND other.rank < mine.rank
              AND c.period_from >= coalesce(other.covered_from, DATE '0001-01-01')
              AND c.period_from <= coalesce(other.covered_to, DATE '9999-12-31')
            WHERE len(list_filter(c.insurance,
              lambda x: typed_reference(x.coverage.reference) = other.coverage)) = 0""",
    ),
    _edit(
        id="not-attributed",
        severity="info",
        issue="informational",
        message="the patient is not attributed to who bills on the day of service",
        fix="Nothing, or a referral where the plan wants one.",
        source="attribution lists of this gateway",
        needs=("attribution",),
        query="""
            SELECT c.rid, 'Claim.provider' AS path, NULL AS other FROM c
            WHERE c.member IS NOT NULL AND NOT EXISTS (
              SELECT 1 FROM attributed a WHERE a.member = c.member AND (a.npi = c.npi OR a.tin = c.tin)
                AND c.period_from BETWEEN coalesce(a.attributed_from, DATE '0001-01-01')
                  AND coalesce(a.attributed_to, DATE '9999-12-31'))""",
    ),
)
