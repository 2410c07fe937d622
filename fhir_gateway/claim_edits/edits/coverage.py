"""How often, for what and with whose leave a payer pays."""

from __future__ import annotations

#: Limits of Medicare by HCPCS Level II codes, which are public: (procedure, earlier procedure, full months that lie
#: between the months of the two; None: once in a lifetime). Sources: 42 CFR 410.15 (annual wellness visit), 410.16
#: (initial preventive examination), 410.37 (colorectal screening), 410.56 (pelvic examination), 410.39 (prostate);
#: Medicare Claims Processing Manual, chapter 18.
LIMITS: tuple[tuple[str, str, int | None], ...] = (
    ("G0438", "G0438", None),
    ("G0438", "G0439", None),
    ("G0438", "G0402", 11),
    ("G0439", "G0438", 11),
    ("G0439", "G0439", 11),
    ("G0439", "G0402", 11),
    ("G0402", "G0402", None),
    ("G0105", "G0105", 23),
    ("G0121", "G0121", 119),
    ("G0121", "G0105", 119),
    ("G0121", "G0104", 47),
    ("G0104", "G0104", 47),
    ("G0104", "G0121", 119),
    ("G0101", "G0101", 23),
    ("G0102", "G0102", 11),
    ("G0103", "G0103", 11),
    ("G0444", "G0444", 11),
    ("G0442", "G0442", 11),
)


def _too_soon(limits: str) -> str:
    """Lines before which an earlier service lies too near; ``limits`` selects code, prior_code, full_months."""
    return f"""
        WITH limits AS ({limits})
        SELECT DISTINCT b.rid, at_item(b.position, 'serviced') AS path,
          CASE WHEN o.rid = b.rid THEN at_item(o.position, 'serviced') END AS other
        FROM b JOIN limits t ON t.code = b.code AND coalesce(t.rid = b.rid, TRUE)
        JOIN billed o ON o.member = b.member AND o.code = t.prior_code AND o.service_from < b.service_from
          AND (o.rid = b.rid OR NOT o.denied)
        WHERE t.full_months IS NULL OR full_months(o.service_from, b.service_from) < t.full_months"""  # noqa: S608  # our own


def _values() -> str:
    rows = ", ".join(f"('{code}', '{prior}', {'NULL' if months is None else months})" for code, prior, months in LIMITS)
    names = "limit_of(code, prior_code, full_months)"
    columns = "code, prior_code, full_months::INTEGER AS full_months, NULL::BIGINT AS rid"
    return f"SELECT {columns} FROM (VALUES {rows}) {names}"  # noqa: S608  # our own


QUERIES = {
    "frequency-limit": _too_soon(_values()),
    "payer-frequency-limit": _too_soon("""
        SELECT t.code, t.prior_code, t.full_months, p.rid FROM frequency_limits t
        LEFT JOIN payer p USING (payer) WHERE t.payer IS NULL OR p.rid IS NOT NULL"""),
    "prior-authorization-missing": """
        SELECT l.rid, at_item(l.position, 'productOrService') AS path,
          'Claim.insurance.where(focal).preAuthRef' AS other
        FROM l JOIN c USING (rid) JOIN prior_authorization t ON t.code = l.code
          AND l.service_from BETWEEN t.valid_from AND t.valid_to
        LEFT JOIN payer p ON p.rid = l.rid AND p.payer = t.payer
        WHERE (t.payer IS NULL OR p.rid IS NOT NULL) AND coalesce(len(c.focal.preAuthRef), 0) = 0""",
    "diagnosis-not-covered": """
        WITH limited AS (
          SELECT l.rid, l.position, l.pointers, t.diagnosis FROM l JOIN coverage_diagnoses t ON t.code = l.code
            AND l.service_from BETWEEN t.valid_from AND t.valid_to
          WHERE NOT list_has_any(l.modifiers, ['GA', 'GZ', 'GY'])
        )
        SELECT m.rid, at_item(m.position, 'diagnosisSequence') AS path, NULL AS other
        FROM limited m LEFT JOIN diagnosis d ON d.rid = m.rid AND starts_with(d.code, m.diagnosis)
          AND (coalesce(len(m.pointers), 0) = 0 OR list_contains(m.pointers, d.sequence))
        GROUP BY m.rid, m.position HAVING count(d.rid) = 0""",
}
