"""Individual MeasureReports as lines of NDJSON, written from columns: the very bytes of one report at a time.

Reports of a run differ in little. What is the same is text; what a group says of a member depends on the member's
counts, strata, cases and observations, so it is rendered once for each combination that occurs; the rest is put
together by Arrow, a column of strings for each place in the line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.measures import reports
from fhir_gateway.measures.dialect import DIALECTS, Family
from fhir_gateway.measures.model import GroupResult, Mask, MeasureResult
from fhir_gateway.measures.report_groups import render_group
from fhir_gateway.measures.report_supplemental import supplemental_texts
from fhir_gateway.measures.strata import only
from fhir_gateway.measures.texts import concatenated, escaped, flat, joined, text

_CRITERIA = "http://hl7.org/fhir/StructureDefinition/cqf-criteriaReference"
_TYPE = "MeasureReport"
#: Elements that every subset keeps (minimum of one, or identity).
_KEPT = frozenset({"resourceType", "id", "meta", "status", "type", "measure", "period"})
_SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
#: Combinations that are remembered; observations may make one for every member.
_REMEMBERED = 50_000

Indices = npt.NDArray[np.intp]


@dataclass
class ReportLines:
    """Lines of the individual reports of one run, slice by slice.

    ``head`` is what the run's reports have in common, as :func:`fhir_gateway.measures.reports.individual` makes it for
    ``reporter`` and ``family``; ``meta`` goes over its meta (versionId and lastUpdated). ``elements`` are the root
    elements that are wanted; None is all.
    """

    run: str
    reporter: reports.Reference
    family: Family
    meta: Mapping[str, Any]
    elements: frozenset[str] | None = None

    def __post_init__(self) -> None:
        self._groups: dict[tuple[int, str], str] = {}

    def lines(self, part: MeasureResult, chosen: Mask | None = None) -> pa.Array:
        """The reports of the members of a slice who have one, of those in ``chosen``; a line feed ends each."""
        failed = np.asarray(pc.is_in(part.members, value_set=pa.array(list(part.failed), part.members.type)))
        reported = in_initial_populations(part) & ~failed
        if chosen is not None:
            reported, failed = reported & chosen, failed & chosen
        lines = self._lines(part, np.flatnonzero(reported))
        if failed.any():
            lines = pa.concat_arrays([lines, self._one_by_one(part, np.flatnonzero(failed))])
        return lines

    def _one_by_one(self, part: MeasureResult, indices: Indices) -> pa.Array:
        """Reports of members that could not be evaluated; each has its own reason, and there are few."""
        return pa.array([self.line(self.report(part, index)) for index in indices.tolist()], pa.string())

    def report(self, part: MeasureResult, index: int) -> dict[str, Any]:
        """The whole report of one member."""
        report = reports.individual(part, index, self.reporter, family=self.family)
        identity = f"{self.run}-{part.members[index].as_py()}"
        return report | {"id": identity, "meta": report["meta"] | self.meta}

    def line(self, report: dict[str, Any]) -> str:
        """The line of one report, with the elements that are wanted."""
        return text(self._subset(report)) + "\n"

    def _subset(self, report: dict[str, Any]) -> dict[str, Any]:
        if self.elements is None:
            return report
        kept = {name: value for name, value in report.items() if self._wants(name)}
        return kept | {"meta": kept["meta"] | {"tag": [_SUBSETTED]}}

    def _wants(self, name: str) -> bool:
        return self.elements is None or name in _KEPT or name in self.elements

    def _lines(self, part: MeasureResult, indices: Indices) -> pa.Array:
        members = escaped(part.members.take(pa.array(indices)))
        pieces: list[Any] = ["{"]
        comma = ""
        for name, value in self._places(part, indices, members):
            if not self._wants(name):
                continue
            if isinstance(value, Sometimes):  # an element that not every report has
                pieces.append(pc.if_else(value.present, concatenated(f',"{name}":', value.texts), ""))
            else:
                pieces += [f'{comma}"{name}":', *value]
            comma = ","
        # neighbours that are the same for all rows are one piece
        merged: list[Any] = []
        for piece in [*pieces, "}\n"]:
            if isinstance(piece, str) and merged and isinstance(merged[-1], str):
                merged[-1] += piece
            else:
                merged.append(piece)
        return concatenated(*merged)

    def _places(self, part: MeasureResult, indices: Indices, members: pa.Array) -> Iterator[tuple[str, Any]]:
        """Elements in the order of a report, each as pieces of text or columns."""
        head = reports.individual_head(part, self.reporter, self.family)
        meta = self._subset({"meta": head["meta"] | self.meta})["meta"]
        supplemental = supplemental_texts(part, indices)
        yield "resourceType", [text(_TYPE)]
        yield "id", [f'"{self.run}-', members, '"']
        yield "meta", [text(meta)]
        yield "contained", _list(text(head["contained"]), supplemental.contained)
        yield "extension", _list(text(head["extension"]), supplemental.extensions)
        for name in ("status", "type", "measure", "date", "reporter", "period"):
            yield name, [text(head[name])]
        yield "subject", ['{"reference":"Patient/', members, '"}']
        if self._wants("group"):
            groups: list[Any] = ["["]
            for number, group in enumerate(part.groups):
                groups += ["," if number else "", self._group(number, group, indices)]
            yield "group", [*groups, "]"]
        if self._wants("evaluatedResource"):
            evaluated = evaluated_texts(part).take(pa.array(indices))
            yield "evaluatedResource", Sometimes(pc.not_equal(evaluated, ""), concatenated("[", evaluated, "]"))

    def _group(self, number: int, group: GroupResult, indices: Indices) -> pa.Array:
        """What a group says of each member, rendered once for each combination of what it depends on."""
        size = len(group.populations[0].counts)
        columns = [column.take(pa.array(indices)) for column in _differences(group, size)]
        keys = pc.binary_join_element_wise(*columns, "|").dictionary_encode()
        places = keys.indices.to_numpy()
        names = keys.dictionary.to_pylist()
        first = np.zeros(len(names), np.intp)
        first[places[::-1]] = indices[::-1]
        if len(self._groups) > _REMEMBERED:
            self._groups.clear()
        found = []
        for key, index in zip(names, first.tolist(), strict=True):
            rendered = self._groups.get((number, key))
            if rendered is None:
                dialect = DIALECTS[self.family]
                rendered = text(render_group(only(group, index), dialect, None, membership=True))
                self._groups[number, key] = rendered
            found.append(rendered)
        return pa.array(found, pa.string()).take(keys.indices)


@dataclass(frozen=True)
class Sometimes:
    """An element of the reports for which ``present`` holds."""

    present: pa.Array
    texts: pa.Array


def in_initial_populations(part: MeasureResult) -> Mask:
    """Which members are in an initial population of any group."""
    inside = np.zeros(len(part.members), np.bool_)
    for group in part.groups:
        for population in group.populations:
            if population.code == "initial-population":
                inside |= population.counts > 0
    return inside


def _list(fixed: str, more: pa.Array | None) -> list[Any]:
    """A list of fixed entries, with further ones behind them."""
    if more is None:
        return [fixed]
    return [fixed[:-1], pc.if_else(pc.equal(more, ""), "", concatenated(",", more)), "]"]


def _differences(group: GroupResult, size: int) -> Iterator[pa.Array]:
    """Everything that what a group says of a member depends on, as texts."""
    for population in group.populations:
        yield pa.array(population.counts).cast(pa.string())
        if population.observations is not None:
            found = population.observations
            basis = population.basis or group.basis
            cases = {one.basis: one.member for one in group.cases}
            start = np.arange(size) if basis == "boolean" else np.searchsorted(cases[basis], np.arange(size))
            place = pa.array(found.case - start[found.member]).cast(pa.string())
            yield joined(found.member, pc.binary_join_element_wise(place, found.value.cast(pa.string()), ":"), size)
    for stratifier in group.stratifiers:
        for basis, numbers in stratifier.strata.items():
            if basis == "boolean":
                yield pa.array(numbers).cast(pa.string())
    for cases_of in group.cases:
        bits = [pa.array(mask.astype(np.int8)).cast(pa.string()) for mask in cases_of.populations.values()]
        strata = [
            pa.array(stratifier.strata[cases_of.basis]).cast(pa.string())
            for stratifier in group.stratifiers
            if cases_of.basis in stratifier.strata
        ]
        parts = [*bits, *strata] or [pa.array([""] * len(cases_of.member), pa.string())]
        yield joined(cases_of.member, pc.binary_join_element_wise(*parts, ":"), size)
    for component in group.composite.components if group.composite else ():
        yield from _differences(component.group, size)


def evaluated_texts(part: MeasureResult) -> pa.Array:
    """For each member the ``evaluatedResource`` entries: episodes that count, with the populations they count in."""
    size = len(part.members)
    tables = []
    for group in part.groups:
        for cases in group.cases:
            names = list(cases.populations)
            masks = [cases.populations[name] for name in names]
            if not masks:
                continue
            combination = np.packbits(np.stack(masks), axis=0)
            kinds, place = np.unique(combination, axis=1, return_inverse=True)
            bits = np.unpackbits(kinds, axis=0, count=len(names)).astype(np.bool_)
            criteria = [
                ",".join(
                    text({"url": _CRITERIA, "valueString": name})
                    for name, inside in zip(names, row, strict=True)
                    if inside
                )
                for row in bits.T
            ]
            counted = np.logical_or.reduce(masks) & np.asarray(pc.is_valid(cases.reference))
            rows = np.flatnonzero(counted)
            tables.append(
                pa.table(
                    {
                        "member": cases.member[rows],
                        "reference": escaped(cases.reference.take(pa.array(rows)).cast(pa.string())),
                        "criteria": pa.array(criteria, pa.string()).take(pa.array(place.reshape(-1)[rows])),
                    }
                )
            )
    if not tables:
        return pa.array([""] * size, pa.string())
    table = pa.concat_tables(tables)
    table = table.append_column("order", pa.array(np.arange(table.num_rows)))
    table = table.sort_by([("member", "ascending"), ("reference", "ascending"), ("order", "ascending")])
    member = table["member"].to_numpy()
    reference = flat(table["reference"])
    new = np.ones(len(member), np.bool_)
    if len(member):
        same = np.asarray(pc.equal(reference[1:], reference[:-1]))
        new[1:] = ~((member[1:] == member[:-1]) & same)
    entry = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    criteria_of = joined(entry, flat(table["criteria"]), len(first))
    entries = concatenated('{"extension":[', criteria_of, '],"reference":"', reference.take(pa.array(first)), '"}')
    return joined(member[first], entries, size)
