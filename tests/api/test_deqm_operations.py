"""The operations of DEQM as its public test kit asks for them: every line of sections F, G and H of its checks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from fhir_face import authorize, client_for, enter, register

from fhir_gateway.db.audience import label, labelled
from fhir_gateway.measures.dialect import Family
from fhir_gateway.r4.models import validate
from fhir_gateway.server.app import create_app
from tests.measures.deqm_rules import problems
from tests.support.backend_client import lasting
from tests.support.deqm import DIABETES, PRESSURE, STAYS, YEAR, Filled

pytestmark = pytest.mark.anyio

JSON = "application/fhir+json"
PARAMETERS = [{"name": name, "valueDate": value} for name, value in YEAR.items()]
ATTRIBUTED = "http://hl7.org/fhir/us/davinci-atr/StructureDefinition/ext-attributedProvider"
Resource = dict[str, Any]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    filled = Filled(tmp_path_factory.mktemp("deqm"))
    persons = inside(filled, DIABETES)
    filled.gateway.resources.put_many(
        [
            {"resourceType": "Practitioner", "id": "dr", "name": [{"family": "Who"}]},
            {"resourceType": "Practitioner", "id": "idle"},
            {"resourceType": "Organization", "id": "clinic", "name": "Clinic"},
            {"resourceType": "Organization", "id": "payer", "name": "Payer"},
            {
                "resourceType": "PractitionerRole",
                "id": "role",
                "practitioner": {"reference": "Practitioner/dr"},
                "organization": {"reference": "Organization/clinic"},
            },
            attribution_list("two", persons[:2], "Practitioner/dr", "aco"),
            attribution_list("others", persons[2:4], "Organization/clinic", "other"),
            {"resourceType": "Group", "id": "none", "type": "person", "actual": True},
        ]
    )
    return filled


def attribution_list(name: str, persons: list[str], provider: str, contract: str) -> Resource:
    """A list of members attributed to a provider, before the audience of a contract."""
    entries = [
        {
            "entity": {"reference": f"Patient/{person}"},
            "extension": [{"url": ATTRIBUTED, "valueReference": {"reference": provider}}],
        }
        for person in persons
    ]
    group = {"resourceType": "Group", "id": name, "type": "person", "actual": True, "member": entries}
    return labelled({**group, "managingEntity": {"reference": "Organization/payer"}}, label("contract", contract))


def inside(filled: Filled, measure: str) -> list[str]:
    """Persons in the initial population of a measure."""
    return [person for person, counts in filled.counts(measure).items() if counts["initial-population"]]


class Kit:
    """A client that asks as the kit does."""

    def __init__(self, http: httpx.AsyncClient, headers: Mapping[str, str]) -> None:
        self.http, self.headers = http, headers

    async def post(self, path: str, *parameters: Resource, period: bool = True) -> httpx.Response:
        """A Parameters body."""
        body = {"resourceType": "Parameters", "parameter": [*(PARAMETERS if period else ()), *parameters]}
        return await self.http.post(f"/fhir/Measure/{path}", json=body, headers=self.headers)

    async def query(self, path: str, method: str = "POST", period: bool = True, **parameters: Any) -> httpx.Response:
        """Everything in the URL, with an empty body."""
        asked = {**(YEAR if period else {}), **parameters}
        headers = {**self.headers, "Content-Type": JSON}
        return await self.http.request(method, f"/fhir/Measure/{path}", params=asked, headers=headers)


@pytest.fixture(scope="module")
async def kit(filled: Filled) -> AsyncIterator[Kit]:
    key = register(filled.gateway, "kit", "system/*.cruds")
    async with client_for(create_app(filled.gateway)) as http:
        headers = await authorize(http, "kit", key, "system/*.cruds")
        lasting(filled.gateway)
        yield Kit(http, headers)


def text(name: str, value: str) -> Resource:
    return {"name": name, "valueString": value}


def code(name: str, value: str) -> Resource:
    return {"name": name, "valueCode": value}


def bundles(answer: httpx.Response, family: Family = "us") -> list[Resource]:
    """The Bundles of an answer; what is in them is valid, and addressed here, each once."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["resourceType"] == "Parameters"
    found = [one["resource"] for one in body.get("parameter", ())]
    for bundle in found:
        assert bundle["resourceType"] == "Bundle"
        entries = bundle["entry"]
        names = [f"{one['resource']['resourceType']}/{one['resource']['id']}" for one in entries]
        assert len(names) == len(set(names))
        assert [one["fullUrl"] for one in entries] == [f"https://gateway.example/fhir/{name}" for name in names]
        validate(bundle)
        for report in reports(bundle):
            if report["type"] != "data-collection":
                assert problems(report, family) == []
    return found


def reports(bundle: Resource) -> list[Resource]:
    return of_type(bundle, "MeasureReport")


def of_type(bundle: Resource, kind: str) -> list[Resource]:
    return [one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == kind]


