"""ATR Groups: what the profile asks for, and changes from version to version."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from fhir_gateway.attribution import Attribution, AttributionTerms, Participant, Roster, atr_group, attribute
from fhir_gateway.errors import ContractError

ATR = "http://hl7.org/fhir/us/davinci-atr/StructureDefinition/"
PERIOD = (date(2024, 1, 1), date(2024, 12, 31))
NOW = datetime(2025, 1, 15, tzinfo=UTC)
ROSTER = Roster(
    contract_system="https://example.org/contracts",
    contract_value="C-1",
    name="Contract",
    contract_period=PERIOD,
    managing_entity={"reference": "Organization/payer"},
    tins=("100000001", "100000002"),
    npis=("1234567893",),
    organizations={"100000001": "Organization/one"},
)


def attribution(make_lines: Any, make_coverage: Any, seen: dict[str, str]) -> Attribution:
    """Each member visited one TIN."""
    rows = [{"_member": member, "tin": tin, "specialty": "08", "allowed": "10"} for member, tin in seen.items()]
    coverage = make_coverage(*((member, "2024-01-01", None, "AB", "active") for member in seen))
    participants = [Participant("aco", tins=("100000001", "100000002"))]
    return attribute(make_lines(rows), coverage, AttributionTerms.load("commercial-primary-care"), PERIOD, participants)


def value(entry: dict[str, Any], name: str) -> Any:
    found = [e for e in entry["extension"] if e["url"] == ATR + name]
    return next(v for k, v in found[0].items() if k.startswith("value")) if found else None


def changes(group: dict[str, Any]) -> dict[tuple[str, str], tuple[str, bool]]:
    result = {}
    for entry in group.get("member", ()):
        provider = value(entry, "ext-attributedProvider")
        name = provider.get("reference") or provider["identifier"]["value"]
        result[entry["entity"]["reference"], name] = (value(entry, "ext-changeType"), entry["inactive"])
    return result


def make(found: Attribution, **options: Any) -> dict[str, Any]:
    return atr_group(found, "aco", ROSTER, group_id="g1", last_updated=NOW, **options)


def test_group_follows_the_profile(make_lines: Any, make_coverage: Any) -> None:
    found = attribution(make_lines, make_coverage, {"p1": "100000001", "p2": "100000002", "p3": "200000001"})
    group = make(found, status="final")
    assert group["meta"] == {"lastUpdated": "2025-01-15T00:00:00.000+00:00", "profile": [f"{ATR}atr-group"]}
    assert (group["type"], group["actual"], group["quantity"]) == ("person", True, 2)
    assert group["managingEntity"] == {"reference": "Organization/payer"}
    extensions = {e["url"].removeprefix(ATR): e for e in group["extension"]}
    assert extensions["ext-attributionListStatus"]["valueCode"] == "final"
    assert extensions["ext-contractValidityPeriod"]["valuePeriod"] == {"start": "2024-01-01", "end": "2024-12-31"}
    assert [(i["system"], i["value"]) for i in group["identifier"]] == [
        ("https://example.org/contracts", "C-1"),
        ("urn:oid:2.16.840.1.113883.4.4", "100000001"),
        ("urn:oid:2.16.840.1.113883.4.4", "100000002"),
        ("http://hl7.org/fhir/sid/us-npi", "1234567893"),
    ]
    assert changes(group) == {
        ("Patient/p1", "Organization/one"): ("new", False),
        ("Patient/p2", "100000002"): ("new", False),
    }
    first = group["member"][0]
    assert first["period"] == {"start": "2024-01-01", "end": "2024-12-31"}
    assert value(first, "ext-coverageReference") == {"reference": "Coverage/c0"}


def test_changes_are_relative_to_the_version_before(make_lines: Any, make_coverage: Any) -> None:
    before = make(attribution(make_lines, make_coverage, {"p1": "100000001", "p2": "100000001", "p3": "100000002"}))
    after = attribution(make_lines, make_coverage, {"p1": "100000001", "p2": "100000002", "p4": "100000001"})
    group = make(after, previous=before)
    assert changes(group) == {
        ("Patient/p1", "Organization/one"): ("nochange", False),
        ("Patient/p2", "100000002"): ("new", False),
        ("Patient/p2", "Organization/one"): ("dropped", True),
        ("Patient/p3", "100000002"): ("dropped", True),
        ("Patient/p4", "Organization/one"): ("new", False),
    }
    assert group["quantity"] == 3
    again = make(after, previous=group)
    assert changes(again)["Patient/p3", "100000002"] == ("nochange", True)
    assert ("Patient/p3", "100000002") not in changes(make(after, previous=group, status="final"))
    back = attribution(make_lines, make_coverage, {"p3": "100000002"})
    assert changes(make(back, previous=group))["Patient/p3", "100000002"] == ("changed", False)


def test_empty_list_has_no_member_element(make_lines: Any, make_coverage: Any) -> None:
    group = make(attribution(make_lines, make_coverage, {}))
    assert "member" not in group
    assert group["quantity"] == 0


def test_group_parses_as_r4(make_lines: Any, make_coverage: Any) -> None:
    from fhir.resources.R4B.group import Group

    group = make(attribution(make_lines, make_coverage, {"p1": "100000001"}))
    assert Group.model_validate(group).quantity == 1


def test_timestamp_needs_an_offset(make_lines: Any, make_coverage: Any) -> None:
    found = attribution(make_lines, make_coverage, {})
    with pytest.raises(ContractError, match="offset"):
        atr_group(found, "aco", ROSTER, group_id="g", last_updated=datetime(2025, 1, 1))  # noqa: DTZ001 on purpose
