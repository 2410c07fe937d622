"""Procedures, their modifiers, places of service, and drugs."""

from __future__ import annotations

from functools import partial

from fhir_gateway.claim_edits.models import Edit

_edit = partial(Edit, family="codes")
_HCPCS = "45 CFR 162.1002; CPT (AMA), HCPCS Level II (CMS)"
_PLACES = "CMS Place of Service Code Set"
#: Places of service that exist (CMS, as of 2025): a list of the public domain, so it is here.
_KNOWN_PLACES = (
    "01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 31 32 33 34 41 42 49 50 51 52 53 "
    "54 55 56 57 58 60 61 62 65 66 71 72 81 99"
).split()
_HELD = "l.service_from BETWEEN t.valid_from AND t.valid_to"


def _lines(where: str, element: str = "productOrService", more: str = "") -> str:
    return f"""
        SELECT l.rid, at_item(l.position, '{element}') AS path, NULL AS other
        FROM l SEMI JOIN c USING (rid) {more} WHERE {where}"""  # noqa: S608  # our own


def _modifiers(where: str, more: str = "") -> str:
    return f"""
        SELECT m.rid, at_item(m.position, 'modifier[' || m.place || ']') AS path, NULL AS other
        FROM modifier m JOIN l ON l.rid = m.rid AND l.position = m.position {more} WHERE {where}"""  # noqa: S608  # our own


