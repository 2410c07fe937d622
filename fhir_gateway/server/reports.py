"""MeasureReports: the stored ones, and the individual ones that are rendered from a run's columns when asked for.

A run evaluates one measure over a population. Its summary report is a stored resource whose id is the run's; the
individual report of a member has the id ``{run}-{member}`` and is never stored: a hundred thousand members in twenty
measures would be two million resources that say nothing the columns do not say. What an individual report shares with
its summary (measure, period, date, reporter, status ...) is searched in the summary's index; what is its own (subject,
id) is looked up in the columns.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.db.audience import Audience
from fhir_gateway.db.history import page_of_versions
from fhir_gateway.db.remarks import Remark, Remarks, remarked
from fhir_gateway.db.resources import ResourceStore, StoredResource, Versions
from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.db.search.dates import instant
from fhir_gateway.db.search.matching import matches
from fhir_gateway.db.search.parameters import search_parameters
from fhir_gateway.errors import InputError, NotFoundError
from fhir_gateway.measures import reports
from fhir_gateway.measures.dialect import Family
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.server.catalog import Found, StoredCatalog
from fhir_gateway.server.problems import UnknownResource
from fhir_gateway.server.report_criteria import OWN, Wanted, wanted_of
from fhir_gateway.server.search import Query

_TYPE = "MeasureReport"
#: Search parameters of Patient, which a chain from the subject may end in.
_PATIENTS = frozenset({"_id", "_lastUpdated", "_has", *search_parameters("Patient")})
_MAX_RUNS = 1000
_KEPT_RUNS = 32


def individual_report(result: MeasureResult, index: int, summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The individual report of a member, from the reporter of the run's summary."""
    return reports.individual(result, index, summary["reporter"], family=_family(summary))


def _family(summary: Mapping[str, Any]) -> Family:
    """The dialect (US or universal DEQM) that the summary's profile says."""
    profiles = summary.get("meta", {}).get("profile", ())
    found: Family = "uv" if any("/uv/deqm/" in profile for profile in profiles) else "us"
    return found


Indices = npt.NDArray[np.intp]
Render = Callable[[MeasureResult, int, Mapping[str, Any]], Mapping[str, Any]]


