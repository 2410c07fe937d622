"""Diagnoses, revenue codes, and the type of bill."""

from __future__ import annotations

from functools import partial

from fhir_gateway.claim_edits.models import Edit

_edit = partial(Edit, family="codes")
_GUIDELINES = "ICD-10-CM Official Guidelines for Coding and Reporting"
_MCE = "Medicare Code Editor, CMS"
_UB = "NUBC UB-04 Data Specifications Manual"
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


EDITS = (
    _edit(
        id="diagnosis-missing",
        severity="reject",
        issue="required",
        message="the claim has no diagnosis in ICD-10-CM",
        fix="Give the diagnoses in http://hl7.org/fhir/sid/icd-10-cm; references to Conditions are not enough.",
        source="45 CFR 162.1002; X12 005010X222A1 and X223A2 segment HI",
        query="""
            SELECT rid, 'Claim.diagnosis' AS path, NULL AS other FROM c
            WHERE kind IN ('professional', 'institutional')
              AND rid NOT IN (SELECT rid FROM diagnosis WHERE code IS NOT NULL)""",
    ),
    _edit(
        id="diagnosis-format",
        severity="reject",
        issue="code-invalid",
        message="a diagnosis has not the form of an ICD-10-CM code",
        fix="Correct the code.",
        source=_GUIDELINES,
        query=_of_diagnosis("d.code IS NOT NULL AND NOT regexp_matches(d.code, '^[A-Z][0-9][0-9A-Z][0-9A-Z]{0,4}$')"),
    ),
    _edit(
        id="diagnosis-not-valid",
        severity="reject",
        issue="code-invalid",
        message="the diagnosis is no valid code on the day of service",
        fix="Take the code of the fiscal year of the service (1 October to 30 September).",
        source="ICD-10-CM code files, CMS/NCHS",
        needs=("icd10cm",),
        query=_of_diagnosis(
            f"d.code IS NOT NULL AND NOT EXISTS (SELECT 1 FROM icd10cm t WHERE t.code = d.code AND {_HELD})"  # noqa: S608  # our own
        ),
    ),
    _edit(
        id="diagnosis-not-specific",
        severity="reject",
        issue="code-invalid",
        message="the diagnosis is a header: there are more specific codes below it",
        fix="Code to the highest number of characters there is.",
        source=f"{_GUIDELINES}, I.B.2",
        needs=("icd10cm",),
        query=_diagnoses("NOT t.billable", "icd10cm"),
    ),
    _edit(
        id="diagnosis-repeated",
        severity="warn",
        issue="duplicate",
        message="the same diagnosis stands on the claim twice",
        fix="Leave one of them out.",
        source=f"{_GUIDELINES}, I.B.8",
        query="""
            SELECT rid, 'Claim.diagnosis[' || position || '].diagnosis' AS path,
              'Claim.diagnosis[' || min(position) OVER same || '].diagnosis' AS other
            FROM diagnosis SEMI JOIN c USING (rid) WHERE code IS NOT NULL
            WINDOW same AS (PARTITION BY rid, code) QUALIFY position > min(position) OVER same""",
    ),
    _edit(
        id="diagnoses-too-many",
        severity="reject",
        issue="invalid",
        message="the claim has more diagnoses than its form takes: 12 professional, 25 institutional",
        fix="Leave out what is least important, or split the claim.",
        source="X12 005010X222A1 and X223A2 segment HI",
        query="""
            SELECT rid, 'Claim.diagnosis' AS path, NULL AS other FROM c
            WHERE diagnosis_count > CASE kind WHEN 'professional' THEN 12 WHEN 'institutional' THEN 25 END""",
    ),
    _edit(
        id="external-cause-first",
        severity="reject",
        issue="business-rule",
        message="an external cause (V00 to Y99) is never the first diagnosis",
        fix="Put the injury or condition first.",
        source=f"{_GUIDELINES}, I.C.20.a.6",
        query=_of_diagnosis("d.is_principal AND d.code[1] IN ('V', 'W', 'X', 'Y')"),
    ),
    _edit(
        id="manifestation-principal",
        severity="reject",
        issue="business-rule",
        message="a manifestation is never the first diagnosis",
        fix="Put the underlying disease first.",
        source=f"{_MCE}; {_GUIDELINES}, I.A.13",
        needs=("diagnosis-edits",),
        query=_diagnoses("t.manifestation", "diagnosis_edits", "d.is_principal"),
    ),
    _edit(
        id="diagnosis-unacceptable-principal",
        severity="deny-likely",
        issue="business-rule",
        message="this diagnosis is not accepted as the principal one",
        fix="Put the reason for the service first.",
        source=_MCE,
        needs=("diagnosis-edits",),
        query=_diagnoses("t.unacceptable_principal", "diagnosis_edits", "d.is_principal"),
    ),
    _edit(
        id="diagnosis-sex",
        severity="deny-likely",
        issue="conflict",
        message="the diagnosis is not one of patients of this sex",
        fix="Check diagnosis and patient.",
        source=_MCE,
        needs=("diagnosis-edits", "patient"),
        query=_diagnoses("t.sex <> p.sex", "diagnosis_edits"),
    ),
    _edit(
        id="diagnosis-age",
        severity="deny-likely",
        issue="conflict",
        message="the diagnosis is not one of patients of this age",
        fix="Check diagnosis, day of service and birth date.",
        source=_MCE,
        needs=("diagnosis-edits", "patient"),
        query=_diagnoses(
            "(age(p.birth, c.period_from) < t.age_from OR age(p.birth, c.period_from) > t.age_to)", "diagnosis_edits"
        ),
    ),
    _edit(
        id="diagnosis-pointer-missing",
        severity="reject",
        issue="required",
        message="the line points to no diagnosis",
        fix="Name the diagnosis that the service was for in item.diagnosisSequence.",
        source="X12 005010X222A1 segment SV107",
        query="""
            SELECT l.rid, at_item(l.position, 'diagnosisSequence') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
            WHERE l.kind = 'professional' AND coalesce(len(l.pointers), 0) = 0""",
    ),
    _edit(
        id="diagnosis-pointer",
        severity="reject",
        issue="invalid",
        message="the line points to a diagnosis that the claim does not have, or to more than four",
        fix="Correct item.diagnosisSequence.",
        source="X12 005010X222A1 segment SV107",
        query="""
            SELECT l.rid, at_item(l.position, 'diagnosisSequence') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
            LEFT JOIN (SELECT rid, list(sequence) AS known FROM diagnosis GROUP BY rid) k ON k.rid = l.rid
            WHERE len(l.pointers) > 0 AND (len(l.pointers) > 4 AND l.kind = 'professional'
              OR NOT list_has_all(coalesce(k.known, []), l.pointers))""",
    ),
    _edit(
        id="bill-type-missing",
        severity="reject",
        issue="required",
        message="an institutional claim says no type of bill",
        fix="Give it as supportingInfo of the category typeofbill.",
        source=_UB,
        query="""
            SELECT rid, 'Claim.supportingInfo' AS path, NULL AS other FROM c
            WHERE kind = 'institutional' AND bill IS NULL""",
    ),
    _edit(
        id="bill-type-format",
        severity="reject",
        issue="code-invalid",
        message="the type of bill is not a facility (1 to 8), a classification (1 to 9) and a frequency",
        fix="Correct the type of bill.",
        source=_UB,
        query="""
            SELECT rid, 'Claim.supportingInfo' AS path, NULL AS other FROM c
            WHERE kind = 'institutional' AND NOT regexp_matches(bill, '^0?[1-8][1-9][0-9A-Z]$')""",
    ),
    _edit(
        id="frequency-code",
        severity="reject",
        issue="code-invalid",
        message="the frequency of the claim is none that payers take",
        fix="1 original, 2 to 4 interim, 5 late charges, 7 replacement, 8 void; institutional also 0, 9 and letters.",
        source="X12 element 1325; NUBC frequency of bill",
        query="""
            SELECT rid, 'Claim.supportingInfo' AS path, NULL AS other FROM c
            WHERE kind IN ('professional', 'institutional') AND frequency IS NOT NULL
              AND NOT regexp_matches(frequency,
                CASE kind WHEN 'institutional' THEN '^[0-57-9A-QXYZ]$' ELSE '^[178]$' END)""",
    ),
    _edit(
        id="revenue-missing",
        severity="reject",
        issue="required",
        message="a line of an institutional claim has no revenue code",
        fix="Give item.revenue.",
        source="X12 005010X223A2 segment SV201",
        query="""
            SELECT rid, at_item(position, 'revenue') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
            WHERE kind = 'institutional' AND revenue IS NULL""",
    ),
    _edit(
        id="revenue-not-valid",
        severity="reject",
        issue="code-invalid",
        message="the revenue code is not four digits, or not one that holds on the day of service",
        fix="Correct the revenue code.",
        source=_UB,
        needs=("revenue-codes",),
        query="""
            SELECT l.rid, at_item(l.position, 'revenue') AS path, NULL AS other FROM l
            WHERE l.revenue IS NOT NULL AND NOT EXISTS (SELECT 1 FROM revenue_codes t
              WHERE t.revenue = l.revenue AND l.service_from BETWEEN t.valid_from AND t.valid_to)""",
    ),
    _edit(
        id="revenue-needs-procedure",
        severity="deny-likely",
        issue="required",
        message="an outpatient line with this revenue code needs a procedure",
        fix="Give item.productOrService in CPT or HCPCS.",
        source="Integrated Outpatient Code Editor, CMS, edit 48",
        needs=("revenue-codes",),
        query="""
            SELECT l.rid, at_item(l.position, 'productOrService') AS path, at_item(l.position, 'revenue') AS other
            FROM l JOIN c USING (rid) JOIN revenue_codes t
              ON t.revenue = l.revenue AND l.service_from BETWEEN t.valid_from AND t.valid_to
            WHERE t.procedure_required AND l.code IS NULL AND NOT coalesce(c.is_inpatient, FALSE)""",
    ),
    _edit(
        id="revenue-procedure",
        severity="deny-likely",
        issue="conflict",
        message="the procedure does not go with the revenue code",
        fix="Correct one of the two.",
        source="the table that was imported",
        needs=("revenue-procedures",),
        query="""
            WITH ranges AS (
              SELECT l.rid, l.position, bool_or(l.code BETWEEN t.first AND t.last) AS fits
              FROM l JOIN revenue_procedures t
                ON t.revenue = l.revenue AND l.service_from BETWEEN t.valid_from AND t.valid_to
              WHERE l.code IS NOT NULL GROUP BY ALL
            )
            SELECT rid, at_item(position, 'productOrService') AS path, at_item(position, 'revenue') AS other
            FROM ranges WHERE NOT fits""",
    ),
)
