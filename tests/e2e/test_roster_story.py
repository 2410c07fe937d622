"""A roster from claims, what people decide about it, how that outlives the next attribution; the payer's beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.attribution import entries
from fhir_gateway.db.audience import EVERYONE, Audience
from fhir_gateway.errors import ConflictError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import lists, rosters
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.list_parties import Named, Refused
from fhir_gateway.jobs.lists import Caller
from fhir_gateway.sandbox.population import generate
from tests.support.sandbox_contracts import contract_terms, pull_population, tins_of, write_contract

NOW = datetime(2026, 4, 1, tzinfo=UTC)
OPERATOR = Caller("operator", EVERYONE, "somebody said so")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    folder = tmp_path_factory.mktemp("population") / "all"
    generate(folder, patients=150, seed=11, year=2025)
    gateway = pull_population(folder, tmp_path_factory.mktemp("gateway"), lake_buckets=2)
    attribution = {"terms": "commercial-primary-care", "list_status": "draft"}
    stated = contract_terms("aco", tins_of(folder), attribution=attribution)
    write_contract(gateway.data_folder / "contracts", stated, "aco")
    attribute(gateway, "aco", now=NOW)
    return gateway


def group(gateway: Gateway, name: str) -> dict[str, Any]:
    return gateway.resources.read("Group", name).json()


def practice_lists(gateway: Gateway) -> list[str]:
    return [name for name in gateway.resources.ids("Group") if name != "aco"]


def test_decisions_outlive_the_next_attribution_and_can_be_withdrawn(gateway: Gateway) -> None:
    before = attribute(gateway, "aco", now=NOW)
    version = group(gateway, "aco")["meta"]["versionId"]
    others = sorted(set(gateway.lake.members().to_pylist()) - set(before.members.to_pylist()))
    practices = practice_lists(gateway)
    listed = entries.active(group(gateway, practices[0]))
    (patient, provider), *_ = listed
    removed_person = patient.removeprefix("Patient/")
    added_person = others[0]
    lists.remove(gateway, practices[0], Named(patient=patient), OPERATOR)
    lists.add(gateway, "aco", Named(patient=f"Patient/{added_person}", provider=provider), OPERATOR)
    decided = {name: entries.active(group(gateway, name)) for name in ("aco", *practices)}
    assert (f"Patient/{added_person}", provider) in decided["aco"]
    assert (f"Patient/{added_person}", provider) in decided[practices[0]]
    assert (patient, provider) not in decided["aco"]
    versions = {name: gateway.resources.read("Group", name).version for name in decided}

    after = attribute(gateway, "aco", now=NOW)
    assert {name: gateway.resources.read("Group", name).version for name in decided} == versions
    assert {name: entries.active(group(gateway, name)) for name in decided} == decided
    members = set(after.members.to_pylist())
    assert members == (set(before.members.to_pylist()) | {added_person}) - {removed_person}
    assert after.decisions != before.decisions == ""
    assert after.attribution.table.schema == before.attribution.table.schema
    assert after.attribution.table.num_rows == before.attribution.table.num_rows
    row = after.attribution.table.filter(
        pa.compute.equal(after.attribution.table["member"], removed_person)
    ).to_pylist()[0]
    assert (row["entity"], row["reason"]) == (None, "removed-by-decision")

    for one in gateway.decisions.standing("aco"):
        lists.withdraw(gateway, one.id, "operator", "a mistake")
    with pytest.raises(ConflictError, match="withdrawn before"):
        lists.withdraw(gateway, one.id, "operator")
    assert (
        entries.active(group(gateway, "aco")).keys()
        == entries.active(gateway.resources.vread("Group", "aco", int(version)).json()).keys()
    )
    again = attribute(gateway, "aco", now=NOW)
    assert again.attribution.table.equals(before.attribution.table)
    proof = gateway.resources.read("Provenance", one.id).json()
    assert "a mistake" in proof["reason"][-1]["text"]


def test_a_practice_adds_whom_its_claims_show(gateway: Gateway) -> None:
    """Members of the contract's other practices count when the practice saw them too."""
    name = practice_lists(gateway)[0]
    tin = name.removeprefix("aco-")
    practice = Caller("practice", Audience.of([f"organization:{tin}"]))
    lines = attribute(gateway, "aco", now=NOW).lines
    seen = set(lines.filter(pa.compute.equal(lines["tin"], tin))["_member"].to_pylist())
    mine = {patient.removeprefix("Patient/") for patient, _ in entries.active(group(gateway, name))}
    (_, provider), *_ = entries.active(group(gateway, name))
    unseen = sorted(set(gateway.lake.members().to_pylist()) - seen - mine)[0]
    with pytest.raises(Refused, match="no such member"):
        lists.add(gateway, name, Named(patient=f"Patient/{unseen}", provider=provider), practice)
    visited = sorted(seen - mine)
    assert visited
    assert lists.add(gateway, name, Named(patient=f"Patient/{visited[0]}", provider=provider), practice).changed
    lists.remove(gateway, name, Named(patient=f"Patient/{visited[0]}"), practice)


