"""What a published case expects of its groups, strata and observations, and where a result differs.

Two habits of the sources contradict themselves; a difference counts as one of them only when the published rows are
impossible and ours are what the rows should have been:

``complement``
    the stratum ``false`` holds 1 minus each count of ``true`` (a subject outside the numerator is "in" it), although
    together they should hold the case's own count. Ours must hold own minus ``true``.
``overlap``
    strata of several stratifiers that exclude one another repeat the case's own counts. Ours must add up to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fhir_gateway.measures import GroupResult
from fhir_gateway.measures.strata import restrict

KINDS = ("populations", "strata", "observations")
COMPLEMENT, OVERLAP = "complement", "overlap"
Counts = Mapping[str, int]


@dataclass(frozen=True)
class Difference:
    """One expectation that is not met: its kind, the stratifier or observation, what was got, and which habits fit."""

    kind: str
    subject: str
    text: str
    habits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """How many expectations of each kind were compared, and those that differ."""

    compared: Mapping[str, int]
    differences: tuple[Difference, ...] = ()


def compare_group(group: GroupResult, expected: Mapping[str, Any]) -> Comparison:
    """All expectations of one group that holds one member alone."""
    compared = Counter[str]()
    differences: list[Difference] = []
    for kind, found in (
        ("populations", _populations(group, expected)),
        ("strata", _strata(group, expected)),
        ("observations", _observations(group, expected.get("observations", ()))),
    ):
        for difference in found:
            compared[kind] += 1
            if difference is not None:
                differences.append(difference)
    return Comparison(compared, tuple(differences))


def joined(comparisons: Iterable[Comparison]) -> Comparison:
    """The comparisons of all groups of a case."""
    compared = Counter[str]()
    differences: list[Difference] = []
    for one in comparisons:
        compared.update(one.compared)
        differences.extend(one.differences)
    return Comparison(compared, tuple(differences))


def _populations(group: GroupResult, expected: Mapping[str, Any]) -> Iterator[Difference | None]:
    for name, count in expected["population"].items():
        population = next((p for p in group.populations if p.id == name), group.population(name))
        got = None if population is None else int(population.counts.sum())
        text = f"{group.id} {name} got {got} expected {count}"
        yield None if got == count else Difference("populations", name, text)
    if "score" in expected:
        wanted = None if expected["score"] is None else Decimal(expected["score"])
        text = f"{group.id} score got {group.score()} expected {expected['score']}"
        yield None if group.score() == wanted else Difference("populations", "score", text)


def _strata(group: GroupResult, expected: Mapping[str, Any]) -> Iterator[Difference | None]:
    """One comparison for each expected stratum.

    The value is ``true`` or ``false``; anything else (``Strata-1``) is a label for the cases that meet the criterion.
    """
    stratifiers = expected.get("stratifier", ())
    own, ours = expected["population"], {s.id: _restricted(group, s.id) for s in group.stratifiers}
    overlapping = _overlap(own, stratifiers, ours)
    for stratifier in stratifiers:
        identity = stratifier["id"]
        rows = {row.get("value"): row["population"] for row in stratifier["strata"]}
        for value, wanted in rows.items():
            row = ours.get(identity, ({}, {}))[value == "false"]
            got = {code: row[code] for code in wanted if code in row}
            if got == wanted:
                yield None
                continue
            fits = {COMPLEMENT: value == "false" and _complement(own, rows, got, ours[identity][0])}
            fits[OVERLAP] = value != "false" and overlapping
            listed = ", ".join(f"{c} got {got.get(c)} expected {n}" for c, n in wanted.items() if got.get(c) != n)
            text = f"{group.id} {identity}={value} {listed}"
            yield Difference("strata", identity, text, tuple(name for name, fit in fits.items() if fit))


def _restricted(group: GroupResult, identity: str) -> tuple[Counts, Counts]:
    """Counts by population code of the strata true and false; empty for a stratum that is not there."""
    stratifier = next(s for s in group.stratifiers if s.id == identity)
    counts: list[Counts] = []
    for value in (True, False):
        wanted = ({"valueBoolean": value},)
        inside = (
            restrict(group, stratifier, stratifier.values.index(wanted)).populations
            if wanted in stratifier.values
            else ()
        )
        counts.append({population.code: int(population.counts.sum()) for population in inside})
    return counts[0], counts[1]


def _complement(own: Counts, rows: Mapping[str, Counts], false: Counts, true: Counts) -> bool:
    """Whether the row ``false`` is 1 minus ``true``, which cannot be, and ours is the case's own less ``true``."""
    published = rows.get("true", {})
    flipped = all(rows["false"].get(code) == 1 - count for code, count in published.items())
    possible = all(rows["false"][code] + count == own.get(code) for code, count in published.items() if flipped)
    return flipped and not possible and all(false.get(code) == own.get(code, 0) - true[code] for code in published)


def _overlap(own: Counts, stratifiers: Iterable[Mapping[str, Any]], ours: Mapping[str, tuple[Counts, Counts]]) -> bool:
    """Whether the rows that are not ``false`` hold more than the case has, and ours exactly what it has."""
    published, got = Counter[str](), Counter[str]()
    for stratifier in stratifiers:
        for row in stratifier["strata"]:
            if row.get("value") != "false":
                published.update(row["population"])
        got.update(ours.get(stratifier["id"], ({}, {}))[0])
    return any(published[code] > count for code, count in own.items()) and all(
        got[code] == own[code] for code in published if code in own
    )


def _observations(group: GroupResult, expected: Iterable[Mapping[str, Any]]) -> Iterator[Difference | None]:
    """Observed values by population: a published observation is named by its population's id and a number.

    Where the names are others, all values of the group are compared as one multiset.
    """
    found = {p.id: p.observations for p in group.populations if p.observations is not None}
    wanted: dict[str, list[Decimal]] = {}
    for observation in expected:
        name = str(observation["id"]).rpartition("_")[0]
        wanted.setdefault(name if name in found else "", []).append(Decimal(str(observation["value"])))
    if "" in wanted and len(wanted) > 1:
        wanted = {"": [value for values in wanted.values() for value in values]}
    for name, values in wanted.items():
        here = [observations for identity, observations in found.items() if name in ("", identity)]
        got = sorted(value.as_py() for observations in here for value in observations.value)
        values.sort()
        listed = [", ".join(f"{value.normalize():f}" for value in row) for row in (got, values)]
        text = f"{group.id} {name or 'observations'} got [{listed[0]}] expected [{listed[1]}]"
        yield None if got == values else Difference("observations", name, text)
