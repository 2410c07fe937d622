"""Claims that every edit passes, what is known of their patient, and small reference tables of all kinds."""

from __future__ import annotations

import copy
import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from fhir_gateway.claim_edits import Context, TableStore, claim_rows
from fhir_gateway.claim_edits.models import ATTRIBUTED_SCHEMA, COVERAGE_SCHEMA, DENIED_SCHEMA, PATIENT_SCHEMA
from fhir_gateway.lake.claims import DIRECTORY_SCHEMA

Claim = dict[str, Any]
NPI = "http://hl7.org/fhir/sid/us-npi"
CPT = "http://www.ama-assn.org/go/cpt"
ICD = "http://hl7.org/fhir/sid/icd-10-cm"
NDC = "http://hl7.org/fhir/sid/ndc"
FREQUENCY = "https://codesystem.x12.org/005010/1325"
GOOD_NPI, OTHER_NPI, BAD_NPI = "1234567893", "1679576722", "1234567890"

#: Rows of each table; every one holds from 2020 on.
TABLES: dict[str, str] = {
    "icd10cm": "code,billable,effective_from,effective_to\nE11.9,true,,\nE11,false,,\nF02.80,true,,\nW01.0XXA,true,,\n"
    "S01.00XA,true,,\nO80,true,,\nZ37.0,true,,\nI10,true,,\nE11.5,true,2020-01-01,2022-09-30\nB20,true,,\nZ00.110,true,,\n",
    "diagnosis-edits": "code,manifestation,unacceptable_principal,sex,age_from,age_to\nF02.80,true,,,,\n"
    "Z37.0,false,true,,,\nO80,,,F,9,64\nB20,,,M,,\nZ00.110,,,,0,0\n",
    "procedure-codes": "code,sex,age_from,age_to,effective_to\n99213,,,,\n99214,,,,\n11042,,,,\n11045,,,,\n97597,,,,\n"
    "55700,M,,,\n90460,,0,18,\n99201,,,,2020-12-31\nJ1100,,,,\n36415,,,,\n27130,,,,\n27447,,,,\nG0438,,,,\nG0439,,,,\n"
    "99490,,,,\nG0557,,,,\n99495,,,,\nT1040,,,,\n3074F,,,,\n93000,,,,\n80053,,,,\n",
    "modifier-codes": "modifier\n25\n26\nTC\n59\n76\nRT\nLT\n24\n78\n50\nGA\nGZ\n",
    "procedure-modifiers": "code,modifier\n93000,59\n93000,76\n",
    "procedure-places": "code,place\n93000,11\n93000,22\n",
    "revenue-codes": "revenue,procedure_required\n0120,false\n0300,true\n0450,true\n",
    "revenue-procedures": "revenue,first,last\n0300,36400,36425\n0300,80047,89398\n",
    "ncci-ptp": "column1,column2,indicator,setting\n11042,97597,0,PROFESSIONAL\n27130,36415,1,\n27130,80053,9,\n",
    "ncci-mue": "code,units,mai,setting\n11042,1,1,\n27130,1,2,PROFESSIONAL\nJ1100,10,3,\n",
    "add-on-codes": "code,primary_code\n11045,11042\n11045,97597\n",
    "global-periods": "code,days\n11042,0\n27130,90\n27447,90\n",
    "provider-roster": f"npi,tin,taxonomy\n{GOOD_NPI},12-3456789,207R00000X\n{OTHER_NPI},12-3456789,207R00000X\n",
    "timely-filing": "payer,days\nPayer One,365\n",
    "prior-authorization": "payer,code\nPayer One,27130\nPayer Two,99213\n",
    "frequency-limits": "payer,code,prior_code,full_months\nPayer One,93000,93000,5\nPayer Two,99213,99213,1\n",
    "coverage-diagnoses": "code,diagnosis\n93000,I10\n93000,E11\n",
    "fee-schedule": "payer,code,amount\nPayer One,99213,92.50\n",
}


def write_tables(folder: Path) -> TableStore:
    """A store with every table, imported from CSV."""
    store = TableStore(folder / "claim-tables")
    for name, text in TABLES.items():
        file = folder / f"{name}.csv"
        file.write_text(text, encoding="utf-8")
        store.load(name, file, "1", date(2020, 1, 1), source="made up for tests")
    return store


def line(
    sequence: int = 1, code: str | None = "99213", day: str = "2025-03-10", net: str = "125.00", **more: Any
) -> Any:
    """A line of a professional claim; ``modifiers`` are codes."""
    modifiers = [{"coding": [{"code": one}]} for one in more.pop("modifiers", ())]
    found = {
        "sequence": sequence,
        "diagnosisSequence": [1],
        "productOrService": {"coding": [{"system": CPT, "code": code}] if code else []},
        "servicedDate": day,
        "locationCodeableConcept": {"coding": [{"code": "11"}]},
        "quantity": {"value": 1},
        "net": {"value": float(net), "currency": "USD"},
    }
    found |= {"modifier": modifiers} if modifiers else {}
    found |= more
    return {name: value for name, value in found.items() if value is not None}