class Results(Protocol):
    """Where the columns of runs are kept."""

    def load(self, run: str) -> MeasureResult:
        """The result of a run; raises NotFoundError."""
        ...

    def runs(self) -> Sequence[str]:
        """Ids of all runs."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """A run in memory: its columns, the members that have a report, and where each member is."""

    result: MeasureResult
    reported: Indices
    index: Mapping[str, int]

    @classmethod
    def of(cls, result: MeasureResult) -> Run:
        """Members in an initial population have a report, and those that failed (DEQM: nobody else has one)."""
        inside = np.zeros(len(result.members), np.bool_)
        if result.failed:
            inside |= np.isin(result.members.to_pylist(), list(result.failed))
        for group in result.groups:
            for population in group.populations:
                if population.code == "initial-population":
                    inside |= population.counts > 0
        reported = np.flatnonzero(inside)
        names = result.members.take(reported).to_pylist()
        return cls(result, reported, dict(zip(names, reported.tolist(), strict=True)))


class ReportCatalog:
    """All MeasureReports as one catalog."""

    def __init__(self, store: ResourceStore, results: Callable[[], Results], render: Render, remarks: Remarks) -> None:
        """``results`` is called when results are first needed: opening them makes their folder."""
        self._remarks = remarks
        self._store = store  # of everything: summaries tell what an individual report is made of
        self._seen = self._persons = self._summaries = store
        self._results = results
        self._render = render
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._lock = threading.Lock()

    def seen_by(self, audience: Audience, searchable: Callable[[str], bool] | None = None) -> ReportCatalog:
        """The reports that the audience may see; runs in memory are shared."""
        view = copy(self)
        view._seen = self._store.seen_by(audience, searchable)
        view._summaries = self._store.following(view._seen)
        # Whose reports are seen is the registration's to say; which, the restrictions on MeasureReport.
        view._persons = self._store.seen_by(Audience(audience.labels))
        return view

    def _wanted(self, query: Query) -> Wanted | None:
        return wanted_of(query, self._patients)

    def _patients(self, criterion: Criterion) -> list[str]:
        """Ids of the persons that a chain leads to; of none when the client may not search them."""
        return self._seen.ids("Patient", [criterion]) if self._seen.searchable("Patient") else []

    def _sees(self, member: str) -> bool:
        return self._persons.audience.unlimited or bool(self._persons.read_many([("Patient", member)]))

    def read(self, resource_type: str, resource_id: str) -> StoredResource:
        """A stored report, or the individual one of that id; raises UnknownResource."""
        try:
            return StoredCatalog(self._seen).read(resource_type, resource_id)
        except UnknownResource:
            return self._versions(resource_type, resource_id)[0]

    def rendered(self, resource_type: str, resource_id: str) -> StoredResource:
        """The individual report of that id as it is rendered, without remarks; raises UnknownResource."""
        run_id, _, member = resource_id.rpartition("-")
        if run_id and self._sees(member):
            summary = StoredCatalog(self._store).read(resource_type, run_id)
            run = self._run(run_id)
            if run is not None and member in run.index:
                report = self._individual(summary, run, run.index[member])
                if self._seen.permits(report.json()):
                    return report
        raise UnknownResource(f"there is no such {resource_type}")

    def _versions(self, resource_type: str, resource_id: str) -> list[StoredResource]:
        """The versions of an individual report, newest first: each act of remarking on it made one."""
        report, remarks = self.rendered(resource_type, resource_id), self._remarks.of(resource_id)
        parts = [[one for one in remarks if one.act <= act] for act in range(remarks[-1].act, 0, -1)] if remarks else []
        return [*(_remarked(report, part) for part in parts), report]

    def vread(self, resource_type: str, resource_id: str, version: int) -> StoredResource:
        """One version; an individual report has that of its run, and one for each act of remarking on it."""
        try:
            return StoredCatalog(self._seen).vread(resource_type, resource_id, version)
        except UnknownResource:
            for report in self._versions(resource_type, resource_id):
                if report.version == version:
                    return report
            raise

    def history(
        self,
        resource_type: str,
        resource_id: str,
        since: int | None,
        at: tuple[int, int] | None,
        count: int,
        after: str | None,
    ) -> Versions:
        """One page of the versions of a report; of an individual one that of its run, and those with remarks."""
        try:
            return StoredCatalog(self._seen).history(resource_type, resource_id, since, at, count, after)
        except UnknownResource:
            return page_of_versions(self._versions(resource_type, resource_id), since, at, count, after)

    def search(self, query: Query) -> Found:
        """One page: first the stored reports that match, then the individual ones, run by run."""
        wanted = self._wanted(query)
        phase, _, place = (query.after or "s:").partition(":")
        found: list[StoredResource] = []
        total: int | None = query.total
        if phase == "s":
            page = self._seen.search(_TYPE, query.criteria, query.count, place or None, query.sort, query.count_total)
            found += page.resources
            total = page.total if query.count_total else query.total
            if page.next is not None and not query.count_total:
                return Found(page.resources, total, f"s:{page.next}")
            if page.next is not None:
                beyond = sum(len(indices) for _, _, indices in self._permitted(query, wanted)) if wanted else 0
                _refuse_mixed_sort(query, beyond)
                return Found(page.resources, (total or 0) + beyond, f"s:{page.next}")
        if wanted is None:
            return Found(tuple(found), total, None)
        matching = list(self._permitted(query, wanted))
        beyond = sum(len(indices) for _, _, indices in matching)
        if found:
            _refuse_mixed_sort(query, beyond)
        if phase == "s" and query.count_total:
            total = (total or 0) + beyond
        if query.count == 0:
            return Found((), total, None)
        after = _place(place) if phase == "i" else None
        individual, following = self._page(matching, query.count - len(found), after)
        return Found((*found, *individual), total, following)

    def _page(
        self, matching: Sequence[tuple[StoredResource, Run, Indices]], count: int, after: tuple[str, int] | None
    ) -> tuple[list[StoredResource], str | None]:
        """At most ``count`` individual reports behind ``after``, and where the next page goes on."""
        reports: list[StoredResource] = []
        if after is not None:
            position = next((i for i, (summary, *_) in enumerate(matching) if summary.id == after[0]), None)
            if position is None:
                raise InputError("the run of this page is no longer served: start the search again")
            summary, run, indices = matching[position]
            matching = [(summary, run, indices[indices > after[1]]), *matching[position + 1 :]]
        for number, (summary, run, indices) in enumerate(matching):
            taken = indices[: max(count - len(reports), 0)]
            reports += [self._individual(summary, run, int(index)) for index in taken]
            more = len(indices) > len(taken) or any(len(rest) for _, _, rest in matching[number + 1 :])
            if len(reports) >= count and more:
                last = int(taken[-1]) if len(taken) else -1
                return self._with_remarks(reports), f"i:{summary.id}:{last}"
        return self._with_remarks(reports), None

    def _with_remarks(self, reports: list[StoredResource]) -> list[StoredResource]:
        found = self._remarks.of_many([one.id for one in reports]) if reports else {}
        return [_remarked(one, found[one.id]) if one.id in found else one for one in reports]

    def _permitted(self, query: Query, wanted: Wanted | None) -> Iterator[tuple[StoredResource, Run, Indices]]:
        """What matches, of what the restrictions of the caller's scopes leave."""
        found = list(self._matching(query, wanted))
        for alternatives in self._seen.audience.restriction(_TYPE):
            left: dict[str, Indices] = {}
            for criteria in alternatives:
                narrowed = replace(query, criteria=(*query.criteria, *criteria))
                for summary, _, indices in self._matching(narrowed, self._wanted(narrowed)):
                    left[summary.id] = np.union1d(left.get(summary.id, np.array([], np.intp)), indices)
            found = [
                (summary, run, both)
                for summary, run, indices in found
                if len(both := np.intersect1d(indices, left.get(summary.id, np.array([], np.intp))))
            ]
        yield from found

    def _matching(self, query: Query, wanted: Wanted | None) -> Iterator[tuple[StoredResource, Run, Indices]]:
        """Runs whose summaries meet the shared criteria, with the members that meet the others."""
        if wanted is None:
            return
        shared: list[Criterion] = [*query.without(*OWN), ("type", "summary")]
        times = [one for one in shared if one[0] == "_lastUpdated"]
        asked = [one for one in shared if one not in times]
        summaries = self._summaries.search(_TYPE, asked, _MAX_RUNS, None, query.sort, total=False).resources
        now = datetime.now(UTC)
        allowed = self._persons.members()
        visible = None if allowed is None else pa.array(allowed, pa.string())
        known = frozenset(self._results().runs())  # a contract's quality report is a summary without a run of its own
        for summary in summaries:
            if summary.id not in known:
                continue
            if wanted.ids is not None and not any(summary.id == run for run, _ in wanted.ids):
                continue
            run = self._run(summary.id)
            if run is None:
                continue
            indices = self._of_times(summary, run, times, now) if times else run.reported
            if visible is not None:
                indices = indices[np.asarray(pc.is_in(run.result.members, value_set=visible))[indices]]
            for members in wanted.member_sets(summary.id):
                chosen = sorted(run.index[member] for member in members if member in run.index)
                indices = _among(indices, np.array(chosen, np.intp))
            if len(indices):
                yield summary, run, indices

    def _of_times(self, summary: StoredResource, run: Run, times: Sequence[Criterion], now: datetime) -> Indices:
        """Members whose report changed at such a time: with its summary, or by the last remark on it."""

        def meets(updated: str) -> bool:
            return matches({"resourceType": _TYPE, "meta": {"lastUpdated": updated}}, times, None, now)

        indices = run.reported if meets(summary.last_updated) else run.reported[:0]
        later = {
            run.index[member]: meets(max(summary.last_updated, instant(remarks[-1].written)))
            for report, remarks in self._remarks.of_run(summary.id).items()
            if (member := report.removeprefix(f"{summary.id}-")) in run.index
        }
        without = indices[~np.isin(indices, list(later))]
        return np.union1d(without, np.array([one for one, met in later.items() if met], np.intp))

    def _individual(self, summary: StoredResource, run: Run, index: int) -> StoredResource:
        member = run.result.members[index].as_py()
        report = dict(self._render(run.result, index, summary.json()))
        identity = f"{summary.id}-{member}"
        meta = report.pop("meta", {}) | {"versionId": str(summary.version), "lastUpdated": summary.last_updated}
        head = {"resourceType": _TYPE, "id": identity, "meta": meta}
        body = orjson.dumps(head | {name: value for name, value in report.items() if name not in head})
        return StoredResource(_TYPE, identity, summary.version, summary.last_updated, False, body)

    def _run(self, run_id: str) -> Run | None:
        with self._lock:
            if run_id in self._runs:
                self._runs.move_to_end(run_id)
                return self._runs[run_id]
        try:
            run = Run.of(self._results().load(run_id))
        except NotFoundError:
            return None
        with self._lock:
            self._runs[run_id] = run
            while len(self._runs) > _KEPT_RUNS:
                self._runs.popitem(last=False)
        return run


def _remarked(report: StoredResource, remarks: Sequence[Remark]) -> StoredResource:
    """An individual report with remarks, as the version that they made."""
    found = remarked(report.json(), remarks)
    version, updated = int(found["meta"]["versionId"]), found["meta"]["lastUpdated"]
    return replace(report, version=version, last_updated=updated, body=orjson.dumps(found))


def _among(indices: Indices, chosen: Indices) -> Indices:
    """Those of a few chosen ones that are among the indices; both in order, none twice."""
    places = np.searchsorted(indices, chosen)
    inside = places < len(indices)
    inside[inside] = indices[places[inside]] == chosen[inside]
    return chosen[inside]


def _place(text: str) -> tuple[str, int]:
    run, _, index = text.rpartition(":")
    return run, int(index)


def _refuse_mixed_sort(query: Query, beyond: int) -> None:
    if query.sort and beyond:
        raise InputError("to sort MeasureReports, search one type at a time (type=individual or type=summary)")
