"""Charlson and Elixhauser in columns: which comorbidities somebody has, and the points for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import duckdb
import pyarrow as pa

from fhir_gateway.errors import ConfigurationError
from fhir_gateway.risk.prediction.code_lists import CodeList, code_list
from fhir_gateway.risk.prediction.models import SCORES

CharlsonWeights = Literal["quan_2011", "charlson_1987"]
#: SQL of what components come to.
SUM_OF_COMPONENTS = "coalesce(list_sum(list_transform(components, lambda x: x.points)), 0)::INT"


def comorbidities(codes: CodeList, diagnoses: pa.Table, anchors: pa.Table) -> pa.Table:
    """A row per anchor in the order of ``key``: key, member, until, a boolean per category, hierarchies applied.

    ``diagnoses`` and ``anchors`` are of :mod:`~fhir_gateway.risk.prediction.models`.
    """
    prefixes = pa.table(
        {
            "category": [name for name, some in codes.categories.items() for _ in some],
            "prefix": [one for some in codes.categories.values() for one in some],
        }
    )
    present = ", ".join(f"coalesce(bool_or(m.category = '{name}'), FALSE) AS {name}" for name in codes.categories)
    counts = ", ".join(
        " AND NOT ".join([f"p.{name}", *(f"p.{higher}" for higher in codes.superiors(name))]) + f" AS {name}"
        for name in codes.categories
    )
    # codes are matched once each, not once per row
    query = f"""
        WITH matched AS (
            SELECT DISTINCT d.code, p.category FROM (SELECT DISTINCT code FROM diagnoses) d
            JOIN prefixes p ON starts_with(d.code, p.prefix)),
        found AS (
            SELECT DISTINCT a.key, m.category FROM anchors a
            JOIN diagnoses d ON d.member = a.member AND (d.day IS NULL OR d.day BETWEEN a.since AND a.until
                OR (d.lasting AND d.day <= a.until))
            JOIN matched m USING (code)),
        present AS (SELECT a.key, any_value(a.member) AS member, any_value(a.until) AS until, {present}
            FROM anchors a LEFT JOIN found m USING (key) GROUP BY a.key)
        SELECT p.key, p.member, p.until, {counts} FROM present p ORDER BY p.key
    """  # noqa: S608  # names of our own categories
    with duckdb.connect() as work:
        for name, table in (("diagnoses", diagnoses), ("anchors", anchors), ("prefixes", prefixes)):
            work.register(name, table)
        return work.sql(query).to_arrow_table()


def weighted(codes: CodeList, weights: str, flags: pa.Table, score: str) -> pa.Table:
    """Points of :func:`comorbidities` as rows of ``SCORES``; nothing is missing, for what nobody said is not there."""
    query = f"""
        WITH found AS (SELECT key, member, until, {components(codes.weights[weights])} AS components FROM flags)
        SELECT $score AS score, key, member, until AS day, {SUM_OF_COMPONENTS} AS value, NULL::VARCHAR AS band,
            FALSE AS partial, []::VARCHAR[] AS missing, components
        FROM found ORDER BY key
    """  # noqa: S608  # names of our own categories
    with duckdb.connect() as work:
        work.register("flags", flags)
        return work.sql(query, params={"score": score}).to_arrow_table().cast(SCORES)


def charlson(
    diagnoses: pa.Table, anchors: pa.Table, *, weights: CharlsonWeights = "quan_2011", ages: pa.Table | None = None
) -> pa.Table:
    """Charlson index of anchors as rows of ``SCORES`` (``charlson``).

    With ``ages`` (key, age in years) a point for each decade from 50 on is added, as ``age``; an age that is null makes
    the score partial.
    """
    codes = code_list("charlson")
    if weights not in codes.weights:
        raise ConfigurationError("weights of Charlson are quan_2011 or charlson_1987")
    found = weighted(codes, weights, comorbidities(codes, diagnoses, anchors), "charlson")
    return found if ages is None else _with_age(found, ages)


def elixhauser(diagnoses: pa.Table, anchors: pa.Table) -> pa.Table:
    """The points of van Walraven for Elixhauser's comorbidities, as rows of ``SCORES`` (``elixhauser``)."""
    codes = code_list("elixhauser")
    return weighted(codes, "van_walraven", comorbidities(codes, diagnoses, anchors), "elixhauser")


def _with_age(scores: pa.Table, ages: pa.Table) -> pa.Table:
    with duckdb.connect() as work:
        work.register("scores", scores)
        work.register("ages", ages)
        return (
            work.sql("""
            SELECT s.score, s.key, s.member, s.day, s.value + coalesce(points, 0) AS value, s.band,
                age IS NULL AS partial, CASE WHEN age IS NULL THEN ['age'] ELSE [] END AS missing,
                CASE WHEN points > 0 THEN list_append(s.components, {'name': 'age', 'points': points})
                    ELSE s.components END AS components
            FROM scores s LEFT JOIN (
                SELECT key, age, CASE WHEN age >= 50 THEN (age::INT // 10) - 4 ELSE 0 END::INT AS points FROM ages
            ) a USING (key) ORDER BY s.key
        """)
            .to_arrow_table()
            .cast(SCORES)
        )


def components(points: Mapping[str, int]) -> str:
    """SQL of the components of a score from boolean columns: those that have points."""
    parts = ", ".join(
        f"{{'name': '{name}', 'points': CASE WHEN {name} THEN {value} ELSE 0 END::INT}}"
        for name, value in points.items()
    )
    return f"list_filter([{parts}], lambda x: x.points <> 0)"


def with_uncoded(scores: pa.Table, uncoded: pa.Table) -> pa.Table:
    """The scores, partial (``icd10_codes`` is missing) where a member has conditions that nobody coded in ICD-10.

    A band stays where more points could not change it: the highest.
    """
    with duckdb.connect() as work:
        work.register("scores", scores)
        work.register("uncoded", uncoded)
        return (
            work.sql("""
            SELECT s.score, s.key, s.member, s.day, s.value,
                CASE WHEN u.member IS NULL OR s.band = 'high' THEN s.band END AS band,
                s.partial OR u.member IS NOT NULL AS partial,
                CASE WHEN u.member IS NULL THEN s.missing ELSE list_append(s.missing, 'icd10_codes') END AS missing,
                s.components
            FROM scores s LEFT JOIN uncoded u USING (member) ORDER BY s.key
        """)
            .to_arrow_table()
            .cast(SCORES)
        )
