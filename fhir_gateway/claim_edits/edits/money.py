"""Charges, units, and whether they add up."""

from __future__ import annotations

QUERIES = {
    "lines-missing": "SELECT rid, 'Claim.item' AS path, NULL AS other FROM c WHERE line_count = 0",
    "charge-not-positive": """
        SELECT rid, at_item(position, 'net') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
        WHERE coalesce(net, price * coalesce(units, 1) * coalesce(factor, 1), 0) <= 0
          AND NOT coalesce(regexp_matches(code, '^[0-9]{4}F$'), FALSE)""",
    "total-unbalanced": """
        SELECT c.rid, 'Claim.total' AS path, NULL AS other FROM c JOIN l USING (rid)
        WHERE c.total IS NOT NULL GROUP BY c.rid, c.total
        HAVING count(l.net) = count(*) AND sum(l.net) <> c.total""",
    "total-missing": "SELECT rid, 'Claim.total' AS path, NULL AS other FROM c WHERE coalesce(total, 0) <= 0",
    "line-unbalanced": """
        SELECT rid, at_item(position, 'net') AS path, at_item(position, 'unitPrice') AS other
        FROM l SEMI JOIN c USING (rid)
        WHERE abs(net - coalesce(units, 1)::DECIMAL(18, 4) * price::DECIMAL(14, 4) * coalesce(factor, 1))
          >= 0.01""",
    "units-not-positive": """
        SELECT rid, at_item(position, 'quantity') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
        WHERE units <= 0""",
    "currency-mixed": """
        SELECT l.rid, at_item(l.position, 'net.currency') AS path, 'Claim.total.currency' AS other
        FROM l JOIN c USING (rid)
        WHERE l.currency <> c.currency""",
    "charge-below-fee": """
        SELECT l.rid, at_item(l.position, 'net') AS path, NULL AS other FROM l JOIN fee_schedule t
          ON t.code = l.code AND l.service_from BETWEEN t.valid_from AND t.valid_to
        LEFT JOIN payer p ON p.rid = l.rid AND p.payer = t.payer
        WHERE (t.payer IS NULL OR p.rid IS NOT NULL) AND l.net > 0
          AND l.net < t.amount * coalesce(l.units, 1)::DECIMAL(10, 2)""",
    "charge-outlier": """
        SELECT l.rid, at_item(l.position, 'net') AS path, NULL AS other FROM l JOIN fee_schedule t
          ON t.code = l.code AND l.service_from BETWEEN t.valid_from AND t.valid_to
        LEFT JOIN payer p ON p.rid = l.rid AND p.payer = t.payer
        WHERE (t.payer IS NULL OR p.rid IS NOT NULL) AND t.amount > 0
          AND l.net > 10 * t.amount * coalesce(l.units, 1)::DECIMAL(10, 2)""",
    "primary-answer-missing": """
        SELECT rid, 'Claim.insurance' AS path, NULL AS other FROM c
        WHERE len(list_filter(insurance,
          lambda x: x.sequence < c.focal.sequence AND x.claimResponse.reference IS NULL)) > 0""",
}
