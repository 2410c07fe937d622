"""What is known besides claims, out of the columns of a lake: patients and coverage."""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import pyarrow as pa

from fhir_gateway.claim_edits.models import COVERAGE_SCHEMA, PATIENT_SCHEMA
from fhir_gateway.lake.claims import macros

#: What is read of Patient and Coverage.
PATIENT_COLUMNS = ("birthDate", "gender", "identifier")
COVERAGE_COLUMNS = ("status", "period", "order", "payor")


def patients(rows: pa.Table) -> pa.Table:
    """Patients (:data:`PATIENT_SCHEMA`) of rows of a lake; a partial birth date is none."""
    return _fetch(
        rows,
        """
        SELECT _member AS member, try_cast(birthDate AS DATE) AS birth,
          CASE gender WHEN 'female' THEN 'F' WHEN 'male' THEN 'M' END AS sex,
          list_filter(identifier, lambda x: x.system = 'http://hl7.org/fhir/sid/us-mbi')[1].value AS mbi
        FROM given WHERE _member IS NOT NULL""",
        PATIENT_SCHEMA,
    )


def coverages(rows: pa.Table, called: Callable[[str, str], str]) -> pa.Table:
    """Coverage (:data:`COVERAGE_SCHEMA`) of rows of a lake; ``called`` makes an id of source and id there."""
    names = [
        f"Coverage/{called(source, identity)}"
        for source, identity in zip(rows["_source"].to_pylist(), rows["id"].to_pylist(), strict=True)
    ]
    return _fetch(
        rows.append_column("name", pa.array(names, pa.string())),
        """
        SELECT _member AS member, name AS coverage, status, first_day(period.start) AS covered_from,
          final_day(period.end) AS covered_to, "order" AS rank,
          list_filter(flatten(list_transform(payor, lambda x: [x.identifier.value, x.display,
            nullif(regexp_extract(x.reference, '[A-Z][A-Za-z]+/[A-Za-z0-9.\\-]+$'), '')])),
            lambda x: x IS NOT NULL) AS payers
        FROM given WHERE _member IS NOT NULL""",
        COVERAGE_SCHEMA,
    )


def _fetch(rows: pa.Table, query: str, schema: pa.Schema) -> pa.Table:
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute(macros())
        connection.register("given", rows)
        return connection.sql(query).to_arrow_table().cast(schema)
