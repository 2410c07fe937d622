"""Groups of a MeasureReport: populations, score, strata, and lists of subjects, in the order of the Measure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from fhir_gateway.measures import scoring
from fhir_gateway.measures.definition import POPULATION_SYSTEM, SCORING_SYSTEM
from fhir_gateway.measures.dialect import Dialect
from fhir_gateway.measures.model import GroupResult, Mask, PopulationResult, StratifierResult
from fhir_gateway.measures.strata import restrict

Report = dict[str, Any]

_LINK_ID = "http://hl7.org/fhir/5.0/StructureDefinition/extension-MeasureReport."
_NOTATION_SYSTEM = "http://terminology.hl7.org/CodeSystem/measure-improvement-notation"


class SubjectLists:
    """Contained Lists of individual reports, or of patients; populations with the same subjects share one."""

    def __init__(self, dialect: Dialect, members: pa.Array, run: str | None) -> None:
        """Lists of reports of ``members`` made in ``run``; of the patients themselves without one."""
        self._dialect, self._members, self._run = dialect, members, run
        self._ids: dict[bytes, str] = {}
        self.contained: list[Report] = []

    def reference(self, subjects: Mask) -> Report:
        """Reference to the List of the members in ``subjects``."""
        key = np.packbits(subjects).tobytes()
        if key not in self._ids:
            self._ids[key] = f"list{len(self._ids) + 1}"
            names = self._members.filter(pa.array(subjects)).to_pylist()
            found: Report = {"resourceType": "List", "id": self._ids[key]}
            if self._run is not None:
                found["meta"] = {"profile": [self._dialect.individual_list]}
            found |= {"status": "current", "mode": "snapshot"}
            if names:
                found["entry"] = [{"item": {"reference": self._item(name)}} for name in names]
            self.contained.append(found)
        return {"reference": f"#{self._ids[key]}"}

    def _item(self, name: str) -> str:
        return f"Patient/{name}" if self._run is None else f"MeasureReport/{report_id(self._run, name)}"


def report_id(run: str, member: str) -> str:
    """Id of a member's individual report; FHIR allows 64 characters."""
    return f"{run}-{member}"[:64]


def render_group(
    group: GroupResult,
    dialect: Dialect,
    mask: Mask | None,
    lists: SubjectLists | None = None,
    *,
    membership: bool = False,
) -> Report:
    """One group over the members in ``mask`` (default: all), with subjects when ``lists`` are given.

    With ``membership`` only those strata are listed that somebody is in; without it also an empty ``true`` or
    ``false`` of a criterion, and values that the Measure states.
    """
    extensions: list[Report] = [
        {"url": dialect.scoring, "valueCodeableConcept": concept(SCORING_SYSTEM, group.scoring)}
    ]
    if group.improvement_notation is not None:
        notation = concept(_NOTATION_SYSTEM, group.improvement_notation)
        extensions.append({"url": dialect.improvement_notation, "valueCodeableConcept": notation})
    found: Report = {"id": group.id, "extension": [*extensions, *_link(dialect, "group", group.id)]}
    if group.code is not None:
        found["code"] = dict(group.code)
    found["population"] = [_population(p, dialect, "group.population", mask, lists) for p in group.populations]
    score = group.score(mask)
    if score is not None:
        found["measureScore"] = quantity(group, score)
    stratifiers = [_stratifier(group, s, dialect, mask, lists, membership) for s in group.stratifiers]
    if stratifiers:
        found["stratifier"] = stratifiers
    return found


def concept(system: str, code: str) -> Report:
    """A CodeableConcept of one coding."""
    return {"coding": [{"system": system, "code": code}]}