def diagnosis(sequence: int, code: str, kind: str | None = None) -> Any:
    """A diagnosis in ICD-10-CM."""
    found: dict[str, Any] = {
        "sequence": sequence,
        "diagnosisCodeableConcept": {"coding": [{"system": ICD, "code": code}]},
    }
    return found | ({"type": [{"coding": [{"code": kind}]}]} if kind else {})


def supporting(category: str, code: str, system: str = "https://www.nubc.org/CodeSystem/TypeOfBill") -> Any:
    """A supportingInfo with a code."""
    return {
        "sequence": 1,
        "category": {"coding": [{"code": category}]},
        "code": {"coding": [{"system": system, "code": code}]},
    }


def professional(*items: Any, identifier: str = "claim-1", **changes: Any) -> Claim:
    """A claim of a practice for one visit, or for these lines, whose sum is the total; ``changes`` replace elements."""
    items = items or (line(),)
    days = sorted(one.get("servicedDate", "2025-03-10") for one in items)
    claim = {
        "resourceType": "Claim",
        "id": identifier,
        "status": "active",
        "type": {"coding": [{"code": "professional"}]},
        "use": "claim",
        "patient": {"reference": "Patient/p1"},
        "billablePeriod": {"start": days[0], "end": days[-1]},
        "created": max("2025-03-20", days[-1]),
        "insurer": {"display": "Payer One"},
        "provider": {"reference": "Organization/org", "identifier": {"system": NPI, "value": GOOD_NPI}},
        "priority": {"coding": [{"code": "normal"}]},
        "diagnosis": [diagnosis(1, "E11.9")],
        "insurance": [{"sequence": 1, "focal": True, "coverage": {"reference": "Coverage/cov1"}}],
        "item": list(items),
        "total": {"value": round(sum(one["net"]["value"] for one in items if "net" in one), 2), "currency": "USD"},
    }
    return {name: value for name, value in (claim | changes).items() if value is not None}


def institutional(*items: Any, bill: str | None = "0131", identifier: str = "claim-1", **changes: Any) -> Claim:
    """A claim of a hospital."""
    revenue = {"revenue": {"coding": [{"code": "0450"}]}, "diagnosisSequence": None, "locationCodeableConcept": None}
    claim = professional(*(items or (line(**revenue),)), identifier=identifier)
    claim["type"] = {"coding": [{"code": "institutional"}]}
    claim["supportingInfo"] = [supporting("typeofbill", bill)] if bill else None
    return {name: value for name, value in (claim | changes).items() if value is not None}


def context(*history: Claim, **changes: Any) -> Context:
    """What is known of the patient ``p1``; ``changes`` are tables as lists of rows, or None for what is not known."""
    rows: dict[str, Any] = {
        "patients": [{"member": "p1", "birth": date(1950, 3, 14), "sex": "F", "mbi": "1EG4TE5MK73"}],
        "coverages": [coverage("cov1")],
        "attributed": [
            {"member": "p1", "npi": None, "tin": "123456789", "attributed_from": None, "attributed_to": None}
        ],
        "denied": [],
        "directory": [{"source": "s", "reference": "Organization/org", "npi": GOOD_NPI, "tin": "123456789"}],
    }
    rows |= changes
    schemas = {
        "patients": PATIENT_SCHEMA,
        "coverages": COVERAGE_SCHEMA,
        "attributed": ATTRIBUTED_SCHEMA,
        "denied": DENIED_SCHEMA,
        "directory": DIRECTORY_SCHEMA,
    }
    tables = {
        name: None if rows[name] is None else pa.Table.from_pylist(rows[name], schema=schema)
        for name, schema in schemas.items()
    }
    return Context(**tables, history=rows_of(*history), submitted=changes.get("submitted"))


def coverage(
    name: str, first: str = "2024-01-01", last: str | None = None, rank: int = 1, status: str = "active"
) -> Any:
    """A coverage of the patient."""
    end = None if last is None else date.fromisoformat(last)
    return {
        "member": "p1",
        "coverage": f"Coverage/{name}",
        "status": status,
        "covered_from": date.fromisoformat(first),
        "covered_to": end,
        "rank": rank,
        "payers": ["Payer One"],
    }


def rows_of(*claims: Claim) -> pa.Table:
    """Claims as rows."""
    return claim_rows([json.dumps(one).encode() for one in claims])


def changed(claim: Claim, path: str, value: Any) -> Claim:
    """A copy with another value at a path of names and numbers by dots; None removes it."""
    found = copy.deepcopy(claim)
    *above, last = path.split(".")
    at: Any = found
    for step in above:
        at = at[int(step)] if step.isdigit() else at[step]
    if value is None:
        del at[last]
    else:
        at[int(last) if last.isdigit() else last] = value
    return found
