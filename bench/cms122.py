"""The physical yardstick: hand-written SQL of CMS122 (``cms122.sql``) in DuckDB over the lake's own Parquet files.

``python -m bench.cms122 LAKE PACKAGE START END`` prints counts and CPU seconds of one thread. Value sets come from the
package. A column or nested field that no file has is null in the views, as DuckDB refuses to name it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

#: Codes that the measure and its libraries name one by one.
CODES = {
    "Glycemic": [("http://loinc.org", "97506-0")],
    "Medical nutrition therapy": [
        *(("http://www.ama-assn.org/go/cpt", code) for code in ("97802", "97803", "97804")),
        *(("http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets", code) for code in ("G0270", "G0271")),
    ],
    "Hospice care [Minimum Data Set]": [("http://loinc.org", "45755-6")],
    "FACIT-Pal": [("http://loinc.org", "71007-9")],
    "Housing status": [("http://loinc.org", "71802-3")],
    "Medical equipment used": [("http://loinc.org", "98181-1")],
}
_NLM = "http://cts.nlm.nih.gov/fhir/ValueSet/2.16.840.1.113883.3."
VALUE_SETS = {
    "526.3.1240": "Annual Wellness Visit",
    "464.1003.103.12.1001": "Diabetes",
    "464.1003.198.12.1013": "Glycemic",
    "464.1003.101.12.1016": "Home Healthcare Services",
    "464.1003.1006": "Nutrition Services",
    "464.1003.101.12.1001": "Office Visit",
    "464.1003.101.12.1025": "Preventive Care Services Established Office Visit, 18 and Up",
    "464.1003.101.12.1023": "Preventive Care Services Initial Office Visit, 18 and Up",
    "464.1003.101.12.1080": "Telephone Visits",
    "666.5.307": "Encounter Inpatient",
    "526.3.1584": "Hospice Care Ambulatory",
    "464.1003.1003": "Hospice Encounter",
    "464.1003.1165": "Hospice Diagnosis",
    "464.1003.101.12.1090": "Palliative Care Encounter",
    "464.1003.198.12.1135": "Palliative Care Intervention",
    "464.1003.1167": "Palliative Care Diagnosis",
    "464.1003.110.12.1082": "Advanced Illness",
    "464.1003.196.12.1510": "Dementia Medications",
    "464.1003.118.12.1300": "Frailty Device",
    "464.1003.113.12.1074": "Frailty Diagnosis",
    "464.1003.101.12.1088": "Frailty Encounter",
    "464.1003.113.12.1075": "Frailty Symptom",
}
_CONCEPT = "struct(coding struct(system varchar, code varchar)[])"
_REPEAT = "dosageInstruction[1].timing.repeat"
#: view: resource type, and for each column the path to it and its type
VIEWS: Mapping[str, tuple[str, Mapping[str, tuple[str, str]]]] = {
    "patients": ("Patient", {"birth": ("birthDate", "date")}),
    "encounters": (
        "Encounter",
        {
            "status": ("status", "varchar"),
            "start_": ("period.start", "varchar"),
            "end_": ("period.end", "varchar"),
            "profiles": ("meta.profile", "varchar[]"),
            "type": ("type", f"{_CONCEPT}[]"),
            "disposition": ("hospitalization.dischargeDisposition", _CONCEPT),
        },
    ),
    "conditions": (
        "Condition",
        {
            "code": ("code", _CONCEPT),
            "profiles": ("meta.profile", "varchar[]"),
            "category": ("category", f"{_CONCEPT}[]"),
            "clinical": ("clinicalStatus", _CONCEPT),
            "verification": ("verificationStatus", _CONCEPT),
            "onset": ("onsetDateTime", "varchar"),
            "onset_start": ("onsetPeriod.start", "varchar"),
            "onset_age": ("onsetAge.value", "decimal(28, 8)"),
            "abatement": ("abatementDateTime", "varchar"),
            "abatement_end": ("abatementPeriod.end", "varchar"),
            "abatement_age": ("abatementAge.value", "decimal(28, 8)"),
        },
    ),
    "observations": (
        "Observation",
        {
            "code": ("code", _CONCEPT),
            "status": ("status", "varchar"),
            "profiles": ("meta.profile", "varchar[]"),
            "done": ("effectiveDateTime", "varchar"),
            "start_": ("effectivePeriod.start", "varchar"),
            "end_": ("effectivePeriod.end", "varchar"),
            "concept": ("valueCodeableConcept", _CONCEPT),
            "quantity": ("valueQuantity.value", "decimal(28, 8)"),
            "unit": ("valueQuantity.code", "varchar"),
        },
    ),
    "procedures": (
        "Procedure",
        {
            "code": ("code", _CONCEPT),
            "status": ("status", "varchar"),
            "profiles": ("meta.profile", "varchar[]"),
            "done": ("performedDateTime", "varchar"),
            "start_": ("performedPeriod.start", "varchar"),
            "end_": ("performedPeriod.end", "varchar"),
        },
    ),
    "device_requests": (
        "DeviceRequest",
        {
            "code": ("codeCodeableConcept", _CONCEPT),
            "status": ("status", "varchar"),
            "intent": ("intent", "varchar"),
            "profiles": ("meta.profile", "varchar[]"),
            "authored": ("authoredOn", "varchar"),
        },
    ),
    "service_requests": (
        "ServiceRequest",
        {
            "code": ("code", _CONCEPT),
            "status": ("status", "varchar"),
            "intent": ("intent", "varchar"),
            "profiles": ("meta.profile", "varchar[]"),
            "authored": ("authoredOn", "varchar"),
            "do_not_perform": ("doNotPerform", "boolean"),
        },
    ),
    "medication_requests": (
        "MedicationRequest",
        {
            "medication": ("medicationCodeableConcept", _CONCEPT),
            "medication_reference": ("medicationReference.reference", "varchar"),
            "status": ("status", "varchar"),
            "intent": ("intent", "varchar"),
            "profiles": ("meta.profile", "varchar[]"),
            "authored": ("authoredOn", "varchar"),
            "do_not_perform": ("doNotPerform", "boolean"),
            "supply": ("dispenseRequest.expectedSupplyDuration.value", "decimal(28, 8)"),
            "supply_code": ("dispenseRequest.expectedSupplyDuration.code", "varchar"),
            "supply_unit": ("dispenseRequest.expectedSupplyDuration.unit", "varchar"),
            "refills": ("dispenseRequest.numberOfRepeatsAllowed", "integer"),
            "quantity": ("dispenseRequest.quantity.value", "decimal(28, 8)"),
            "valid_start": ("dispenseRequest.validityPeriod.start", "varchar"),
            "bounds_start": (f"{_REPEAT}.boundsPeriod.start", "varchar"),
            "bounds_end": (f"{_REPEAT}.boundsPeriod.end", "varchar"),
            "frequency": (f"{_REPEAT}.frequency", "integer"),
            "period": (f"{_REPEAT}.period", "decimal(28, 8)"),
            "period_unit": (f"{_REPEAT}.periodUnit", "varchar"),
            "dose": ("dosageInstruction[1].doseAndRate[1].doseQuantity.value", "decimal(28, 8)"),
        },
    ),
    "medications": ("Medication", {"code": ("code", _CONCEPT)}),
}


def main() -> None:
    """Count, and print one JSON line."""
    lake, package = Path(sys.argv[1]), Path(sys.argv[2])
    codes = pa.table(dict(zip(("name", "system", "code"), zip(*value_set_codes(package), strict=True), strict=True)))
    query = Path(__file__).with_name("cms122.sql").read_text(encoding="utf-8")
    wall, cpu = time.perf_counter(), time.process_time()
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("codes_given", codes)
        connection.execute("create temp table codes as select distinct * from codes_given")
        connection.execute("create temp table period as select ?::date as first, ?::date as last", sys.argv[3:5])
        for name, (resource_type, columns) in VIEWS.items():
            connection.execute(view(lake, name, resource_type, columns))
        rows = connection.execute(query)
        counts = dict(zip([column[0] for column in rows.description], rows.fetchone() or (), strict=True))
    print(json.dumps({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "counts": counts}))


def value_set_codes(package: Path) -> Iterator[tuple[str, str, str]]:
    """Name, system and code of everything the measure looks for."""
    from fhir_gateway.measures import MeasurePackage

    value_sets = MeasurePackage.load(package).value_sets
    for oid, name in VALUE_SETS.items():
        for system, code in sorted(value_sets.resolve(_NLM + oid, None).codes):
            yield name, system, code
    for name, pairs in CODES.items():
        for system, code in pairs:
            yield name, system, code


def view(lake: Path, name: str, resource_type: str, columns: Mapping[str, tuple[str, str]]) -> str:
    """SQL of a view over the Parquet files of a table."""
    files = sorted(str(path) for path in (lake / resource_type).glob("_bucket=*/*.parquet"))
    schemas = [pq.read_schema(path) for path in files]
    parts = []
    for column, (path, kind) in columns.items():
        held = any(_holds(schema, path) for schema in schemas)
        # concepts as they are stored: a cast of their structure would be paid for each row
        value = path if held and "struct" in kind else f"cast({path if held else 'null'} as {kind})"
        parts.append(f"{value} as {column}")
    if resource_type == "Observation":
        values = {field for schema in schemas for field in schema.names if field.startswith("value")}
        parts.append(" or ".join(f"{field} is not null" for field in sorted(values)) + " as has_value")
    source = f"read_parquet({files}, union_by_name = true)" if files else "(select null as id, null as _member) limit 0"
    return f"create temp view {name} as select id, _member as member, {', '.join(parts)} from {source}"  # noqa: S608 - constants and our own files


def _holds(schema: pa.Schema, path: str) -> bool:
    kind: Any = pa.struct(list(schema))
    for step in path.replace("[1]", "").split("."):
        while pa.types.is_list(kind):
            kind = kind.value_type
        at = kind.get_field_index(step) if pa.types.is_struct(kind) else -1
        if at < 0:
            return False
        kind = kind.field(at).type
    return True


if __name__ == "__main__":
    main()