def test_the_payers_roster_is_compared_with_ours(gateway: Gateway, tmp_path: Path) -> None:
    coverage: dict[str, Any] = {}
    holders: dict[str, set[str]] = {}
    for one in gateway.resources.search("Coverage", [], 1000).resources:
        body = one.json()
        for identifier in body["identifier"]:
            holders.setdefault(identifier["value"], set()).add(body["beneficiary"]["reference"])
        coverage.setdefault(body["beneficiary"]["reference"], body["identifier"][0])
    for one in gateway.resources.search("Patient", [], 1000).resources:
        for identifier in one.json()["identifier"]:
            holders.setdefault(identifier["value"], set()).add(f"Patient/{one.id}")
    members = sorted(entries.active(group(gateway, "aco")))
    shared = [key for key in members if len(holders[coverage[key[0]]["value"]]) > 1]  # a number of several persons
    members = [key for key in members if key not in shared]
    practices = [name.removeprefix("aco-") for name in practice_lists(gateway)]
    tin_of = {key: tin for tin in practices for key in entries.active(group(gateway, f"aco-{tin}"))}
    lines = ["member_id,member_system,provider_tin,start,end"]
    for number, key in enumerate(members[:-1]):  # the last one is only ours
        identifier, tin, start = coverage[key[0]], tin_of[key], "2025-01-01"
        if number == 0:
            tin = next(one for one in practices if one != tin)
        if number == 1:
            start = "2025-07-01"
        lines.append(f"{identifier['value']},{identifier['system']},{tin},{start},2025-12-31")
    lines.append("nobody,https://payer.example,111,2025-01-01,")
    listed = {patient for patient, _ in entries.active(group(gateway, "aco"))}
    outside = sorted(one for one in coverage if one not in listed and len(holders[coverage[one]["value"]]) == 1)[0]
    lines.append(f"{coverage[outside]['value']},,,,")
    theirs = rosters.of_csv(gateway, "\n".join(lines).encode())
    found = rosters.compare(gateway, "aco", theirs)
    assert found.counts == {
        "same": len(members) - 3,
        "different-provider": 1,
        "different-period": 1,
        "only-theirs": 1,
        "only-ours": 1 + len(shared),
        "unknown-member": 1,
    }
    name = practice_lists(gateway)[0]
    practice = rosters.compare(gateway, name, theirs, Audience.of([f"organization:{name.removeprefix('aco-')}"]))
    mine = {patient.removeprefix("Patient/") for patient, _ in entries.active(group(gateway, name))}
    assert set(practice.table["member"].drop_null().to_pylist()) <= mine  # who others are is not told
    ours = rosters.of_group(gateway, group(gateway, "aco"))
    assert rosters.compare(gateway, "aco", ours).counts["same"] == len(members) + len(shared)


def test_a_confirmed_list_stays_as_it_is(gateway: Gateway) -> None:
    name = practice_lists(gateway)[0]
    lists.confirm(gateway, name, OPERATOR)
    kept = entries.active(group(gateway, name))
    (patient, _), *_ = kept
    attribute(gateway, "aco", now=NOW)
    assert entries.active(group(gateway, name)) == kept
    assert entries.status_of(group(gateway, name)) == "final"
    assert entries.status_of(group(gateway, "aco")) == "draft"
    with pytest.raises(lists.FinalList):
        lists.remove(gateway, "aco", Named(patient=patient), OPERATOR)
