"""Who may be called, and how: Patient, Consent and the list of those who are not to be contacted, in columns."""

from __future__ import annotations

from datetime import date

import duckdb
import pyarrow as pa

from fhir_gateway.outreach.models import CONTACTS, EXCLUDED

#: Columns that are read of each type.
PATIENT_COLUMNS = ("name", "telecom", "communication", "birthDate", "deceasedBoolean", "deceasedDateTime")
CONSENT_COLUMNS = (
    *("status", "policyRule.coding.code", "provision.type", "provision.period.start", "provision.period.end"),
    "provision.purpose.code",
)
#: Purposes of use (v3-PurposeOfUse) under which we would call somebody: a refusal of one of them is respected.
PURPOSES = ("HMARKT", "HOUTREACH", "CAREMGT", "COORDINATION", "HOPERAT", "HQUALIMP", "PATADMIN", "TREAT")

# Of several copies of a patient the newest that says anything is believed, for each element by itself.
_CONTACTS = """
WITH point AS (
    SELECT _member AS member, _last_updated AS updated, t.system, t.value, t.use, t.rank
    FROM patients, unnest(coalesce(telecom, [])) AS points(t)
    WHERE t.value IS NOT NULL AND coalesce(t.use, '') <> 'old'
        AND coalesce(try_cast(t.period."end"[1:10] AS DATE), $day) >= $day
        AND coalesce(try_cast(t.period.start[1:10] AS DATE), $day) <= $day),
ranked AS (
    SELECT member, system, first(value ORDER BY coalesce(rank, 1000), CASE use WHEN 'mobile' THEN 0 WHEN 'home' THEN 1
        WHEN 'work' THEN 2 ELSE 3 END, updated DESC, value) AS value
    FROM point GROUP BY member, system),
spoken AS (
    SELECT member, first(language ORDER BY preferred DESC, updated DESC, language) AS language FROM (
        SELECT _member AS member, _last_updated AS updated, coalesce(c.preferred, FALSE) AS preferred,
            coalesce(c.language.coding[1].code, c.language.text) AS language
        FROM patients, unnest(coalesce(communication, [])) AS languages(c))
    WHERE language IS NOT NULL GROUP BY member),
named AS (
    SELECT _member AS member, arg_max(name, (_last_updated, _source, id)) FILTER (len(name) > 0) AS names,
        arg_max(birthDate, (_last_updated, _source, id)) FILTER (birthDate IS NOT NULL) AS birth_date
    FROM patients WHERE _member IS NOT NULL GROUP BY _member),
official AS (
    SELECT member, birth_date, coalesce(list_filter(names, lambda n: n.use = 'official')[1],
        list_filter(names, lambda n: coalesce(n.use, '') <> 'old')[1], names[1]) AS name FROM named)
SELECT o.member, coalesce(o.name.family, o.name.text) AS family, array_to_string(o.name.given, ' ') AS given,
    o.birth_date, p.value AS phone, s.value AS sms, e.value AS email, l.language
FROM official o LEFT JOIN ranked p ON p.member = o.member AND p.system = 'phone'
LEFT JOIN ranked s ON s.member = o.member AND s.system = 'sms'
LEFT JOIN ranked e ON e.member = o.member AND e.system = 'email' LEFT JOIN spoken l ON l.member = o.member
ORDER BY o.member
"""

# A refusal without purpose is one of everything; the strictest word counts, whoever took it down.
_EXCLUDED = """
SELECT member, min(why) AS why FROM (
    SELECT _member AS member, 'deceased' AS why FROM patients
    WHERE deceasedBoolean OR deceasedDateTime IS NOT NULL
    UNION ALL
    SELECT _member, 'consent' FROM consents WHERE status = 'active'
        AND coalesce(try_cast(provision.period.start[1:10] AS DATE), $day) <= $day
        AND coalesce(try_cast(provision.period."end"[1:10] AS DATE), $day) >= $day
        AND (list_has_any(coalesce(list_transform(policyRule.coding, lambda c: c.code), []), ['OPTOUT', 'OPTOUTE'])
            OR (provision.type = 'deny' AND (len(coalesce(provision.purpose, [])) = 0
                OR list_has_any(list_transform(provision.purpose, lambda p: p.code), $purposes))))
    UNION ALL
    SELECT member, 'do-not-contact' FROM blocked)
WHERE member IS NOT NULL GROUP BY member ORDER BY member
"""


def contacts(patients: pa.Table, day: date) -> pa.Table:
    """A row of ``CONTACTS`` per person, sorted; ``patients`` as the lake gives them, with :data:`PATIENT_COLUMNS`.

    ``rank`` decides, then use (mobile, home, work); what is old or not in its period is left out.
    """
    with duckdb.connect() as work:
        work.register("patients", patients)
        return work.sql(_CONTACTS, params={"day": day}).to_arrow_table().cast(CONTACTS)


def excluded(patients: pa.Table, consents: pa.Table, blocked: pa.Array, day: date) -> pa.Table:
    """Who may not be called on a day (``EXCLUDED``), sorted; ``consents`` with :data:`CONSENT_COLUMNS`."""
    with duckdb.connect() as work:
        work.register("patients", patients)
        work.register("consents", consents)
        work.register("blocked", pa.table({"member": blocked.cast(pa.string())}))
        found = work.sql(_EXCLUDED, params={"day": day, "purposes": list(PURPOSES)})
        return found.to_arrow_table().cast(EXCLUDED)
