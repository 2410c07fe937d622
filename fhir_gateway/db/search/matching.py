"""Search criteria over one resource in memory: what ``criteria`` says in SQL, for what is not in the store.

For individual reports that are rendered on demand, for earlier versions (the index knows the present one only), and for
saying beforehand whether a search restriction can be evaluated at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fhir_gateway.db.engine import table_of
from fhir_gateway.db.resource_tables import ResourceRow, SearchIndexRow
from fhir_gateway.db.search.criteria import Criterion, conditions
from fhir_gateway.db.search.dates import microseconds, parse_range
from fhir_gateway.db.search.parameters import SearchParameter, search_parameters
from fhir_gateway.db.search.values import Entry, fold, reference_parts, tokens
from fhir_gateway.errors import InputError

_PREFIX = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(.+)", re.DOTALL)
_COMMA, _BAR = re.compile(r"(?<!\\),"), re.compile(r"(?<!\\)\|")
_KINDS = ("token", "reference", "string", "date", "uri", "canonical")
Test = Callable[[Entry], bool]


def evaluable(resource_type: str, criteria: Sequence[Criterion]) -> bool:
    """True when the criteria can be evaluated on resources of a type, in SQL and here; ``*`` is every type."""
    if resource_type == "*" and not all(name.startswith("_") for name, _ in criteria):
        return False
    try:
        check("Basic" if resource_type == "*" else resource_type, criteria)
    except InputError:  # chains and reverse chains lead to other resources, which change
        return False
    return True


def check(resource_type: str, criteria: Sequence[Criterion]) -> None:
    """Refuse (InputError) criteria that cannot be evaluated on one resource of a type: unknown, or not well-formed."""
    for name, _ in criteria:
        code, _, _ = name.partition(":")
        parameter = search_parameters(resource_type).get(code)
        if "." in name or (code not in ("_id", "_lastUpdated") and (parameter is None or parameter.kind not in _KINDS)):
            raise InputError(f"{resource_type} has no search parameter {code} that one resource tells")
    conditions(resource_type, criteria, table_of(ResourceRow), table_of(SearchIndexRow), None, datetime.now(UTC))


def matches(resource: Mapping[str, Any], criteria: Sequence[Criterion], base_url: str | None, now: datetime) -> bool:
    """True when the resource meets all criteria; raises InputError for one that is not :func:`evaluable`."""
    return all(_meets(resource, name, value, base_url, now) for name, value in criteria)


def _meets(resource: Mapping[str, Any], name: str, value: str, base_url: str | None, now: datetime) -> bool:
    code, _, modifier = name.partition(":")
    alternatives = [part for part in _COMMA.split(value) if part]
    if code == "_id":
        return resource["id"] in map(_unescape, alternatives)
    if code == "_lastUpdated":
        low, _ = parse_range(resource["meta"]["lastUpdated"])
        return any(_date(one, now)((None, None, None, low, low + 1000)) for one in alternatives)
    parameter = search_parameters(resource["resourceType"]).get(code)
    if parameter is None or parameter.kind not in _KINDS:
        raise InputError(f"{resource['resourceType']} has no search parameter {code} that one resource tells")
    entries = list(parameter.entries(resource, base_url))
    if modifier == "missing":
        return (not entries) == (value == "true")
    if parameter.kind == "reference" and modifier == "identifier":
        entries = _identifiers(parameter, resource)
    found = any(
        test(entry)
        for test in (_test(parameter, modifier, one, base_url, now) for one in alternatives)
        for entry in entries
    )
    return found != (modifier == "not")


def _identifiers(parameter: SearchParameter, resource: Mapping[str, Any]) -> list[Entry]:
    elements = [one for one in parameter.elements(resource) if isinstance(one, dict)]
    return [entry for one in elements if isinstance(one.get("identifier"), dict) for entry in tokens(one["identifier"])]


def _test(parameter: SearchParameter, modifier: str, text: str, base_url: str | None, now: datetime) -> Test:
    if parameter.kind == "token" or modifier == "identifier":
        return _token(text)
    if parameter.kind == "reference":
        target, value = reference_parts(_unescape(text), base_url)
        target = modifier or target
        return lambda entry: entry[1] == value and (target is None or entry[0] == target)
    if parameter.kind == "string":
        return _string(modifier, _unescape(text))
    if parameter.kind == "date":
        return _date(text, now)
    url, *version = [_unescape(part) for part in _BAR.split(text, maxsplit=1)]
    if modifier == "below":
        return lambda entry: (entry[1] or "").startswith(url)
    return lambda entry: entry[1] == url and (not version or not version[0] or entry[0] == version[0])


def _token(text: str) -> Test:
    system, *code = [_unescape(part) for part in _BAR.split(text, maxsplit=1)]
    if not code:
        return lambda entry: entry[1] == system
    if not system:
        return lambda entry: entry[0] is None and entry[1] == code[0]
    return lambda entry: entry[0] == system and (not code[0] or entry[1] == code[0])


def _string(modifier: str, exact: str) -> Test:
    folded = fold(exact)
    if modifier == "exact":
        return lambda entry: entry[2] == exact
    if modifier == "contains":
        return lambda entry: folded in (entry[1] or "")
    return lambda entry: (entry[1] or "").startswith(folded)


def _date(text: str, now: datetime) -> Test:
    match = _PREFIX.fullmatch(text.replace(" ", "+"))
    start, end = parse_range(match[2] if match else "")
    slack = abs(microseconds(now) - start) // 10
    by_prefix: dict[str, Callable[[int, int], bool]] = {
        "eq": lambda low, high: low >= start and high <= end,
        "ne": lambda low, high: not (low >= start and high <= end),
        "gt": lambda low, high: high > end,
        "lt": lambda low, high: low < start,
        "ge": lambda low, high: high > end or (low >= start and high <= end),
        "le": lambda low, high: low < start or (low >= start and high <= end),
        "sa": lambda low, high: low >= end,
        "eb": lambda low, high: high <= start,
        "ap": lambda low, high: low < end + slack and high > start - slack,
    }
    compare = by_prefix[(match[1] if match else None) or "eq"]
    return lambda entry: entry[3] is not None and entry[4] is not None and compare(entry[3], entry[4])


def _unescape(text: str) -> str:
    return re.sub(r"\\([,|$\\])", r"\1", text)
