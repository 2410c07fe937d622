"""The summary's truth, counted again from the files by other means."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow.parquet as pq
import pytest

from fhir_gateway.sandbox.population.codes import PRIMARY_CARE_CODES, PRIMARY_CARE_SPECIALTIES
from fhir_gateway.sandbox.population.shapes import AMOUNT_CODES
from fhir_gateway.sandbox.population.sources import CLAIM_GROUP, MBI, MEMBER_ID, TIN
from tests.support.population import Population

YEAR = 2025
Resource = dict[str, Any]


def day(text: str) -> date:
    return date.fromisoformat(text[:10])


def amounts(entries: list[Resource]) -> dict[str, Decimal]:
    return {
        entry["category"]["coding"][0]["code"]: Decimal(str(entry["amount"]["value"]))
        for entry in entries
        if "amount" in entry
    }


def value(resource: Resource, system: str) -> str | None:
    return next((i["value"] for i in resource["identifier"] if i.get("system") == system), None)


def active(population: Population) -> Iterator[Resource]:
    return (eob for eob in population.payer["ExplanationOfBenefit"] if eob["status"] == "active")


def kind(eob: Resource) -> str:
    sub_type = eob.get("subType", {}).get("coding", [{}])[0].get("code")
    return str(sub_type or eob["type"]["coding"][0]["code"])


def test_item_adjudications_sum_to_the_totals_to_the_cent(population: Population) -> None:
    for eob in population.payer["ExplanationOfBenefit"]:
        totals = amounts(eob["total"])
        summed: Counter[str] = Counter()
        for item in eob["item"]:
            line = amounts(item["adjudication"])
            assert line["eligible"] == line["benefit"] + line["paidbypatient"]
            assert abs(line["submitted"]) >= abs(line["eligible"])
            summed.update(line)
        assert dict(summed) == totals
        assert set(AMOUNT_CODES) <= totals.keys()
        assert Decimal(str(eob["payment"]["amount"]["value"])) == totals["benefit"]


def test_claims_state_what_the_explanations_call_submitted(population: Population) -> None:
    total = {claim["id"]: Decimal(str(claim["total"]["value"])) for claim in population.payer["Claim"]}
    for claim in population.payer["Claim"]:
        assert sum(Decimal(str(item["net"]["value"])) for item in claim["item"]) == total[claim["id"]]
    for eob in population.payer["ExplanationOfBenefit"]:
        claimed = total[eob["claim"]["reference"].split("/")[1]]
        assert abs(amounts(eob["total"])["submitted"]) == claimed


def test_corrections_net_to_the_final_amount(population: Population) -> None:
    groups: dict[str, list[Resource]] = defaultdict(list)
    for eob in population.payer["ExplanationOfBenefit"]:
        groups[str(value(eob, CLAIM_GROUP))].append(eob)
    fates: Counter[str] = Counter()
    for versions in groups.values():
        versions.sort(key=lambda eob: str(eob["payment"]["date"]))
        counted = sum((amounts(v["total"])["eligible"] for v in versions if v["status"] == "active"), Decimal(0))
        last = amounts(versions[-1]["total"])["eligible"]
        statuses = [v["status"] for v in versions]
        relations = [v["related"][0]["relationship"]["coding"][0]["code"] if "related" in v else None for v in versions]
        if len(versions) == 3:
            fates["reversed"] += 1
            assert statuses == ["active"] * 3
            assert relations == [None, "prior", "prior"]
            first, reversal, _ = (amounts(v["total"])["eligible"] for v in versions)
            assert first == -reversal >= last
            assert counted == last
        elif len(versions) == 2:
            fates["replaced"] += 1
            assert statuses == ["cancelled", "active"]
            assert relations == ["replacedby", "prior"]
            assert counted == last
            assert versions[0]["claim"] != versions[1]["claim"]
        elif statuses == ["cancelled"]:
            fates["voided"] += 1
        elif versions[0]["payment"]["type"]["coding"][0]["code"] == "denied":
            fates["denied"] += 1
            assert counted == 0
            assert "noncovered" in amounts(versions[0]["total"])
    truth = population.summary.truth
    assert fates == {name: getattr(truth, name) for name in ("reversed", "replaced", "voided", "denied")}


def test_net_amounts(population: Population) -> None:
    allowed: Counter[str] = Counter()
    paid: Counter[str] = Counter()
    for eob in active(population):
        if eob["billablePeriod"]["start"].startswith(str(YEAR)):
            totals = amounts(eob["total"])
            allowed[kind(eob)] += int(totals["eligible"] * 100)
            paid[kind(eob)] += int(totals["paidtoprovider"] * 100)
    assert allowed == population.summary.truth.allowed
    assert paid == population.summary.truth.paid


def test_services_lie_in_the_coverage_they_name(population: Population) -> None:
    coverage = {c["id"]: c for c in population.payer["Coverage"]}
    born = {p["id"]: p["birthDate"] for p in population.payer["Patient"]}
    died = {p["id"]: p.get("deceasedDateTime", "9") for p in population.payer["Patient"]}
    for eob in population.payer["ExplanationOfBenefit"]:
        covered = coverage[eob["insurance"][0]["coverage"]["reference"].split("/")[1]]
        assert covered["beneficiary"] == eob["patient"]
        start = eob["billablePeriod"]["start"]
        assert covered["period"]["start"] <= start <= covered["period"].get("end", "9")
        patient = eob["patient"]["reference"].split("/")[1]
        assert born[patient] <= start <= died[patient]
        assert start <= eob["billablePeriod"]["end"] < eob["payment"]["date"]


def test_identities(population: Population) -> None:
    truth, people = population.summary.truth, pq.read_table(population.folder / "persons.parquet").to_pylist()
    ehr = {p["id"]: p for p in population.ehr["Patient"]}
    payer = {p["id"]: p for p in population.payer["Patient"]}
    members = {value(p, MEMBER_ID) for p in payer.values()}
    counts: Counter[str] = Counter()
    for person in people:
        mine, theirs = ehr.get(person["ehr_patient"]), payer.get(person["payer_patient"])
        if mine is None or theirs is None:
            counts["ehr_only" if mine else "payer_only"] += 1
            continue
        counts["in_both"] += 1
        shares = any(value(mine, s) and value(mine, s) == value(theirs, s) for s in (MEMBER_ID, MBI))
        none = not value(mine, MEMBER_ID) and not value(mine, MBI)
        other = value(mine, MEMBER_ID) not in (None, value(theirs, MEMBER_ID))
        counts["shared_identifier"] += shares
        counts["no_identifier"] += none
        counts["misfiled"] += other
        counts["swapped_birth"] += mine["birthDate"] != theirs["birthDate"]
        counts["changed_name"] += mine["name"][0]["family"] != theirs["name"][0]["family"]
        assert not other or value(mine, MEMBER_ID) in members
        assert mine["id"] != theirs["id"]
        assert mine["gender"] == theirs["gender"]
        assert person["link"] == ("misfiled" if other else "identifier" if shares else "demographics")
    assert counts == {name: getattr(truth, name) for name in counts}
    assert truth.persons == len(people)
    assert truth.deceased == sum(p["death_date"] is not None and p["death_date"].year <= YEAR for p in people)


def test_member_months(population: Population) -> None:
    months = {(c["beneficiary"]["reference"], month) for c in population.payer["Coverage"] for month in range(1, 13)
              if c["period"]["start"] <= f"{YEAR}-{month:02}-15" <= c["period"].get("end", "9")}  # fmt: skip
    assert len(months) == population.summary.truth.member_months


def with_condition(population: Population, prefix: str) -> set[str]:
    return {
        c["subject"]["reference"]
        for c in population.ehr["Condition"]
        if c["code"]["coding"][0]["code"].startswith(prefix)
        and c["category"][0]["coding"][0]["code"] == "problem-list-item"
    }


def observations(population: Population, code: str) -> dict[str, list[Resource]]:
    found: dict[str, list[Resource]] = defaultdict(list)
    for observation in population.ehr["Observation"]:
        if observation["code"]["coding"][0]["code"] == code and day(observation["effectiveDateTime"]).year == YEAR:
            found[observation["subject"]["reference"]].append(observation)
    return found


def test_diabetes_control(population: Population) -> None:
    truth, diabetics = population.summary.truth, with_condition(population, "E11")
    results = observations(population, "4548-4")
    latest = {p: max(found, key=lambda o: str(o["effectiveDateTime"])) for p, found in results.items()}
    assert truth.diabetics == len(diabetics) > 50
    assert truth.hba1c_missing == sum(patient not in latest for patient in diabetics) > 0
    above = [p for p in diabetics if p in latest and latest[p]["valueQuantity"]["value"] > 9]
    assert truth.hba1c_above_9 == len(above) > 0


def test_blood_pressure_control(population: Population) -> None:
    truth, hypertensives = population.summary.truth, with_condition(population, "I10")
    classes = {f"Encounter/{e['id']}": e["class"]["code"] for e in population.ehr["Encounter"]}
    missing = controlled = 0
    panels = observations(population, "85354-9")
    for patient in hypertensives:
        calm = [o for o in panels[patient] if classes[o["encounter"]["reference"]] == "AMB"]
        if not calm:
            missing += 1
            continue
        last = max(day(o["effectiveDateTime"]) for o in calm)
        values = [
            [component["valueQuantity"]["value"] for component in o["component"]]
            for o in calm
            if day(o["effectiveDateTime"]) == last
        ]
        controlled += min(v[0] for v in values) < 140 and min(v[1] for v in values) < 90
    assert truth.hypertensives == len(hypertensives) > 100
    assert truth.pressure_missing == missing > 0
    assert truth.pressure_controlled == controlled > 0


def test_stays_and_emergency_visits(population: Population) -> None:
    truth = population.summary.truth
    born = {f"Patient/{p['id']}": date.fromisoformat(p["birthDate"]) for p in population.ehr["Patient"]}
    reason = {e["id"]: e["reasonCode"][0]["coding"][0]["code"] for e in population.ehr["Encounter"]}
    stays: dict[str, list[Resource]] = defaultdict(list)
    emergency = []
    for encounter in population.ehr["Encounter"]:
        if encounter["class"]["code"] == "IMP":
            stays[encounter["subject"]["reference"]].append(encounter)
        elif encounter["class"]["code"] == "EMER" and day(encounter["period"]["start"]).year == YEAR:
            emergency.append(encounter)
    index = readmitted = planned = 0
    for patient, mine in stays.items():
        mine.sort(key=lambda e: str(e["period"]["start"]))
        for number, stay in enumerate(mine):
            start, end = day(stay["period"]["start"]), day(stay["period"]["end"])
            following = mine[number + 1] if number + 1 < len(mine) else None
            assert start < end
            assert following is None or stay["period"]["end"] < following["period"]["start"]
            disposition = stay["hospitalization"]["dischargeDisposition"]["coding"][0]["code"]
            eligible = (
                date(YEAR, 1, 1) <= end <= date(YEAR, 12, 1)
                and (start.year - 18, start.month, start.day)
                >= (born[patient].year, born[patient].month, born[patient].day)
                and disposition not in ("exp", "aadvice", "other-hcf")
            )
            index += eligible
            if eligible and following and (day(following["period"]["start"]) - end).days <= 30:
                is_planned = reason[following["id"]] in ("M17.11", "Z51.11")
                planned += is_planned
                readmitted += not is_planned
    assert truth.stays == sum(len(mine) for mine in stays.values())
    assert (truth.index_stays, truth.readmitted, truth.planned_within_30) == (index, readmitted, planned)
    assert truth.emergency_visits == len(emergency) >= truth.released_visits > 0


def test_attribution_by_plurality(population: Population) -> None:
    truth = population.summary.truth
    tins = {f"Organization/{o['id']}": value(o, TIN) for o in population.payer["Organization"]}
    spent: dict[str, Counter[str]] = defaultdict(Counter)
    for eob in active(population):
        specialty = eob["careTeam"][0]["qualification"]["coding"][1]["code"]
        if kind(eob) != "professional" or specialty not in PRIMARY_CARE_SPECIALTIES:
            continue
        for item in eob["item"]:
            code = item["productOrService"]["coding"][0]["code"]
            place = item["locationCodeableConcept"]["coding"][0]["code"]
            if code in PRIMARY_CARE_CODES and place != "31" and eob["billablePeriod"]["start"].startswith(str(YEAR)):
                cents = int(amounts(item["adjudication"])["eligible"] * 100)
                spent[eob["patient"]["reference"]][str(tins[eob["provider"]["reference"]])] += cents
    won: Counter[str] = Counter()
    outcome: Counter[str] = Counter()
    for patient in population.payer["Patient"]:
        ranked = [entry for entry in spent[f"Patient/{patient['id']}"].most_common() if entry[1] > 0]
        if not ranked:
            outcome["unattributed"] += 1
        elif len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
            outcome["tied"] += 1
        else:
            won[ranked[0][0]] += 1
    assert dict(won) == truth.attributed
    assert outcome == {"unattributed": truth.unattributed, "tied": truth.tied}
    assert truth.tied > 0
    people = pq.read_table(population.folder / "persons.parquet").to_pylist()
    assert Counter(p["attributed_tin"] for p in people if p["attributed_tin"]) == won


def test_claims_match_encounters(population: Population) -> None:
    """Inpatient claims of persons on the EHR lie on the same days as their encounters, in the same hospital."""
    people = pq.read_table(population.folder / "persons.parquet").to_pylist()
    same = {f"Patient/{p['payer_patient']}": f"Patient/{p['ehr_patient']}" for p in people if p["ehr_patient"]}
    roster = json.loads((population.folder / "roster.json").read_text())
    hospitals = {o["references"]["payer"]: o["references"]["ehr"] for o in roster["others"] if o["on_ehr"]}
    encounters = {
        (
            e["subject"]["reference"],
            e["serviceProvider"]["reference"],
            e["period"]["start"][:10],
            e["period"]["end"][:10],
        )
        for e in population.ehr["Encounter"]
        if e["class"]["code"] == "IMP"
    }
    matched = 0
    for eob in population.payer["ExplanationOfBenefit"]:
        patient, hospital = eob["patient"]["reference"], eob["provider"]["reference"]
        if kind(eob) == "inpatient" and patient in same and hospital in hospitals:
            period = eob["billablePeriod"]
            assert (same[patient], hospitals[hospital], period["start"], period["end"]) in encounters
            matched += 1
    assert matched > 20


@pytest.mark.parametrize(("field", "low", "high"), [("readmitted", 0.05, 0.25), ("planned_within_30", 0.0, 0.1)])
def test_rates_are_plausible(population: Population, field: str, low: float, high: float) -> None:
    truth = population.summary.truth
    assert low <= getattr(truth, field) / truth.index_stays <= high
