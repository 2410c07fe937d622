"""What contracts for value pay differently: services that a monthly payment includes, and lines that only inform."""

from __future__ import annotations

from functools import partial

from fhir_gateway.claim_edits.models import Edit

_edit = partial(Edit, family="value-based")
#: Advanced primary care management, and what it includes (CMS, CY2025 Physician Fee Schedule final rule, II.G.2).
_APCM = "'G0556', 'G0557', 'G0558'"
_INCLUDED = (
    "'99490', '99439', '99487', '99489', '99491', '99437', '99424', '99425', '99426', '99427', '99495', '99496', "
    "'G2012', 'G2010', '99421', '99422', '99423', '99446', '99447', '99448', '99449', '99451', '99452'"
)

EDITS = (
    _edit(
        id="apcm-conflict",
        severity="deny-likely",
        issue="conflict",
        message="advanced primary care management of this month by the same practitioner includes this service",
        fix="Bill G0556 to G0558 only.",
        source="CY2025 Physician Fee Schedule final rule, section II.G.2",
        needs=("history",),
        query=f"""
            SELECT b.rid, at_item(b.position, 'productOrService') AS path,
              any_value(CASE WHEN o.rid = b.rid THEN at_item(o.position, 'productOrService') END) AS other
            FROM b JOIN billed o ON o.member = b.member AND o.npi = b.npi AND (o.rid = b.rid OR NOT o.denied)
              AND datetrunc('month', o.service_from) = datetrunc('month', b.service_from)
            WHERE b.code IN ({_INCLUDED}) AND o.code IN ({_APCM}) OR b.code IN ({_APCM}) AND o.code IN ({_APCM})
              AND o.code <> b.code
              AND (o.service_from, o.created, o.key, o.position) < (b.service_from, b.created, b.key, b.position)
            GROUP BY b.rid, b.position""",  # noqa: S608  # our own
    ),
    _edit(
        id="clinic-day-without-detail",
        severity="deny-likely",
        issue="required",
        message="the daily rate of a behavioral health clinic (T1040) stands without the services of that day",
        fix="Add the services as lines of their own.",
        source="CMS, CCBHC Prospective Payment System technical guidance",
        needs=("history",),
        query="""
            SELECT b.rid, at_item(b.position, 'productOrService') AS path, NULL AS other
            FROM b LEFT JOIN billed o ON o.member = b.member AND o.biller = b.biller AND o.service_from = b.service_from
              AND o.code <> 'T1040' AND (o.rid = b.rid OR NOT o.denied)
            WHERE b.code = 'T1040' GROUP BY b.rid, b.position HAVING count(o.rid) = 0""",
    ),
    _edit(
        id="quality-code-charged",
        severity="warn",
        issue="value",
        message="a quality data code (CPT Category II) has a charge above one cent",
        fix="Charge 0.00 or 0.01.",
        source="CMS, Quality Payment Program: claims data submission",
        query="""
            SELECT rid, at_item(position, 'net') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
            WHERE regexp_matches(code, '^[0-9]{4}F$') AND net > 0.01""",
    ),
)