def refused(answer: httpx.Response, status: int) -> Resource:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == JSON
    issue: Resource = answer.json()["issue"][0]
    assert issue["severity"] == "error"
    return issue


# -- F: US 5.0.0 ---------------------------------------------------------------------------------------------------


async def test_f1_f2_f3_metadata_search_and_read(kit: Kit, filled: Filled) -> None:
    statement = (await kit.http.get("/fhir/metadata")).json()
    (measure,) = [one for one in statement["rest"][0]["resource"] if one["type"] == "Measure"]
    named = {one["name"] for one in measure["operation"]}
    assert {"evaluate", "care-gaps", "collect-data", "submit-data", "data-requirements", "evaluate-measure"} <= named
    name = filled.gateway.measures.by_id(DIABETES).name
    found = await kit.http.get(f"/fhir/Measure?name={name}", headers=kit.headers)
    assert found.json()["total"] == 1
    none = await kit.http.get("/fhir/Measure?name=nosuchmeasure", headers=kit.headers)
    assert (none.status_code, none.json()["total"]) == (200, 0)
    assert (await kit.http.get(f"/fhir/Measure/{DIABETES}", headers=kit.headers)).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_f3_f4_data_requirements(kit: Kit, method: str) -> None:
    answer = await kit.query(f"{DIABETES}/$data-requirements", method)
    assert answer.status_code == 200
    library = answer.json()
    validate(library)
    assert library["type"]["coding"][0]["code"] == "module-definition"
    needed = {
        (one["type"], one.get("codeFilter", [{}])[0].get("valueSet", "").rpartition("/")[2])
        for one in library["dataRequirement"]
    }
    assert needed == {
        ("Patient", ""),
        ("Condition", "diabetes"),
        ("Encounter", "outpatient-visit"),
        ("Encounter", "hospice-care"),
        ("Procedure", "hospice-care"),
        ("Observation", "hba1c-laboratory-test"),
    }
    observation = next(one for one in library["dataRequirement"] if one["type"] == "Observation")
    assert {"code", "status", "effective", "value"} <= set(observation["mustSupport"])
    assert library["parameter"][0]["name"] == "Measurement Period"
    assert (await kit.query(f"{DIABETES}/$data-requirements", method, period=False)).status_code == 200
    refused(await kit.query("nosuch/$data-requirements", method), 404)
    refused(await kit.query("$data-requirements", method, measureId=[DIABETES, PRESSURE]), 400)


async def test_f6_f7_the_default_is_the_population(kit: Kit, filled: Filled) -> None:
    for answer in (await kit.post(f"{DIABETES}/$evaluate"), await kit.post("$evaluate", text("measureId", DIABETES))):
        (bundle,) = bundles(answer)
        (report,) = reports(bundle)
        assert (report["status"], report["type"], report["period"]) == (
            "complete",
            "summary",
            {"start": "2026-01-01", "end": "2026-12-31"},
        )
        assert report["measure"].startswith(filled.gateway.measures.by_id(DIABETES).url + "|")
        counts = {one["id"]: one["count"] for one in report["group"][0]["population"]}
        assert counts["initial-population"] >= len(inside(filled, DIABETES))
        assert bundle["entry"][0]["resource"] == report, "reports come first"


@pytest.mark.parametrize("bare", [True, False])
async def test_f8_a_subject_has_an_individual_report_with_what_it_is_about(
    kit: Kit, filled: Filled, bare: bool
) -> None:
    person = inside(filled, DIABETES)[0]
    subject = text("subject", person if bare else f"Patient/{person}")
    (bundle,) = bundles(
        await kit.post("$evaluate", text("measureId", DIABETES), code("reportType", "subject"), subject)
    )
    (report,) = reports(bundle)
    assert (report["type"], report["subject"]["reference"]) == ("individual", f"Patient/{person}")
    there = {one["fullUrl"].partition("/fhir/")[2] for one in bundle["entry"]}
    looked_at = {one["reference"] for one in report["evaluatedResource"]}
    assert f"Patient/{person}" in looked_at
    assert looked_at <= there
    for one in of_type(bundle, "Condition"):
        assert one["subject"]["reference"] == f"Patient/{person}"


async def test_f9_several_measures_in_one_bundle(kit: Kit, filled: Filled) -> None:
    both = [text("measureId", DIABETES), text("measureId", PRESSURE)]
    (population,) = bundles(await kit.post("$evaluate", *both))
    assert len(reports(population)) == 2
    shared = set(inside(filled, DIABETES)) & set(inside(filled, PRESSURE))
    person = inside(filled, DIABETES)[0]
    (one,) = bundles(await kit.post("$evaluate", *both, code("reportType", "subject"), text("subject", person)))
    assert len(reports(one)) == (2 if person in shared else 1)  # of a measure it has nothing to do with there is none


