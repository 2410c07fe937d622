"""Area deprivation and rurality of where members live: addresses looked up in imported tables.

The finest geography that both the address and the table have counts: block group, census tract, ZIP+4, ZIP. A
latitude and longitude alone is no geography here: it would need the shapes of the areas.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from fhir_gateway.equity.tables import ADI_SCHEMA, RUCA_SCHEMA

#: What is read of Patient. The raw JSON is looked at only where it names a census tract: columns have no extensions
#: below the root of a resource.
ADDRESS_COLUMNS = ("address.use", "address.type", "address.postalCode", "address.period", "_raw")

_TRACT = "http://hl7.org/fhir/StructureDefinition/iso21090-ADXP-censusTract"

_PLACES = f"""
CREATE TEMP TABLE homes AS
  WITH each AS (
    SELECT _member AS member, _last_updated AS updated, _source, id, unnest(address) AS a,
      generate_subscripts(address, 1) AS place, _raw
    FROM patients WHERE _member IS NOT NULL
  )
  SELECT member, regexp_replace(a.postalCode, '[^0-9]', '', 'g') AS zip,
    CASE WHEN contains(_raw, '{_TRACT}') THEN
      regexp_replace(list_filter(from_json(json_extract(_raw, '$.address[' || (place - 1) || '].extension'),
        '[{{"url":"VARCHAR","valueString":"VARCHAR"}}]'), lambda e: e.url = '{_TRACT}')[1].valueString,
        '[^0-9]', '', 'g') END AS tract
  FROM each
  WHERE coalesce(a.use, '') NOT IN ('old', 'temp', 'billing') AND coalesce(a.type, '') <> 'postal'
    AND coalesce(a.period.start[1:10], '0000') <= $day AND coalesce(a.period.end[1:10] || '~', '9999') >= $day
  QUALIFY row_number() OVER (PARTITION BY member ORDER BY a.use = 'home' DESC NULLS LAST, updated DESC NULLS LAST,
    _source, id, place) = 1;
CREATE TEMP TABLE keys AS
  SELECT member, 4 AS fineness, tract AS geography FROM homes WHERE length(tract) = 12
  UNION ALL SELECT member, 3, tract[1:11] FROM homes WHERE length(tract) IN (11, 12)
  UNION ALL SELECT member, 2, zip FROM homes WHERE length(zip) = 9
  UNION ALL SELECT member, 1, zip[1:5] FROM homes WHERE length(zip) IN (5, 9);
"""  # noqa: S608 the words spliced in are ours
_FOUND = """
WITH deprivation AS (
  SELECT member, arg_max(struct_pack(national, state), fineness) AS adi
  FROM keys JOIN adi USING (geography) WHERE national IS NOT NULL GROUP BY member
), rural AS (
  SELECT member, arg_max(code, fineness) AS code FROM keys JOIN ruca USING (geography) WHERE code < 11 GROUP BY member
)
SELECT m.member, d.adi.national AS adi_national, d.adi.state AS adi_state,
  CASE WHEN r.code < 4 THEN 'metropolitan' WHEN r.code < 7 THEN 'micropolitan' WHEN r.code < 10 THEN 'small-town'
    WHEN r.code < 11 THEN 'rural' END AS rurality
FROM members m LEFT JOIN deprivation d USING (member) LEFT JOIN rural r USING (member) ORDER BY m.member
"""


def places(members: pa.Array, patients: pa.Table, adi: pa.Table | None, ruca: pa.Table | None, day: str) -> pa.Table:
    """member, adi_national (1 to 100), adi_state (1 to 10), rurality (code); null where no table says so."""
    with duckdb.connect() as connection:
        connection.register("members", pa.table({"member": members}))
        connection.register("patients", patients)
        connection.register("adi", ADI_SCHEMA.empty_table() if adi is None else adi)
        connection.register("ruca", RUCA_SCHEMA.empty_table() if ruca is None else ruca)
        first, *others = (one for one in _PLACES.split(";") if one.strip())
        connection.execute(first, {"day": day})
        for one in others:
            connection.execute(one)
        return connection.sql(_FOUND).to_arrow_table()
