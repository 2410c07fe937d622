"""Individual MeasureReports: rows that no store holds, written from the columns of runs, a slice of members at a time.

What an individual report shares with its summary (measure, period, reporter, time of change ...) is asked of the
summary in the moment of the export; subject and id are asked of the columns, later.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fhir_gateway.db.audience import Audience
from fhir_gateway.db.freezing import Frozen, changed, of_persons
from fhir_gateway.db.remarks import Remark, Remarks, remarked
from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.db.writing import stored
from fhir_gateway.errors import InputError
from fhir_gateway.jobs.exports.models import Alternatives, Block, Export, Json
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.measures.report_lines import ReportLines
from fhir_gateway.measures.texts import contents

_TYPE = "MeasureReport"
#: Criteria that an individual report answers by itself; all others are answered by its summary.
_OWN = ("subject", "patient", "type", "_id")
_PERSONS = "persons.npy"
_SPLIT = re.compile(r"(?<!\\),")


def plan(export: Export, moment: Frozen) -> list[Json]:
    """A plan for each run with reports that are wanted: what its reports share, and whose they may be.

    ``only`` has sets of alternatives; a member must be allowed by one alternative of each set. An alternative is a
    list of lists of members, who must be in each of them.
    """
    restrictions = export.audience.restriction(_TYPE)
    sets = [one for one in (export.wanted.alternatives(_TYPE), *restrictions) if one]
    met = [_met(export, moment, alternatives) for alternatives in sets]
    runs = frozenset(export.gateway.results.runs())
    chosen = export.everything.selecting(_TYPE, [[("type", "summary")]])
    remarks: dict[str, dict[str, list[Remark]]] = {}
    for found in Remarks(export.gateway.engine).of_runs(moment.connection, runs, moment.as_of).values():
        remarks.setdefault(found[0].run, {})[found[0].report.removeprefix(f"{found[0].run}-")] = found
    if not remarks:
        chosen = chosen.where(*changed(export.wanted.since, export.wanted.until))
    limited = keep_persons(export, moment)
    plans: list[Json] = []
    for rows in moment.rows(chosen, export.rows):
        for row in rows:
            if row.id not in runs or not all(row.id in one for one in met):
                continue
            summary, later_on = stored(row), remarks.get(row.id, {})
            inside = export.wanted.covers(row.last_updated)
            marked = {
                member: [[one.act, one.group, one.body.decode(), one.client_id, one.written] for one in some]
                for member, some in later_on.items()
                if export.wanted.covers(max(row.last_updated, some[-1].written))
            }
            if not inside and not marked:
                continue
            plans.append(
                {
                    "remarks": marked,
                    "others": inside,  # the reports without remarks, too
                    "left_out": sorted(set(later_on) - set(marked)),
                    "run": summary.id,
                    "version": str(summary.version),
                    "last_updated": summary.last_updated,
                    "summary": {name: summary.json().get(name) for name in ("meta", "reporter")},
                    "only": [one[summary.id] for one in met],
                    "limited": limited,
                }
            )
    return plans


def later(export: Export, planned: Json) -> Iterator[Block]:
    """The lines of one run; NotFoundError when the run is no longer there."""
    summary = planned["summary"]
    lines = ReportLines(
        planned["run"],
        summary["reporter"],
        _family(summary),
        {"versionId": planned["version"], "lastUpdated": planned["last_updated"]},
        export.wanted.elements_of(_TYPE),
    )
    persons = kept_persons(export) if planned["limited"] else None
    remarks = planned["remarks"]
    only = [[[_sorted(names) for names in one] for one in alternatives] for alternatives in planned["only"]]
    for part in export.gateway.results.slices(planned["run"], export.rows, raw=False):
        chosen = None
        if persons is not None or only:
            names = np.asarray(part.members.to_numpy(zero_copy_only=False), np.bytes_)
            chosen = np.ones(len(names), np.bool_) if persons is None else _among(names, persons)
            for alternatives in only:
                allowed = np.zeros(len(names), np.bool_)
                for one in alternatives:
                    allowed |= np.logical_and.reduce([_among(names, some) for some in one], initial=True)
                chosen &= allowed
            if not chosen.any():
                continue
        if remarks or planned["left_out"] or not planned["others"]:
            names = np.asarray(part.members.to_numpy(zero_copy_only=False), np.bytes_)
            chosen = np.ones(len(names), np.bool_) if chosen is None else chosen
            own = chosen & _among(names, _sorted(remarks))
            if own.any():
                marked = "".join(_marked(lines, part, index, planned) for index in np.flatnonzero(own).tolist())
                yield Block(marked.encode(), int(own.sum()))
            chosen &= planned["others"] & ~own & ~_among(names, _sorted(planned["left_out"]))
        found = lines.lines(part, chosen)
        if len(found):
            yield Block(contents(found), len(found))


def _marked(lines: ReportLines, part: MeasureResult, index: int, planned: Json) -> str:
    """The line of a report with remarks, of which there are few."""
    report = lines.report(part, index)
    made = planned["remarks"][part.members[index].as_py()]
    remarks = [
        Remark(report["id"], planned["run"], act, group, body.encode(), client, written)
        for act, group, body, client, written in made
    ]
    return lines.line(remarked(report, remarks))


def _family(summary: Json) -> Any:
    """The dialect (US or universal DEQM) that the summary's profile says."""
    profiles = (summary["meta"] or {}).get("profile", ())
    return "uv" if any("/uv/deqm/" in profile for profile in profiles) else "us"


