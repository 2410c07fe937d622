"""Diagnoses, revenue codes, and the type of bill."""

from __future__ import annotations

_HELD = "c.period_from BETWEEN t.valid_from AND t.valid_to"


def _diagnoses(where: str, table: str, condition: str = "TRUE") -> str:
    return f"""
        SELECT d.rid, 'Claim.diagnosis[' || d.position || '].diagnosis' AS path, NULL AS other
        FROM diagnosis d JOIN c USING (rid) JOIN {table} t ON t.code = d.code AND {_HELD}
        {"LEFT JOIN person p USING (member)" if "p." in where else ""} WHERE {condition} AND {where}"""  # noqa: S608  # our own


def _of_diagnosis(where: str, more: str = "") -> str:
    return f"""
        SELECT d.rid, 'Claim.diagnosis[' || d.position || '].diagnosis' AS path, NULL AS other
        FROM diagnosis d JOIN c USING (rid) {more} WHERE {where}"""  # noqa: S608  # our own


QUERIES = {
    "diagnosis-missing": """
        SELECT rid, 'Claim.diagnosis' AS path, NULL AS other FROM c
        WHERE kind IN ('professional', 'institutional')
          AND rid NOT IN (SELECT rid FROM diagnosis WHERE code IS NOT NULL)""",
    "diagnosis-format": _of_diagnosis(
        "d.code IS NOT NULL AND NOT regexp_matches(d.code, '^[A-Z][0-9][0-9A-Z][0-9A-Z]{0,4}$')"
    ),
    "diagnosis-not-valid": _of_diagnosis(
        f"d.code IS NOT NULL AND NOT EXISTS (SELECT 1 FROM icd10cm t WHERE t.code = d.code AND {_HELD})"  # noqa: S608  # our own
    ),
    "diagnosis-not-specific": _diagnoses("NOT t.billable", "icd10cm"),
    "diagnosis-repeated": """
        SELECT rid, 'Claim.diagnosis[' || position || '].diagnosis' AS path,
          'Claim.diagnosis[' || min(position) OVER same || '].diagnosis' AS other
        FROM diagnosis SEMI JOIN c USING (rid) WHERE code IS NOT NULL
        WINDOW same AS (PARTITION BY rid, code) QUALIFY position > min(position) OVER same""",
    "diagnoses-too-many": """
        SELECT rid, 'Claim.diagnosis' AS path, NULL AS other FROM c
        WHERE diagnosis_count > CASE kind WHEN 'professional' THEN 12 WHEN 'institutional' THEN 25 END""",
    "external-cause-first": _of_diagnosis("d.is_principal AND d.code[1] IN ('V', 'W', 'X', 'Y')"),
    "manifestation-principal": _diagnoses("t.manifestation", "diagnosis_edits", "d.is_principal"),
    "diagnosis-unacceptable-principal": _diagnoses("t.unacceptable_principal", "diagnosis_edits", "d.is_principal"),
    "diagnosis-sex": _diagnoses("t.sex <> p.sex", "diagnosis_edits"),
    "diagnosis-age": _diagnoses(
        "(age(p.birth, c.period_from) < t.age_from OR age(p.birth, c.period_from) > t.age_to)", "diagnosis_edits"
    ),
    "diagnosis-pointer-missing": """
        SELECT l.rid, at_item(l.position, 'diagnosisSequence') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
        WHERE l.kind = 'professional' AND coalesce(len(l.pointers), 0) = 0""",
    "diagnosis-pointer": """
        SELECT l.rid, at_item(l.position, 'diagnosisSequence') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
        LEFT JOIN (SELECT rid, list(sequence) AS known FROM diagnosis GROUP BY rid) k ON k.rid = l.rid
        WHERE len(l.pointers) > 0 AND (len(l.pointers) > 4 AND l.kind = 'professional'
          OR NOT list_has_all(coalesce(k.known, []), l.pointers))""",
    "bill-type-missing": """
        SELECT rid, 'Claim.supportingInfo' AS path, NULL AS other FROM c
        WHERE kind = 'institutional' AND bill IS NULL""",
    "bill-type-format": """
        SELECT rid, 'Claim.supportingInfo' AS path, NULL AS other FROM c
        WHERE kind = 'institutional' AND NOT regexp_matches(bill, '^0?[1-8][1-9][0-9A-Z]$')""",
    "frequency-code": """
        SELECT rid, 'Claim.supportingInfo' AS path, NULL AS other FROM c
        WHERE kind IN ('professional', 'institutional') AND frequency IS NOT NULL
          AND NOT regexp_matches(frequency,
            CASE kind WHEN 'institutional' THEN '^[0-57-9A-QXYZ]$' ELSE '^[178]$' END)""",
    "revenue-missing": """
        SELECT rid, at_item(position, 'revenue') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
        WHERE kind = 'institutional' AND revenue IS NULL""",
    "revenue-not-valid": """
        SELECT l.rid, at_item(l.position, 'revenue') AS path, NULL AS other FROM l
        WHERE l.revenue IS NOT NULL AND NOT EXISTS (SELECT 1 FROM revenue_codes t
          WHERE t.revenue = l.revenue AND l.service_from BETWEEN t.valid_from AND t.valid_to)""",
    "revenue-needs-procedure": """
        SELECT l.rid, at_item(l.position, 'productOrService') AS path, at_item(l.position, 'revenue') AS other
        FROM l JOIN c USING (rid) JOIN revenue_codes t
          ON t.revenue = l.revenue AND l.service_from BETWEEN t.valid_from AND t.valid_to
        WHERE t.procedure_required AND l.code IS NULL AND NOT coalesce(c.is_inpatient, FALSE)""",
    "revenue-procedure": """
        WITH ranges AS (
          SELECT l.rid, l.position, bool_or(l.code BETWEEN t.first AND t.last) AS fits
          FROM l JOIN revenue_procedures t
            ON t.revenue = l.revenue AND l.service_from BETWEEN t.valid_from AND t.valid_to
          WHERE l.code IS NOT NULL GROUP BY ALL
        )
        SELECT rid, at_item(position, 'productOrService') AS path, at_item(position, 'revenue') AS other
        FROM ranges WHERE NOT fits""",
}
