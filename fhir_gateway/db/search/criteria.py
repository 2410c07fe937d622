"""Search criteria to SQL: prefixes, modifiers, OR by comma, AND by repetition (R4 §3.1.1.4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import sqlalchemy as sa

from fhir_gateway.db.search.clinical import ELSEWHERE
from fhir_gateway.db.search.dates import microseconds, parse_range
from fhir_gateway.db.search.parameters import SearchParameter, search_parameters
from fhir_gateway.db.search.values import LONGEST, fold, reference_parts
from fhir_gateway.errors import AuthorizationError, InputError
from fhir_gateway.r4.spec import resource_types

Criterion = tuple[str, str]  # name with modifier, raw value, as in the query string
Condition = sa.ColumnElement[bool]

_PREFIX = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(.+)", re.DOTALL)
_COMMA, _BAR, _DOLLAR = (re.compile(rf"(?<!\\){mark}") for mark in (",", r"\|", r"\$"))
_CHAIN = re.compile(r"(?P<code>[^.:]+)(?::(?P<type>[A-Za-z]+))?\.(?P<rest>.+)", re.DOTALL)
_LAST_CHARACTER = "\U0010ffff"
#: References that one criterion may follow: each is another join.
MAX_CHAIN = 3
#: Values of one criterion: databases limit how deep an expression may be.
MAX_ALTERNATIVES = 1000
MAX_SYSTEMS = 100
_MODIFIERS: Mapping[str, frozenset[str]] = {
    "token": frozenset({"", "not"}),
    "string": frozenset({"", "exact", "contains"}),
    "uri": frozenset({"", "below"}),
    "canonical": frozenset({"", "below"}),
    "date": frozenset({""}),
    "composite": frozenset({""}),
}


def conditions(
    resource_type: str,
    criteria: Sequence[Criterion],
    resource: sa.FromClause,
    index: sa.Table,
    base_url: str | None,
    now: datetime,
) -> list[Condition]:
    """One condition on ``resource`` per criterion, none of which leads to other resources; raises InputError."""
    alone = Reach(index, index, base_url, lambda *_: [], lambda _: False)
    return alone.conditions(resource_type, criteria, resource, now)


@dataclass(frozen=True, slots=True)
class Reach:
    """What a search may look at: the tables, which rows of a type are visible, and which types may be searched."""

    resource: sa.Table
    index: sa.Table
    base_url: str | None
    visible: Callable[[str, sa.FromClause], list[Condition]]
    searchable: Callable[[str], bool]

    def conditions(
        self, resource_type: str, criteria: Sequence[Criterion], rows: sa.FromClause, now: datetime, depth: int = 0
    ) -> list[Condition]:
        """One condition on ``rows`` (the resources, or an alias) per criterion.

        Raises InputError naming the parameter that is wrong, AuthorizationError for a type that may not be searched.
        """
        return [self._condition(resource_type, name, value, rows, now, depth) for name, value in criteria]

    def _condition(
        self, resource_type: str, name: str, value: str, rows: sa.FromClause, now: datetime, depth: int
    ) -> Condition:
        if "\x00" in value:
            raise InputError(f"search parameter {name.partition(':')[0]} has a NUL character in its value")
        if name.startswith("_has:"):
            return self._having(resource_type, name, value, rows, now, depth)
        chain = _CHAIN.fullmatch(name)
        if chain:
            return self._chained(resource_type, chain, value, rows, now, depth)
        code, _, modifier = name.partition(":")
        alternatives = [part for part in _COMMA.split(value) if part]
        if not alternatives:
            raise InputError(f"search parameter {code} has no value")
        if len(alternatives) > MAX_ALTERNATIVES:
            raise InputError(f"search parameter {code} has more than {MAX_ALTERNATIVES} alternatives")
        if code in ("_id", "_lastUpdated"):
            if modifier:
                raise InputError(f"search parameter {code} has no modifier :{modifier}")
            if code == "_id":
                return rows.c.id.in_([_unescape(one) for one in alternatives])
            updated = rows.c.last_updated
            # Stored with milliseconds: the instant stands for its whole millisecond.
            return _either([_date(code, one, updated, updated + 1000, now) for one in alternatives])
        parameter = self._parameter(resource_type, code)
        index = _entries(self.index)

        def has(*match: Condition, suffix: str = "") -> Condition:
            named = index.c.parameter == _indexed(resource_type, parameter) + suffix
            return rows.c.key.in_(sa.select(index.c.key).where(named, *match))

        if modifier == "missing":
            if value not in ("true", "false"):
                raise InputError(f"search parameter {code}:missing is true or false")
            return sa.not_(has()) if value == "true" else has()
        if parameter.kind == "reference" and modifier == "identifier":
            return has(_tokens(alternatives, index), suffix=":identifier")
        if parameter.kind == "reference":
            return has(_references(parameter, modifier, alternatives, index, self.base_url))
        if modifier not in _MODIFIERS[parameter.kind]:
            raise InputError(f"search parameter {code} has no modifier :{modifier}")
        if parameter.kind == "token":
            found = has(_tokens(alternatives, index))
            return sa.not_(found) if modifier == "not" else found
        if parameter.kind == "string":
            return has(_either([_string(modifier, one, index) for one in alternatives]))
        if parameter.kind == "date":
            return has(_either([_date(code, one, index.c.low, index.c.high, now) for one in alternatives]))
        if parameter.kind == "composite":
            return has(_either([_composite(code, one, index, self.base_url) for one in alternatives]))
        return has(_either([_uri(modifier, one, index) for one in alternatives]))

    def _parameter(self, resource_type: str, code: str) -> SearchParameter:
        parameter = search_parameters(resource_type).get(code)
        if parameter is None:
            raise InputError(f"{resource_type} has no search parameter {code}")
        return parameter

    def _chained(
        self, resource_type: str, chain: re.Match[str], value: str, rows: sa.FromClause, now: datetime, depth: int
    ) -> Condition:
        """``reference:Type.parameter=value``: what refers to a visible resource that meets the rest (3.1.1.4.4)."""
        _check_depth(depth)
        parameter = self._parameter(resource_type, chain["code"])
        if parameter.kind not in ("reference", "canonical"):
            raise InputError(f"search parameter {parameter.name} is no reference that a chain could follow")
        found = []
        for target in self._chain_targets(resource_type, parameter, chain["type"], chain["rest"]):
            index, other = self.index.alias(), self.resource.alias()
            refers = sa.select(index.c.key).where(index.c.parameter == _indexed(resource_type, parameter))
            if parameter.kind == "reference":
                refers = refers.where(index.c.system == target, index.c.value == other.c.id)
            else:
                urls = self.index.alias()
                named = (urls.c.key == other.c.key, urls.c.parameter == f"{target}.url", urls.c.value == index.c.value)
                refers = refers.where(*named, self._of_version(target, other, index))
            inner = self._live(target, other) + self.conditions(target, [(chain["rest"], value)], other, now, depth + 1)
            found.append(rows.c.key.in_(refers.where(*inner)))
        return sa.or_(*found)

    def _of_version(self, target: str, other: sa.FromClause, index: sa.FromClause) -> Condition:
        """A canonical without a version means every version that is here."""
        version = self.index.alias()
        same = sa.exists().where(
            version.c.key == other.c.key,
            version.c.parameter == f"{target}.version",
            version.c.value == index.c.system,
        )
        return sa.or_(index.c.system.is_(None), same)

    def _chain_targets(self, resource_type: str, parameter: SearchParameter, named: str | None, rest: str) -> list[str]:
        """The types that a chain leads to: the one it names, or those of the reference that have the parameter."""
        possible = parameter.targets(resource_type)
        if named is not None:
            if named not in resource_types() or (possible and named not in possible):
                raise InputError(f"search parameter {parameter.name} does not refer to that type")
            _check_indexed(named)
            if not self.searchable(named):
                raise AuthorizationError(f"a chain into {named} needs system/{named}.s")
            return [named]
        if not possible:
            raise InputError(f"search parameter {parameter.name} may refer to any type: name it, as in :Patient.name")
        code = re.split("[.:]", rest, maxsplit=1)[0]
        everywhere = code in ("_id", "_lastUpdated", "_has")
        having = [one for one in sorted(possible - ELSEWHERE) if everywhere or code in search_parameters(one)]
        if not having:
            raise InputError(f"nothing that {parameter.name} refers to has that search parameter")
        allowed = [one for one in having if self.searchable(one)]
        if not allowed:
            raise AuthorizationError("a chain needs " + " or ".join(f"system/{one}.s" for one in having))
        return allowed

    def _having(
        self, resource_type: str, name: str, value: str, rows: sa.FromClause, now: datetime, depth: int
    ) -> Condition:
        """``_has:Type:reference:parameter=value``: what visible resources that meet the rest refer to (3.1.1.4.5)."""
        _check_depth(depth)
        _, source, code, rest = [*name.split(":", 3), "", "", ""][:4]
        if source not in resource_types() or not rest:
            raise InputError("reverse chaining is _has:Type:reference:parameter")
        _check_indexed(source)
        parameter = self._parameter(source, code)
        if parameter.kind != "reference":
            raise InputError(f"search parameter {code} of {source} is no reference that _has could follow")
        if not self.searchable(source):
            raise AuthorizationError(f"_has with {source} needs system/{source}.s")
        index, other = self.index.alias(), self.resource.alias()
        referred = sa.select(index.c.value).where(
            index.c.parameter == _indexed(source, parameter),
            index.c.system == resource_type,
            index.c.key == other.c.key,
            *self._live(source, other),
            *self.conditions(source, [(rest, value)], other, now, depth + 1),
        )
        return rows.c.id.in_(referred)

    def _live(self, resource_type: str, rows: sa.FromClause) -> list[Condition]:
        alive = [rows.c.type == resource_type, rows.c.deleted.is_(False)]
        return [*alive, *self.visible(resource_type, rows)]


def _check_indexed(resource_type: str) -> None:
    """What is not in the index would not be found, and that would be untrue."""
    if resource_type in ELSEWHERE:
        raise InputError(f"{resource_type} is not searched through others: search it by patient, with _include")


def _check_depth(depth: int) -> None:
    if depth >= MAX_CHAIN:
        raise InputError(f"a chain may lead over {MAX_CHAIN} references")


@lru_cache(maxsize=8)
def _entries(index: sa.Table) -> sa.FromClause:
    """The index as it stands in conditions that lead nowhere else; made once, as an alias copies all columns.

    None of these sub-selects is inside another, so that all may have the same.
    """
    return index.alias()


def _indexed(resource_type: str, parameter: SearchParameter) -> str:
    return f"{resource_type}.{parameter.same_as or parameter.name}"


def _unescape(text: str) -> str:
    return re.sub(r"\\([,|$\\])", r"\1", text)


def _tokens(texts: Sequence[str], index: sa.FromClause) -> Condition:
    """``code``, ``system|code``, ``|code`` (without a system), ``system|`` (any of it); those of a system together."""
    anywhere: list[str] = []
    by_system: dict[str, list[str]] = {}
    whole: list[str] = []
    for text in texts:
        parts = [_unescape(part)[:LONGEST] for part in _BAR.split(text, maxsplit=1)]
        if len(parts) == 1:
            anywhere.append(parts[0])
        elif not parts[1] and parts[0]:
            whole.append(parts[0])
        else:
            by_system.setdefault(parts[0], []).append(parts[1])
    found = [
        sa.and_(index.c.value.in_(codes), index.c.system == system if system else index.c.system.is_(None))
        for system, codes in by_system.items()
    ]
    if anywhere:
        found.append(index.c.value.in_(anywhere))
    if whole:
        found.append(index.c.system.in_(whole))
    return _either(found)


def _references(
    parameter: SearchParameter, modifier: str, texts: Sequence[str], index: sa.FromClause, base_url: str | None
) -> Condition:
    """``id``, ``Type/id``, an absolute reference, or ``parameter:Type=id``; those to a type together."""
    if modifier and (not modifier[0].isupper() or not modifier.isalpha()):
        raise InputError(f"search parameter {parameter.name} has no modifier :{modifier}")
    by_target: dict[str | None, list[str]] = {}
    for text in texts:
        target, value = reference_parts(_unescape(text)[:LONGEST], base_url)
        by_target.setdefault(modifier or target, []).append(value)
    return _either(
        [
            index.c.value.in_(ids) if target is None else sa.and_(index.c.value.in_(ids), index.c.system == target)
            for target, ids in by_target.items()
        ]
    )


def _either(conditions: Sequence[Condition]) -> Condition:
    if len(conditions) > MAX_SYSTEMS:
        raise InputError(f"a search parameter has values of more than {MAX_SYSTEMS} systems or types")
    return sa.or_(*conditions)


def _string(modifier: str, text: str, index: sa.FromClause) -> Condition:
    exact = _unescape(text)
    if modifier == "exact":
        return sa.and_(index.c.value == fold(exact)[:LONGEST], index.c.text == exact)
    folded = fold(exact)[:LONGEST]
    if modifier == "contains":
        return index.c.value.contains(folded, autoescape=True)
    return sa.and_(index.c.value >= folded, index.c.value <= folded + _LAST_CHARACTER)  # uses the index, LIKE may not


def _uri(modifier: str, text: str, index: sa.FromClause) -> Condition:
    """A url, with its version behind ``|``; ``:below`` finds everything that begins with it."""
    url, *version = [_unescape(part)[:LONGEST] for part in _BAR.split(text, maxsplit=1)]
    if modifier == "below":
        return sa.and_(index.c.value >= url, index.c.value <= url + _LAST_CHARACTER)
    if version and version[0]:
        return sa.and_(index.c.value == url, index.c.system == version[0])
    return index.c.value == url


def _composite(code: str, text: str, index: sa.FromClause, base_url: str | None) -> Condition:
    """``system|code$value``, where the value is a code or a reference."""
    parts = _DOLLAR.split(text)
    if len(parts) != 2:
        raise InputError(f"search parameter {code} is code$value")
    system, bar, name = parts[0].rpartition("|")
    target, value = reference_parts(_unescape(parts[1].rpartition("|")[2]), base_url)
    having = f"{target}/{value}" if target and "/" not in value else value
    matches = index.c.value == f"{_unescape(name)}${having}"[:LONGEST]
    if not bar:
        return matches
    return sa.and_(matches, index.c.system == _unescape(system) if system else index.c.system.is_(None))


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


def sort_value(
    resource_type: str, name: str, resource: sa.FromClause, index: sa.Table
) -> sa.ColumnElement[int] | sa.ColumnElement[str]:
    """The SQL value to sort by; resources without one come first."""
    if name == "_lastUpdated":
        return resource.c.last_updated
    if name == "_id":
        return resource.c.id
    parameter = search_parameters(resource_type).get(name)
    if parameter is None or parameter.kind == "composite":
        raise InputError(f"{resource_type} is sorted by _id, _lastUpdated, and its search parameters")
    rows = index.alias()
    column, default = (rows.c.low, -(2**63) + 1) if parameter.kind == "date" else (rows.c.value, "")
    smallest = sa.select(sa.func.min(column)).where(
        rows.c.key == resource.c.key, rows.c.parameter == _indexed(resource_type, parameter)
    )
    return sa.func.coalesce(smallest.scalar_subquery(), default)
