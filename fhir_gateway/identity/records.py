"""Patients as the linkage compares them: names, dates, contacts in one spelling, a row per patient."""

from __future__ import annotations

import duckdb
import pyarrow as pa

#: Elements of Patient that are looked at.
ELEMENTS = ("name", "birthDate", "gender", "telecom", "address")

#: Spellings of generational suffixes; anything else behind a name (MD, PhD) says nothing about who it is.
_SUFFIXES = {
    "jr": "jr", "junior": "jr", "sr": "sr", "senior": "sr", "i": "i", "ii": "ii", "2nd": "ii", "iii": "iii",
    "3rd": "iii", "iv": "iv", "4th": "iv",
}  # fmt: skip

# The name in use is the official one, else the first that is neither old nor maiden. A family name that a suffix
# follows is split from it. Telephone numbers are their last ten digits; an address is house number and postal code with
# the first letters of the street, as spellings of the rest vary most.
_RECORDS = r"""
CREATE TEMP TABLE spelled_name AS
SELECT number,
    coalesce(list_filter(name, lambda n: n.use = 'official')[1],
        list_filter(name, lambda n: coalesce(n.use, '') NOT IN ('old', 'maiden'))[1], name[1]) AS name,
    list_transform(name, lambda n: n.family) AS families, "birthDate", gender, telecom, address
FROM patients;

CREATE TEMP TABLE split_name AS
SELECT number,
    string_split_regex(lower(strip_accents(coalesce(name.family, ''))), '[\s,.]+') AS family_words,
    list_transform(coalesce(name.suffix, []), lambda s: regexp_replace(lower(s), '[^a-z0-9]', '', 'g')) AS suffix_words,
    string_split_regex(lower(strip_accents(coalesce(name.given[1], ''))), '[\s.]+') AS given_words,
    families, "birthDate", gender, telecom, address
FROM spelled_name;

CREATE TEMP TABLE record AS
SELECT number,
    nullif(regexp_replace(array_to_string(list_filter(family_words, lambda w: NOT list_contains($suffixes, w)), ''),
        '[^a-z]', '', 'g'), '') AS family,
    nullif(regexp_replace(given_words[1], '[^a-z]', '', 'g'), '') AS given,
    list_distinct(list_filter(flatten(list_transform(families,
        lambda f: list_concat([regexp_replace(lower(strip_accents(f)), '[^a-z]', '', 'g')],
            string_split_regex(lower(strip_accents(f)), '[^a-z]+')))),
        lambda w: length(w) > 2 AND NOT list_contains($suffixes, w))) AS families,
    map($suffixes, $generations)[
        list_filter(list_concat(suffix_words, family_words[2:]), lambda w: list_contains($suffixes, w))[1]] AS suffix,
    CASE WHEN length("birthDate") = 10 THEN "birthDate" END AS birth_date,
    CASE WHEN gender <> 'unknown' THEN gender END AS gender,
    coalesce(list_distinct(list_filter(list_transform(list_filter(telecom, lambda t: t.system IN ('phone', 'sms')),
        lambda t: right(regexp_replace(t.value, '\D', '', 'g'), 10)),
        lambda p: length(p) = 10 AND replace(p, p[1], '') <> '')),
        []) AS phones,
    coalesce(list_distinct(list_filter(list_transform(list_filter(telecom, lambda t: t.system = 'email'),
        lambda t: lower(trim(t.value))), lambda e: contains(e, '@'))), []) AS emails,
    address[1].postalCode[1:5] AS postal_code,
    regexp_extract(address[1].line[1], '\d+') || '|' || address[1].postalCode[1:5] || '|' ||
        left(regexp_replace(lower(strip_accents(address[1].line[1])), '[^a-z]', '', 'g'), 4) AS address
FROM split_name;
"""


def read_records(work: duckdb.DuckDBPyConnection, patients: pa.Table) -> None:
    """Create the table ``record`` from ``patients``: ``number`` and the elements of ``ELEMENTS``.

    Columns: ``number, family, given, families, suffix, birth_date, gender, phones, emails, postal_code, address``;
    null (or an empty list) is not known. A birth date without its day is not known.
    """
    work.register("patients", patients)
    given = {"suffixes": list(_SUFFIXES), "generations": list(_SUFFIXES.values())}
    for statement in _RECORDS.split(";\n"):
        if statement.strip():
            work.execute(statement, {name: value for name, value in given.items() if f"${name}" in statement})
    work.unregister("patients")