def keep_persons(export: Export, moment: Frozen) -> bool:
    """Write down whose reports are wanted and may be seen; False when they are everybody's."""
    persons = persons_of(export, moment)
    if persons is not None:
        np.save(export.folder / _PERSONS, _sorted(persons))
    return persons is not None


def kept_persons(export: Export) -> npt.NDArray[np.bytes_]:
    """Those that were written down."""
    if export.persons is None:
        export.persons = np.load(export.folder / _PERSONS)
    found: npt.NDArray[np.bytes_] = export.persons
    return found


def persons_of(export: Export, moment: Frozen) -> set[str] | None:
    """Whose reports are wanted and may be seen; None is everybody's."""
    wanted = export.wanted
    found: set[str] | None = None if wanted.patients is None else set(wanted.patients)
    if wanted.group is not None:
        active = moment.active_members(wanted.group)
        found = set(active) if found is None else found & set(active)
    registered = Audience(export.audience.labels)
    if not registered.unlimited:
        view = export.gateway.resources.seen_by(registered)
        visible = set(moment.ids(view.selecting("Patient").where(of_persons("Patient"))))
        found = visible if found is None else found & visible
    return found


def _met(export: Export, moment: Frozen, alternatives: Alternatives) -> dict[str, list[list[list[str]]]]:
    """By run the alternatives that its reports can meet, each as the lists of members that meet it."""
    found: dict[str, list[list[list[str]]]] = {}
    for criteria in alternatives:
        check(criteria)
        if not _individual(criteria):
            continue
        shared = [one for one in criteria if one[0].partition(":")[0] not in _OWN]
        for run in moment.ids(export.everything.selecting(_TYPE, [[*shared, ("type", "summary")]])):
            found.setdefault(run, []).append(_members(criteria, run))
    return found


def check(criteria: Sequence[Criterion]) -> None:
    """Refuse modifiers that individual reports do not answer; raises InputError."""
    for name, _ in criteria:
        code, _, modifier = name.partition(":")
        if code in _OWN and modifier not in ("", "Patient" if code in ("subject", "patient") else ""):
            raise InputError(f"search parameter {code} of MeasureReport has no modifier :{modifier}")


def _individual(criteria: Sequence[Criterion]) -> bool:
    """Whether the criteria leave individual reports."""
    values = [value for name, value in criteria if name == "type"]
    return all(any(part.rpartition("|")[2] == "individual" for part in _SPLIT.split(value)) for value in values)


def _members(criteria: Sequence[Criterion], run: str) -> list[list[str]]:
    """Members of a run that meet the criteria on subject and id, one list for each criterion."""
    lists = []
    for name, value in criteria:
        code = name.partition(":")[0]
        parts = _SPLIT.split(value)
        if code in ("subject", "patient"):
            lists.append([one for part in parts if (one := _patient(part))])
        elif code == "_id":
            split = (part.rpartition("-") for part in parts)
            lists.append([member for of, _, member in split if of == run])
    return lists


def _patient(text: str) -> str:
    """Patient id of a reference value; empty for a reference to something else."""
    parts = text.partition("/_history/")[0].split("/")
    if len(parts) == 1:
        return parts[0]
    return parts[-1] if parts[-2] == "Patient" else ""


def _sorted(names: Iterable[str]) -> npt.NDArray[np.bytes_]:
    return np.unique(np.array(list(names), np.bytes_))


def _among(names: npt.NDArray[np.bytes_], chosen: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
    """Which names are among the chosen, which are sorted."""
    if not len(chosen):
        return np.zeros(len(names), np.bool_)
    place = np.minimum(np.searchsorted(chosen, names), len(chosen) - 1)
    found: npt.NDArray[np.bool_] = chosen[place] == names
    return found
