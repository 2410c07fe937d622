"""Procedures, their modifiers, places of service, and drugs."""

from __future__ import annotations

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


QUERIES = {
    "procedure-missing": _lines("""
        l.code IS NULL AND NOT (l.kind = 'institutional' AND l.revenue IS NOT NULL)
        AND NOT (l.kind = 'pharmacy' AND len(l.ndcs) > 0) AND coalesce(l.kind, '') NOT IN ('oral', 'vision')"""),
    "procedure-format": _lines(
        "l.code IS NOT NULL AND NOT regexp_matches(l.code, '^([0-9]{4}[0-9AFMTU]|[A-V][0-9]{4})$')"
    ),
    "procedure-not-active": _lines(
        f"l.code IS NOT NULL AND NOT EXISTS (SELECT 1 FROM procedure_codes t WHERE t.code = l.code AND {_HELD})"  # noqa: S608  # our own
    ),
    "procedure-sex": _lines(
        "t.sex <> p.sex",
        more=f"JOIN procedure_codes t ON t.code = l.code AND {_HELD} JOIN person p ON p.member = l.member",
    ),
    "procedure-age": _lines(
        "age(p.birth, l.service_from) < t.age_from OR age(p.birth, l.service_from) > t.age_to",
        more=f"JOIN procedure_codes t ON t.code = l.code AND {_HELD} JOIN person p ON p.member = l.member",
    ),
    "modifier-format": _modifiers("NOT regexp_matches(m.modifier, '^[A-Z0-9]{2}$') OR m.place > 3"),
    "modifier-not-valid": _modifiers(
        f"NOT EXISTS (SELECT 1 FROM modifier_codes t WHERE t.modifier = m.modifier AND {_HELD})"  # noqa: S608  # our own
    ),
    "modifier-repeated": """
        SELECT rid, at_item(position, 'modifier[' || place || ']') AS path, NULL AS other
        FROM modifier QUALIFY place > min(place) OVER (PARTITION BY rid, position, modifier)""",
    "modifiers-conflict": """
        SELECT l.rid, at_item(l.position, 'modifier') AS path, NULL AS other FROM l SEMI JOIN c USING (rid)
        WHERE list_has_all(l.modifiers, ['26', 'TC']) OR list_has_all(l.modifiers, ['GA', 'GZ'])
          OR list_has_all(l.modifiers, ['GA', 'GY'])
          OR list_contains(l.modifiers, '50') AND list_has_any(l.modifiers, ['LT', 'RT'])
          OR list_contains(l.modifiers, 'AS') AND list_has_any(l.modifiers, ['80', '81', '82'])""",
    "modifier-not-allowed": _modifiers(
        f"""l.code IN (SELECT code FROM procedure_modifiers t WHERE {_HELD})
        AND NOT EXISTS (SELECT 1 FROM procedure_modifiers t
          WHERE t.code = l.code AND t.modifier = m.modifier AND {_HELD})"""  # noqa: S608  # our own
    ),
    "place-missing": _lines("l.kind = 'professional' AND l.place IS NULL", "location"),
    "place-not-valid": _lines(
        f"l.kind = 'professional' AND l.place IS NOT NULL AND NOT list_contains({_KNOWN_PLACES!r}, l.place)",
        "location",
    ),
    "place-not-allowed": _lines(
        f"""l.place IS NOT NULL AND l.code IN (SELECT code FROM procedure_places t WHERE {_HELD})
        AND NOT EXISTS (SELECT 1 FROM procedure_places t
          WHERE t.code = l.code AND t.place = l.place AND {_HELD})""",  # noqa: S608  # our own
        "location",
    ),
    "drug-needs-ndc": _lines("l.code BETWEEN 'J0000' AND 'J9999' AND coalesce(len(l.ndcs), 0) = 0"),
    "ndc-format": _lines("""
        len(list_filter(l.ndcs,
          lambda x: NOT regexp_matches(x, '^([0-9]{11}|[0-9]{5}-[0-9]{4}-[0-9]{2})$'))) > 0"""),
}
