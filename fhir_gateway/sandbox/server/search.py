"""Read and paged search over the folder; answers are put together from stored bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt

from fhir_gateway.errors import InputError, NotFoundError
from fhir_gateway.r4.spec import patient_element
from fhir_gateway.sandbox.server.folder import UNKNOWN_TIME, ResourceFolder, Rows, TypeIndex
from fhir_gateway.sandbox.server.parameters import Parameters, TimeRange, date_search, single, words

#: Entries of a page when the client names no ``_count``, and the most it may ask for.
DEFAULT_COUNT, MAXIMUM_COUNT = 100, 1000

#: Parameters that select nothing and change nothing here.
_IGNORED = frozenset({"_format", "_pretty", "_total"})
#: Where the next page begins: after this id. Part of next links only; stable whatever is added meanwhile.
_AFTER = "_after"


@dataclass(frozen=True, slots=True)
class Search:
    """Search and read over one folder, with links below ``fhir_url``."""

    folder: ResourceFolder
    fhir_url: str

    def read(self, resource_type: str, resource_id: str) -> bytes:
        """The stored bytes of a resource; NotFoundError when it is not here."""
        row = self._index(resource_type).row(resource_id)
        if row is None:
            raise NotFoundError(f"there is no {resource_type} of that id")
        return self.folder.read(resource_type, row)

    def bundle(self, resource_type: str, parameters: Parameters, *, lenient: bool) -> bytes:
        """One page of a search as a searchset Bundle, by id, with total and a self-contained next link.

        InputError for a parameter this server does not know, unless the client asked for lenient handling.
        """
        index = self._index(resource_type)
        known = {"_id", "_lastUpdated", "_count", _AFTER} | set(search_parameters(resource_type))
        unknown = sorted({name for name, _ in parameters} - known - _IGNORED)
        if unknown and not lenient:
            raise InputError(f"unknown search parameter: {', '.join(unknown)}")
        used = [(name, value) for name, value in parameters if name in known]
        rows = self._matches(resource_type, index, used)
        count = _count(single(used, "_count"))
        after = single(used, _AFTER)
        # A next link carries the id of the last entry shown, so the page begins at the first greater one.
        begin = 0 if after is None else int(np.searchsorted(rows, index.position(after + "\x00")))
        page = rows[begin : begin + count]
        links: list[tuple[str, Parameters]] = [("self", used)]
        if count and begin + count < len(rows):
            last = index.ids[int(page[-1])].as_py()
            kept = [(name, value) for name, value in used if name not in (_AFTER, "_count")]
            links.append(("next", [*kept, ("_count", str(count)), (_AFTER, last)]))
        return self._render(resource_type, index, page, len(rows), links)

    def _matches(self, resource_type: str, index: TypeIndex, parameters: Parameters) -> Rows:
        matches = np.ones(len(index), np.bool_)
        if any(name == "_id" for name, _ in parameters):
            found = [index.row(resource_id) for resource_id in words(parameters, "_id")]
            chosen = np.zeros(len(index), np.bool_)
            chosen[[row for row in found if row is not None]] = True
            matches &= chosen
        for name in search_parameters(resource_type):
            if any(key == name for key, _ in parameters):
                matches &= np.isin(index.patient, self.folder.patient_rows(words(parameters, name)))
        for name, value in parameters:
            if name == "_lastUpdated":
                matches &= changed_within(index, date_search(value, name))
        return np.flatnonzero(matches)

    def _render(
        self, resource_type: str, index: TypeIndex, page: Rows, total: int, links: list[tuple[str, Parameters]]
    ) -> bytes:
        address = f"{self.fhir_url}/{resource_type}"
        link = [{"relation": name, "url": _address(address, parameters)} for name, parameters in links]
        head = f'{{"resourceType":"Bundle","type":"searchset","total":{total},"link":{json.dumps(link)}'.encode()
        if not len(page):  # FHIR has no empty lists
            return head + b"}"
        entries = [
            b'{"fullUrl":%b,"resource":%b,"search":{"mode":"match"}}'
            % (json.dumps(f"{address}/{index.ids[row].as_py()}").encode(), self.folder.read(resource_type, row))
            for row in page.tolist()
        ]
        return head + b',"entry":[' + b",".join(entries) + b"]}"

    def _index(self, resource_type: str) -> TypeIndex:
        try:
            return self.folder.index(resource_type)
        except KeyError:
            raise NotFoundError(f"this server has no resource type {resource_type[:64]}") from None


def search_parameters(resource_type: str) -> Mapping[str, str]:
    """Search parameters of a type beside those of every resource: name to type; all of them name the patient."""
    element = patient_element(resource_type)
    if element is None or resource_type == "Patient":
        return {}
    names = {"patient", "subject"} if element == "subject" else {"patient"}
    return dict.fromkeys(sorted(names), "reference")


def changed_within(index: TypeIndex, wanted: TimeRange) -> npt.NDArray[np.bool_]:
    """Which rows were changed within the range; those whose time is unknown were not."""
    inside = np.ones(len(index), np.bool_)
    if wanted.start is not None:
        inside &= index.updated >= wanted.start
    if wanted.stop is not None:
        inside &= index.updated < wanted.stop
    if wanted.inverted:
        inside = ~inside
    inside &= index.updated != UNKNOWN_TIME
    return inside


def _count(text: str | None) -> int:
    if text is None:
        return DEFAULT_COUNT
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InputError("_count must be a number, not negative")
    return min(int(text), MAXIMUM_COUNT)


def _address(address: str, parameters: Parameters) -> str:
    query = urlencode(list(parameters), safe="/,:|")
    return f"{address}?{query}" if query else address
