"""Claim lines in one form: what counts, with codes as rules state them."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from fhir_gateway.errors import ConfigurationError

#: Columns of claim lines (:data:`fhir_gateway.lake.claims.LINE_SCHEMA`) that utilization is computed from.
LINE_COLUMNS = (
    *("_member", "source", "claim_group", "counts", "denied", "service_from", "service_thru", "claim_from"),
    *("claim_thru", "claim_type", "bill_type", "npi", "tin", "organization", "specialty", "procedure"),
    *("place_of_service", "revenue_code", "diagnosis", "drg", "allowed", "paid", "payment_date", "admitted"),
    *("discharged", "discharge_status", "admission_type", "diagnoses", "procedures", "units"),
)

# Money of adjustments counts beside the version that they correct, in the same claim; what was denied is no service.
_LINES = """
CREATE VIEW line AS
SELECT _member AS member, source || '|' || claim_group AS claim, coalesce(service_from, claim_from) AS day,
  service_from, service_thru, claim_from, claim_thru, claim_type, ltrim(bill_type, '0') AS bill_type, npi, tin,
  organization, coalesce(organization, tin, npi) AS provider, specialty, upper(procedure) AS procedure,
  place_of_service, lpad(ltrim(revenue_code, '0'), 4, '0') AS revenue_code,
  upper(replace(diagnosis, '.', '')) AS diagnosis, lpad(ltrim(drg, '0'), 3, '0') AS drg, allowed, paid, payment_date,
  admitted, discharged, discharge_status, admission_type, diagnoses, procedures, units
FROM lines WHERE counts AND NOT coalesce(denied, FALSE) AND _member IS NOT NULL
"""


def connect(lines: pa.Table, connection: duckdb.DuckDBPyConnection | None = None) -> duckdb.DuckDBPyConnection:
    """A connection with the view ``line`` over claim lines (:data:`LINE_COLUMNS`); ConfigurationError for one missing.

    Only lines that count and were not denied are in it.
    """
    if missing := sorted(set(LINE_COLUMNS) - set(lines.column_names)):
        raise ConfigurationError(f"claim lines lack {', '.join(missing)}")
    connection = connection or duckdb.connect()
    connection.register("lines", lines)
    connection.execute(_LINES)
    return connection