async def test_f10_groups_that_come_along(kit: Kit, filled: Filled) -> None:
    for count in (1, 2):
        members = [{"entity": {"reference": f"Patient/{one}"}} for one in inside(filled, DIABETES)[:count]]
        group = {"resourceType": "Group", "type": "person", "actual": True, "member": members}
        asked = [text("measureId", DIABETES), {"name": "subjectGroup", "resource": group}]
        (population,) = bundles(await kit.post("$evaluate", *asked, code("reportType", "population")))
        (report,) = reports(population)
        assert report["group"][0]["population"][0]["count"] == count
        each = bundles(await kit.post("$evaluate", *asked, code("reportType", "subject")))
        assert [len(reports(bundle)) for bundle in each] == [1] * count
    nobody = {"resourceType": "Group", "member": [{"entity": {"reference": "Patient/nobody"}}]}
    refused(await kit.post("$evaluate", text("measureId", DIABETES), {"name": "subjectGroup", "resource": nobody}), 404)
    for wrong in (
        {"resourceType": "Group", "member": [{}]},
        {"resourceType": "Group", "member": 7},
        {"resourceType": "List"},
    ):
        refused(
            await kit.post("$evaluate", text("measureId", DIABETES), {"name": "subjectGroup", "resource": wrong}), 400
        )


async def test_f11_groups_that_are_here(kit: Kit) -> None:
    asked = [text("measureId", DIABETES), text("subject", "Group/two")]
    assert len(bundles(await kit.post("$evaluate", *asked, code("reportType", "population")))) == 1
    assert len(bundles(await kit.post("$evaluate", *asked, code("reportType", "subject")))) == 2


@pytest.mark.parametrize(
    ("status", "path", "parameters", "period"),
    [
        (404, "$evaluate", [text("measureId", "nosuch")], True),  # F12
        (404, "$evaluate", [text("measureUrl", "http://nowhere.example/Measure/x")], True),
        (404, "$evaluate", [text("measureIdentifier", "nosuch")], True),
        (404, "nosuch/$evaluate", [], True),
        (404, "$evaluate", [text("measureId", DIABETES), text("subject", "nobody")], True),  # F13
        (404, f"{DIABETES}/$evaluate", [text("subject", "Patient/nobody")], True),
        (404, f"{DIABETES}/$evaluate", [text("subject", "Group/nosuch")], True),
        (404, f"{DIABETES}/$evaluate", [text("practitioner", "Practitioner/nosuch")], True),
        (404, f"{DIABETES}/$evaluate", [text("reporter", "Organization/nosuch")], True),
        (400, f"{DIABETES}/$evaluate", [code("reportType", "subject")], True),  # F14
        (400, "$evaluate", [text("measureId", DIABETES), code("reportType", "subject")], True),
        (400, f"{DIABETES}/$evaluate", [code("reportType", "invalid")], True),  # F15
        (400, "$evaluate", [text("measureId", DIABETES), code("reportType", "invalid")], True),
        (400, f"{DIABETES}/$evaluate", [{"name": "periodStart", "valueDate": "2026-01-01"}], False),  # F16
        (400, "$evaluate", [text("measureId", DIABETES), {"name": "periodStart", "valueDate": "2026-01-01"}], False),
        (400, "$evaluate", [], True),
        (400, f"{DIABETES}/$evaluate", [text("measureId", DIABETES)], True),
        (400, f"{DIABETES}/$evaluate", [text("unknown", "x")], True),
        (400, f"{DIABETES}/$evaluate", [{"name": "lastReceivedOn", "valueDateTime": "2026-01-01"}], True),
        (400, f"{DIABETES}/$evaluate", [text("subject", "Device/x")], True),
        (400, f"{DIABETES}/$evaluate", [text("subject", "a b")], True),
        (400, f"{DIABETES}/$evaluate", [text("provider", "Practitioner/dr")], True),  # UV on an instance
        (400, "$evaluate", [text("measureId", DIABETES), text("provider", "Practitioner/dr")], True),  # both families
    ],
)
async def test_f12_to_f16_refusals(kit: Kit, status: int, path: str, parameters: list[Resource], period: bool) -> None:
    refused(await kit.post(path, *parameters, period=period), status)


