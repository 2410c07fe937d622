"""Who bills, who rendered, and who the patient is."""

from __future__ import annotations

#: NPIs of a claim with their elements; those in force only.
_NUMBERS = """
    SELECT rid, 'Claim.provider' AS path, npi FROM c WHERE npi IS NOT NULL
    UNION ALL
    SELECT rid, 'Claim.careTeam[' || position || '].provider', npi FROM team SEMI JOIN c USING (rid)
    WHERE npi IS NOT NULL"""

QUERIES = {
    "npi-check-digit": f"SELECT rid, path, NULL AS other FROM ({_NUMBERS}) WHERE NOT is_npi(npi)",  # noqa: S608  # our own
    "npi-missing": "SELECT rid, 'Claim.provider' AS path, NULL AS other FROM c WHERE npi IS NULL",
    "tin-format": """
        SELECT rid, 'Claim.provider' AS path, NULL AS other FROM c
        WHERE tin IS NOT NULL AND (NOT regexp_matches(tin, '^[0-9]{9}$') OR tin IN ('000000000', '999999999')
          OR tin[1:2] = '00')""",
    "provider-not-on-roster": f"""
        SELECT n.rid, n.path, NULL AS other FROM ({_NUMBERS}) n JOIN c USING (rid)
        WHERE NOT EXISTS (SELECT 1 FROM provider_roster r WHERE r.npi = n.npi
          AND (r.tin IS NULL OR c.tin IS NULL OR replace(r.tin, '-', '') = c.tin)
          AND c.period_from BETWEEN r.valid_from AND r.valid_to)""",  # noqa: S608  # our own
    "taxonomy-not-on-roster": """
        SELECT t.rid, 'Claim.careTeam[' || t.position || '].qualification' AS path, NULL AS other
        FROM team t JOIN c USING (rid)
        WHERE t.taxonomy IS NOT NULL AND EXISTS (
            SELECT 1 FROM provider_roster r WHERE r.npi = t.npi AND r.taxonomy IS NOT NULL
            AND c.period_from BETWEEN r.valid_from AND r.valid_to)
          AND NOT EXISTS (
            SELECT 1 FROM provider_roster r WHERE r.npi = t.npi AND r.taxonomy = upper(t.taxonomy)
            AND c.period_from BETWEEN r.valid_from AND r.valid_to)""",
    "patient-missing": "SELECT rid, 'Claim.patient' AS path, NULL AS other FROM c WHERE member IS NULL",
    "mbi-format": r"""
        SELECT c.rid, 'Claim.patient' AS path, NULL AS other FROM c JOIN patients p USING (member)
        WHERE p.mbi IS NOT NULL AND NOT regexp_matches(replace(upper(p.mbi), '-', ''),
          '^[1-9][AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y][0-9][AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y][0-9][AC-HJKMNP-RT-Y]{2}[0-9]{2}$')""",
    "patient-differs": """
        SELECT rid, 'Claim.patient' AS path, NULL AS other FROM c JOIN person USING (member) WHERE differs""",
    "service-before-birth": """
        SELECT rid, at_item(position, 'serviced') AS path, 'Claim.patient' AS other
        FROM l JOIN person p USING (member) WHERE l.service_from < p.birth""",
}
