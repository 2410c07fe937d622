"""When a service was, when it was billed, and what lies at the same time."""

from __future__ import annotations

#: Services that are paid once in a calendar month, whoever bills: chronic, complex chronic and principal care
#: management, behavioral health integration, advanced primary care management, chronic pain management.
_MONTHLY = "'99487', '99490', '99491', '99424', '99426', '99484', 'G0556', 'G0557', 'G0558', 'G3002'"
_TRANSITION = "'99495', '99496'"

QUERIES = {
    "service-date-missing": """
        SELECT rid, at_item(position, 'serviced') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
        WHERE service_from IS NULL""",
    "period-reversed": """
        SELECT rid, at_item(position, 'serviced') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
        WHERE stated_to < stated_from
        UNION ALL SELECT rid, 'Claim.billablePeriod', NULL FROM c WHERE period_to < period_from""",
    "service-outside-period": """
        SELECT l.rid, at_item(l.position, 'serviced') AS path, 'Claim.billablePeriod' AS other
        FROM l JOIN c USING (rid)
        WHERE (l.stated_from < c.period_from OR l.stated_to > c.period_to) AND c.period_from <= c.period_to""",
    "service-in-future": """
        SELECT l.rid, at_item(l.position, 'serviced') AS path, 'Claim.created' AS other FROM l JOIN c USING (rid)
        WHERE greatest(l.service_from, l.service_to) > c.submitted""",
    "timely-filing": """
        WITH terms AS (
          SELECT c.rid, t.days, t.valid_from, t.valid_to FROM c JOIN payer p USING (rid)
          JOIN timely_filing t USING (payer)
          UNION ALL
          SELECT c.rid, t.days, t.valid_from, t.valid_to FROM c CROSS JOIN timely_filing t WHERE t.payer IS NULL
        )
        SELECT l.rid, at_item(l.position, 'serviced') AS path, 'Claim.created' AS other
        FROM l JOIN c USING (rid)
        JOIN terms t ON t.rid = l.rid AND l.service_from BETWEEN t.valid_from AND t.valid_to
        WHERE coalesce(c.frequency, '1') NOT IN ('7', '8')
        GROUP BY l.rid, l.position
        HAVING bool_and(c.submitted > coalesce(l.service_to, l.service_from) + t.days)""",
    "stay-overlap": """
        WITH stay AS (
          SELECT rid, member, min(service_from) AS first, max(coalesce(service_to, service_from)) AS last,
            bool_or(current) AS current, bool_and(denied) AS denied
          FROM billed WHERE is_inpatient GROUP BY ALL
        )
        SELECT DISTINCT s.rid, 'Claim.billablePeriod' AS path, NULL AS other
        FROM stay s JOIN stay o ON o.member = s.member AND o.rid <> s.rid AND NOT o.denied
        WHERE s.current AND s.first < o.last AND o.first < s.last""",
    "three-day-window": """
        WITH stay AS (
          SELECT member, biller, min(service_from) AS first FROM billed WHERE is_inpatient AND NOT denied
          GROUP BY rid, member, biller
        )
        SELECT DISTINCT b.rid, at_item(b.position, 'serviced') AS path, NULL AS other
        FROM b JOIN stay s ON s.member = b.member AND s.biller = b.biller
        WHERE b.kind = 'institutional' AND NOT coalesce(b.is_inpatient, FALSE)
          AND b.service_from BETWEEN s.first - 3 AND s.first""",
    "care-management-month": f"""
        SELECT b.rid, at_item(b.position, 'serviced') AS path,
          any_value(CASE WHEN o.rid = b.rid THEN at_item(o.position, 'serviced') END) AS other
        FROM b JOIN billed o ON o.member = b.member AND o.code = b.code AND (o.rid = b.rid OR NOT o.denied)
          AND datetrunc('month', o.service_from) = datetrunc('month', b.service_from)
          AND (o.service_from, o.created, o.key, o.position) < (b.service_from, b.created, b.key, b.position)
        WHERE b.code IN ({_MONTHLY}) GROUP BY b.rid, b.position""",  # noqa: S608  # our own
    "transition-once": f"""
        SELECT b.rid, at_item(b.position, 'serviced') AS path,
          any_value(CASE WHEN o.rid = b.rid THEN at_item(o.position, 'serviced') END) AS other
        FROM b JOIN billed o ON o.member = b.member AND o.code IN ({_TRANSITION})
          AND (o.rid = b.rid OR NOT o.denied) AND b.service_from - o.service_from BETWEEN 0 AND 29
          AND (o.service_from, o.created, o.key, o.position) < (b.service_from, b.created, b.key, b.position)
        WHERE b.code IN ({_TRANSITION}) GROUP BY b.rid, b.position""",  # noqa: S608  # our own
}