def submission(number: int) -> Resource:
    """A transaction of one subject, as the kit sends it."""
    patient, encounter = f"kit-patient-{number}", f"kit-encounter-{number}"
    resources: list[Resource] = [
        {
            "resourceType": "MeasureReport",
            "id": f"kit-report-{number}",
            "contained": [{"resourceType": "Organization", "id": "org", "name": "Reporter"}],
            "status": "complete",
            "type": "data-collection",
            "measure": "http://measures.example/Measure/any|1",
            "subject": {"reference": f"Patient/{patient}"},
            "date": "2026-05-01",
            "reporter": {"reference": "#org"},
            "period": {"start": "2026-01-01", "end": "2026-12-31"},
            "evaluatedResource": [{"reference": f"Encounter/{encounter}"}],
        },
        {"resourceType": "Patient", "id": patient, "gender": "female", "birthDate": "1970-01-01"},
        {
            "resourceType": "Encounter",
            "id": encounter,
            "status": "finished",
            "class": {"code": "AMB"},
            "subject": {"reference": f"Patient/{patient}"},
        },
    ]
    entries = [
        {"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}}
        for one in resources
    ]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


async def test_f17_submitted_bundles_are_answered_and_there(kit: Kit, filled: Filled) -> None:
    agent = {"who": {"display": "the kit"}}
    provenance = {"resourceType": "Provenance", "recorded": "2026-05-01T00:00:00Z", "agent": [agent]}
    kit_headers = {**kit.headers, "X-Provenance": json.dumps(provenance)}
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": "bundle", "resource": submission(number)} for number in (1, 2)],
    }
    answer = await kit.http.post("/fhir/Measure/$submit-data", json=body, headers=kit_headers)
    assert answer.status_code == 200, answer.text
    found = [one["resource"] for one in answer.json()["parameter"]]
    assert [(one["type"], len(one["entry"])) for one in found] == [("transaction-response", 3)] * 2
    for bundle in found:
        validate(bundle)
        report, patient, _ = (one["response"]["location"] for one in bundle["entry"])
        served = (await kit.http.get(f"/fhir/{report}", headers=kit.headers)).json()
        assert served["subject"]["reference"] == patient
        assert (await kit.http.get(f"/fhir/{patient}", headers=kit.headers)).status_code == 200
    searched = (await kit.http.get("/fhir/MeasureReport?type=data-collection", headers=kit.headers)).json()
    assert searched["total"] == 2
    (kept,) = filled.gateway.lake.read("Provenance", ["_raw"])["_raw"].to_pylist()
    assert len(json.loads(kept)["target"]) == 6
    broken = submission(3)
    broken["entry"][1]["resource"]["gender"] = 7
    body["parameter"] = [{"name": "bundle", "resource": one} for one in (submission(4), broken)]
    refused(await kit.http.post("/fhir/Measure/$submit-data", json=body, headers=kit.headers), 422)
    gone = await kit.http.get("/fhir/MeasureReport?type=data-collection", headers=kit.headers)
    assert gone.json()["total"] == 2, "all of it or nothing"


@pytest.mark.parametrize(
    "parameters",
    [
        [],
        [{"name": "bundle", "resource": {"resourceType": "Patient"}}],
        [{"name": "bundle", "resource": {"resourceType": "Bundle", "type": "history"}}],
        [{"name": "bundle", "resource": {"resourceType": "Bundle", "type": "transaction", "entry": []}}],
        [{"name": "bundle", "valueString": "x"}],
        [{"name": "other", "resource": {"resourceType": "Patient"}}],
        [7],
    ],
)
async def test_submissions_that_are_none(kit: Kit, parameters: list[Any]) -> None:
    body = {"resourceType": "Parameters", "parameter": parameters}
    refused(await kit.http.post("/fhir/Measure/$submit-data", json=body, headers=kit.headers), 400)


# -- G: UV 1.0.0 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("names", [[DIABETES], [DIABETES, PRESSURE]])
async def test_g2_to_g5_collect_data_has_a_report_for_each_measure(
    kit: Kit, filled: Filled, method: str, names: list[str]
) -> None:
    urls = [filled.gateway.measures.by_id(name).url for name in names]
    if method == "GET":
        answer = await kit.query("$collect-data", "GET", measureUrl=urls)
    else:
        answer = await kit.post("$collect-data", *({"name": "measureUrl", "valueCanonical": url} for url in urls))
    found = bundles(answer)
    assert len(found) >= len(inside(filled, DIABETES))
    for bundle in found:
        assert len(reports(bundle)) == len(names)
        there = {one["fullUrl"].partition("/fhir/")[2] for one in bundle["entry"]}
        for report in reports(bundle):
            assert report["type"] == "data-collection"
            assert report["subject"]["reference"] in there
            assert {one["reference"] for one in report.get("evaluatedResource", ())} <= there


async def test_collected_data_gives_the_same_counts_where_it_arrives(kit: Kit, filled: Filled, tmp_path: Any) -> None:
    from fhir_gateway.measures import MemoryPopulation

    package = filled.gateway.measures.by_id(DIABETES)
    found = bundles(await kit.query("$collect-data", "GET", measureUrl=package.url))
    data = [one["resource"] for bundle in found for one in bundle["entry"]]
    data = [one for one in data if one["resourceType"] not in ("MeasureReport", "Organization")]
    evaluator = filled.gateway.measures.evaluator(package, filled.period[0])
    result = evaluator.evaluate(MemoryPopulation.from_resources(data), filled.period, filled.now)
    members = result.members.to_pylist()
    for person, expected in filled.counts(DIABETES).items():
        index = members.index(person)
        assert {p.id: int(p.counts[index]) for p in result.groups[0].populations} == expected


