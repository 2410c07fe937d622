"""Diagnoses out of claims, with what accepts or refuses each of them for risk adjustment.

The rules are those of CMS for encounter data (Encounter Data Diagnosis Filtering Logic, HPMS): a diagnosis counts
when its record is an inpatient one of an accepted type of bill, or has a service by an accepted CPT or HCPCS code, and
for hospital outpatients an accepted type of bill too. All diagnoses of an accepted record count, not those alone that a
line points at; admitting diagnoses and reasons for a visit do not. What counts once is the version of a claim that
stands (:mod:`fhir_gateway.lake.claims`): adjusted, cancelled and copied ones do not.

Laboratory, imaging, equipment, ambulance and telephone-only services are none of the accepted codes; a service that
modifier 93 or FQ says was by sound alone is refused too. A record without a type of bill is judged by its claim type.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.risk.hcc.tables import eligible_procedures, model_tables
from fhir_gateway.risk.hcc.years import MODELS, all_years

#: Columns of claim lines that are looked at.
DIAGNOSIS_LINE_COLUMNS = (
    *("_member", "source", "eob", "line", "counts", "version_status", "denied", "claim_type", "bill_type"),
    *("procedure", "npi", "specialty", "service_from", "service_thru", "claim_thru"),
)
#: Columns of ExplanationOfBenefit that are looked at.
DIAGNOSIS_EOB_COLUMNS = ("diagnosis", "item.sequence", "item.modifier")

#: A row per diagnosis of a claim and year of service. ``reason`` is null of those that count: ``version``, ``denied``,
#: ``claim-type``, ``bill-type``, ``procedure`` or ``audio-only``. ``line`` is the accepted line, else the first one.
DIAGNOSIS_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("diagnosis", pa.string()),
        ("reason", pa.string()),
        ("source", pa.string()),
        ("eob", pa.string()),
        ("line", pa.int64()),
        ("service_date", pa.date32()),
        ("provider_type", pa.string()),
        ("bill_type", pa.string()),
        ("procedure", pa.string()),
        ("npi", pa.string()),
        ("specialty", pa.string()),
        ("principal", pa.bool_()),
    ]
)

INPATIENT_BILLS = ("11", "41")
OUTPATIENT_BILLS = ("12", "13", "43", "71", "73", "76", "77", "85", "87")
AUDIO_ONLY = ("93", "FQ")
_NOT_PERSONS = ("admitting", "patientreasonforvisit")

_QUERY = """
WITH audio AS (
  SELECT _source AS source, id AS eob, i.sequence AS line
  FROM (SELECT _source, id, unnest(item) AS i FROM eobs)
  WHERE len(list_filter(flatten(list_transform(coalesce(i.modifier, []), lambda m: coalesce(m.coding, []))),
    lambda c: list_contains($audio, c.code))) > 0
), dated AS ( -- an inpatient stay belongs to the year it ends in, a service to its own
  SELECT *, CASE WHEN claim_type = 'inpatient' THEN claim_thru ELSE coalesce(service_thru, service_from) END AS day
  FROM lines WHERE _member IS NOT NULL
), judged AS (
  SELECT l.*, CASE
      WHEN NOT counts THEN 'version'
      WHEN denied THEN 'denied'
      WHEN claim_type NOT IN ('inpatient', 'outpatient', 'professional') THEN 'claim-type'
      WHEN claim_type = 'inpatient' THEN
        CASE WHEN bill_type IS NOT NULL AND NOT list_contains($inpatient, bill_type[1:2]) THEN 'bill-type' END
      WHEN claim_type = 'outpatient' AND bill_type IS NOT NULL AND NOT list_contains($outpatient, bill_type[1:2])
        THEN 'bill-type'
      WHEN p.code IS NULL THEN 'procedure'
      WHEN a.line IS NOT NULL THEN 'audio-only' END AS reason
  FROM dated l
  LEFT JOIN procedures p ON p.year = year(l.day) AND p.code = l.procedure
  LEFT JOIN audio a ON a.source = l.source AND a.eob = l.eob AND a.line = l.line
), records AS (
  SELECT _member, source, eob, year(day) AS year,
    arg_min({'reason': reason, 'line': line, 'day': day, 'type': claim_type, 'bill': bill_type, 'code': procedure,
      'npi': npi, 'specialty': specialty}, (reason IS NOT NULL, coalesce(line, 0))) AS r
  FROM judged WHERE day IS NOT NULL GROUP BY ALL
), coded AS (
  SELECT _source AS source, id AS eob, d.type AS kinds,
    list_filter(coalesce(d.diagnosisCodeableConcept.coding, []),
      lambda c: c.code IS NOT NULL AND (c.system IS NULL OR contains(c.system, 'icd-10')))[1].code AS code
  FROM (SELECT _source, id, unnest(diagnosis) AS d FROM eobs)
), typed AS (
  SELECT source, eob, upper(replace(trim(code), '.', '')) AS code, list_transform(
    flatten(list_transform(coalesce(kinds, []), lambda k: coalesce(k.coding, []))), lambda c: c.code) AS kinds
  FROM coded WHERE code IS NOT NULL
), named AS (
  SELECT source, eob, code, bool_or(list_contains(kinds, 'principal')) AS principal
  FROM typed t SEMI JOIN known k ON k.code = t.code
  WHERE NOT (len(kinds) > 0 AND len(list_filter(kinds, lambda k: NOT list_contains($visits, k))) = 0)
  GROUP BY ALL
)
SELECT r._member AS member, n.code AS diagnosis, r.r.reason AS reason, r.source, r.eob, r.r.line AS line,
  r.r.day AS service_date, r.r.type AS provider_type, r.r.bill AS bill_type, r.r.code AS procedure, r.r.npi AS npi,
  r.r.specialty AS specialty, n.principal
