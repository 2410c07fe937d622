"""Population algebra: who counts where, for whole columns of cases at a time.

A *case* is a member (basis ``boolean``) or an episode (any other basis). Criteria are evaluated on their own; the
engine then gates each population with its parents, so that a numerator is never larger than its denominator, however
the criteria were written (Quality Measure IG: sections on proportion, ratio, continuous variable and cohort).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from fhir_gateway.measures.cases import CaseSpace, CriteriaEvaluation, boolean_space, episode_space, references
from fhir_gateway.measures.definition import GroupDefinition
from fhir_gateway.measures.model import Cases, GroupResult, Mask, PopulationResult
from fhir_gateway.measures.observations import observe
from fhir_gateway.measures.strata import Expected, list_criteria, stratify


def evaluate_group(
    group: GroupDefinition,
    evaluation: CriteriaEvaluation,
    size: int,
    failed: npt.NDArray[np.intp],
    functions: frozenset[str] = frozenset(),
    expected: Expected | None = None,
) -> GroupResult:
    """Evaluate one group for a batch of ``size`` members; members in ``failed`` (indices) count nowhere.

    ``functions`` names the functions of the primary library, which strata may use for each episode;
    ``expected`` the values of value sets that strata name.
    """
    bases = {population.id: group.basis_of(population) for population in group.populations}
    listed = list_criteria(group, evaluation, functions)
    alive = np.ones(size, np.bool_)
    alive[failed] = False
    spaces = {basis: _space(group, evaluation, basis, bases, alive, listed) for basis in dict.fromkeys(bases.values())}
    raw = {
        population.id: spaces[bases[population.id]].criteria[population.expression]
        for population in group.populations
        if population.code != "measure-observation"
    }
    effective = _memberships(group, raw)
    initial = {
        basis: np.logical_or.reduce(
            [np.zeros(len(space.member), np.bool_)]
            + [effective[p.id] for p in group.of("initial-population") if bases[p.id] == basis]
        )
        for basis, space in spaces.items()
    }
    results = []
    for population in group.populations:
        space = spaces[bases[population.id]]
        basis = None if space.basis == group.basis else space.basis
        if population.code == "measure-observation":
            observations = observe(group, population, evaluation, space, effective)
            counts = np.bincount(observations.member, minlength=size).astype(np.int64)
            results.append(PopulationResult(population.id, population.code, counts, counts, observations, basis))
        else:
            results.append(
                PopulationResult(
                    population.id,
                    population.code,
                    space.per_member(effective[population.id]),
                    space.per_member(raw[population.id]),
                    basis=basis,
                )
            )
    return GroupResult(
        id=group.id,
        code=group.element.get("code"),
        scoring=group.scoring,
        improvement_notation=group.improvement_notation,
        basis=group.basis,
        populations=tuple(results),
        scoring_unit=group.scoring_unit,
        scoring_precision=group.scoring_precision,
        cases=tuple(cases for space in spaces.values() for cases in _cases(space, effective, bases)),
        stratifiers=tuple(stratify(s, evaluation, spaces, initial, functions, expected) for s in group.stratifiers),
    )


def _space(
    group: GroupDefinition,
    evaluation: CriteriaEvaluation,
    basis: str,
    bases: Mapping[str, str],
    alive: Mask,
    listed: tuple[str, ...],
) -> CaseSpace:
    expressions = dict.fromkeys(
        population.expression
        for population in group.populations
        if bases[population.id] == basis and population.code != "measure-observation"
    )
    if basis == "boolean":
        return boolean_space(evaluation, expressions, alive)
    if basis == group.basis:
        expressions |= dict.fromkeys(listed)
    return episode_space(evaluation, basis, expressions, alive)


def _memberships(group: GroupDefinition, raw: Mapping[str, Mask]) -> dict[str, Mask]:
    """Effective membership by population id."""

    def criterion(code: str) -> Mask | None:
        found = group.of(code)
        return raw[found[0].id] if found else None

    by_code: dict[str, Mask | None] = {}
    if group.scoring == "ratio":
        for branch in ("denominator", "numerator"):
            head = _both(raw[group.initial_population(branch).id], criterion(branch))
            by_code[branch] = head
            by_code[f"{branch}-exclusion"] = _both(head, criterion(f"{branch}-exclusion"))
        initial = {population.id: raw[population.id] for population in group.of("initial-population")}
    else:
        (only,) = group.of("initial-population")
        initial = {only.id: raw[only.id]}
        by_code = gated(raw[only.id], criterion)
    others = {p.id: by_code[p.code] for p in group.populations if p.id in raw and p.code != "initial-population"}
    return initial | {population_id: mask for population_id, mask in others.items() if mask is not None}


def gated(initial: Mask, criterion: Callable[[str], Mask | None]) -> dict[str, Mask | None]:
    """Gating order of proportion and continuous variable measures."""
    measured = _both(initial, criterion("measure-population"))
    denominator = _both(initial, criterion("denominator"))
    excluded = _both(denominator, criterion("denominator-exclusion"))
    remaining = denominator if denominator is None or excluded is None else denominator & ~excluded
    met = criterion("numerator")
    numerator = _both(remaining, met)
    # an exception never fires for a case that met the numerator criterion, even if it is numerator-excluded later
    unmet = None if remaining is None or met is None else remaining & ~met
    return {
        "measure-population": measured,
        "measure-population-exclusion": _both(measured, criterion("measure-population-exclusion")),
        "denominator": denominator,
        "denominator-exclusion": excluded,
        "numerator": numerator,
        "numerator-exclusion": _both(numerator, criterion("numerator-exclusion")),
        "denominator-exception": _both(unmet, criterion("denominator-exception")),
    }


def _both(parent: Mask | None, child: Mask | None) -> Mask | None:
    return None if parent is None or child is None else parent & child


def _cases(space: CaseSpace, effective: Mapping[str, Mask], bases: Mapping[str, str]) -> list[Cases]:
    """The episodes behind the counts, to be listed in reports."""
    if space.episodes is None:
        return []
    here = {population_id: mask for population_id, mask in effective.items() if bases[population_id] == space.basis}
    return [Cases(space.basis, space.member, references(space.episodes), here)]