async def test_uv_shapes_are_told_by_what_only_uv_has(kit: Kit, filled: Filled) -> None:
    url = {"measureUrl": filled.gateway.measures.by_id(DIABETES).url}
    person = inside(filled, DIABETES)[0]
    answer = await kit.query("$evaluate", **url, subject=f"Patient/{person}", reportType="individual")
    (bundle,) = bundles(answer, "uv")
    assert reports(bundle)[0]["meta"]["profile"][0].startswith("http://hl7.org/fhir/uv/deqm/")
    (bundle,) = bundles(await kit.query("$evaluate", **url, provider="Practitioner/dr", location="Location/x"), "uv")
    (report,) = reports(bundle)
    assert report["reporter"]["reference"] == "Practitioner/dr"
    assert report["group"][0]["population"][0]["count"] == 2, "its own patients"
    assert {
        "url": "http://hl7.org/fhir/uv/deqm/StructureDefinition/deqm-dataLocation",
        "valueReference": {"reference": "Location/x"},
    } in report["extension"]
    (bundle,) = bundles(await kit.query("$evaluate", **url, subject="Group/two", reportType="summary"), "uv")
    assert reports(bundle)[0]["subject"]["reference"] == "Group/two"
    given = {"resourceType": "Organization", "name": "Ad hoc"}
    answer = await kit.post(
        "$collect-data",
        text("measureUrl", url["measureUrl"]),
        text("subject", f"Patient/{person}"),
        {"name": "providerResource", "resource": given},
    )
    (bundle,) = bundles(answer, "uv")
    (organization,) = of_type(bundle, "Organization")
    assert organization["name"] == "Ad hoc"
    assert reports(bundle)[0]["reporter"]["reference"] == f"Organization/{organization['id']}"


async def test_the_periods_zone_is_the_clients(kit: Kit, filled: Filled) -> None:
    person = inside(filled, DIABETES)[0]
    url = f"/fhir/Measure/{DIABETES}/$evaluate?subject={person}&periodStart=2026&periodEnd=2026"
    answer = await kit.http.get(url, headers={**kit.headers, "Timezone": "America/New_York"})
    (bundle,) = bundles(answer)
    assert reports(bundle)[0]["date"][-6:] in ("-05:00", "-04:00")
    refused(await kit.http.get(url, headers={**kit.headers, "Timezone": "Nowhere/Land"}), 400)


# -- H: the legacy operations --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"reportType": "individual", "subject": "PERSON"}, "individual"),
        ({"reportType": "subject", "subject": "Patient/PERSON"}, "individual"),
        ({"reportType": "subject-list"}, "subject-list"),
        ({"reportType": "population"}, "summary"),
        ({"reportType": "population", "subject": "Group/two"}, "summary"),
        ({"reportType": "population", "subject": "Practitioner/dr"}, "summary"),
        ({"reportType": "population", "subject": "PractitionerRole/role"}, "summary"),
        ({"reportType": "population", "subject": "Organization/clinic"}, "summary"),
        ({"reportType": "population", "subject": "Practitioner/idle"}, "summary"),
    ],
)
async def test_h1_evaluate_measure(kit: Kit, filled: Filled, asked: dict[str, str], kind: str) -> None:
    asked = {name: value.replace("PERSON", inside(filled, DIABETES)[0]) for name, value in asked.items()}
    answer = await kit.query(f"{DIABETES}/$evaluate-measure", **asked)
    assert answer.status_code == 200, answer.text
    report = answer.json()
    assert (report["resourceType"], report["type"]) == ("MeasureReport", kind)
    counted = report["group"][0]["population"][0].get("count")
    expected = {
        "Group/two": 2,
        "Practitioner/dr": 2,
        "PractitionerRole/role": 2,
        "Organization/clinic": 4,
        "Practitioner/idle": 0,
    }
    if asked.get("subject") in expected:
        assert counted == expected[asked["subject"]]


@pytest.mark.parametrize(
    ("status", "path"),
    [
        (404, "nosuch/$evaluate-measure?periodStart=2026&periodEnd=2026"),
        (404, f"{DIABETES}/$evaluate-measure?periodStart=2026&periodEnd=2026&subject=Patient/nobody"),
        (400, f"{DIABETES}/$evaluate-measure?periodEnd=2026"),
        (400, f"{DIABETES}/$evaluate-measure?periodStart=2026"),
        (400, f"{DIABETES}/$evaluate-measure?periodStart=2026&periodEnd=2026&reportType=individual"),
        (400, f"{DIABETES}/$evaluate-measure?periodStart=2026&periodEnd=2026&reportType=greenbean"),
        (400, f"{DIABETES}/$evaluate-measure?periodStart2019-01-01&periodEnd=2026&subjectPatient/123"),
    ],
)
async def test_h2_refusals(kit: Kit, status: int, path: str) -> None:
    answer = await kit.http.post(f"/fhir/Measure/{path}", headers={**kit.headers, "Content-Type": JSON})
    refused(answer, status)


