"""Who the members are, as attribution and settlement look at them: born, sex, died."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from fhir_gateway.factory import Gateway
from fhir_gateway.lake.store import Lake

# Of several sources' words the newest that says anything; a partial date of birth is its first day, one of death its
# last (whoever died in 2025 was covered until then), and of several deaths the earliest counts.
_PEOPLE = """
SELECT _member AS member,
  arg_max(try_cast(CASE length(birthDate) WHEN 4 THEN birthDate || '-01-01' WHEN 7 THEN birthDate || '-01'
    ELSE birthDate END AS DATE), (_last_updated, _source, id)) FILTER (birthDate IS NOT NULL) AS birth_date,
  arg_max(gender, (_last_updated, _source, id)) FILTER (gender IS NOT NULL) AS gender,
  min(CASE length(deceasedDateTime) WHEN 4 THEN try_cast(deceasedDateTime || '-12-31' AS DATE)
    WHEN 7 THEN last_day(try_cast(deceasedDateTime || '-01' AS DATE))
    ELSE try_cast(deceasedDateTime[1:10] AS DATE) END) AS died
FROM patients WHERE _member IS NOT NULL GROUP BY _member ORDER BY _member
"""


def persons_of(gateway: Gateway, version: int, bucket: int | None = None, members: pa.Array | None = None) -> pa.Table:
    """A row per member (of a bucket, of these members), sorted by member: member, birth_date, gender, died (null: alive
    or unknown)."""
    return people_of(gateway.lake, version, bucket, members)


def people_of(lake: Lake, version: int, bucket: int | None = None, members: pa.Array | None = None) -> pa.Table:
    """The same, where there is a lake and no gateway."""
    with duckdb.connect() as connection:
        columns = ["birthDate", "gender", "deceasedDateTime"]
        rows = lake.read("Patient", columns, bucket=bucket, version=version, members=members)
        connection.register("patients", rows)
        return connection.sql(_PEOPLE).to_arrow_table()
