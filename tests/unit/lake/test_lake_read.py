"""Reading: layout, order, buckets, and the types of other readers of the same tables."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from fhir_gateway.errors import InputError, NotFoundError
from fhir_gateway.lake.columns import belongs_to_patients, table_schema
from fhir_gateway.lake.snapshots import KEY_COLUMNS
from fhir_gateway.lake.store import Lake
from fhir_gateway.r4 import spec
from tests.support.lake_pulls import MakePull, People, observation, patient


@pytest.fixture
def filled(lake: Lake, people: People, make_pull: MakePull) -> Lake:
    observations = [
        observation(
            f"o{i}",
            f"Patient/{i % 10}",
            meta={"lastUpdated": "2024-05-01T10:00:00.123+02:00"},
            valueQuantity={"value": i / 8, "unit": "%"},
            extension=[{"url": "http://x", "valueDecimal": 1.5}],
        )
        for i in range(40)
    ]
    no_patient = [
        observation("nobody", "Group/1"),
        observation("inside", "#p", contained=[{"resourceType": "Patient"}]),
    ]
    organizations = [{"resourceType": "Organization", "id": f"org{i}", "name": "x"} for i in range(3)]
    files = {
        "Patient": [patient(str(i), birthDate="1950-01-01") for i in range(10)],
        "Observation": [*observations, *no_patient],
        "Organization": organizations,
    }
    lake.commit(make_pull("p1", files), people)
    lake.commit(make_pull("p2", {"Observation": [observation("late", "http://ehr/fhir/Patient/3/_history/2")]}), people)
    return lake


def test_keys_are_always_there_and_rows_are_sorted(filled: Lake) -> None:
    table = filled.read("Observation")
    assert table.column_names == list(KEY_COLUMNS)
    assert table.num_rows == 43
    keys = list(zip(*(table[name].to_pylist() for name in ("_member", "_source", "id")), strict=True))
    assert keys == sorted(keys, key=lambda key: (key[0] is None, key[0] or "", *key[1:]))
    assert table["_member"].null_count == 2
    stamped = dict(zip(table["id"].to_pylist(), table["_last_updated"].to_pylist(), strict=True))
    assert stamped["o1"] == datetime(2024, 5, 1, 8, 0, 0, 123000, tzinfo=UTC)
    assert stamped["late"] is None


def test_elements_come_in_their_full_layout(filled: Lake) -> None:
    table = filled.read("Observation", ["valueQuantity", "extension", "component", "effectivePeriod", "code"])
    for name, structure in spec.column_structure("Observation").items():
        if name in table.column_names:
            assert table.schema.field(name).type == spec.arrow_type(structure)
    rows = {row["id"]: row for row in table.to_pylist()}
    assert rows["o3"]["valueQuantity"]["value"] == Decimal("0.375")
    assert rows["o3"]["valueQuantity"]["comparator"] is None
    assert rows["o3"]["extension"][0]["valueDecimal"] == Decimal("1.5")
    assert rows["o3"]["component"] is None
    assert rows["late"]["valueQuantity"] is None
    assert rows["late"]["code"]["coding"][0]["code"] == "4548-4"


def test_a_type_without_rows_is_empty_with_its_layout(filled: Lake) -> None:
    table = filled.read("Encounter", ["class", "_raw"])
    assert (table.num_rows, table.column_names) == (0, [*KEY_COLUMNS, "class", "_raw"])


def test_a_bucket_holds_whole_members_and_all_that_is_nobodys(filled: Lake) -> None:
    members: list[str] = []
    observations = 0
    for bucket in range(4):
        found = filled.members(bucket).to_pylist()
        members.extend(found)
        rows = filled.read("Observation", bucket=bucket)
        observations += rows.num_rows
        assert set(rows["_member"].to_pylist()) <= set(found)
        assert set(rows["_bucket"].to_pylist()) <= {bucket}
        assert filled.read("Organization", bucket=bucket)["id"].to_pylist() == ["org0", "org1", "org2"]
    assert sorted(members) == filled.members().to_pylist()
    assert len(members) == 10
    assert observations == 41


def test_references_of_any_form_find_their_patient(filled: Lake, people: People) -> None:
    table = filled.read("Observation", ["_patient"])
    found = {row["id"]: (row["_patient"], row["_member"]) for row in table.to_pylist()}
    assert found["late"] == ("3", people.person("a", "3"))
    assert found["nobody"] == (None, None)
    assert found["inside"] == (None, None)


def test_the_assigner_sees_what_identifies_a_person(filled: Lake, people: People) -> None:
    (seen,) = people.assigned
    assert seen.column_names == ["id", "identifier", "name", "birthDate", "gender"]
    assert seen["birthDate"].to_pylist() == ["1950-01-01"] * 10
    assert seen.schema.field("identifier").type == spec.arrow_type(spec.column_structure("Patient")["identifier"])


def test_unknown_names_are_refused(filled: Lake) -> None:
    with pytest.raises(InputError, match="Observation has no column colour"):
        filled.read("Observation", ["colour"])
    with pytest.raises(InputError, match="Patent is not an R4 resource type"):
        filled.read("Patent")
    with pytest.raises(NotFoundError, match="no version 9"):
        filled.read("Observation", version=9)


def test_other_delta_readers_see_the_same_rows(filled: Lake) -> None:
    table = DeltaTable(str(filled.root / "Observation")).to_pyarrow_table(columns=["id", "_bucket", "valueQuantity"])
    ours = filled.read("Observation", ["valueQuantity"])
    assert sorted(table["id"].to_pylist()) == sorted(ours["id"].to_pylist())
    assert table.schema.field("valueQuantity").type.num_fields == ours.schema.field("valueQuantity").type.num_fields


def test_all_types_have_a_table_layout() -> None:
    for resource_type in spec.resource_types():
        assert table_schema(resource_type).field("id").type == pa.string()
    assert belongs_to_patients("Task")
    assert not belongs_to_patients("Organization")


@pytest.mark.parametrize("resource_type", ["Task", "Account", "QuestionnaireResponse"])
def test_patients_behind_open_and_repeated_references(
    lake: Lake, people: People, make_pull: MakePull, resource_type: str
) -> None:
    line = {
        "Task": {"status": "draft", "intent": "order", "for": {"reference": "Patient/1"}},
        "Account": {"status": "active", "subject": [{"reference": "Location/1"}, {"reference": "Patient/1"}]},
        "QuestionnaireResponse": {"status": "completed", "subject": {"reference": "urn:uuid:1"}},
    }[resource_type]
    lake.commit(make_pull("p", {resource_type: [{"resourceType": resource_type, "id": "x", **line}]}), people)
    assert lake.read(resource_type)["_member"].to_pylist() == [people.person("a", "1")]


def test_a_resource_with_nothing_but_raw_elements(lake: Lake, people: People, make_pull: MakePull) -> None:
    line = {"resourceType": "Basic", "id": "b", "code": {"extension": [{"url": "http://x", "valueCode": "y"}]}}
    lake.commit(make_pull("p", {"Basic": [line]}), people)
    table = lake.read("Basic", ["code", "_raw"])
    assert table["code"].to_pylist() == [None]
    assert json.loads(table["_raw"][0].as_py()) == line


def test_parts_of_elements_are_read_by_path(filled: Lake) -> None:
    table = filled.read("Observation", ["code.coding.code", "valueQuantity.value", "effectivePeriod.start"])
    assert table.schema.field("code").type == pa.struct([("coding", pa.list_(pa.struct([("code", pa.string())])))])
    rows = {row["id"]: row for row in table.to_pylist()}
    assert rows["o3"]["code"] == {"coding": [{"code": "4548-4"}]}
    assert rows["o3"]["valueQuantity"] == {"value": Decimal("0.375")}
    assert rows["late"]["valueQuantity"] is None
    assert rows["late"]["effectivePeriod"] is None
    with pytest.raises(InputError, match=r"Observation has no column code\.colour"):
        filled.read("Observation", ["code.colour"])


def test_a_sparse_table_lacks_what_nothing_fills_but_not_where_something_is(filled: Lake) -> None:
    names = ["code.coding.version", "valueQuantity.value", "valueQuantity.code", "effectivePeriod.start"]
    table = filled.read("Observation", names, sparse=True)
    assert set(table.column_names) == {*KEY_COLUMNS, "code", "valueQuantity"}
    assert table.schema.field("valueQuantity").type == pa.struct([("value", pa.decimal128(28, 8))])
    assert table["code"].to_pylist() == [{"coding": [{"version": None}]}] * 43


def test_of_members_only_their_rows(filled: Lake, people: People) -> None:
    wanted = pa.array(sorted(people.person("a", number) for number in ("3", "7")))
    found = filled.read("Observation", ["code"], members=wanted)
    everything = filled.read("Observation", ["code"])
    assert found.equals(everything.filter(pc.is_in(everything["_member"], value_set=wanted)))
    assert found.num_rows == 9
    assert filled.read("Observation", members=wanted.slice(0, 0)).num_rows == 0
    assert filled.read("Observation", members=pa.array(["nobody"])).num_rows == 0
    assert filled.read("Organization", members=wanted).num_rows == 3


@pytest.mark.parametrize("number", range(12))
def test_what_another_member_has_now_is_no_longer_a_members(
    lake: Lake, people: People, make_pull: MakePull, number: int
) -> None:
    """The new place may be the same bucket or another one."""
    lake.commit(
        make_pull("p1", {"Observation": [observation("o", "Patient/old"), observation("x", "Patient/old")]}), people
    )
    lake.commit(make_pull("p2", {"Observation": [observation("o", f"Patient/new{number}")]}), people)
    old, new = (pa.array([people.person("a", name)]) for name in ("old", f"new{number}"))
    assert lake.read("Observation", members=old)["id"].to_pylist() == ["x"]
    assert lake.read("Observation", members=new)["id"].to_pylist() == ["o"]
