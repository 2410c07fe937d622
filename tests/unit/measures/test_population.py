"""In-memory populations: grouping, batches and typed columns."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest

from fhir_gateway.errors import InputError
from fhir_gateway.measures.population import MemoryPopulation, member_of
from fhir_gateway.r4 import spec


def patient(name: str, **content: object) -> dict[str, object]:
    return {"resourceType": "Patient", "id": name, **content}


def observation(name: str, of: str, value: float | None = None) -> dict[str, object]:
    resource: dict[str, object] = {
        "resourceType": "Observation",
        "id": name,
        "status": "final",
        "subject": {"reference": f"Patient/{of}"},
        "code": {"coding": [{"system": "http://loinc.org", "code": "4548-4"}]},
    }
    if value is not None:
        resource["valueQuantity"] = {"value": value, "code": "%"}
    return resource


def test_resources_are_read_as_typed_columns_sorted_by_member() -> None:
    people = MemoryPopulation.from_resources(
        [observation("o2", "b", 9.1), observation("o1", "a"), patient("b", birthDate="1970"), patient("a")]
    )
    (batch,) = people.batches()
    assert batch.members.to_pylist() == ["a", "b"]
    table = batch.read("Observation", ["code", "valueQuantity"])
    assert table.column_names == ["_source", "id", "_member", "_bucket", "_last_updated", "code", "valueQuantity"]
    assert table["_member"].to_pylist() == ["a", "b"]
    assert table["valueQuantity"].to_pylist()[0] is None
    assert table["valueQuantity"].to_pylist()[1]["value"] == Decimal("9.1")
    assert table.schema.field("code").type == spec.arrow_type(spec.column_structure("Observation")["code"])
    assert batch.read("Patient", ["birthDate"])["birthDate"].to_pylist() == [None, "1970"]


def test_batches_hold_whole_members_and_what_belongs_to_nobody() -> None:
    resources = [patient(n) for n in "abc"] + [observation(f"o{n}", n) for n in "abc"]
    practitioner = {"resourceType": "Practitioner", "id": "dr"}
    batches = list(MemoryPopulation.from_resources([*resources, practitioner], batch_size=2).batches())
    assert [batch.members.to_pylist() for batch in batches] == [["a", "b"], ["c"]]
    assert [batch.read("Observation", [])["id"].to_pylist() for batch in batches] == [["oa", "ob"], ["oc"]]
    assert [batch.read("Practitioner", [])["id"].to_pylist() for batch in batches] == [["dr"], ["dr"]]


def test_a_type_without_rows_has_its_columns() -> None:
    (batch,) = MemoryPopulation.from_resources([patient("a")]).batches()
    table = batch.read("Encounter", ["period", "_raw"])
    assert table.num_rows == 0
    assert table.schema.field("period").type == pa.struct([("start", pa.string()), ("end", pa.string())])


def test_groups_keep_resources_that_refer_elsewhere() -> None:
    people = MemoryPopulation([("m1", [patient("a"), observation("o", "someone-else")]), ("m2", [patient("a")])])
    (batch,) = people.batches()
    assert batch.members.to_pylist() == ["m1", "m2"]
    assert batch.read("Observation", [])["_member"].to_pylist() == ["m1"]


def test_an_unknown_column_is_refused() -> None:
    (batch,) = MemoryPopulation.from_resources([patient("a")]).batches()
    with pytest.raises(InputError, match="Patient has no columns shoeSize"):
        batch.read("Patient", ["shoeSize"])


@pytest.mark.parametrize(
    ("reference", "member"),
    [
        ("Patient/x", "x"),
        ("http://host/fhir/Patient/x", "x"),
        ("Patient/x/_history/3", "x"),
        ("Group/x", None),
        ("#contained", None),
        (None, None),
    ],
)
def test_member_of_a_reference(reference: str | None, member: str | None) -> None:
    assert member_of({"resourceType": "Observation", "subject": {"reference": reference}}) == member
