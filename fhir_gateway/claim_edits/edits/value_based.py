"""What contracts for value pay differently: services that a monthly payment includes, and lines that only inform."""

from __future__ import annotations

#: Advanced primary care management, and what it includes (CMS, CY2025 Physician Fee Schedule final rule, II.G.2).
_APCM = "'G0556', 'G0557', 'G0558'"
_INCLUDED = (
    "'99490', '99439', '99487', '99489', '99491', '99437', '99424', '99425', '99426', '99427', '99495', '99496', "
    "'G2012', 'G2010', '99421', '99422', '99423', '99446', '99447', '99448', '99449', '99451', '99452'"
)

QUERIES = {
    "apcm-conflict": f"""
        SELECT b.rid, at_item(b.position, 'productOrService') AS path,
          any_value(CASE WHEN o.rid = b.rid THEN at_item(o.position, 'productOrService') END) AS other
        FROM b JOIN billed o ON o.member = b.member AND o.npi = b.npi AND (o.rid = b.rid OR NOT o.denied)
          AND datetrunc('month', o.service_from) = datetrunc('month', b.service_from)
        WHERE b.code IN ({_INCLUDED}) AND o.code IN ({_APCM}) OR b.code IN ({_APCM}) AND o.code IN ({_APCM})
          AND o.code <> b.code
          AND (o.service_from, o.created, o.key, o.position) < (b.service_from, b.created, b.key, b.position)
        GROUP BY b.rid, b.position""",  # noqa: S608  # our own
    "clinic-day-without-detail": """
        SELECT b.rid, at_item(b.position, 'productOrService') AS path, NULL AS other
        FROM b LEFT JOIN billed o ON o.member = b.member AND o.biller = b.biller AND o.service_from = b.service_from
          AND o.code <> 'T1040' AND (o.rid = b.rid OR NOT o.denied)
        WHERE b.code = 'T1040' GROUP BY b.rid, b.position HAVING count(o.rid) = 0""",
    "quality-code-charged": """
        SELECT rid, at_item(position, 'net') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
        WHERE regexp_matches(code, '^[0-9]{4}F$') AND net > 0.01""",
}