@pytest.mark.parametrize(
    "asked",
    [
        {"measureId": DIABETES, "subject": "Patient/PERSON"},
        {"measureId": DIABETES, "subject": "Group/two"},
        {"subject": "Patient/PERSON"},
        {"measureId": DIABETES, "practitioner": "Practitioner/dr", "organization": "Organization/clinic"},
        {"measureId": [DIABETES, PRESSURE], "organization": "clinic"},
        {"program": "quality", "subject": "Patient/PERSON"},
    ],
)
async def test_h3_care_gaps(kit: Kit, filled: Filled, asked: dict[str, Any]) -> None:
    person = next(one for one, counts in filled.counts(DIABETES).items() if counts["numerator"])
    asked = {
        name: value.replace("PERSON", person) if isinstance(value, str) else value for name, value in asked.items()
    }
    if "program" in asked:
        refused(await kit.query("$care-gaps", **asked, status="prospective-gap"), 404)
        return
    found = bundles(await kit.query("$care-gaps", **asked, status="prospective-gap"))
    for bundle in found:
        assert {status_of(one) for one in of_type(bundle, "DetectedIssue")} == {"prospective-gap"}
    if asked.get("subject", "").startswith("Patient/"):
        (bundle,) = found
        assert any(DIABETES_NAME in one["measure"] for one in reports(bundle))


DIABETES_NAME = "DiabetesHbA1cPoorControl"


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (400, {"measureId": DIABETES, "subject": "Patient/x", "status": "open-gap", "periodStart": None}),  # H4
        (400, {"measureId": DIABETES, "subject": "Patient/x", "organization": "clinic", "status": "open-gap"}),
        (400, {"measureId": DIABETES, "subject": "x", "status": "open-gap"}),
        (400, {"measureId": DIABETES, "subject": "Practitioner/dr", "status": "open-gap"}),
        (400, {"measureId": DIABETES, "practitioner": "dr", "status": "open-gap"}),
        (400, {"measureId": DIABETES, "status": "open-gap"}),
        (400, {"measureId": DIABETES, "subject": "Group/two"}),
        (400, {"measureId": DIABETES, "subject": "Group/two", "status": "open"}),
        (400, {"measureId": DIABETES, "subject": "Group/two", "status": "open-gap", "isDocument": "maybe"}),
        (404, {"measureId": "nosuch", "subject": "Group/two", "status": "open-gap"}),
        (404, {"measureId": DIABETES, "subject": "Patient/nobody", "status": "open-gap"}),
        (404, {"measureId": DIABETES, "organization": "nosuch", "status": "open-gap"}),
    ],
)
async def test_h4_refusals(kit: Kit, status: int, asked: dict[str, Any]) -> None:
    merged = {name: value for name, value in {**YEAR, **asked}.items() if value is not None}
    refused(await kit.query("$care-gaps", period=False, **merged), status)


async def test_h5_one_report_and_its_resources(kit: Kit, filled: Filled) -> None:
    report, *others = (one["resource"] for one in submission(5)["entry"])
    given = [{"name": "measureReport", "resource": report}, *({"name": "resource", "resource": one} for one in others)]
    answer = await kit.post(f"{DIABETES}/$submit-data", *given, period=False)
    assert answer.status_code == 200, answer.text
    (bundle,) = (one["resource"] for one in answer.json()["parameter"])
    _, patient, encounter = (one["response"]["location"] for one in bundle["entry"])
    assert (await kit.http.get(f"/fhir/{patient}", headers=kit.headers)).status_code == 200
    assert encounter.endswith("kit-encounter-5")
    assert "kit-encounter-5" in filled.gateway.lake.read("Encounter")["id"].to_pylist()
    refused(await kit.post(f"{DIABETES}/$submit-data", *given[1:], period=False), 400)
    refused(await kit.post(f"{DIABETES}/$submit-data", given[0], *given, period=False), 400)
    refused(await kit.post("nosuch/$submit-data", *given, period=False), 404)


# -- J2: gaps in care ----------------------------------------------------------------------------------------------


def status_of(issue: Resource) -> str:
    (extension,) = issue["modifierExtension"]
    found: str = extension["valueCodeableConcept"]["coding"][0]["code"]
    return found


def expected_status(counts: Mapping[str, int], decrease: bool, open_gap: str) -> str:
    """What the guide's decision table says, worked out from the populations that each case states."""
    if not counts["initial-population"]:
        return "not-applicable"
    if counts["denominator"] <= counts.get("denominator-exclusion", 0) + counts.get("denominator-exception", 0):
        return "closed-gap"
    met = counts["numerator"] > counts.get("numerator-exclusion", 0)
    return open_gap if met == decrease else "closed-gap"


