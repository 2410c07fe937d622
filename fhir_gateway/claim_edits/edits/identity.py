"""Who bills, who rendered, and who the patient is."""

from __future__ import annotations

from functools import partial

from fhir_gateway.claim_edits.models import Edit

_edit = partial(Edit, family="identity")
_NPI = "45 CFR 162.406; CMS, Requirements for National Provider Identifier and NPI Check Digit"

#: NPIs of a claim with their elements; those in force only.
_NUMBERS = """
    SELECT rid, 'Claim.provider' AS path, npi FROM c WHERE npi IS NOT NULL
    UNION ALL
    SELECT rid, 'Claim.careTeam[' || position || '].provider', npi FROM team SEMI JOIN c USING (rid)
    WHERE npi IS NOT NULL"""

EDITS = (
    _edit(
        id="npi-check-digit",
        severity="reject",
        issue="value",
        message="the NPI is not ten digits that begin with 1 or 2 and end in their check digit",
        fix="Compare the number with NPPES.",
        source=_NPI,
        query=f"SELECT rid, path, NULL AS other FROM ({_NUMBERS}) WHERE NOT is_npi(npi)",  # noqa: S608  # our own
    ),
    _edit(
        id="npi-missing",
        severity="reject",
        issue="required",
        message="the billing provider is named by no NPI, and by no reference to one with an NPI",
        fix="Give Claim.provider an identifier of the system http://hl7.org/fhir/sid/us-npi.",
        source=_NPI,
        query="SELECT rid, 'Claim.provider' AS path, NULL AS other FROM c WHERE npi IS NULL",
    ),
    _edit(
        id="tin-format",
        severity="reject",
        issue="value",
        message="the billing provider's tax number is not nine digits, or is a filler",
        fix="Give the EIN or SSN that the payer has on file.",
        source="IRS Publication 1635",
        query="""
            SELECT rid, 'Claim.provider' AS path, NULL AS other FROM c
            WHERE tin IS NOT NULL AND (NOT regexp_matches(tin, '^[0-9]{9}$') OR tin IN ('000000000', '999999999')
              OR tin[1:2] = '00')""",
    ),
    _edit(
        id="provider-not-on-roster",
        severity="deny-likely",
        issue="business-rule",
        message="this NPI is not on the roster, or not under the tax number that bills",
        fix="Enrol the provider under the tax number, or bill under the one on the roster.",
        source="the roster that was imported",
        needs=("provider-roster",),
        query=f"""
            SELECT n.rid, n.path, NULL AS other FROM ({_NUMBERS}) n JOIN c USING (rid)
            WHERE NOT EXISTS (SELECT 1 FROM provider_roster r WHERE r.npi = n.npi
              AND (r.tin IS NULL OR c.tin IS NULL OR replace(r.tin, '-', '') = c.tin)
              AND c.period_from BETWEEN r.valid_from AND r.valid_to)""",  # noqa: S608  # our own
    ),
    _edit(
        id="taxonomy-not-on-roster",
        severity="warn",
        issue="business-rule",
        message="the roster has this provider with another taxonomy",
        fix="Give the taxonomy that the payer has on file.",
        source="the roster that was imported",
        needs=("provider-roster",),
        query="""
            SELECT t.rid, 'Claim.careTeam[' || t.position || '].qualification' AS path, NULL AS other
            FROM team t JOIN c USING (rid)
            WHERE t.taxonomy IS NOT NULL AND EXISTS (
                SELECT 1 FROM provider_roster r WHERE r.npi = t.npi AND r.taxonomy IS NOT NULL
                AND c.period_from BETWEEN r.valid_from AND r.valid_to)
              AND NOT EXISTS (
                SELECT 1 FROM provider_roster r WHERE r.npi = t.npi AND r.taxonomy = upper(t.taxonomy)
                AND c.period_from BETWEEN r.valid_from AND r.valid_to)""",
    ),
    _edit(
        id="patient-missing",
        severity="reject",
        issue="required",
        message="the patient is named by no reference to a Patient",
        fix="Refer to the Patient.",
        source="R4 Claim.patient; X12 005010X222A1 loop 2010BA",
        query="SELECT rid, 'Claim.patient' AS path, NULL AS other FROM c WHERE member IS NULL",
    ),
    _edit(
        id="mbi-format",
        severity="reject",
        issue="value",
        message="the patient's Medicare number has not the form of an MBI",
        fix="Take the number from the card: 11 characters without S, L, O, I, B and Z.",
        source="CMS, Understanding the Medicare Beneficiary Identifier format",
        query=r"""
            SELECT c.rid, 'Claim.patient' AS path, NULL AS other FROM c JOIN patients p USING (member)
            WHERE p.mbi IS NOT NULL AND NOT regexp_matches(replace(upper(p.mbi), '-', ''),
              '^[1-9][AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y][0-9][AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y][0-9][AC-HJKMNP-RT-Y]{2}[0-9]{2}$')""",
    ),
    _edit(
        id="patient-differs",
        severity="deny-likely",
        issue="conflict",
        message="sources know the patient with different birth dates or sexes; the payer will match one of them",
        fix="Compare with the payer's eligibility answer and correct the other.",
        source="X12 005010X279A1 (eligibility): birth date and sex identify the member",
        query="SELECT rid, 'Claim.patient' AS path, NULL AS other FROM c JOIN person USING (member) WHERE differs",
    ),
    _edit(
        id="service-before-birth",
        severity="reject",
        issue="value",
        message="the service was before the patient was born",
        fix="Correct the day of service or the patient.",
        source="X12 005010X222A1: date of birth not after the date of service",
        needs=("patient",),
        query="""
            SELECT rid, at_item(position, 'serviced') AS path, 'Claim.patient' AS other
            FROM l JOIN person p USING (member) WHERE l.service_from < p.birth""",
    ),
)
