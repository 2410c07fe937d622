"""All claims of a Synthea population: they run, and what is found is what Synthea leaves out."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import orjson
import pytest

from fhir_gateway.claim_edits import check, claim_rows
from fhir_gateway.claim_edits.rates import clean_rates

pytestmark = pytest.mark.shared


def test_synthea_codes_in_snomed_and_names_no_npi(shared: Path) -> None:
    file = shared / "data" / "synthea" / "generated-sample-data-r4" / "Claim.ndjson.gz"
    lines = gzip.decompress(file.read_bytes()).splitlines()
    claims = [orjson.loads(line) for line in lines]
    checked = check(claim_rows(lines))
    found = Counter(checked.findings["edit"].to_pylist())
    institutional = [one for one in claims if one["type"]["coding"][0]["code"] == "institutional"]
    items = [(one, item) for one in claims for item in one["item"]]
    assert checked.claims.num_rows == len(claims)
    assert found == {
        "npi-missing": len(claims),  # references without a directory
        "diagnosis-missing": len(institutional),  # diagnoses are references to Conditions; the others are of pharmacies
        "bill-type-missing": len(institutional),
        "revenue-missing": sum(len(one["item"]) for one in institutional),
        "procedure-missing": len(items),  # SNOMED CT
        "charge-not-positive": sum(1 for _, item in items if "net" not in item),
    }
    assert clean_rates(checked)[0]["clean"] == 0
    assert checked.unchecked.num_rows > len(claims)