def quantity(group: GroupResult, score: Decimal) -> Report:
    """The score, rounded half up; a proportion is a fraction (deqm-6), a rate has the Measure's unit."""
    number = scoring.rounded(score, group.scoring_precision)
    # at most 8 decimals: a double prints them back as they are (R4 JSON numbers)
    found: Report = {"value": int(number) if number == number.to_integral_value() else float(number)}
    unit = group.scoring_unit
    if unit is None:
        observed = {p.observations.unit for p in group.populations if p.observations is not None}
        text = next(iter(observed), None) if group.scoring == "continuous-variable" else None
        return found | ({"unit": text} if text else {})
    coding: Mapping[str, Any] = next(iter(unit.get("coding", ())), {})
    text = unit.get("text") or coding.get("display") or coding.get("code")
    named = {"unit": text, "system": coding.get("system"), "code": coding.get("code")}
    return found | {name: value for name, value in named.items() if value}


def stratum_concept(value: Mapping[str, Any]) -> Report:
    """The CodeableConcept of a stratum's value: codes as they are, anything else as text."""
    ((kind, content),) = value.items()
    if kind == "valueCodeableConcept":
        return dict(content)
    if kind == "valueBoolean":
        return {"text": "true" if content else "false"}
    if kind == "valueQuantity":
        return {"text": f"{content['value']:g} {content.get('unit', '')}".strip()}
    return {"text": content if isinstance(content, str) else str(content)}


def _stratifier(
    group: GroupResult,
    stratifier: StratifierResult,
    dialect: Dialect,
    mask: Mask | None,
    lists: SubjectLists | None,
    membership: bool,
) -> Report:
    extensions = _link(dialect, "group.stratifier", stratifier.id)
    found: Report = {"id": stratifier.id} | ({"extension": extensions} if extensions else {})
    if not stratifier.components:  # deqm-7: a code here, or components in each stratum
        found["code"] = [dict(stratifier.code)]
    everything = (stratifier.criteria or stratifier.stated) and not membership
    strata = []
    for number, values in enumerate(stratifier.values):
        inside = restrict(group, stratifier, number)
        if everything or any(inside.count(population.code, mask) for population in inside.populations):
            strata.append(_stratum(inside, stratifier, values, dialect, mask, lists))
    return found | ({"stratum": strata} if strata else {})


def _stratum(
    inside: GroupResult,
    stratifier: StratifierResult,
    values: tuple[Mapping[str, Any], ...],
    dialect: Dialect,
    mask: Mask | None,
    lists: SubjectLists | None,
) -> Report:
    found: Report = {}
    if stratifier.components:
        found["component"] = [
            _component(name, code, value, dialect)
            for (name, code), value in zip(stratifier.components, values, strict=True)
        ]
    else:
        found["value"] = stratum_concept(values[0])
    counted = [p for p in inside.populations if p.code in stratifier.applies_to]
    path = "group.stratifier.stratum.population"
    found["population"] = [_population(p, dialect, path, mask, lists) for p in counted]
    score = inside.score(mask) if len(counted) == len(inside.populations) else None
    if score is not None:
        found["measureScore"] = quantity(inside, score)
    return found


def _component(name: str, code: Mapping[str, Any], value: Mapping[str, Any], dialect: Dialect) -> Report:
    extensions = _link(dialect, "group.stratifier.stratum.component", name)
    found: Report = {"id": name} | ({"extension": extensions} if extensions else {})
    return found | {"code": dict(code), "value": stratum_concept(value)}


def _population(
    population: PopulationResult, dialect: Dialect, path: str, mask: Mask | None, lists: SubjectLists | None
) -> Report:
    extensions = _link(dialect, path, population.id)
    found: Report = {"id": population.id} | ({"extension": extensions} if extensions else {})
    found |= {"code": concept(POPULATION_SYSTEM, population.code), "count": scoring.count(population, mask)}
    if lists is not None:
        subjects = population.counts > 0
        found["subjectResults"] = lists.reference(subjects if mask is None else subjects & mask)
    return found


def _link(dialect: Dialect, path: str, name: str) -> list[Report]:
    return [{"url": f"{_LINK_ID}{path}.linkId", "valueString": name}] if dialect.link_ids else []
