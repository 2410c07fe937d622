"""What pushed lines break of the profiles they declare."""

from __future__ import annotations

import json
from pathlib import Path

from fhir_gateway.conformance.declared import broken_promises
from fhir_gateway.conformance.definitions import Definitions
from fhir_gateway.conformance.validator import Validator

NAMED = {
    "resourceType": "StructureDefinition",
    "url": "https://guide.example/StructureDefinition/named",
    "type": "Patient",
    "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Patient",
    "differential": {"element": [{"id": "Patient.name", "path": "Patient.name", "min": 1}]},
}


def test_rules_are_summed_up_and_only_those_of_declared_profiles(tmp_path: Path) -> None:
    (tmp_path / "StructureDefinition-named.json").write_text(json.dumps(NAMED))
    declared = {"resourceType": "Patient", "meta": {"profile": [NAMED["url"]]}}
    deep = b'{"profile":' * 900 + b"1" + b"}" * 900
    lines = [
        json.dumps(declared).encode(),
        json.dumps({**declared, "gender": "x"}).encode(),  # of R4: the lake's to say
        json.dumps({**declared, "name": [{"family": "A"}]}).encode(),
        b'{"resourceType": "Patient", "gender": "x"}',
        b'{"profile": [',
        b'["profile"]',
        b'{"resourceType": "Patient", "extension": [{"url": "a", "extension": ' + deep + b"}]}",
    ]
    (told,) = broken_promises(Validator(Definitions.of(tmp_path, None)), lines)
    assert (told.severity, told.path, told.rule, told.count) == ("error", "Patient.name", "cardinality", 2)
    assert str(told) == f"Patient.name: cardinality of {NAMED['url']}"