EDITS = (
    _edit(
        id="procedure-missing",
        severity="reject",
        issue="required",
        message="the line says in no code that payers take what was done: no CPT or HCPCS, revenue code or NDC",
        fix="Give item.productOrService in CPT or HCPCS (pharmacy: NDC), institutional also item.revenue.",
        source=_HCPCS,
        query=_lines("""
            l.code IS NULL AND NOT (l.kind = 'institutional' AND l.revenue IS NOT NULL)
            AND NOT (l.kind = 'pharmacy' AND len(l.ndcs) > 0) AND coalesce(l.kind, '') NOT IN ('oral', 'vision')"""),
    ),
    _edit(
        id="procedure-format",
        severity="reject",
        issue="code-invalid",
        message="the procedure has not the form of a CPT or HCPCS code",
        fix="Correct the code: five characters.",
        source=_HCPCS,
        query=_lines("l.code IS NOT NULL AND NOT regexp_matches(l.code, '^([0-9]{4}[0-9AFMTU]|[A-V][0-9]{4})$')"),
    ),
    _edit(
        id="procedure-not-active",
        severity="reject",
        issue="code-invalid",
        message="the procedure is no active code on the day of service",
        fix="Take the code of the year of the service.",
        source=_HCPCS,
        needs=("procedure-codes",),
        query=_lines(
            f"l.code IS NOT NULL AND NOT EXISTS (SELECT 1 FROM procedure_codes t WHERE t.code = l.code AND {_HELD})"  # noqa: S608  # our own
        ),
    ),
    _edit(
        id="procedure-sex",
        severity="deny-likely",
        issue="conflict",
        message="the procedure is not one of patients of this sex",
        fix="Check procedure and patient.",
        source="Medicare Code Editor, CMS",
        needs=("procedure-codes", "patient"),
        query=_lines(
            "t.sex <> p.sex",
            more=f"JOIN procedure_codes t ON t.code = l.code AND {_HELD} JOIN person p ON p.member = l.member",
        ),
    ),
    _edit(
        id="procedure-age",
        severity="deny-likely",
        issue="conflict",
        message="the procedure is not one of patients of this age",
        fix="Check procedure, day of service and birth date.",
        source="descriptions of CPT and HCPCS that name ages",
        needs=("procedure-codes", "patient"),
        query=_lines(
            "age(p.birth, l.service_from) < t.age_from OR age(p.birth, l.service_from) > t.age_to",
            more=f"JOIN procedure_codes t ON t.code = l.code AND {_HELD} JOIN person p ON p.member = l.member",
        ),
    ),
    _edit(
        id="modifier-format",
        severity="reject",
        issue="code-invalid",
        message="a modifier is not two letters or digits, or the line has more than four",
        fix="Correct the modifiers.",
        source="X12 005010X222A1 segment SV101",
        query=_modifiers("NOT regexp_matches(m.modifier, '^[A-Z0-9]{2}$') OR m.place > 3"),
    ),
    _edit(
        id="modifier-not-valid",
        severity="reject",
        issue="code-invalid",
        message="there is no such modifier on the day of service",
        fix="Correct the modifier.",
        source=_HCPCS,
        needs=("modifier-codes",),
        query=_modifiers(f"NOT EXISTS (SELECT 1 FROM modifier_codes t WHERE t.modifier = m.modifier AND {_HELD})"),  # noqa: S608  # our own
    ),
    _edit(
        id="modifier-repeated",
        severity="reject",
        issue="duplicate",
        message="the same modifier stands on the line twice",
        fix="Leave one of them out.",
        source="X12 005010X222A1 segment SV101",
        query="""
            SELECT rid, at_item(position, 'modifier[' || place || ']') AS path, NULL AS other
            FROM modifier QUALIFY place > min(place) OVER (PARTITION BY rid, position, modifier)""",
    ),
    _edit(
        id="modifiers-conflict",
        severity="deny-likely",
        issue="conflict",
        message="two modifiers of the line exclude each other",
        fix="26 or TC, 50 or LT/RT, GA or GZ, GY or GA, AS or 80 to 82: one of them.",
        source="Medicare Claims Processing Manual, chapters 12, 13, 30",
        query="""
            SELECT l.rid, at_item(l.position, 'modifier') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
            WHERE list_has_all(l.modifiers, ['26', 'TC']) OR list_has_all(l.modifiers, ['GA', 'GZ'])
              OR list_has_all(l.modifiers, ['GA', 'GY'])
              OR list_contains(l.modifiers, '50') AND list_has_any(l.modifiers, ['LT', 'RT'])
              OR list_contains(l.modifiers, 'AS') AND list_has_any(l.modifiers, ['80', '81', '82'])""",
    ),
    _edit(
        id="modifier-not-allowed",
        severity="deny-likely",
        issue="conflict",
        message="the procedure does not take this modifier",
        fix="Leave it out, or take the one that fits.",
        source="the table that was imported",
        needs=("procedure-modifiers",),
        query=_modifiers(
            f"""l.code IN (SELECT code FROM procedure_modifiers t WHERE {_HELD})
            AND NOT EXISTS (SELECT 1 FROM procedure_modifiers t
              WHERE t.code = l.code AND t.modifier = m.modifier AND {_HELD})"""  # noqa: S608  # our own
        ),
    ),
    _edit(
        id="place-missing",
        severity="reject",
        issue="required",
        message="a line of a professional claim has no place of service",
        fix="Give item.locationCodeableConcept.",
        source=f"{_PLACES}; X12 005010X222A1 CLM05-1",
        query=_lines("l.kind = 'professional' AND l.place IS NULL", "location"),
    ),
    _edit(
        id="place-not-valid",
        severity="reject",
        issue="code-invalid",
        message="there is no such place of service",
        fix="Take a code of the CMS list: two digits.",
        source=_PLACES,
        query=_lines(
            f"l.kind = 'professional' AND l.place IS NOT NULL AND NOT list_contains({_KNOWN_PLACES!r}, l.place)",
            "location",
        ),
    ),
    _edit(
        id="place-not-allowed",
        severity="deny-likely",
        issue="conflict",
        message="the procedure is not paid at this place of service",
        fix="Correct place or procedure.",
        source="the table that was imported",
        needs=("procedure-places",),
        query=_lines(
            f"""l.place IS NOT NULL AND l.code IN (SELECT code FROM procedure_places t WHERE {_HELD})
            AND NOT EXISTS (SELECT 1 FROM procedure_places t
              WHERE t.code = l.code AND t.place = l.place AND {_HELD})""",  # noqa: S608  # our own
            "location",
        ),
    ),
    _edit(
        id="drug-needs-ndc",
        severity="deny-likely",
        issue="required",
        message="a drug (HCPCS J code) is billed without its NDC",
        fix="Add the NDC as a coding of item.productOrService, or as item.detail.",
        source="Deficit Reduction Act of 2005, section 6002 (Medicaid); payer companion guides, loop 2410",
        query=_lines("l.code BETWEEN 'J0000' AND 'J9999' AND coalesce(len(l.ndcs), 0) = 0"),
    ),
    _edit(
        id="ndc-format",
        severity="reject",
        issue="code-invalid",
        message="an NDC is not 11 digits (5-4-2)",
        fix="Fill each part with zeros on its left: 5, 4 and 2 digits.",
        source="X12 005010X222A1 loop 2410 LIN03",
        query=_lines("""
            len(list_filter(l.ndcs,
              lambda x: NOT regexp_matches(x, '^([0-9]{11}|[0-9]{5}-[0-9]{4}-[0-9]{2})$'))) > 0"""),
    ),
)
