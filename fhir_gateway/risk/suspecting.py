"""Conditions that evidence suggests and no accepted claim says: observations, drugs, procedures, problem lists, claims
that do not count. The rules are data (``suspects.toml``); what they find is asked about, never coded."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import duckdb
import pyarrow as pa

from fhir_gateway.errors import ConfigurationError

#: A row per member, category, rule and resource that suggests it. ``reference`` is ``Type/id`` at its source.
SUSPECT_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("cc", pa.string()),
        ("rule", pa.string()),
        ("confidence", pa.string()),
        ("day", pa.date32()),
        ("source", pa.string()),
        ("reference", pa.string()),
        ("diagnosis", pa.string()),
    ]
)
OBSERVATION_COLUMNS = ("status", "code.coding.code", "effectiveDateTime", "valueQuantity.value", "valueQuantity.unit")
MEDICATION_COLUMNS = ("status", "medicationCodeableConcept", "authoredOn")
CONDITION_COLUMNS = ("clinicalStatus", "verificationStatus", "code", "recordedDate", "onsetDateTime")
#: Columns of claim lines that rules of procedures look at.
PROCEDURE_LINE_COLUMNS = ("_member", "source", "eob", "counts", "denied", "procedure", "service_from")


@dataclass(frozen=True, slots=True)
class SuspectRule:
    """A rule of evidence; ``categories`` by model."""

    id: str
    title: str
    kind: Literal["observation", "medication", "procedure"]
    categories: dict[str, str]
    confidence: str
    trust: str
    source: str
    codes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    at_least: float | None = None
    below: float | None = None
    times: int = 1
    apart_days: int = 0


@cache
def suspect_rules() -> tuple[SuspectRule, ...]:
    """The shipped rules."""
    stated = tomllib.loads(files(__package__).joinpath("suspects.toml").read_text(encoding="utf-8"))["rules"]
    rules = tuple(SuspectRule(**{name: _frozen(value) for name, value in one.items()}) for one in stated)
    if len({rule.id for rule in rules}) != len(rules):
        raise ConfigurationError("risk/suspects.toml: two rules have one id")
    return rules


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _rules(kind: str, model: str) -> pa.Table:
    rows = [
        {
            "rule": rule.id,
            "cc": rule.categories[model],
            "confidence": rule.confidence,
            "item": item.lower() if kind == "medication" else item,
            "units": [unit.lower() for unit in rule.units],
            "at_least": rule.at_least,
            "below": rule.below,
            "times": rule.times,
            "apart": rule.apart_days,
        }
        for rule in suspect_rules()
        if rule.kind == kind and model in rule.categories
        for item in rule.codes or rule.words
    ]
    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("rule", "cc", "confidence", "item")),
            ("units", pa.list_(pa.string())),
            ("at_least", pa.float64()),
            ("below", pa.float64()),
            ("times", pa.int64()),
            ("apart", pa.int64()),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def observation_codes() -> frozenset[str]:
    """LOINC codes that rules look at."""
    return frozenset(code for rule in suspect_rules() if rule.kind == "observation" for code in rule.codes)


_OBSERVATIONS = """
WITH valued AS (
  SELECT DISTINCT o._member AS member, o._source AS source, 'Observation/' || o.id AS reference,
    try_cast(o.effectiveDateTime[1:10] AS DATE) AS day, o.valueQuantity.value::DOUBLE AS value,
    lower(o.valueQuantity.unit) AS unit, c.code
  FROM (SELECT *, unnest(code.coding) AS c FROM rows WHERE _member IS NOT NULL
    AND status IN ('final', 'amended', 'corrected')) o
), fitting AS (
  SELECT v.*, r.rule, r.cc, r.confidence, r.times, r.apart FROM valued v JOIN rules r ON r.item = v.code
  WHERE v.day BETWEEN $start AND $end AND list_contains(r.units, v.unit)
    AND (r.at_least IS NULL OR v.value >= r.at_least) AND (r.below IS NULL OR v.value < r.below)
), enough AS (
  SELECT member, rule FROM fitting GROUP BY member, rule
  HAVING count(DISTINCT day) >= any_value(times) AND max(day) - min(day) >= any_value(apart)
)
SELECT f.member, f.cc, f.rule, f.confidence, f.day, f.source, f.reference, NULL AS diagnosis
FROM fitting f SEMI JOIN enough e ON e.member = f.member AND e.rule = f.rule
"""

_MEDICATIONS = """
WITH named AS (
  SELECT _member AS member, _source AS source, 'MedicationRequest/' || id AS reference,
    try_cast(authoredOn[1:10] AS DATE) AS day,
    lower(concat_ws(' | ', medicationCodeableConcept.text, array_to_string(
      list_transform(coalesce(medicationCodeableConcept.coding, []), lambda c: c.display), ' | '))) AS name
  FROM rows WHERE _member IS NOT NULL AND status IN ('active', 'completed', 'stopped', 'on-hold')
)
SELECT DISTINCT n.member, r.cc, r.rule, r.confidence, n.day, n.source, n.reference, NULL AS diagnosis
FROM named n JOIN rules r ON contains(n.name, r.item) WHERE n.day BETWEEN $start AND $end
"""

_PROCEDURES = """
SELECT DISTINCT l._member AS member, r.cc, r.rule, r.confidence, l.service_from AS day, l.source,
  'ExplanationOfBenefit/' || l.eob AS reference, NULL AS diagnosis
FROM rows l JOIN rules r ON r.item = l.procedure
WHERE l.counts AND NOT l.denied AND l._member IS NOT NULL AND l.service_from BETWEEN $start AND $end
"""

_CONDITIONS = """
WITH said AS (
  SELECT _member AS member, _source AS source, 'Condition/' || id AS reference,
    coalesce(try_cast(recordedDate[1:10] AS DATE), try_cast(onsetDateTime[1:10] AS DATE)) AS day,
    unnest(code.coding) AS c
  FROM rows WHERE _member IS NOT NULL
    AND coalesce(clinicalStatus.coding[1].code, 'active') IN ('active', 'recurrence', 'relapse')
    AND coalesce(verificationStatus.coding[1].code, 'confirmed') NOT IN ('refuted', 'entered-in-error')
)
SELECT DISTINCT member, upper(replace(c.code, '.', '')) AS diagnosis, day, source, reference
FROM said WHERE contains(c.system, 'icd-10') AND day <= $end AND c.code IS NOT NULL
"""


def suspects(kind: str, rows: pa.Table, model: str, window: tuple[date, date]) -> pa.Table:
    """What rows of a kind (``observation``, ``medication``, ``procedure``) suggest in a window of days."""
    query = {"observation": _OBSERVATIONS, "medication": _MEDICATIONS, "procedure": _PROCEDURES}[kind]
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        connection.register("rules", _rules(kind, model))
        found = connection.sql(query, params={"start": window[0], "end": window[1]}).to_arrow_table()
    return found.select(SUSPECT_SCHEMA.names).cast(SUSPECT_SCHEMA)


def problem_list(rows: pa.Table, end: date) -> pa.Table:
    """Diagnoses that Conditions say and that stand: ``member``, ``diagnosis``, ``day``, ``source``, ``reference``."""
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        return connection.sql(_CONDITIONS, params={"end": end}).to_arrow_table()
