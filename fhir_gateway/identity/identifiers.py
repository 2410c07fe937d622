"""Patient identifiers to match keys, for a whole table of patients at once.

A match key is a hash of (name of the system, value); the control plane keeps keys, not the numbers themselves.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from fhir_gateway.identity.models import IdentityRules

#: Systems of which a person has one number for life, nearly.
NATIONAL = ("mbi", "ssn")

# The last row of a patient id counts. `fingerprint` changes when anything that matching looks at changes.
_KEYS = """
CREATE TEMP TABLE incoming_row AS
SELECT id, identifier, birthDate AS birth_date, CASE WHEN gender <> 'unknown' THEN gender END AS gender
FROM (SELECT *, row_number() OVER () AS position FROM patients)
QUALIFY row_number() OVER (PARTITION BY id ORDER BY position DESC) = 1;

CREATE TEMP TABLE incoming_key AS
WITH one AS (
    -- a number without a system is its assigner's, where the assigner has a name that holds beyond its source
    SELECT id, coalesce(nullif(trim(i.system), ''), CASE WHEN regexp_matches(i.assigner.reference, '^https?://')
            THEN regexp_replace(i.assigner.reference, '/_history/.*$', '') END) AS system,
        i.value AS value, list_transform(i.type.coding, lambda c: c.code) AS codes
    FROM (SELECT id, unnest(identifier) AS i FROM incoming_row)
    WHERE i.value IS NOT NULL
), named AS (
    SELECT id,
        coalesce(n.name, CASE WHEN list_contains(codes, 'SS') THEN 'ssn' END) AS national,
        CASE WHEN list_has_any(coalesce(codes, []), $type_codes) THEN one.system END AS own,
        regexp_replace(upper(value), '[^A-Z0-9]', '', 'g') AS bare,
        trim(value) AS value
    FROM one LEFT JOIN national n ON n.system = one.system
), usable AS (
    SELECT id, coalesce(national, own) AS system, CASE WHEN national IS NOT NULL THEN bare ELSE value END AS value
    FROM named
    WHERE coalesce(national, own) IS NOT NULL AND bare <> '' AND replace(bare, bare[1], '') <> ''
        AND NOT list_contains($placeholders, bare)
)
SELECT DISTINCT id, system, left(sha256(system || '|' || value), 32) AS key FROM usable;

CREATE TEMP TABLE incoming AS
SELECT r.id, r.birth_date, r.gender,
    left(sha256(concat_ws('|', coalesce(r.birth_date, ''), coalesce(r.gender, ''), coalesce(k.keys, ''))), 32)
        AS fingerprint
FROM incoming_row r LEFT JOIN (SELECT id, string_agg(key, ',' ORDER BY key) AS keys FROM incoming_key GROUP BY id) k
    USING (id);
"""


def read_identifiers(connection: duckdb.DuckDBPyConnection, patients: pa.Table, rules: IdentityRules) -> None:
    """Create the tables ``incoming(id, birth_date, gender, fingerprint)`` and ``incoming_key(id, system, key)``.

    ``patients`` has ``id`` and the Patient elements ``identifier``, ``birthDate`` and ``gender``.
    """
    systems = rules.national_systems
    connection.register("patients", patients.select(["id", "identifier", "birthDate", "gender"]))
    connection.register("national", pa.table({"system": list(systems), "name": list(systems.values())}))
    parameters = {"type_codes": sorted(rules.type_codes), "placeholders": sorted(rules.placeholders)}
    for statement in _KEYS.split(";\n"):
        if statement.strip():
            used = {name: value for name, value in parameters.items() if f"${name}" in statement}
            connection.execute(statement, used)
    connection.unregister("patients")
    connection.unregister("national")
