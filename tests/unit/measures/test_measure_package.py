"""Loading packages: what is found where, and everything that is refused before anything runs."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.errors import InputError, LibraryError, MeasureError, TerminologyError, UnsupportedElm
from fhir_gateway.measures import Evaluator, MeasurePackage, evaluate
from fhir_gateway.measures.author import cql_hash
from fhir_gateway.measures.canonicals import CANONICAL_BASE, CQL_SHA256
from fhir_gateway.measures.lock import write_lock
from fhir_gateway.measures.population import MemoryPopulation
from tests.support.measures import COHORT, MEASURES, in_value_set, library, true, write

OWN = sorted(path.parent.name for path in MEASURES.glob("*/measure.json"))
CODES = "http://measures.example/ValueSet/codes"
VALUE_SET = {
    "resourceType": "ValueSet",
    "url": CODES,
    "compose": {"include": [{"system": "urn:s", "concept": [{"code": "a"}]}]},
}
MAIN = library("Main", {"Initial Population": true()})
USING_CODES = library("Main", {"Initial Population": in_value_set("Codes")}, value_sets={"Codes": CODES})


def test_folder_bundle_and_compressed_bundle_are_the_same_package(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder, COHORT, MAIN, {"resourceType": "Patient", "id": "an-example"})
    (folder / "notes.json").write_text('{"not": "a resource"}')
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": COHORT}, {"resource": MAIN}]}
    plain, packed = tmp_path / "bundle.json", tmp_path / "bundle.json.gz"
    plain.write_text(json.dumps(bundle, indent=3))
    packed.write_bytes(gzip.compress(json.dumps(bundle).encode()))
    packages = [MeasurePackage.load(path) for path in (folder, plain, packed)]
    assert {package.package_hash for package in packages} == {packages[0].package_hash}
    assert packages[0].package_hash.startswith("sha256:")
    assert (packages[0].name, packages[0].title, packages[0].version) == ("Made", "Made up", "1.0")
    assert packages[0].primary == ("Main", "1")


def test_the_hash_follows_the_content(tmp_path: Path) -> None:
    package = MeasurePackage.load(write(tmp_path, COHORT, MAIN))
    changed = MeasurePackage.load(write(tmp_path, COHORT | {"title": "Other"}, MAIN))
    assert changed.package_hash != package.package_hash
    assert changed.terminology_hash == package.terminology_hash


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut.json.gz", gzip.compress(json.dumps(COHORT).encode())[:-20], "damaged or cut short"),
        ("text.json", b"{ not json", "not JSON"),
        ("empty.json", b"", "not JSON"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}.*{reason}"):
        MeasurePackage.load(tmp_path)


def test_there_is_exactly_one_measure(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="no such measure package"):
        MeasurePackage.load(tmp_path / "nowhere")
    with pytest.raises(MeasureError, match="has no Measure"):
        MeasurePackage.load(tmp_path)
    with pytest.raises(MeasureError, match="has 2 Measures"):
        MeasurePackage.load(write(tmp_path, COHORT, COHORT, MAIN))


def test_a_measure_needs_url_version_and_one_library(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"Measure\.version"):
        MeasurePackage.load(write(tmp_path, {k: v for k, v in COHORT.items() if k != "version"}, MAIN))
    with pytest.raises(MeasureError, match="names 2"):
        MeasurePackage.load(write(tmp_path, COHORT | {"library": ["a", "b"]}, MAIN))


def test_a_missing_library_error_lists_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match=r"Main\|1 is not in the package; found version '2' in library-1\.json"):
        MeasurePackage.load(write(tmp_path, COHORT, library("Main", {}, version="2")))
    with pytest.raises(LibraryError, match=r"found .*Library/Other\|1 in library-1\.json"):
        MeasurePackage.load(write(tmp_path, COHORT, library("Other", {})))
    main = library("Main", {}, includes=[("FHIRHelpers", "4.0.1")])
    with pytest.raises(
        LibraryError, match=r"Main version '1' needs library FHIRHelpers version '4\.0\.1'; found version '4\.0\.001'"
    ):
        MeasurePackage.load(write(tmp_path, COHORT, main, library("FHIRHelpers", {}, version="4.0.001")))


def test_an_include_without_a_version_takes_the_newest(tmp_path: Path) -> None:
    main = library("Main", {"Initial Population": true()}, includes=[("Helpers", None)])
    older, newer = (library("Helpers", {}, version=version) for version in ("1.9", "1.10"))
    package = MeasurePackage.load(write(tmp_path, COHORT, main, older, newer))
    assert [elm["identifier"].get("version") for elm in package.libraries] == ["1", "1.10"]


def test_two_versions_of_one_library_are_used_side_by_side(tmp_path: Path) -> None:
    """A quarter of the criterion comes from B 1, another from B 2 by way of A; each has its own value set."""

    def reference(library_name: str, name: str) -> dict[str, Any]:
        return {"type": "ExpressionRef", "libraryName": library_name, "name": name}

    both = {"type": "And", "operand": [reference("B", "Same"), {"type": "Not", "operand": reference("A", "Other")}]}
    main = library("Main", {"Initial Population": both}, includes=[("A", "1"), ("B", "1")])
    a = library("A", {"Other": reference("B", "Same")}, includes=[("B", "2")])
    one = library("B", {"Same": true()})
    two = library("B", {"Same": {"type": "Not", "operand": true()}}, version="2")
    package = MeasurePackage.load(write(tmp_path, COHORT, main, a, one, two))
    assert sorted(str(elm["identifier"].get("version")) for elm in package.libraries) == ["1", "1", "1", "2"]
    package.preflight()
    population = MemoryPopulation.from_resources([{"resourceType": "Patient", "id": "p"}])
    result = evaluate(package, population, (date(2026, 1, 1), date(2026, 12, 31)), datetime(2027, 1, 1, tzinfo=UTC))
    assert result.groups[0].population("initial-population").counts.tolist() == [1]


def test_a_lock_holds_for_folders_and_for_bundles(tmp_path: Path) -> None:
    folder = write(tmp_path, COHORT, MAIN)
    write_lock(folder)
    assert MeasurePackage.load(folder).name
    bundle = tmp_path / "one.json"
    entries = [{"resource": one} for one in MeasurePackage.load(folder).resources]
    bundle.write_text(json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}))
    target = write_lock(bundle)
    assert target.name == "one.json.lock.json"
    entries.append({"resource": library("Added", {})})
    bundle.write_text(json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}))
    with pytest.raises(MeasureError, match=r"differs from its lock: Library .*Added.* was added"):
        MeasurePackage.load(bundle)
    write_lock(bundle)
    assert MeasurePackage.load(bundle).name


def test_elm_that_is_none_is_refused(tmp_path: Path) -> None:
    broken = MAIN | {"content": [{"contentType": "application/elm+json", "data": "bm8="}]}
    with pytest.raises(InputError, match="not base64 of an ELM JSON library"):
        MeasurePackage.load(write(tmp_path, COHORT, broken))
    with pytest.raises(LibraryError, match=r"no content of type application/elm\+json"):
        MeasurePackage.load(write(tmp_path, COHORT, MAIN | {"content": []}))


@pytest.mark.parametrize("text", ["é", "!!!", "W10=", "e30=", "5"])
def test_attachments_that_are_no_elm_are_refused(tmp_path: Path, text: str) -> None:
    broken = MAIN | {"content": [{"contentType": "application/elm+json", "data": text}]}
    with pytest.raises(InputError, match=r"Library\(.*\)\.content: the ELM is not base64 of an ELM JSON library"):
        MeasurePackage.load(write(tmp_path, COHORT, broken))


@pytest.mark.parametrize("section", [5, {"def": 5}, {"def": [None]}, {"def": [{"name": "x", "expression": None}]}])
def test_sections_of_another_shape_are_refused(tmp_path: Path, section: object) -> None:
    elm = {"library": {"identifier": {"id": "Main", "version": "1"}, "statements": section}}
    data = base64.b64encode(json.dumps(elm).encode()).decode()
    broken = MAIN | {"content": [{"contentType": "application/elm+json", "data": data}]}
    with pytest.raises(InputError, match="the ELM's statements are not of the shape of the ELM schema"):
        MeasurePackage.load(write(tmp_path, COHORT, broken))


@pytest.mark.parametrize(
    ("measure", "main", "place"),
    [
        ({"group": 5}, {}, r"Measure\.group \[cardinality\]"),
        ({"group": [5]}, {}, r"Measure\.group\[0\] \[type\]"),
        ({}, {"content": 5}, r"Library\.content \[cardinality\]"),
    ],
)
def test_elements_of_another_shape_are_named(
    tmp_path: Path, measure: dict[str, object], main: dict[str, object], place: str
) -> None:
    with pytest.raises(MeasureError, match=place):
        MeasurePackage.load(write(tmp_path, COHORT | measure, MAIN | main))


@pytest.mark.parametrize("entry", [5, [5], {"resource": {}}])
def test_a_bundle_without_a_list_of_entries_is_refused(tmp_path: Path, entry: object) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps({"resourceType": "Bundle", "entry": entry}))
    with pytest.raises(InputError, match=r"bundle\.json Bundle\.entry \[type\]"):
        MeasurePackage.load(tmp_path)


def test_criteria_must_exist(tmp_path: Path) -> None:
    package = MeasurePackage.load(write(tmp_path, COHORT, library("Main", {"Something Else": true()})))
    with pytest.raises(MeasureError, match="no definition named 'Initial Population'"):
        package.preflight()


@pytest.mark.parametrize("value_set", [None, VALUE_SET | {"compose": {"include": []}}])
def test_a_missing_or_empty_value_set_is_refused_before_anything_runs(tmp_path: Path, value_set: dict | None) -> None:
    resources = [COHORT, USING_CODES] + ([value_set] if value_set else [])
    package = MeasurePackage.load(write(tmp_path, *resources))
    with pytest.raises(TerminologyError, match=CODES):
        Evaluator(package)


def test_an_empty_value_set_may_be_accepted_by_name(tmp_path: Path) -> None:
    write(tmp_path, COHORT, USING_CODES, VALUE_SET | {"compose": {"include": []}})
    MeasurePackage.load(tmp_path, accept_empty=[CODES]).preflight()


def test_a_value_set_nobody_uses_may_be_missing(tmp_path: Path) -> None:
    main = library("Main", {"Initial Population": true(), "Unused": in_value_set("Codes")}, value_sets={"Codes": CODES})
    assert MeasurePackage.load(write(tmp_path, COHORT, main)).preflight().value_sets == frozenset()


def test_value_sets_are_found_through_definitions_and_includes(tmp_path: Path) -> None:
    reference = {"type": "ExpressionRef", "name": "Inner", "libraryName": "Helpers"}
    main = library("Main", {"Initial Population": reference}, includes=[("Helpers", "1")])
    helpers = library("Helpers", {"Inner": in_value_set("Codes")}, value_sets={"Codes": CODES})
    package = MeasurePackage.load(write(tmp_path, COHORT, main, helpers, VALUE_SET))
    assert package.preflight().value_sets == {CODES}
    assert package.references().definitions == {("Main", "Initial Population"), ("Helpers", "Inner")}


def test_an_unknown_elm_node_is_refused_before_anything_runs(tmp_path: Path) -> None:
    package = MeasurePackage.load(
        write(tmp_path, COHORT, library("Main", {"Initial Population": {"type": "Levitate"}}))
    )
    with pytest.raises(UnsupportedElm, match=r"Main.*Levitate"):
        Evaluator(package)


@pytest.mark.parametrize("name", OWN)
def test_our_packages_pass_their_preflight(name: str) -> None:
    package = MeasurePackage.load(MEASURES / name)
    assert package.url.startswith(f"{CANONICAL_BASE}/Measure/")
    used = {reference.partition("|")[0] for reference in package.preflight().value_sets}
    assert used == set(package.value_sets.urls), "a package holds the value sets it uses, and no others"
    Evaluator(package)


@pytest.mark.parametrize("name", OWN)
def test_the_elm_was_compiled_from_the_cql_beside_it(name: str) -> None:
    package = MeasurePackage.load(MEASURES / name)
    sources = {path.stem: path for folder in (name, "common") for path in (MEASURES / folder / "cql").glob("*.cql")}
    libraries = [resource for resource in package.resources if resource["resourceType"] == "Library"]
    assert len(libraries) == len(package.libraries)
    for resource in libraries:
        text = sources[resource["name"]].read_text("utf-8")
        cql, elm = resource["content"]
        assert base64.b64decode(cql["data"]).decode() == text
        assert elm["extension"] == [{"url": CQL_SHA256, "valueString": cql_hash(text)}]


@pytest.mark.parametrize("name", OWN)
def test_shared_value_sets_are_copies_of_the_common_ones(name: str) -> None:
    for copy in (MEASURES / name).glob("valueset-*.json"):
        assert copy.read_bytes() == (MEASURES / "common" / copy.name).read_bytes()


def test_a_package_that_differs_from_its_lock_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(MEASURES / OWN[0], folder)
    MeasurePackage.load(folder)
    changed = next(folder.glob("valueset-*.json"))
    resource = json.loads(changed.read_text())
    changed.write_text(json.dumps(resource | {"title": "Changed"}))
    with pytest.raises(MeasureError, match=r"package\.lock\.json.*was changed"):
        MeasurePackage.load(folder)
    changed.unlink()
    with pytest.raises(MeasureError, match="is missing"):
        MeasurePackage.load(folder)
    changed.write_text(json.dumps(resource))
    (folder / "valueset-more.json").write_text(json.dumps(resource | {"url": "urn:more"}))
    with pytest.raises(MeasureError, match=r"urn:more.* was added"):
        MeasurePackage.load(folder)


def test_the_last_period_of_the_calendar_is_a_period() -> None:
    (name,) = [one for one in OWN if one.startswith("ed-visits")]
    evaluator = Evaluator(MeasurePackage.load(MEASURES / name))
    period = (date(9999, 1, 1), date(9999, 12, 31))
    ((start, end),) = evaluator.parameters(period, datetime(2026, 1, 1, tzinfo=UTC)).values()
    assert (start, end) == (
        datetime(9999, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
    )
