"""Charges, units, and whether they add up."""

from __future__ import annotations

from functools import partial

from fhir_gateway.claim_edits.models import Edit

_edit = partial(Edit, family="money")
_BALANCING = "X12 005010X222A1 and X223A2, section 1.4.4 (balancing)"

EDITS = (
    _edit(
        id="lines-missing",
        severity="reject",
        issue="required",
        message="the claim has no line",
        fix="Give Claim.item.",
        source="X12 005010X222A1 loop 2400",
        query="SELECT rid, 'Claim.item' AS path, NULL AS other FROM c WHERE line_count = 0",
    ),
    _edit(
        id="charge-not-positive",
        severity="reject",
        issue="value",
        message="the line has no charge, or none above zero",
        fix="Give item.net; only quality data codes (CPT Category II) may be free of charge.",
        source=_BALANCING,
        query="""
            SELECT rid, at_item(position, 'net') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
            WHERE coalesce(net, price * coalesce(units, 1) * coalesce(factor, 1), 0) <= 0
              AND NOT coalesce(regexp_matches(code, '^[0-9]{4}F$'), FALSE)""",
    ),
    _edit(
        id="total-unbalanced",
        severity="reject",
        issue="value",
        message="the total is not the sum of the lines",
        fix="Correct Claim.total or the lines.",
        source=_BALANCING,
        query="""
            SELECT c.rid, 'Claim.total' AS path, NULL AS other FROM c JOIN l USING (rid)
            WHERE c.total IS NOT NULL GROUP BY c.rid, c.total
            HAVING count(l.net) = count(*) AND sum(l.net) <> c.total""",
    ),
    _edit(
        id="total-missing",
        severity="reject",
        issue="required",
        message="the claim has no total, or none above zero",
        fix="Give Claim.total.",
        source="X12 005010X222A1 CLM02",
        query="SELECT rid, 'Claim.total' AS path, NULL AS other FROM c WHERE coalesce(total, 0) <= 0",
    ),
    _edit(
        id="line-unbalanced",
        severity="reject",
        issue="value",
        message="the line's amount is not its units times the price of one",
        fix="Correct item.net, item.quantity or item.unitPrice.",
        source="R4 Claim.item.net: quantity x unitPrice x factor",
        query="""
            SELECT rid, at_item(position, 'net') AS path, at_item(position, 'unitPrice') AS other
            FROM l SEMI JOIN c USING (rid)
            WHERE abs(net - coalesce(units, 1)::DECIMAL(18, 4) * price::DECIMAL(14, 4) * coalesce(factor, 1))
              >= 0.01""",
    ),
    _edit(
        id="units-not-positive",
        severity="reject",
        issue="value",
        message="the line has units that are not above zero",
        fix="Correct item.quantity.",
        source="X12 005010X222A1 SV104",
        query="""
            SELECT rid, at_item(position, 'quantity') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
            WHERE units <= 0""",
    ),
    _edit(
        id="currency-mixed",
        severity="reject",
        issue="conflict",
        message="lines and total are not in one currency",
        fix="Correct the currencies.",
        source="R4 Money.currency; a claim has one total",
        query="""
            SELECT l.rid, at_item(l.position, 'net.currency') AS path, 'Claim.total.currency' AS other
            FROM l JOIN c USING (rid)
            WHERE l.currency <> c.currency""",
    ),
    _edit(
        id="charge-below-fee",
        severity="warn",
        issue="value",
        message="the charge is below what the payer allows, which then pays the charge",
        fix="Raise the charge to the fee schedule.",
        source="lesser-of clauses; 42 CFR 414.21 (Medicare)",
        needs=("fee-schedule", "fee-schedule:payer"),
        query="""
            SELECT l.rid, at_item(l.position, 'net') AS path, NULL AS other FROM l JOIN fee_schedule t
              ON t.code = l.code AND l.service_from BETWEEN t.valid_from AND t.valid_to
            LEFT JOIN payer p ON p.rid = l.rid AND p.payer = t.payer
            WHERE (t.payer IS NULL OR p.rid IS NOT NULL) AND l.net > 0
              AND l.net < t.amount * coalesce(l.units, 1)::DECIMAL(10, 2)""",
    ),
    _edit(
        id="charge-outlier",
        severity="warn",
        issue="value",
        message="the charge is more than ten times what the payer allows",
        fix="Look for a misplaced decimal point or wrong units.",
        source="plausibility",
        needs=("fee-schedule", "fee-schedule:payer"),
        query="""
            SELECT l.rid, at_item(l.position, 'net') AS path, NULL AS other FROM l JOIN fee_schedule t
              ON t.code = l.code AND l.service_from BETWEEN t.valid_from AND t.valid_to
            LEFT JOIN payer p ON p.rid = l.rid AND p.payer = t.payer
            WHERE (t.payer IS NULL OR p.rid IS NOT NULL) AND t.amount > 0
              AND l.net > 10 * t.amount * coalesce(l.units, 1)::DECIMAL(10, 2)""",
    ),
    _edit(
        id="primary-answer-missing",
        severity="deny-likely",
        issue="required",
        message="a secondary payer is billed without the answer of one that comes before it",
        fix="Refer to it as insurance.claimResponse of that payer.",
        source="X12 005010X222A1 loops 2320 and 2430 (coordination of benefits)",
        query="""
            SELECT rid, 'Claim.insurance' AS path, NULL AS other FROM c
            WHERE len(list_filter(insurance,
              lambda x: x.sequence < c.focal.sequence AND x.claimResponse.reference IS NULL)) > 0""",
    ),
)
