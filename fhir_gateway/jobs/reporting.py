"""MeasureReports that a client asks for now: evaluated while it waits, over the newest data, and not stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.publish import REPORTER, References, published_id
from fhir_gateway.lake.columns import belongs_to_patients
from fhir_gateway.measures import reports
from fhir_gateway.measures.dialect import DIALECTS, Family
from fhir_gateway.measures.evaluate import Evaluator, evaluate_together
from fhir_gateway.measures.interest import criteria, evaluate_with_interest
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.population import LakePopulation
from fhir_gateway.measures.supplement import maps_of

Resource = dict[str, Any]
#: Who reports, unless the client says otherwise.
OURSELVES: Mapping[str, str] = MappingProxyType({"reference": f"Organization/{REPORTER}"})
_CRITERIA = "http://hl7.org/fhir/StructureDefinition/cqf-criteriaReference"


@dataclass(frozen=True)
class Evaluated:
    """Measures evaluated together; ``interest`` is their data of interest, empty when it was not asked for."""

    gateway: Gateway = field(repr=False)
    evaluators: Sequence[Evaluator]
    results: Sequence[MeasureResult]
    interest: pa.Table

    @cached_property
    def members(self) -> list[str]:
        """Persons who were evaluated, in the order of the results."""
        return self.results[0].members.to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def of_member(self) -> Mapping[str, pa.Table]:
        """Data of interest by member."""
        return by_member(self.interest)

    def summaries(self, reporter: Mapping[str, Any], family: Family) -> list[Resource]:
        """The summary report of each measure."""
        return [reports.summary(result, reporter, family=family) for result in self.results]

    def individuals(self, index: int, reporter: Mapping[str, Any], family: Family) -> Iterator[Resource]:
        """Reports of the member at ``index``: one for each measure whose initial population the member is in.

        Of a member that a measure fails for the report says why.
        """
        member = self.members[index]
        for number, result in enumerate(self.results):
            if member in result.failed or reports.in_initial_population(result, index):
                report = reports.individual(result, index, reporter, family=family)
                yield self.naming_evidence(report, number, member, family)

    def naming_evidence(self, report: Resource, measure: int, member: str, family: Family) -> Resource:
        """The report with what the measure looked at as evaluated resources, under the ids they are served by."""
        listed = criteria(self.evaluators[measure])
        names = [one.link_id if DIALECTS[family].link_ids else one.id for one in listed]
        rows = self.of_member.get(member)
        evaluated, served = [], {}
        for row in rows.to_pylist() if rows is not None else ():
            if row["measure"] == measure:
                reference = served_reference(row)
                served[f"{row['type']}/{row['id']}"] = reference
                for_what = dict.fromkeys(names[number] for number in sorted(row["criteria"]))
                extension = [{"url": _CRITERIA, "valueString": name} for name in for_what]
                evaluated.append({"extension": extension, "reference": reference})
        for one in report.get("extension", ()):  # supplemental data that are resources
            found = one.get("valueReference", {})
            if found.get("reference") in served:
                found["reference"] = served[found["reference"]]
        if evaluated and report.get("status") == "complete":
            report["evaluatedResource"] = evaluated
        return report


def evaluate_now(
    gateway: Gateway,
    packages: Sequence[MeasurePackage],
    members: Iterable[str] | None,
    period: tuple[date, date],
    now: datetime,
    *,
    interest: bool = False,
) -> Evaluated:
    """Evaluate measures over ``members`` (None: everybody) of the newest lake version, each batch once for all."""
    evaluators = [gateway.measures.evaluator(package, period[0]) for package in packages]
    population = population_of(gateway, evaluators, members)
    if not interest:
        results = evaluate_together(evaluators, population, period, now)
        return Evaluated(gateway, evaluators, results, pa.table({}))
    results, found = evaluate_with_interest(evaluators, population, period, now)
    return Evaluated(gateway, evaluators, results, found)


def population_of(
    gateway: Gateway, evaluators: Sequence[Evaluator], members: Iterable[str] | None, version: int | None = None
) -> LakePopulation:
    """A version of the lake (default: the newest) for these measures."""
    maps, copies = maps_of([evaluator.package for evaluator in evaluators]), gateway.settings.encounter_copies
    return LakePopulation(gateway.lake, version=version, members=members, maps=maps, copies=copies)


def by_member(interest: pa.Table) -> dict[str, pa.Table]:
    """A table of data of interest cut by member; rows keep their order."""
    if not interest.num_rows:
        return {}
    ordered = interest.sort_by([("member", "ascending"), ("measure", "ascending"), ("type", "ascending")])
    ends = pc.run_end_encode(ordered["member"].combine_chunks())
    starts = [0, *ends.run_ends.to_pylist()]
    return {
        member: ordered.slice(start, end - start)
        for member, start, end in zip(ends.values.to_pylist(), starts, starts[1:], strict=False)
    }


def served_reference(row: Mapping[str, Any]) -> str:
    """Reference under which a resource of the lake is served; a Patient's is the person's."""
    if row["type"] == "Patient":
        return f"Patient/{row['member']}"
    return f"{row['type']}/{published_id(row['source'], row['id'])}"


def resources_of(
    gateway: Gateway, store: ResourceStore, interest: pa.Table, version: int | None, may_read: Callable[[str], bool]
) -> dict[str, Resource]:
    """The resources of a table of data of interest by served reference, as they came but with served ids.

    What the caller may not read is left out: types beyond its scopes, and what ``store`` does not permit it. Patients
    are the persons as served.
    """
    members = pc.unique(interest["member"]) if interest.num_rows else pa.array([], pa.string())
    kinds = [kind for kind in pc.unique(interest["type"]).to_pylist() if kind != "Patient" and may_read(kind)]
    texts = {kind: _rows(gateway, kind, interest, members, version) for kind in kinds}
    patients = gateway.lake.read("Patient", version=version, members=members)
    references = References(gateway, patients, texts)
    found: dict[str, Resource] = {}
    if may_read("Patient"):
        persons = store.read_many(("Patient", member) for member in members.to_pylist())
        found = {f"Patient/{one.id}": one.json() for one in persons}
    for kind, rows in texts.items():
        for row in rows.select(["_source", "id", "_raw"]).to_pylist():
            served = published_id(row["_source"], row["id"])
            resource = references.rewrite(row["_source"], row["_raw"]) | {"id": served}
            if store.permits(resource):
                found[f"{kind}/{served}"] = resource
    return found


def _rows(gateway: Gateway, kind: str, interest: pa.Table, members: pa.Array, version: int | None) -> pa.Table:
    """Rows of a type with their JSON, of those that are of interest."""
    only = members if belongs_to_patients(kind) else None
    rows = gateway.lake.read(kind, ["_raw"], version=version, members=only)
    wanted = interest.filter(pc.equal(interest["type"], kind)).select(["source", "id"])
    return rows.join(wanted.group_by(["source", "id"]).aggregate([]), ["_source", "id"], ["source", "id"], "left semi")
