"""Search criteria to SQL: prefixes, modifiers, OR by comma, AND by repetition (R4 §3.1.1.4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime

import sqlalchemy as sa

from fhir_gateway.db.search.dates import microseconds, parse_range
from fhir_gateway.db.search.parameters import SearchParameter, search_parameters
from fhir_gateway.db.search.values import fold, reference_parts
from fhir_gateway.errors import InputError

Criterion = tuple[str, str]  # name with modifier, raw value, as in the query string
Condition = sa.ColumnElement[bool]

_PREFIX = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(.+)", re.DOTALL)
_COMMA, _BAR = re.compile(r"(?<!\\),"), re.compile(r"(?<!\\)\|")
_LAST_CHARACTER = "\U0010ffff"


def conditions(
    resource_type: str,
    criteria: Sequence[Criterion],
    resource: sa.Table,
    index: sa.Table,
    base_url: str | None,
    now: datetime,
) -> list[Condition]:
    """Return one condition on ``resource`` per criterion; raises InputError naming the parameter that is wrong."""
    return [_condition(resource_type, name, value, resource, index, base_url, now) for name, value in criteria]


def _condition(
    resource_type: str, name: str, value: str, resource: sa.Table, index: sa.Table, base_url: str | None, now: datetime
) -> Condition:
    code, _, modifier = name.partition(":")
    alternatives = [part for part in _COMMA.split(value) if part]
    if not alternatives:
        raise InputError(f"search parameter {code} has no value")
    if code in ("_id", "_lastUpdated"):
        if modifier:
            raise InputError(f"search parameter {code} has no modifier :{modifier}")
        if code == "_id":
            return resource.c.id.in_([_unescape(one) for one in alternatives])
        updated = resource.c.last_updated
        # Stored with milliseconds: the instant stands for its whole millisecond.
        return sa.or_(*(_date(code, one, updated, updated + 1000, now) for one in alternatives))
    parameter = search_parameters(resource_type).get(code)
    if parameter is None:
        raise InputError(f"{resource_type} has no search parameter {code}")
    indexed = f"{resource_type}.{parameter.same_as or parameter.name}"

    def has(*match: Condition, suffix: str = "") -> Condition:
        rows = sa.select(index.c.key).where(index.c.parameter == indexed + suffix, *match)
        return resource.c.key.in_(rows)

    if modifier == "missing":
        if value not in ("true", "false"):
            raise InputError(f"search parameter {code}:missing is true or false")
        return sa.not_(has()) if value == "true" else has()
    if parameter.kind == "token":
        found = has(sa.or_(*(_token(one, index) for one in alternatives)))
        if modifier not in ("", "not"):
            raise InputError(f"search parameter {code} has no modifier :{modifier}")
        return sa.not_(found) if modifier == "not" else found
    if parameter.kind == "reference":
        if modifier == "identifier":
            return has(sa.or_(*(_token(one, index) for one in alternatives)), suffix=":identifier")
        return has(sa.or_(*(_reference(parameter, modifier, one, index, base_url) for one in alternatives)))
    if parameter.kind == "string":
        if modifier not in ("", "exact", "contains"):
            raise InputError(f"search parameter {code} has no modifier :{modifier}")
        return has(sa.or_(*(_string(modifier, one, index) for one in alternatives)))
    if modifier:
        raise InputError(f"search parameter {code} has no modifier :{modifier}")
    if parameter.kind == "date":
        return has(sa.or_(*(_date(code, one, index.c.low, index.c.high, now) for one in alternatives)))
    return has(sa.or_(*(_uri(one, index) for one in alternatives)))


def _unescape(text: str) -> str:
    return re.sub(r"\\([,|$\\])", r"\1", text)


def _token(text: str, index: sa.Table) -> Condition:
    """``code``, ``system|code``, ``|code`` (without a system), ``system|`` (any code of it)."""
    parts = [_unescape(part) for part in _BAR.split(text, maxsplit=1)]
    if len(parts) == 1:
        return index.c.value == parts[0]
    system, code = parts
    if not system:
        return sa.and_(index.c.system.is_(None), index.c.value == code)
    if not code:
        return index.c.system == system
    return sa.and_(index.c.value == code, index.c.system == system)


def _reference(
    parameter: SearchParameter, modifier: str, text: str, index: sa.Table, base_url: str | None
) -> Condition:
    """``id``, ``Type/id``, an absolute reference, or ``parameter:Type=id``; a canonical may carry a version."""
    target, value = reference_parts(_unescape(text), base_url)
    if modifier:
        if not modifier[0].isupper() or "." in modifier:
            raise InputError(f"search parameter {parameter.name} has no modifier :{modifier}")
        target = modifier
    if target is None:
        return index.c.value == value
    return sa.and_(index.c.value == value, index.c.system == target)


def _string(modifier: str, text: str, index: sa.Table) -> Condition:
    exact = _unescape(text)
    if modifier == "exact":
        return sa.and_(index.c.value == fold(exact), index.c.text == exact)
    folded = fold(exact)
    if modifier == "contains":
        return index.c.value.contains(folded, autoescape=True)
    return sa.and_(index.c.value >= folded, index.c.value <= folded + _LAST_CHARACTER)  # uses the index, LIKE may not


def _uri(text: str, index: sa.Table) -> Condition:
    url, *version = [_unescape(part) for part in _BAR.split(text, maxsplit=1)]
    if version and version[0]:
        return sa.and_(index.c.value == url, index.c.system == version[0])
    return index.c.value == url


def _date(code: str, text: str, low: sa.ColumnElement[int], high: sa.ColumnElement[int], now: datetime) -> Condition:
    """Compare the stored range ``[low, high)`` with the range of the value (R4 §3.1.1.4.7, table of prefixes)."""
    match = _PREFIX.fullmatch(text.replace(" ", "+"))  # an unescaped + of a zone arrives as a blank
    try:
        start, end = parse_range(match[2] if match else "")
    except ValueError as error:
        raise InputError(f"search parameter {code} needs a date, with an optional prefix such as ge") from error
    inside = sa.and_(low >= start, high <= end)
    by_prefix: dict[str, Callable[[], Condition]] = {
        "eq": lambda: inside,
        "ne": lambda: sa.not_(inside),
        "gt": lambda: high > end,
        "lt": lambda: low < start,
        "ge": lambda: sa.or_(high > end, inside),
        "le": lambda: sa.or_(low < start, inside),
        "sa": lambda: low >= end,
        "eb": lambda: high <= start,
        "ap": lambda: _approximate(low, high, start, end, now),
    }
    return by_prefix[(match[1] if match else None) or "eq"]()


def _approximate(
    low: sa.ColumnElement[int], high: sa.ColumnElement[int], start: int, end: int, now: datetime
) -> Condition:
    """Overlap with the range widened by a tenth of its distance from now, as the specification recommends."""
    slack = abs(microseconds(now) - start) // 10
    return sa.and_(low < end + slack, high > start - slack)


def sort_value(resource_type: str, name: str, resource: sa.Table, index: sa.Table) -> sa.ColumnElement[int | str]:
    """Return the SQL value to sort by; resources without one come first. Dates and strings only."""
    if name == "_lastUpdated":
        return resource.c.last_updated
    if name == "_id":
        return resource.c.id
    parameter = search_parameters(resource_type).get(name)
    if parameter is None or parameter.kind not in ("date", "string"):
        raise InputError(f"{resource_type} is sorted by one of _id, _lastUpdated, and its date and string parameters")
    column, default = (index.c.low, -(2**63) + 1) if parameter.kind == "date" else (index.c.value, "")
    smallest = sa.select(sa.func.min(column)).where(
        index.c.key == resource.c.key, index.c.parameter == f"{resource_type}.{parameter.same_as or name}"
    )
    return sa.func.coalesce(smallest.scalar_subquery(), default)
