"""What was billed before, and claims that take the place of others."""

from __future__ import annotations

#: Modifiers that say it was done again.
_AGAIN = "['76', '77', '91', '59', 'XE', 'XP', 'XS', 'XU', '50', 'LT', 'RT', 'GQ']"

QUERIES = {
    "duplicate-line": f"""
        SELECT rid, at_item(position, 'productOrService') AS path,
          at_item(min(position) OVER same, 'productOrService') AS other
        FROM b WHERE code IS NOT NULL AND NOT list_has_any(modifiers, {_AGAIN})
        WINDOW same AS (PARTITION BY rid, code, modifier_text, service_from, npi)
        QUALIFY position > min(position) OVER same""",  # noqa: S608  # our own
    "duplicate-service": """
        SELECT DISTINCT b.rid, at_item(b.position, 'productOrService') AS path, NULL AS other
        FROM b JOIN billed o ON o.member = b.member AND o.code = b.code AND o.service_from = b.service_from
          AND o.npi = b.npi AND o.modifier_text = b.modifier_text AND o.rid <> b.rid AND NOT o.denied
        WHERE NOT o.current OR (o.created, o.key) < (b.created, b.key)""",
    "replacement-names-original": """
        SELECT rid, 'Claim.related' AS path, NULL AS other FROM c
        WHERE frequency IN ('7', '8') AND len(list_filter(coalesce(related, []),
          lambda x: coalesce(x.reference.value, x.claim.reference, x.claim.identifier.value) IS NOT NULL)) = 0""",
    "original-unknown": """
        SELECT rid, 'Claim.related' AS path, NULL AS other FROM c
        WHERE frequency IN ('7', '8') AND getvariable('history') AND rid NOT IN (SELECT "by" FROM superseded)
          AND len(list_filter(coalesce(related, []),
            lambda x: coalesce(x.reference.value, x.claim.reference, x.claim.identifier.value) IS NOT NULL)) > 0""",
}
