"""Search (R4 search.html): parameters in, searchset Bundle out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from urllib.parse import urlencode

import orjson

from fhir_gateway.db.resources import StoredResource
from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.db.search.parameters import search_parameters
from fhir_gateway.errors import InputError, Location
from fhir_gateway.r4.spec import resource_types
from fhir_gateway.server.links import PageLinks
from fhir_gateway.server.problems import TooCostly, issue, outcome
from fhir_gateway.server.registry import RESULT_PARAMETERS, SERVED
from fhir_gateway.server.summary import Subset

DEFAULT_COUNT = 50
MAX_COUNT = 1000
#: Written with quotes in an example of the Risk Adjustment guide (``category="ra"``).
_QUOTED = frozenset({"category", "measurereport-category"})
_INCLUDES = 10
_CRITERIA = 50
_HAS_REPORTS = re.compile("_has:MeasureReport:(patient|subject):")
#: ``_include``, ``_revinclude`` and their ``:iterate`` (STU3 said ``:recurse``).
_INCLUDE = re.compile(r"_(?P<reverse>rev)?include(?::(?P<iterate>iterate|recurse))?")
#: Criteria that every type has: those of a search over several types.
COMMON = ("_id", "_lastUpdated", "_profile", "_security", "_source", "_tag")


class Include(NamedTuple):
    """An ``_include`` or ``_revinclude``: ``source`` refers by ``parameter`` to ``target`` (any type when empty)."""

    reverse: bool
    iterate: bool
    source: str
    parameter: str
    target: str

    @property
    def name(self) -> str:
        """The parameter's name, with its modifier."""
        return ("_revinclude" if self.reverse else "_include") + (":iterate" if self.iterate else "")

    @property
    def value(self) -> str:
        """The parameter's value."""
        return ":".join(part for part in (self.source, self.parameter, self.target) if part)


@dataclass(frozen=True, slots=True)
class Query:
    """One search as the client asked for it; ``after`` and ``total`` are set on later pages.

    ``resource_type`` is empty for a search over several ``types``.
    """

    resource_type: str
    criteria: tuple[Criterion, ...] = ()
    ignored: tuple[str, ...] = ()
    count: int = DEFAULT_COUNT
    sort: str | None = None
    summary: str | None = None
    elements: str | None = None
    includes: tuple[Include, ...] = ()
    types: tuple[str, ...] = ()
    count_total: bool = True
    after: str | None = None
    total: int | None = None
    subset: Subset = field(default_factory=Subset, compare=False)

    def named(self, name: str) -> list[tuple[str, str]]:
        """Criteria on one parameter as (modifier, value); chains are not among them."""
        own = [(key.partition(":"), value) for key, value in self.criteria if "." not in key]
        return [(modifier, value) for (code, _, modifier), value in own if code == name]

    def chains(self, name: str) -> list[tuple[str, str, str]]:
        """Chains through one parameter as (type or empty, the rest of the name, value)."""
        split = [(key.partition("."), value) for key, value in self.criteria if "." in key and code_of(key) == name]
        return [(head.partition(":")[2], rest, value) for (head, _, rest), value in split]

    def without(self, *names: str) -> tuple[Criterion, ...]:
        """Criteria on all other parameters."""
        return tuple(item for item in self.criteria if code_of(item[0]) not in names)


def code_of(name: str) -> str:
    """The search parameter that a name with modifier or chain begins with."""
    return re.split("[.:]", name, maxsplit=1)[0]


def parse_query(resource_type: str, parameters: Sequence[tuple[str, str]], strict: bool) -> Query:
    """Read search parameters; unknown ones are refused when ``strict``, else listed in ``ignored``.

    Values of known parameters, and modifiers, are checked by the store. Raises InputError.
    """
    known = search_parameters(resource_type)
    criteria: list[Criterion] = []
    ignored: list[str] = []
    result: dict[str, str] = {}
    includes: list[Include] = []
    for name, value in parameters:
        code = code_of(name)
        asked = _INCLUDE.fullmatch(name)
        if name in RESULT_PARAMETERS:
            result[name] = value
        elif asked:
            includes.append(_include(asked, value, resource_type))
        elif code in ("_id", "_lastUpdated", "_has") or code in known:
            if code in _QUOTED:
                value = value.strip('"')
            if value:  # R4 3.1.1.3: a parameter without a value is as good as absent
                criteria.append((name, value))
        elif strict:
            raise InputError("unknown search parameter", location=Location(path=code, rule="handling=strict"))
        else:
            ignored.append(code)
    if len(criteria) > _CRITERIA or len(includes) > _INCLUDES:
        raise TooCostly(f"a search has at most {_CRITERIA} criteria and {_INCLUDES} includes")
    for name, _ in criteria:
        if _HAS_REPORTS.search(name) and resource_type != "Group":
            raise InputError(
                "individual reports are not searched backwards: search them with _include=MeasureReport:subject",
                location=Location(path="_has", rule="not-supported"),
            )
    subset = Subset(result.get("_summary"), result.get("_elements"))
    return Query(
        resource_type=resource_type,
        criteria=tuple(criteria),
        ignored=tuple(dict.fromkeys(ignored)),
        count=0 if subset.count_only else count_of(result.get("_count")),
        sort=result.get("_sort") or None,
        summary=result.get("_summary"),
        elements=result.get("_elements"),
        includes=tuple(dict.fromkeys(includes)),
        count_total=_total(result.get("_total")) or subset.count_only,
        subset=subset,
    )


