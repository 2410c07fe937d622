"""What was billed before, and claims that take the place of others."""

from __future__ import annotations

from functools import partial

from fhir_gateway.claim_edits.models import Edit

_edit = partial(Edit, family="duplicates")
_MANUAL = "Medicare Claims Processing Manual, chapter 1, section 120"
#: Modifiers that say it was done again.
_AGAIN = "['76', '77', '91', '59', 'XE', 'XP', 'XS', 'XU', '50', 'LT', 'RT', 'GQ']"

EDITS = (
    _edit(
        id="duplicate-line",
        severity="deny-likely",
        issue="duplicate",
        message="the claim has the same service of the same day twice",
        fix="Give the units on one line, or modifier 76, 77 or 91 if it was done again.",
        source=_MANUAL,
        query=f"""
            SELECT rid, at_item(position, 'productOrService') AS path,
              at_item(min(position) OVER same, 'productOrService') AS other
            FROM b WHERE code IS NOT NULL AND NOT list_has_any(modifiers, {_AGAIN})
            WINDOW same AS (PARTITION BY rid, code, modifier_text, service_from, npi)
            QUALIFY position > min(position) OVER same""",  # noqa: S608  # our own
    ),
    _edit(
        id="duplicate-service",
        severity="deny-likely",
        issue="duplicate",
        message="another claim bills the same service of the same patient, day, provider and modifiers",
        fix="Withdraw it; a correction is a claim of frequency 7 that names the original.",
        source=_MANUAL,
        needs=("history",),
        query="""
            SELECT DISTINCT b.rid, at_item(b.position, 'productOrService') AS path, NULL AS other
            FROM b JOIN billed o ON o.member = b.member AND o.code = b.code AND o.service_from = b.service_from
              AND o.npi = b.npi AND o.modifier_text = b.modifier_text AND o.rid <> b.rid AND NOT o.denied
            WHERE NOT o.current OR (o.created, o.key) < (b.created, b.key)""",
    ),
    _edit(
        id="replacement-names-original",
        severity="reject",
        issue="required",
        message="a claim that replaces or voids another names none",
        fix="Give the payer's control number of the original as Claim.related.reference, relationship prior.",
        source="X12 005010X222A1 and X223A2 REF*F8",
        query="""
            SELECT rid, 'Claim.related' AS path, NULL AS other FROM c
            WHERE frequency IN ('7', '8') AND len(list_filter(coalesce(related, []),
              lambda x: coalesce(x.reference.value, x.claim.reference, x.claim.identifier.value) IS NOT NULL)) = 0""",
    ),
    _edit(
        id="original-unknown",
        severity="warn",
        issue="not-found",
        message="the claim that is replaced or voided is none that is known of this patient",
        fix="Compare the number with the payer's remittance.",
        source="X12 005010X222A1 and X223A2 REF*F8",
        needs=("history",),
        query="""
            SELECT rid, 'Claim.related' AS path, NULL AS other FROM c
            WHERE frequency IN ('7', '8') AND getvariable('history') AND rid NOT IN (SELECT "by" FROM superseded)
              AND len(list_filter(coalesce(related, []),
                lambda x: coalesce(x.reference.value, x.claim.reference, x.claim.identifier.value) IS NOT NULL)) > 0""",
    ),
)
