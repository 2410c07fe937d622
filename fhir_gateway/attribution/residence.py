"""Where members live, from ``Patient.address``."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from fhir_gateway.attribution.eligibility import RESIDENCE_SCHEMA, register

#: Columns of Patient that :func:`residences` reads.
ADDRESS_COLUMNS = ("address",)

_COUNTIES = pa.schema([("postal_code", pa.string()), ("county", pa.string())])

# of several addresses with one start the home, then the row updated last; old and temporary ones are no residence
_RESIDENCES = """
WITH each AS (
  SELECT _member AS member, _last_updated AS updated, _source, id, unnest(address) AS a FROM patients
  WHERE _member IS NOT NULL
), stated AS (
  SELECT member, updated, _source, id, a.use AS use, a.country AS country, a.state AS state, a.district AS district,
    a.postalCode AS postal_code, try_cast(CASE length(a.period.start) WHEN 4 THEN a.period.start || '-01-01'
      WHEN 7 THEN a.period.start || '-01' ELSE a.period.start[1:10] END AS DATE) AS since
  FROM each WHERE coalesce(a.use, '') NOT IN ('old', 'temp', 'billing') AND coalesce(a.type, '') <> 'postal'
)
SELECT member, since, country, state, coalesce(c.county, district) AS county, s.postal_code
FROM stated s LEFT JOIN counties c ON c.postal_code = s.postal_code[1:5]
QUALIFY row_number() OVER (PARTITION BY member, since ORDER BY use = 'home' DESC NULLS LAST, updated DESC NULLS LAST,
  _source, id, country, s.postal_code) = 1
ORDER BY member, since
"""


def residences(patients: pa.Table, counties: pa.Table | None = None) -> pa.Table:
    """Where members live since when (``RESIDENCE_SCHEMA``), from Patient rows as the lake gives them.

    ``counties`` (postal_code, county) tell the county of a ZIP code; without, the address's district is taken for it.
    """
    with duckdb.connect() as connection:
        connection.register("patients", patients)
        register(connection, "counties", counties, _COUNTIES)
        found = connection.sql(_RESIDENCES).to_arrow_table()
    return found.select(RESIDENCE_SCHEMA.names).cast(RESIDENCE_SCHEMA)
