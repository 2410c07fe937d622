"""Whether the patient was covered, by whom first, and whether somebody answers for him."""

from __future__ import annotations

QUERIES = {
    "insurance-focal": """
        SELECT rid, 'Claim.insurance' AS path, NULL AS other FROM c
        WHERE len(list_filter(coalesce(insurance, []), lambda x: x.focal)) <> 1""",
    "coverage-status": """
        SELECT c.rid, 'Claim.insurance.where(focal).coverage' AS path, NULL AS other
        FROM c JOIN coverages v ON v.member = c.member
          AND v.coverage = typed_reference(c.focal.coverage.reference)
        WHERE v.status <> 'active'""",
    "coverage-not-active": """
        SELECT l.rid, at_item(l.position, 'serviced') AS path, NULL AS other FROM l JOIN c USING (rid)
        WHERE NOT EXISTS (
          SELECT 1 FROM coverages v WHERE v.member = l.member AND v.status = 'active'
            AND l.service_from >= coalesce(v.covered_from, DATE '0001-01-01')
            AND l.service_from <= coalesce(v.covered_to, DATE '9999-12-31')
            AND v.coverage = coalesce(typed_reference(c.focal.coverage.reference), v.coverage))
          AND l.service_from IS NOT NULL""",
    "other-payer-primary": """
        SELECT DISTINCT c.rid, 'Claim.insurance.where(focal).coverage' AS path, NULL AS other
        FROM c JOIN coverages mine ON mine.member = c.member
          AND mine.coverage = typed_reference(c.focal.coverage.reference)
        JOIN coverages other ON other.member = c.member AND other.status = 'active' AND other.rank < mine.rank
          AND c.period_from >= coalesce(other.covered_from, DATE '0001-01-01')
          AND c.period_from <= coalesce(other.covered_to, DATE '9999-12-31')
        WHERE len(list_filter(c.insurance,
          lambda x: typed_reference(x.coverage.reference) = other.coverage)) = 0""",
    "not-attributed": """
        SELECT c.rid, 'Claim.provider' AS path, NULL AS other FROM c
        WHERE c.member IS NOT NULL AND NOT EXISTS (
          SELECT 1 FROM attributed a WHERE a.member = c.member AND (a.npi = c.npi OR a.tin = c.tin)
            AND c.period_from BETWEEN coalesce(a.attributed_from, DATE '0001-01-01')
              AND coalesce(a.attributed_to, DATE '9999-12-31'))""",
}
