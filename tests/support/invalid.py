"""Valid resources of eight types, and ways to break each of them with the path and rule that must be named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Resource = dict[str, Any]

_COMMON: Resource = {
    "meta": {"versionId": "3", "lastUpdated": "2024-05-06T07:08:09.123+02:00", "profile": ["http://example.org/p|1"]},
    "language": "en",
    "text": {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">a "quoted" &amp; text</div>'},
    "extension": [{"url": "http://example.org/e", "valueDecimal": 1.50}],
    "identifier": [
        {
            "use": "official",
            "type": {"coding": [{"system": "http://example.org/t", "code": "MR", "display": "é\u00a0ü"}]},
            "system": "urn:oid:1.2.3",
            "value": "a\nb",
            "period": {"start": "2023-02-28"},
            "assigner": {"reference": "Organization/1"},
        }
    ],
}
_CODE = {"coding": [{"system": "http://loinc.org", "code": "4548-4"}], "text": "HbA1c"}
_SUBJECT = {"reference": "Patient/1"}
_BY_TYPE: dict[str, Resource] = {
    "Patient": {
        "name": [{"family": "Doe", "given": ["Jo", "K"]}],
        "gender": "female",
        "birthDate": "1960-02-29",
        "deceasedBoolean": False,
        "communication": [{"language": {"text": "English"}, "preferred": True}],
    },
    "Observation": {
        "status": "final",
        "code": _CODE,
        "subject": _SUBJECT,
        "effectivePeriod": {"start": "2023", "end": "2023-05-06T07:08:09Z"},
        "component": [{"code": _CODE, "valueQuantity": {"value": -0.0012345678, "unit": "%"}}, {"code": _CODE}],
    },
    "Encounter": {
        "status": "finished",
        "class": {"code": "AMB"},
        "subject": _SUBJECT,
        "location": [{"location": {"reference": "Location/1"}, "status": "completed"}],
        "period": {"start": "2023-05-06T23:59:60.5-14:00"},
    },
    "Condition": {"code": _CODE, "subject": _SUBJECT, "onsetAge": {"value": 40, "unit": "a"}},
    "Coverage": {"status": "active", "beneficiary": _SUBJECT, "payor": [{"reference": "Organization/1"}], "order": 1},
    "MedicationRequest": {
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": _CODE,
        "subject": _SUBJECT,
        "dosageInstruction": [
            {"sequence": 1, "timing": {"repeat": {"frequency": 2, "period": 1.0, "periodUnit": "d"}}}
        ],
    },
    "ExplanationOfBenefit": {
        "status": "active",
        "type": _CODE,
        "use": "claim",
        "patient": _SUBJECT,
        "created": "2023-05-06",
        "insurer": {"display": "x"},
        "provider": {"reference": "#p"},
        "outcome": "complete",
        "insurance": [{"focal": True, "coverage": {"reference": "Coverage/1"}}],
        "item": [
            {
                "sequence": 1,
                "productOrService": _CODE,
                "net": {"value": 12345678.125, "currency": "USD"},
            }
        ],
        "contained": [{"resourceType": "Practitioner", "id": "p", "gender": "other"}],
    },
    "Device": {"status": "active", "expirationDate": "2030-01-01T00:00:00Z", "safety": [_CODE, {"text": "\\u003a/"}]},
}


def valid(resource_type: str, identifier: str) -> Resource:
    """A valid resource that fills many kinds of elements."""
    return json.loads(
        json.dumps({"resourceType": resource_type, "id": identifier, **_COMMON, **_BY_TYPE[resource_type]})
    )


def types() -> tuple[str, ...]:
    return tuple(_BY_TYPE)


class Invalid(NamedTuple):
    """A line that must be refused at ``path`` for ``rule``."""

    kind: str
    line: bytes
    path: str
    rule: str


def _deep(resource: Resource) -> None:
    inner: Resource = {"url": "http://example.org/leaf", "valueBoolean": True}
    for _ in range(200):
        inner = {"url": "http://example.org/level", "extension": [inner]}
    resource["extension"] = [inner]


#: kind: (change of the resource, path below the type, rule)
_CHANGES: dict[str, tuple[Callable[[Resource], object], str, str]] = {
    "no id": (lambda r: r.pop("id"), ".id", "required"),
    "id with a blank": (lambda r: r.update(id="a b"), ".id", "format"),
    "id too long": (lambda r: r.update(id="a" * 65), ".id", "format"),
    "unknown element": (lambda r: r.update(nonsense=1), "", "unknown-element"),
    "unknown element inside": (lambda r: r["meta"].update(nonsense=1), ".meta", "unknown-element"),
    "array for one": (lambda r: r.update(language=["en"]), ".language", "cardinality"),
    "one for an array": (lambda r: r.update(identifier=r["identifier"][0]), ".identifier", "cardinality"),
    "empty array": (lambda r: r.update(identifier=[]), ".identifier", "cardinality"),
    "empty object": (lambda r: r.update(meta={}), ".meta", "cardinality"),
    "null": (lambda r: r.update(language=None), ".language", "type"),
    "text for an object": (lambda r: r.update(meta="x"), ".meta", "type"),
    "number for text": (lambda r: r["identifier"][0].update(value=5), ".identifier[0].value", "type"),
    "code not of the binding": (lambda r: r["identifier"][0].update(use="main"), ".identifier[0].use", "binding"),
    "instant without zone": (
        lambda r: r["meta"].update(lastUpdated="2024-05-06T07:08:09"),
        ".meta.lastUpdated",
        "format",
    ),
    "day not of the calendar": (
        lambda r: r["identifier"][0]["period"].update(start="2023-02-30"),
        ".identifier[0].period.start",
        "format",
    ),
    "uri with a blank": (lambda r: r["identifier"][0].update(system="urn: x"), ".identifier[0].system", "format"),
    "empty text": (lambda r: r["identifier"][0].update(value=""), ".identifier[0].value", "format"),
    "NUL": (lambda r: r["identifier"][0].update(value="a\0"), ".identifier[0].value", "format"),
    "code with two blanks": (
        lambda r: r["identifier"][0]["type"]["coding"][0].update(code="a  b"),
        ".identifier[0].type.coding[0].code",
        "format",
    ),
    "reference with a blank": (
        lambda r: r["identifier"][0]["assigner"].update(reference="Organization/ 1"),
        ".identifier[0].assigner.reference",
        "format",
    ),
    "extension without url": (lambda r: r["extension"][0].pop("url"), ".extension[0].url", "required"),
    "two types of a choice": (lambda r: r["extension"][0].update(valueCode="x"), ".extension[0].value[x]", "choice"),
    "required element missing": (lambda r: r["text"].pop("div"), ".text.div", "required"),
    "sibling with a value": (lambda r: r.update(_language={"value": 1}), "._language", "unknown-element"),
    "positiveInt of 0": (
        lambda r: r.update(extension=[{"url": "x", "valuePositiveInt": 0}]),
        ".extension[0].valuePositiveInt",
        "format",
    ),
    "integer with a fraction": (
        lambda r: r.update(extension=[{"url": "x", "valueInteger": 1.5}]),
        ".extension[0].valueInteger",
        "type",
    ),
    "decimal too large": (
        lambda r: r.update(extension=[{"url": "x", "valueDecimal": 10**20}]),
        ".extension[0].valueDecimal",
        "format",
    ),
    "contained of no type": (
        lambda r: r.update(contained=[{"resourceType": "Patent"}]),
        ".contained[0].resourceType",
        "resource-type",
    ),
}


def invalid_lines() -> Iterator[Invalid]:
    """Each kind for each type; ids are made of both."""
    for number, (kind, (change, path, rule)) in enumerate(_CHANGES.items()):
        for resource_type in _BY_TYPE:
            resource = valid(resource_type, f"bad-{number}")
            change(resource)
            yield Invalid(kind, json.dumps(resource).encode(), resource_type + path, rule)
    for resource_type in _BY_TYPE:
        resource = valid(resource_type, "bad")
        line = json.dumps(resource).encode()
        yield Invalid("cut off", line[:-20], "$this", "not-json")
        yield Invalid("not UTF-8", line.replace(b'"official"', b'"offici\xffal"'), "$this", "not-json")
        yield Invalid("half a surrogate", line.replace(b'"official"', b'"\\ud800"'), "$this", "not-json")
        yield Invalid("two values", line + b" {}", "$this", "not-json")
        yield Invalid("key named twice", line[:-1] + b', "language": "de"}', "$this", "duplicate-key")
        yield Invalid(
            "key named twice inside",
            line.replace(b'"versionId"', b'"versionId": "2", "version\\u0049d"'),
            "$this",
            "duplicate-key",
        )
        yield Invalid(
            "unknown type", line.replace(resource_type.encode(), b"Patent", 1), "resourceType", "resource-type"
        )
        yield Invalid(
            "type no text", line.replace(b'"' + resource_type.encode() + b'"', b"5", 1), "resourceType", "resource-type"
        )
        _deep(resource)
        yield Invalid("too deep", json.dumps(resource).encode(), "$this", "depth")