def parse_system_query(parameters: Sequence[tuple[str, str]], strict: bool) -> Query:
    """Read the parameters of a search over several types: those that every type has, and ``_type``.

    ``types`` is empty when the client names none. Raises InputError.
    """
    named = [part for name, value in parameters if name == "_type" for part in value.split(",") if part]
    unknown = [one for one in named if one not in SERVED]
    if unknown:
        raise InputError("not a type that is served here", location=Location(path="_type", rule="value"))
    rest = [(name, value) for name, value in parameters if name != "_type"]
    for name, _ in rest:
        if name == "_sort" or _INCLUDE.fullmatch(name):
            raise InputError("not for a search over several types", location=Location(path=name, rule="not-supported"))
    known = [one for one in rest if one[0] in RESULT_PARAMETERS or code_of(one[0]) in COMMON]
    others = {code_of(name) for name, _ in rest} - {code_of(name) for name, _ in known}
    if others and strict:
        raise InputError("unknown search parameter", location=Location(path=min(others), rule="handling=strict"))
    query = parse_query("Basic", known, strict)
    return replace(query, resource_type="", types=tuple(sorted(set(named))), ignored=tuple(sorted(others)))


def count_of(text: str | None) -> int:
    """Resources on a page, as ``_count`` says; raises InputError."""
    if text is None:
        return DEFAULT_COUNT
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InputError("not a whole number", location=Location(path="_count", rule="value"))
    return min(int(text), MAX_COUNT)


def _total(text: str | None) -> bool:
    if text not in (None, "none", "estimate", "accurate"):
        raise InputError("not a total mode", location=Location(path="_total", rule="value"))
    return text != "none"


def _include(asked: re.Match[str], text: str, resource_type: str) -> Include:
    source, _, rest = text.partition(":")
    name, _, target = rest.partition(":")
    reverse, iterate = asked["reverse"] is not None, asked["iterate"] is not None
    parameter = search_parameters(source).get(name) if source in SERVED else None
    if parameter is None or parameter.declared != "reference":
        raise InputError("not a reference parameter of a served type", location=Location(path=asked[0], rule="value"))
    if not reverse and not iterate and source != resource_type:
        raise InputError(
            "includes what others include by _include:iterate", location=Location(path=asked[0], rule="value")
        )
    if target and target not in resource_types():
        raise InputError("not a type that it refers to", location=Location(path=asked[0], rule="value"))
    return Include(reverse, iterate, source, name, target)


def next_link(links: PageLinks, query: Query, after: str, total: int | None) -> str:
    """URL of the next page; raises TooCostly when the search is too long for a link."""
    state = [
        query.criteria,
        query.count,
        query.sort,
        query.summary,
        query.elements,
        [list(one) for one in query.includes],
        query.types,
        after,
        total,
    ]
    return links.seal(query.resource_type, state)


def opened(links: PageLinks, resource_type: str, parameters: Sequence[tuple[str, str]]) -> Query | None:
    """The query behind a next link; None when ``parameters`` are no next link. Raises InputError."""
    state = links.open(resource_type, parameters)
    if state is None:
        return None
    criteria, count, sort, summary, elements, includes, types, after, total = state
    return Query(
        resource_type=resource_type,
        criteria=tuple((name, value) for name, value in criteria),
        count=count,
        sort=sort,
        summary=summary,
        elements=elements,
        includes=tuple(Include(*one) for one in includes),
        types=tuple(types),
        count_total=False,
        after=after,
        total=total,
        subset=Subset(summary, elements),
    )


def self_link(base_url: str, query: Query, is_form: bool) -> str:
    """The link that says how the search was understood; without values for a search by form."""
    path = f"{base_url}/{query.resource_type}".rstrip("/")
    if is_form:
        return f"{path}/_search"
    pairs = [*query.criteria, *((one.name, one.value) for one in query.includes)]
    pairs += [(name, value) for name, value in (("_sort", query.sort), ("_summary", query.summary)) if value]
    if query.elements:
        pairs.append(("_elements", query.elements))
    pairs.append(("_count", str(query.count)))
    return f"{path}?{urlencode(pairs)}"


def bundle(
    base_url: str,
    query: Query,
    found: Sequence[StoredResource],
    included: Sequence[StoredResource],
    total: int | None,
    links: Sequence[tuple[str, str]],
) -> bytes:
    """A searchset Bundle; stored resources go into it byte by byte, without being parsed."""
    head: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset"}
    if total is not None:
        head["total"] = total
    head["link"] = [{"relation": relation, "url": url} for relation, url in links]
    entries = [_entry(base_url, one, query.subset.apply(one.body), b"match") for one in found]
    entries += [_entry(base_url, one, one.body, b"include") for one in included]
    if query.ignored:
        warning = outcome(issue("warning", "not-supported", "search parameters ignored: " + ", ".join(query.ignored)))
        entries.append(b'{"resource":' + orjson.dumps(warning) + b',"search":{"mode":"outcome"}}')
    text = orjson.dumps(head)[:-1]
    if entries:  # an empty list is not allowed in FHIR JSON
        text += b',"entry":[' + b",".join(entries) + b"]"
    return text + b"}"


def _entry(base_url: str, stored: StoredResource, body: bytes, mode: bytes) -> bytes:
    url = f"{base_url}/{stored.type}/{stored.id}".encode()
    return b'{"fullUrl":"' + url + b'","resource":' + body + b',"search":{"mode":"' + mode + b'"}}'
