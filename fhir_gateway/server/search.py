"""Search (R4 search.html): parameters in, searchset Bundle out, paging by self-contained next links.

A next link holds everything that the next page needs, sealed: it says nothing in clear about the search (a form search
exists to keep values out of URLs), cannot be bent into another search, and stays valid across processes and restarts.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from fhir_gateway.db.resources import StoredResource
from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.db.search.parameters import search_parameters
from fhir_gateway.db.secrets import SecretBox
from fhir_gateway.errors import ConfigurationError, InputError, Location
from fhir_gateway.server.problems import TooCostly, issue, outcome
from fhir_gateway.server.registry import RESULT_PARAMETERS
from fhir_gateway.server.summary import Subset

DEFAULT_COUNT = 50
MAX_COUNT = 1000
#: Longest next link we give out; servers and proxies commonly refuse request lines above 8 KB.
MAX_LINK = 7000
_PAGE = "_page"
_INCLUDES = 5


@dataclass(frozen=True, slots=True)
class Query:
    """One search as the client asked for it; ``after`` and ``total`` are set on later pages."""

    resource_type: str
    criteria: tuple[Criterion, ...] = ()
    ignored: tuple[str, ...] = ()
    count: int = DEFAULT_COUNT
    sort: str | None = None
    summary: str | None = None
    elements: str | None = None
    includes: tuple[str, ...] = ()
    count_total: bool = True
    after: str | None = None
    total: int | None = None
    subset: Subset = field(default_factory=Subset, compare=False)

    def named(self, name: str) -> list[tuple[str, str]]:
        """Criteria on one parameter as (modifier, value)."""
        return [(key.partition(":")[2], value) for key, value in self.criteria if key.partition(":")[0] == name]

    def without(self, *names: str) -> tuple[Criterion, ...]:
        """Criteria on all other parameters."""
        return tuple(item for item in self.criteria if item[0].partition(":")[0] not in names)


def parse_query(resource_type: str, parameters: Sequence[tuple[str, str]], strict: bool) -> Query:
    """Read search parameters; unknown ones are refused when ``strict``, else listed in ``ignored``.

    Values of known parameters, and modifiers, are checked by the store. Raises InputError.
    """
    known = search_parameters(resource_type)
    criteria: list[Criterion] = []
    ignored: list[str] = []
    result: dict[str, str] = {}
    includes: list[str] = []
    for name, value in parameters:
        code = name.partition(":")[0]
        if name in RESULT_PARAMETERS:
            result[name] = value
        elif name == "_include":
            includes.append(value)
        elif code in ("_id", "_lastUpdated") or code in known:
            if value:  # R4 3.1.1.3: a parameter without a value is as good as absent
                criteria.append((name, value))
        elif strict:
            raise InputError("unknown search parameter", location=Location(path=code, rule="handling=strict"))
        else:
            ignored.append(code)
    subset = Subset(result.get("_summary"), result.get("_elements"))
    return Query(
        resource_type=resource_type,
        criteria=tuple(criteria),
        ignored=tuple(dict.fromkeys(ignored)),
        count=0 if subset.count_only else _count(result.get("_count")),
        sort=result.get("_sort") or None,
        summary=result.get("_summary"),
        elements=result.get("_elements"),
        includes=tuple(dict.fromkeys(_include(value, resource_type) for value in includes))[:_INCLUDES],
        count_total=_total(result.get("_total")) or subset.count_only,
        subset=subset,
    )


def _count(text: str | None) -> int:
    if text is None:
        return DEFAULT_COUNT
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InputError("not a whole number", location=Location(path="_count", rule="value"))
    return min(int(text), MAX_COUNT)


def _total(text: str | None) -> bool:
    if text not in (None, "none", "estimate", "accurate"):
        raise InputError("not a total mode", location=Location(path="_total", rule="value"))
    return text != "none"


def _include(text: str, resource_type: str) -> str:
    source, _, rest = text.partition(":")
    name = rest.partition(":")[0]
    parameter = search_parameters(resource_type).get(name)
    if source != resource_type or parameter is None or parameter.kind != "reference":
        raise InputError("not a reference parameter of the type", location=Location(path="_include", rule="value"))
    return rest


class PageLinks:
    """Seals the rest of a search into a next link and opens it again."""

    def __init__(self, base_url: str, secrets: SecretBox) -> None:
        self._base_url = base_url
        self._secrets = secrets

    def seal(self, query: Query, after: str, total: int | None) -> str:
        """URL of the next page; raises TooCostly when the search is too long for a link."""
        state = [
            query.resource_type,
            query.criteria,
            query.count,
            query.sort,
            query.summary,
            query.elements,
            query.includes,
            after,
            total,
        ]
        token = self._secrets.encrypt(zlib.compress(orjson.dumps(state), 9)).decode()
        if len(token) > MAX_LINK:
            raise TooCostly("the search is too long to be continued on a next page: ask for fewer values at once")
        return f"{self._base_url}/{query.resource_type}?{_PAGE}={quote(token)}"

    def open(self, resource_type: str, parameters: Sequence[tuple[str, str]]) -> Query | None:
        """The query behind a next link; None when ``parameters`` are no next link. Raises InputError."""
        tokens = [value for name, value in parameters if name == _PAGE]
        if not tokens:
            return None
        try:
            state = orjson.loads(zlib.decompress(self._secrets.decrypt(tokens[0].encode())))
        except (ConfigurationError, ValueError, zlib.error):
            raise InputError("not a page of ours", location=Location(path=_PAGE, rule="value")) from None
        of_type, criteria, count, sort, summary, elements, includes, after, total = state
        if of_type != resource_type:
            raise InputError("a page of another type", location=Location(path=_PAGE, rule="value"))
        pairs = tuple((name, value) for name, value in criteria)
        query = Query(of_type, pairs, (), count, sort, summary, elements, tuple(includes))
        return replace(query, after=after, total=total, count_total=False, subset=Subset(summary, elements))


def self_link(base_url: str, query: Query, is_form: bool) -> str:
    """The link that says how the search was understood; without values for a search by form."""
    path = f"{base_url}/{query.resource_type}"
    if is_form:
        return f"{path}/_search"
    pairs = [*query.criteria, *(("_include", f"{query.resource_type}:{rest}") for rest in query.includes)]
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