@pytest.mark.parametrize(("measure", "decrease"), [(DIABETES, True), (PRESSURE, False)])
async def test_j2_every_case_has_the_gap_that_its_populations_say(
    kit: Kit, filled: Filled, measure: str, decrease: bool
) -> None:
    statuses = ["open-gap", "closed-gap", "prospective-gap", "not-applicable"]
    members = [{"entity": {"reference": f"Patient/{one}"}} for one in filled.persons(measure)]
    group = {"resourceType": "Group", "member": members}
    open_gap = "prospective-gap" if filled.open else "open-gap"
    asked = [text("measureId", measure), {"name": "subjectGroup", "resource": group}]
    answer = await kit.post("$care-gaps", *asked, *(code("status", one) for one in statuses))
    found = {one["entry"][0]["resource"]["subject"]["reference"]: one for one in bundles(answer)}
    expected = filled.counts(measure)
    assert set(found) == {f"Patient/{one}" for one in expected}
    for person, counts in expected.items():
        (issue,) = of_type(found[f"Patient/{person}"], "DetectedIssue")
        status = expected_status(counts, decrease, open_gap)
        assert status_of(issue) == status
        assert len(of_type(found[f"Patient/{person}"], "GuidanceResponse")) == (status == open_gap)


async def test_j2_documents_and_collections(kit: Kit, filled: Filled) -> None:
    person = next(
        one
        for one, counts in filled.counts(PRESSURE).items()
        if counts["denominator"] and not counts["numerator"] and not counts["denominator-exclusion"]
    )
    asked = {"measureId": PRESSURE, "subject": f"Patient/{person}", "status": ["open-gap", "prospective-gap"]}
    (document,) = bundles(await kit.query("$care-gaps", **asked))
    assert document["type"] == "document"
    assert {"identifier", "timestamp"} <= set(document)
    composition = document["entry"][0]["resource"]
    assert composition["type"]["coding"][0]["code"] == "96315-7"
    (section,) = composition["section"]
    (report,), (issue,), (guidance,) = (
        of_type(document, kind) for kind in ("MeasureReport", "DetectedIssue", "GuidanceResponse")
    )
    assert section["focus"]["reference"] == f"MeasureReport/{report['id']}"
    assert section["entry"] == [{"reference": f"DetectedIssue/{issue['id']}"}]
    details = [one["detail"][0]["reference"] for one in issue["evidence"]]
    assert details == [f"MeasureReport/{report['id']}", f"GuidanceResponse/{guidance['id']}"]
    assert guidance["reasonCode"][0]["coding"][0]["code"] in (
        "NotFound",
        "ValueOutOfRange",
        "DateOutOfRange",
        "InvalidAttribute",
    )
    assert {one["type"] for one in guidance["dataRequirement"]} == {"Observation", "Encounter"}, "readings, by setting"
    (collection,) = bundles(await kit.query("$care-gaps", **asked, isDocument="false"))
    assert collection["type"] == "collection"
    assert of_type(collection, "Composition") == []
    assert bundles(await kit.query("$care-gaps", **asked | {"status": "closed-gap"})) == []


async def test_j2_uv_shapes(kit: Kit, filled: Filled) -> None:
    person = next(one for one, counts in filled.counts(DIABETES).items() if counts["numerator"])
    url = filled.gateway.measures.by_id(DIABETES).url
    asked = {"measureUrl": url, "status": ["open-gap", "prospective-gap"], "subject": f"Patient/{person}"}
    (bundle,) = bundles(await kit.query("$care-gaps", **asked, provider="Practitioner/dr"), "uv")
    for entry in bundle["entry"][:4]:
        assert entry["resource"]["meta"]["profile"][0].startswith(
            "http://hl7.org/fhir/uv/deqm/StructureDefinition/deqm-"
        )
    (issue,) = of_type(bundle, "DetectedIssue")
    coding = issue["modifierExtension"][0]["valueCodeableConcept"]["coding"][0]
    assert coding["system"] == "http://hl7.org/fhir/uv/deqm/CodeSystem/deqm-gaps-status"
    (guidance,) = of_type(bundle, "GuidanceResponse")
    assert [one["coding"][0]["code"] for one in guidance["reasonCode"]] == ["Present"] or guidance[
        "status"
    ] == "data-required"
    assert bundle["entry"][0]["resource"]["author"] == [{"reference": "Practitioner/dr"}]
    nobody = next(one for one, counts in filled.counts(DIABETES).items() if not counts["initial-population"])
    asked |= {"status": "not-applicable", "subject": f"Patient/{nobody}"}
    (bundle,) = bundles(await kit.query("$care-gaps", **asked, provider="Practitioner/dr"), "uv")
    (report,) = reports(bundle)
    assert "measureScore" not in report["group"][0]
    assert [one["count"] for one in report["group"][0]["population"]] == [0, 0, 0, 0]


async def test_an_organization_that_comes_along_is_known_by_its_numbers(kit: Kit, filled: Filled) -> None:
    tax = {"system": "urn:oid:2.16.840.1.113883.4.4", "value": "98-7654321"}
    filled.gateway.resources.put({"resourceType": "Organization", "id": "numbered", "identifier": [tax]})
    person = inside(filled, DIABETES)[4]
    entry = {
        "entity": {"reference": f"Patient/{person}"},
        "extension": [{"url": ATTRIBUTED, "valueReference": {"type": "Organization", "identifier": tax}}],
    }
    filled.gateway.resources.put({"resourceType": "Group", "id": "numbered", "member": [entry], "actual": True})
    given = {"resourceType": "Organization", "name": "As it calls itself", "identifier": [tax]}
    asked = [text("measureId", DIABETES), {"name": "organizationResource", "resource": given}]
    (bundle,) = bundles(await kit.post("$collect-data", *asked))
    assert reports(bundle)[0]["subject"]["reference"] == f"Patient/{person}"