FROM records r JOIN named n ON n.source = r.source AND n.eob = r.eob
ORDER BY member, service_date, source, eob, line, diagnosis
"""


def risk_diagnoses(eobs: pa.Table, lines: pa.Table) -> pa.Table:
    """Diagnoses of claims (:data:`DIAGNOSIS_SCHEMA`) that any model of any year knows; codes without dot.

    ``eobs`` has ``_source``, ``id`` and :data:`DIAGNOSIS_EOB_COLUMNS`, ``lines`` :data:`DIAGNOSIS_LINE_COLUMNS`.
    """
    with duckdb.connect() as connection:
        connection.register("eobs", eobs)
        connection.register("lines", lines)
        connection.register("known", pa.table({"code": known_codes()}))
        connection.register("procedures", _procedures(lines))
        found = connection.sql(
            _QUERY,
            params={
                "audio": list(AUDIO_ONLY),
                "inpatient": list(INPATIENT_BILLS),
                "outpatient": list(OUTPATIENT_BILLS),
                "visits": list(_NOT_PERSONS),
            },
        ).to_arrow_table()
    return found.select(DIAGNOSIS_SCHEMA.names).cast(DIAGNOSIS_SCHEMA)


def counting(diagnoses: pa.Table, years: Sequence[int]) -> pa.Table:
    """Those that count, of services in these years."""
    of_years = pc.is_in(pc.year(diagnoses["service_date"]), value_set=pa.array(years, pa.int64()))
    return diagnoses.filter(pc.and_(pc.is_null(diagnoses["reason"]), of_years))


def known_codes() -> pa.Array:
    """Codes that lead to a category in any year's table of a model."""
    each = [model_tables(year.models[model]).codes for year in all_years() for model in MODELS if model in year.models]
    return pc.unique(pa.chunked_array(each))


def _procedures(lines: pa.Table) -> pa.Table:
    """Accepted codes by year of service: those of the payment year after it, of the nearest where there are none."""
    days = [lines[name] for name in ("service_thru", "service_from", "claim_thru")]
    found = pc.unique(pa.chunked_array([chunk for day in days for chunk in pc.year(day).chunks], pa.int64()))
    tables = {year.collection: year.procedures for year in all_years()}
    parts = []
    for year in sorted(one for one in found.to_pylist() if one is not None):
        nearest = min(tables, key=lambda known: (abs(known - year), known))
        codes = eligible_procedures(tables[nearest])
        parts.append(pa.table({"year": pa.repeat(pa.scalar(year, pa.int64()), len(codes)), "code": codes}))
    return pa.concat_tables([pa.schema([("year", pa.int64()), ("code", pa.string())]).empty_table(), *parts])
