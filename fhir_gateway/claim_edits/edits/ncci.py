"""Services that are not paid beside each other, in such numbers, or as part of another (NCCI, global surgery)."""

from __future__ import annotations

#: Modifiers that lift a pair whose indicator is 1 (NCCI Policy Manual, chapter I, section E).
_LIFTING = (
    "E1 E2 E3 E4 FA F1 F2 F3 F4 F5 F6 F7 F8 F9 TA T1 T2 T3 T4 T5 T6 T7 T8 T9 LT RT LC LD RC LM RI 24 25 57 58 78 79 27 "
    "59 91 XE XS XP XU"
).split()

#: Lines of a batch that are column 2 of a pair, beside a line of the same provider, patient and day that is column 1.
_PAIRS = """
    WITH today AS (
      SELECT DISTINCT member, npi, service_from FROM b WHERE code IS NOT NULL AND npi IS NOT NULL
    ), day AS (
      SELECT * FROM billed SEMI JOIN today USING (member, npi, service_from) WHERE code IS NOT NULL
    ), pairs AS (
      SELECT two.rid, two.position, two.kind, two.code AS code2, one.code AS code1, two.service_from,
        two.modifiers AS modifiers2, one.modifiers AS modifiers1,
        CASE WHEN one.rid = two.rid THEN at_item(one.position, 'productOrService') END AS other
      FROM day two JOIN day one USING (member, npi, service_from)
      WHERE two.current AND one.code <> two.code AND (one.rid = two.rid OR NOT one.denied)
    ), wanted AS (
      SELECT DISTINCT code1, code2 FROM pairs
    ), known AS (
      SELECT t.* FROM ncci_ptp t SEMI JOIN wanted w ON w.code1 = t.column1 AND w.code2 = t.column2
    )
    SELECT p.rid, at_item(p.position, 'productOrService') AS path, p.other
    FROM pairs p JOIN known t ON t.column1 = p.code1 AND t.column2 = p.code2
      AND p.service_from BETWEEN t.valid_from AND t.valid_to AND coalesce(upper(p.kind) = t.setting, TRUE)"""


def _units(mai: str, by: str) -> str:
    """Lines that are more than the units of a table: each line, or all lines of a day."""
    return f"""
        WITH limits AS (
          SELECT t.* FROM ncci_mue t SEMI JOIN b ON b.code = t.code WHERE t.mai IN ({mai})
        ), counted AS (
          SELECT b.rid, b.position, b.code, b.service_from, b.kind, b.member, b.npi, {by} AS units FROM b
          WHERE b.code IS NOT NULL
        )
        SELECT n.rid, at_item(n.position, 'quantity') AS path, NULL AS other FROM counted n JOIN limits t
          ON t.code = n.code AND n.service_from BETWEEN t.valid_from AND t.valid_to
          AND coalesce(upper(n.kind) = t.setting, TRUE)
        WHERE n.units > t.units"""  # noqa: S608  # our own


#: Units of a day of the same member, provider and code, whatever the claim.
_BY_DAY = """(SELECT sum(coalesce(o.units, 1)) FROM billed o WHERE o.member = b.member AND o.npi = b.npi
            AND o.code = b.code AND o.service_from = b.service_from AND (o.rid = b.rid OR NOT o.denied))"""


def _after_surgery(later: str, days: str, modifiers: str) -> str:
    """Lines ``later`` within the global days of an operation by the same provider, without one of the modifiers."""
    return f"""
        WITH surgery AS (
          SELECT s.*, t.days FROM billed s JOIN global_periods t ON t.code = s.code
            AND s.service_from BETWEEN t.valid_from AND t.valid_to
        )
        SELECT b.rid, at_item(b.position, 'modifier') AS path,
          CASE WHEN s.rid = b.rid THEN at_item(s.position, 'productOrService') END AS other
        FROM b JOIN surgery s ON s.member = b.member AND s.npi = b.npi AND (s.rid = b.rid OR NOT s.denied)
        WHERE {later} AND {days} AND NOT list_has_any(b.modifiers, {modifiers})"""  # noqa: S608  # our own


QUERIES = {
    "ncci-ptp-never": f"{_PAIRS} WHERE t.indicator = 0",
    "ncci-ptp-modifier": f"""{_PAIRS} WHERE t.indicator = 1 AND NOT list_has_any(p.modifiers2, {_LIFTING!r})
        AND NOT list_has_any(p.modifiers1, {_LIFTING!r})""",
    "ncci-mue-line": _units("1", "coalesce(b.units, 1)"),
    "ncci-mue-day": _units("2", _BY_DAY),
    "ncci-mue-day-clinical": _units("3", _BY_DAY),
    "add-on-alone": """
        WITH adding AS (
          SELECT b.rid, b.position, b.member, b.npi, b.service_from, t.primary_code FROM b JOIN add_on_codes t
            ON t.code = b.code AND b.service_from BETWEEN t.valid_from AND t.valid_to
        )
        SELECT a.rid, at_item(a.position, 'productOrService') AS path, NULL AS other
        FROM adding a LEFT JOIN billed o ON o.member = a.member AND o.npi = a.npi
          AND o.service_from = a.service_from AND o.code = a.primary_code AND (o.rid = a.rid OR NOT o.denied)
        GROUP BY a.rid, a.position HAVING count(o.rid) = 0""",
    "global-same-day": _after_surgery("is_visit(b.code)", "b.service_from = s.service_from", "['25', '57', '24']"),
    "global-follow-up": _after_surgery(
        "is_visit(b.code)",
        "b.service_from > s.service_from AND b.service_from <= s.service_from + s.days",
        "['24']",
    ),
    "global-further-surgery": _after_surgery(
        "b.code IN (SELECT code FROM global_periods)",
        "b.service_from > s.service_from AND b.service_from <= s.service_from + s.days",
        "['58', '78', '79']",
    ),
}
