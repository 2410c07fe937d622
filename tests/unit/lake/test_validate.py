"""Every rule a line can break, and the valid things that look odd."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_gateway.lake.explain import issues
from fhir_gateway.lake.grammar import Grammar
from fhir_gateway.lake.lines import LineBlock
from fhir_gateway.lake.scan import Scanned, Scanner

OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o1",
    "status": "final",
    "code": {"text": "HbA1c"},
    "subject": {"reference": "Patient/1"},
    "effectiveDateTime": "2023-02-28T10:00:00+01:00",
    "valueQuantity": {"value": 6.5, "unit": "%"},
}
PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "1",
    "name": [{"family": "Doe", "given": ["Jo"]}],
    "gender": "female",
    "birthDate": "1960-02-29",
}


def scanned(raw: bytes, promised: str | None = None) -> Scanned:
    """A block that begins with line 7 of a file, after 100 rows."""
    return scan(Scanner(), raw, 7, promised, "file.ndjson", 100)


def scan(scanner: Scanner, raw: bytes, number: int, promised: str | None, file: str, order: int) -> Scanned:
    text = raw + b"\n"
    return scanner.scan(LineBlock(text, number, text.count(b"\n")), promised, file, order)


def refusal(line: str | bytes, promised: str | None = None) -> tuple[str | None, str] | None:
    """Path and rule of the refusal of one line; None when it passes."""
    raw = line.encode() if isinstance(line, str) else line
    block = scanned(raw, promised)
    assert (block.lines, block.places) == (1, 1)
    if not block.refused:
        ((_, batch),) = block.rows
        assert (batch["_size"].to_pylist(), batch["_order"].to_pylist()) == ([len(raw)], [100])
        return None
    assert block.rows == []
    (refused,) = block.refused
    assert (refused.file, refused.line, refused.raw) == ("file.ndjson", 7, raw)
    return refused.path, refused.rule


def nested(levels: int) -> dict[str, Any]:
    """A valid Patient but for its depth: each level is an object in an array."""
    extension: dict[str, Any] = {"url": "http://example.org/leaf", "valueBoolean": True}
    for _ in range(levels):
        extension = {"url": "http://example.org/level", "extension": [extension]}
    return {"resourceType": "Patient", "id": "1", "extension": [extension]}


def changed(resource: dict[str, Any], **elements: Any) -> str:
    """``resource`` with elements replaced; None removes one."""
    return json.dumps({name: value for name, value in {**resource, **elements}.items() if value is not None})


@pytest.mark.parametrize(
    ("line", "path", "rule"),
    [
        ("{not json", "$this", "not-json"),
        (b'{"resourceType": "Patient", "id": "\xff"}', "$this", "not-json"),
        ('{"resourceType": "Patient", "id": "1"} {}', "$this", "not-json"),
        ("[]", "$this", "type"),
        ('{"id": "1"}', "resourceType", "resource-type"),
        ('{"resourceType": "Patent", "id": "1"}', "resourceType", "resource-type"),
        ('{"resourceType": "Patient", "id": "1", "id": "2"}', "$this", "duplicate-key"),
        ('{"resourceType": "Patient", "id": "1", "\\u0069d": "2"}', "$this", "duplicate-key"),
        (
            '{"resourceType": "Patient", "id": "1", "name": [{"text": "a\\u003ab", "text": "c"}]}',
            "$this",
            "duplicate-key",
        ),
        ('{"resourceType": "Patient", "id": "1", "name": [{"text": "a\\u0000"}]}', "Patient.name[0].text", "format"),
        (changed(PATIENT, id=None), "Patient.id", "required"),
        (changed(PATIENT, id="a b"), "Patient.id", "format"),
        (changed(PATIENT, active="yes"), "Patient.active", "type"),
        (changed(PATIENT, gender="F"), "Patient.gender", "binding"),
        (changed(PATIENT, birthDate="2023-02-30"), "Patient.birthDate", "format"),
        (changed(PATIENT, birthDate="1900-02-29"), "Patient.birthDate", "format"),
        (changed(PATIENT, birthDate="02/03/1960"), "Patient.birthDate", "format"),
        (changed(PATIENT, name={"family": "Doe"}), "Patient.name", "cardinality"),
        (changed(PATIENT, name=[]), "Patient.name", "cardinality"),
        (changed(PATIENT, name=[{}]), "Patient.name[0]", "cardinality"),
        (changed(PATIENT, name=["Doe"]), "Patient.name[0]", "type"),
        (changed(PATIENT, name=[{"family": ["Doe"]}]), "Patient.name[0].family", "cardinality"),
        (changed(PATIENT, name=[{"family": ""}]), "Patient.name[0].family", "format"),
        (changed(PATIENT, name=[{"given": ["Jo", None]}]), "Patient.name[0].given[1]", "type"),
        (changed(PATIENT, name=[{"surname": "Doe"}]), "Patient.name[0]", "unknown-element"),
        (changed(PATIENT, _name={"id": "x"}), "Patient", "unknown-element"),
        (changed(PATIENT, _birthDate={"url": "x"}), "Patient._birthDate", "unknown-element"),
        (changed(PATIENT, communication=[{"preferred": True}]), "Patient.communication[0].language", "required"),
        (changed(PATIENT, extension=[{"valueString": "x"}]), "Patient.extension[0].url", "required"),
        (
            changed(PATIENT, extension=[{"url": "http://x", "valueString": "x", "valueCode": "y"}]),
            "Patient.extension[0].value[x]",
            "choice",
        ),
        (changed(PATIENT, multipleBirthInteger=1.5), "Patient.multipleBirthInteger", "type"),
        (changed(PATIENT, multipleBirthInteger=2**31), "Patient.multipleBirthInteger", "format"),
        (changed(PATIENT, contact=[{"period": {"start": "2023-13"}}]), "Patient.contact[0].period.start", "format"),
        (changed(PATIENT, meta={"lastUpdated": "2023-01-01"}), "Patient.meta.lastUpdated", "format"),
        (changed(PATIENT, photo=[{"data": "abc"}]), "Patient.photo[0].data", "format"),
        (changed(OBSERVATION, status=None), "Observation.status", "required"),
        (changed(OBSERVATION, code=None), "Observation.code", "required"),
        (changed(OBSERVATION, valueString="x"), "Observation.value[x]", "choice"),
        (changed(OBSERVATION, effectiveDateTime="2023-02-28T10:00:00"), "Observation.effectiveDateTime", "format"),
        (changed(OBSERVATION, effectiveDateTime="2023-02-28T10:00Z"), "Observation.effectiveDateTime", "format"),
        (changed(OBSERVATION, effectiveDateTime="2023-02-28T24:00:00Z"), "Observation.effectiveDateTime", "format"),
        (changed(OBSERVATION, valueQuantity={"value": "6.5"}), "Observation.valueQuantity.value", "type"),
        (changed(OBSERVATION, valueQuantity={"value": 1e30}), "Observation.valueQuantity.value", "format"),
        (changed(OBSERVATION, subject={"reference": "Patient/ 1"}), "Observation.subject.reference", "format"),
        (
            changed(OBSERVATION, contained=[{"resourceType": "Patient", "gender": "F"}]),
            "Observation.contained[0].Patient.gender",
            "binding",
        ),
        (
            changed(OBSERVATION, contained=[{"resourceType": "Patent"}]),
            "Observation.contained[0].resourceType",
            "resource-type",
        ),
        (
            json.dumps({"resourceType": "Bundle", "id": "b", "type": "document", "entry": [{"resource": {"id": "x"}}]}),
            "Bundle.entry[0].resource.resourceType",
            "resource-type",
        ),
        (
            json.dumps(
                {"resourceType": "MedicationRequest", "id": "m", "status": "active", "intent": "order"}
                | {"subject": {"reference": "Patient/1"}}
            ),
            "MedicationRequest.medication[x]",
            "required",
        ),
        # nested ever deeper: what a batch check may read, what only a parser reads, and more than anything reads
        (json.dumps(nested(120) | {"gender": "F"}), "Patient.gender", "binding"),
        (json.dumps(nested(200)), "$this", "depth"),
        ('{"resourceType": "Patient", "extension": ' + "[" * 10_000 + "]" * 10_000 + "}", "$this", "not-json"),
    ],
)
def test_a_broken_rule_is_named_with_its_path(line: str | bytes, path: str, rule: str) -> None:
    assert refusal(line) == (path, rule)


def test_another_type_than_promised_is_refused() -> None:
    assert refusal(changed(PATIENT), "Observation") == ("Patient", "resource-type")
    assert refusal(changed(PATIENT), "Patient") is None


@pytest.mark.parametrize(
    "line",
    [
        changed(PATIENT),
        changed(OBSERVATION),
        changed(PATIENT, birthDate="1960"),
        changed(PATIENT, birthDate="2000-02-29"),
        changed(PATIENT, birthDate=None, _birthDate={"extension": [{"url": "http://x", "valueCode": "unknown"}]}),
        changed(PATIENT, _birthDate={"extension": [{"url": "http://x", "valueDateTime": "1960-02-29T01:02:03.4567Z"}]}),
        changed(PATIENT, name=[{"given": ["Jo", None], "_given": [None, {"id": "g"}]}]),
        changed(PATIENT, extension=[{"id": "e", "url": "http://x", "valueString": "x"}]),
        changed(PATIENT, extension=[{"url": "http://x", "extension": [{"url": "y", "valueBoolean": False}]}]),
        changed(PATIENT, name=[{"text": 'a \\u003a "quoted": colon: é \\u0000'}]),
        '{"resourceType" : "Patient", "id":"1", "name": [{"text": "a\\u003ab"}] }',
        changed(OBSERVATION, status=None, _status={"extension": [{"url": "http://x", "valueCode": "masked"}]}),
        changed(OBSERVATION, subject={"reference": "urn:uuid:0b5b6f2c-0000-4000-8000-000000000000"}),
        changed(OBSERVATION, subject={"reference": "#p"}, contained=[{"resourceType": "Patient", "id": "p"}]),
        changed(OBSERVATION, valueQuantity=None, valueInteger=1.0),
        json.dumps({"resourceType": "Parameters", "id": "p", "parameter": [{"name": "x", "resource": PATIENT}]}),
    ],
)
def test_valid_things_pass(line: str) -> None:
    assert refusal(line) is None


def test_good_lines_beside_bad_ones_pass() -> None:
    lines = [changed(PATIENT, id=str(i)).encode() for i in range(50)]
    lines[10] = b"{"
    lines[20] = changed(PATIENT, gender="F").encode()
    lines[30] = changed(OBSERVATION).encode()
    block = scanned(b"\n".join(lines))
    assert {name: batch.num_rows for name, batch in block.rows} == {"Observation": 1, "Patient": 47}
    assert [(line.line, line.rule) for line in block.refused] == [(17, "not-json"), (27, "binding")]


def test_messages_and_outcomes_carry_no_values() -> None:
    line = changed(PATIENT, gender="Zaphod", name=[{"family": 42}], birthDate="Beeblebrox", **{"Ford Prefect 42": 1})
    for issue in issues(json.loads(line)):
        assert not any(value in issue.message + issue.path for value in ("Zaphod", "42", "Beeblebrox", "Ford"))
    (refused,) = scanned(line.encode()).refused
    outcome = refused.outcome()
    assert outcome["resourceType"] == "OperationOutcome"
    assert outcome["issue"][0]["expression"] == [refused.path]
    assert outcome["issue"][0]["diagnostics"].startswith("file.ndjson:7: ")
    assert not any(value in json.dumps(outcome) for value in ("Zaphod", "42", "Beeblebrox", "Ford"))


def test_the_scanner_knows_the_columns_that_are_filled() -> None:
    scanner = Scanner(Grammar())
    scan(scanner, changed(PATIENT).encode(), 1, "Patient", "f", 0)
    assert scanner.shape("Patient")["name"] == [{"family": "VARCHAR", "given": ["VARCHAR"]}]
    odd = {**PATIENT, "name": [{"given": ["Jo", None], "_given": [None, {"id": "g"}], "suffix": ["Jr."]}]}
    scan(scanner, json.dumps(odd).encode(), 1, "Patient", "f", 0)
    assert scanner.shape("Patient")["name"] == [{"family": "VARCHAR", "given": ["VARCHAR"], "suffix": ["VARCHAR"]}]
    assert "extension" not in scanner.shape("Patient")


_SCALARS = st.sampled_from([None, True, 0, 1.5, "", "x", "2023-02-30", "2020-02", [], {}, ["x"], [None], {"id": "x"}])
_ROOTS = "gender birthDate name meta _birthDate active deceasedBoolean deceasedDateTime extension id nonsense contact"
_PATHS = st.sampled_from(
    [
        ("name", 0, "family"),
        ("name", 0, "given"),
        ("name", 0, "use"),
        *((name,) for name in _ROOTS.split()),
        *((name,) for name in ["link", "multipleBirthInteger", "contained", "managingOrganization", "text"]),
    ]
)


@given(st.lists(st.tuples(_PATHS, _SCALARS), min_size=1, max_size=3))
@settings(max_examples=150)
def test_the_fast_check_never_accepts_what_the_explanation_refuses(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    resource = json.loads(json.dumps(PATIENT))
    for path, value in changes:
        target = resource
        for step in path[:-1]:
            target = target[step] if isinstance(target, dict) and isinstance(target.get(step), list) else target
            if isinstance(target, list):
                target = target[0] if target and isinstance(target[0], dict) else {}
        if isinstance(target, dict):
            target[path[-1]] = value
    block = scanned(json.dumps(resource).encode())
    expected = next(issues(resource), None)
    assert [(line.path, line.rule) for line in block.refused] == ([(expected.path, expected.rule)] if expected else [])
    for _, batch in block.rows:
        assert batch.num_rows == 1