@pytest.mark.parametrize(
    ("name", "resource"),
    [
        ("organizationResource", {"resourceType": "Organization", "identifier": "x"}),
        ("organizationResource", {"resourceType": "Organization", "identifier": [{"system": 7}]}),
        ("subjectGroup", {"resourceType": "Group", "type": "person", "actual": "yes"}),
    ],
)
async def test_resources_that_come_along_have_the_shape_of_r4(kit: Kit, name: str, resource: Resource) -> None:
    issue = refused(
        await kit.post("$collect-data", text("measureId", DIABETES), {"name": name, "resource": resource}), 400
    )
    assert issue["expression"][0].startswith(name)


async def test_a_report_that_is_refused_is_not_served(kit: Kit) -> None:
    good, bad = (one["entry"][0]["resource"] for one in (submission(6), submission(7)))
    entries = [{"resource": one} for one in (good, {**bad, "status": 7})]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    answer = await kit.post("$submit-data", {"name": "bundle", "resource": bundle}, period=False)
    assert answer.status_code == 200, answer.text
    first, second = (one["response"] for one in answer.json()["parameter"][0]["resource"]["entry"])
    assert (first["status"][:3], second["status"][:3]) == ("200", "422")
    assert (await kit.http.get(f"/fhir/{first['location']}", headers=kit.headers)).status_code == 200
    found = (await kit.http.get("/fhir/MeasureReport?type=data-collection&_count=100", headers=kit.headers)).json()
    assert not any(one["resource"]["id"].endswith("kit-report-7") for one in found["entry"])


async def test_a_measure_without_gaps_is_refused_when_it_is_named(kit: Kit) -> None:
    asked = {"subject": "Group/two", "status": "open-gap"}
    assert (await kit.query("$care-gaps", **asked, measureId=STAYS)).status_code == 200  # of stays, each a case
    assert (await kit.query("$care-gaps", **asked)).status_code == 200


# -- whose data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["$evaluate", "$care-gaps", "$collect-data", "$evaluate-measure"])
async def test_operations_stay_with_the_clients_own_members(kit: Kit, filled: Filled, operation: str) -> None:
    gateway = filled.gateway
    name = f"payer-{operation[1:]}"
    headers = await enter(kit.http, gateway, name, "system/*.rs", grants=["contract:aco"])
    mine, theirs = inside(filled, DIABETES)[:2], inside(filled, DIABETES)[2:4]
    limited = Kit(kit.http, headers)
    gaps = {"status": ["open-gap", "closed-gap", "prospective-gap"]} if operation == "$care-gaps" else {}
    name = "measure" if operation == "$evaluate-measure" else "measureId"
    everyone = {"organization": "payer"} if operation == "$care-gaps" else {}
    answer = await limited.query(operation, **{name: DIABETES}, **gaps, **everyone)
    assert answer.status_code == 200, answer.text
    assert not any(one in answer.text for one in theirs)
    if operation == "$evaluate-measure":
        assert answer.json()["group"][0]["population"][0]["count"] == 2
    elif operation == "$evaluate":
        assert reports(bundles(answer)[0])[0]["group"][0]["population"][0]["count"] == 2
    else:
        assert all(any(person in json.dumps(one) for person in mine) for one in bundles(answer))
    for subject in (f"Patient/{theirs[0]}", "Group/others"):
        refused(await limited.query(operation, **{name: DIABETES}, **gaps, subject=subject), 404)
    if operation != "$evaluate-measure":
        group = {
            "resourceType": "Group",
            "member": [{"entity": {"reference": f"Patient/{one}"}} for one in (mine[0], theirs[0])],
        }
        extra = [code("status", one) for one in gaps.get("status", ())]
        asked = [text("measureId", DIABETES), {"name": "subjectGroup", "resource": group}, *extra]
        refused(await limited.post(operation, *asked), 404)


async def test_resources_come_along_only_where_scopes_reach(kit: Kit, filled: Filled) -> None:
    key = register(filled.gateway, "narrow", "system/Measure.r system/MeasureReport.r system/Condition.r")
    headers = await authorize(kit.http, "narrow", key, "system/Measure.r system/MeasureReport.r system/Condition.r")
    person = inside(filled, DIABETES)[0]
    narrow = Kit(kit.http, headers)
    (bundle,) = bundles(await narrow.query(f"{DIABETES}/$evaluate", subject=person))
    kinds = {one["resource"]["resourceType"] for one in bundle["entry"]}
    assert kinds == {"MeasureReport", "Organization", "Condition"}
    sender = await narrow.http.post("/fhir/Measure/$submit-data", json={"resourceType": "Parameters"}, headers=headers)
    assert sender.status_code == 403
