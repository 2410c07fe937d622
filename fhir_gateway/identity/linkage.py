"""Probable persons: who is alike enough to be one, by names, birth date, gender and contacts.

Fellegi-Sunter weights from a fixed model over pairs of records, by splink on DuckDB. Deterministic: the same patients,
decisions and model give the same links, in whatever order they came. What links is what
:mod:`fhir_gateway.identity.partition` makes of it; this module finds pairs and says which of them link unseen, which
are for review, and which are neither.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fhir_gateway.db.engine import snapshot, transaction
from fhir_gateway.identity import store, tables
from fhir_gateway.identity.crosswalk import LOCK
from fhir_gateway.identity.identifiers import NATIONAL
from fhir_gateway.identity.model import CONDITIONS, UNKNOWN, LinkageModel
from fhir_gateway.identity.models import IdentityRules
from fhir_gateway.identity.partition import LINKAGE, partition
from fhir_gateway.identity.placing import Actor, nobody_arrives, place, run, table
from fhir_gateway.identity.records import ELEMENTS, read_records

_SEED = 1

# Splink sees a table of records. `component` is the person by identifiers and decisions alone: what earlier linkages
# joined is compared anew.
_INPUT = """
CREATE TEMP TABLE known AS
SELECT p.number, p.source, p.id FROM patient p JOIN incoming i ON i._source = p.source AND i.id = p.id;

CREATE TEMP TABLE patients_of_linkage AS
SELECT p.number, i.name, i."birthDate", i.gender, i.telecom, i.address
FROM incoming i JOIN patient p ON i._source = p.source AND i.id = p.id;
"""

_COMPARED = """
CREATE TABLE record_with_keys AS
SELECT r.*, p.source, c.component, coalesce(k.systems, []) AS national_systems, coalesce(k.keys, []) AS national,
    r.phones[1] AS phone
FROM record r JOIN patient p USING (number) JOIN component c USING (number)
LEFT JOIN (
    SELECT number, list(DISTINCT system ORDER BY system) AS systems, list(DISTINCT key ORDER BY key) AS keys
    FROM key WHERE list_contains($national, system) GROUP BY number
) k USING (number);
"""

# Of the pairs between two components the one that weighs most stands for them. The best partner of a component in a
# source must lead the second there by a margin, for a source mostly has one record of a person.
_CHOSEN = """
CREATE TEMP TABLE candidate AS
SELECT least(x.component, y.component) AS one, greatest(x.component, y.component) AS two,
    w.a, w.b, w.weight, w.linkable, w.evidence, x.source = y.source AS within
FROM weighed w JOIN record_with_keys x ON x.number = w.a JOIN record_with_keys y ON y.number = w.b
WHERE (x.component, y.component) NOT IN (SELECT (x, y) FROM kept_apart)
    AND (y.component, x.component) NOT IN (SELECT (x, y) FROM kept_apart)
QUALIFY row_number() OVER (PARTITION BY one, two ORDER BY w.weight DESC, w.a, w.b) = 1;

CREATE TEMP TABLE seen_from AS
SELECT c.one AS component, c.two AS partner, y.source, c.weight FROM candidate c
JOIN (SELECT DISTINCT component, source FROM record_with_keys) y ON y.component = c.two
UNION ALL
SELECT c.two, c.one, x.source, c.weight FROM candidate c
JOIN (SELECT DISTINCT component, source FROM record_with_keys) x ON x.component = c.one;

CREATE TEMP TABLE rival AS
SELECT component, partner, min(weight - coalesce(other, -1e9)) AS least_lead
FROM (
    SELECT s.component, s.partner, s.source, s.weight, max(o.weight) AS other
    FROM seen_from s LEFT JOIN seen_from o
        ON o.component = s.component AND o.source = s.source AND o.partner <> s.partner
    GROUP BY ALL
) GROUP BY component, partner;

CREATE TEMP TABLE chosen AS
SELECT c.a, c.b, c.weight, c.evidence,
    c.linkable AND NOT c.within AND c.weight >= $link AND x.least_lead >= $margin AND y.least_lead >= $margin AS linked
FROM candidate c
JOIN rival x ON x.component = c.one AND x.partner = c.two
JOIN rival y ON y.component = c.two AND y.partner = c.one
WHERE c.weight >= $review AND x.least_lead >= -$margin AND y.least_lead >= -$margin;
"""

_PROPOSALS = f"""
SELECT c.a, c.b,
    left(sha256(concat_ws(chr(31), '{LINKAGE}', x.source, x.id, y.source, y.id)), 32) AS digest, '{LINKAGE}' AS rule,
    '{LINKAGE}' AS system, x.source, x.id AS patient_id, y.source AS other_source, y.id AS other_patient_id,
    2 AS patients, round(c.weight, 2) AS weight, c.evidence
FROM chosen c JOIN patient x ON x.number = c.a JOIN patient y ON y.number = c.b
WHERE NOT c.linked ORDER BY digest
"""  # noqa: S608  # made of the constant above


@dataclass(frozen=True, slots=True)
class LinkageReport:
    """What a linkage found.

    ``records`` were compared, ``alike`` pairs weigh enough for review, ``linked`` pairs of persons link unseen,
    ``proposed`` are listed for review; ``merges`` and ``splits`` of persons followed.
    """

    model: str
    records: int
    alike: int
    linked: int
    proposed: int
    merges: int
    splits: int


class Linkage:
    """Probable links between the patients of the crosswalk in ``engine``."""

    def __init__(
        self,
        engine: Engine,
        model: LinkageModel | None = None,
        rules: IdentityRules | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._model = model or LinkageModel.load()
        self._rules = rules or IdentityRules()
        self._clock = clock

    def run(self, patients: pa.Table) -> LinkageReport:
        """Compare all ``patients`` (the lake's rows: ``_source``, ``id`` and :data:`records.ELEMENTS`) and link.

        Replaces what the linkage before found: a link whose patients are no longer alike goes, with the merge it made.
        Pairs that somebody decided about are left as decided.
        """
        with duckdb.connect() as work:
            records = self._prepare(work, patients)
            alike = self._weigh(work, records)
            _keep_apart(work)
            model = self._model
            run(work, _CHOSEN, link=model.link, review=model.review, margin=model.margin)
            chosen = table(work, "SELECT a, b, weight, linked, evidence FROM chosen ORDER BY a, b")
            proposals = table(work, _PROPOSALS)
        return self._write(records, alike, chosen.filter(chosen["linked"]), proposals)

    def estimate(self, patients: pa.Table, version: str) -> LinkageModel:
        """A model with m and u estimated from ``patients``, thresholds and the rest as they are.

        u from pairs drawn at random (seeded), m by expectation maximisation, once over pairs of one birth date and
        once over pairs of one name. A level that the data do not show keeps its weight.
        """
        from splink import block_on

        with duckdb.connect() as work:
            self._prepare(work, patients)
            linker = self._linker(work)
            linker.training.estimate_u_using_random_sampling(max_pairs=1e6, seed=_SEED)
            for rule in (block_on("birth_date"), block_on("family", "given")):
                linker.training.estimate_parameters_using_expectation_maximisation(
                    rule, estimate_without_term_frequencies=True
                )
            trained = linker.misc.save_model_to_json()
        weights = {name: dict(levels) for name, levels in self._model.weights.items()}
        for comparison in trained["comparisons"]:
            name = comparison["output_column_name"]
            for level in comparison["comparison_levels"]:
                label, m, u = level["label_for_charts"], level.get("m_probability"), level.get("u_probability")
                if label != UNKNOWN and m and u:
                    weights[name][label] = (float(m), float(u))
        estimated = replace(self._model, version=version, weights=weights)
        return LinkageModel.of(tomllib.loads(estimated.to_toml()))  # with the digest of its content

    def _prepare(self, work: duckdb.DuckDBPyConnection, patients: pa.Table) -> int:
        """Make ``record_with_keys``, and what the partition reads and makes; returns the number of records."""
        work.execute("SET threads = 2")
        with snapshot(self._engine) as connection:
            stored, keys, decided = store.everybody(connection)
        work.register("patient", stored)
        work.register("key", keys)
        work.register("decided", decided)
        work.register("matched", store.MATCHED_SCHEMA.empty_table())
        partition(work, self._rules.max_per_source)
        work.register("incoming", patients.select(["_source", "id", *ELEMENTS]))
        run(work, _INPUT)
        read_records(work, table(work, "SELECT * FROM patients_of_linkage"))
        work.execute(_COMPARED, {"national": list(NATIONAL)})
        work.execute("DROP TABLE patients_of_linkage")
        ((count,),) = work.execute("SELECT count(*) FROM record_with_keys").fetchall()
        return int(count)

    def _linker(self, work: duckdb.DuckDBPyConnection) -> Any:
        from splink import DuckDBAPI, Linker

        logging.getLogger("splink").setLevel(logging.ERROR)
        api = DuckDBAPI(work)
        ((count,),) = work.execute("SELECT count(*) FROM record_with_keys").fetchall()
        return Linker(api.register("record_with_keys"), self._model.settings(count), log_level=None)

    def _weigh(self, work: duckdb.DuckDBPyConnection, records: int) -> int:
        """Make ``weighed(a, b, weight, linkable, evidence)``; returns how many pairs were compared."""
        if records < 2:
            work.execute(
                "CREATE TEMP TABLE weighed (a BIGINT, b BIGINT, weight DOUBLE, linkable BOOLEAN, evidence VARCHAR)"
            )
            return 0
        predicted = self._linker(work).inference.predict(threshold_match_weight=self._model.review)
        levels = {name: _level(name) for name in CONDITIONS}
        told = ", ".join(f"'{name}', {level}" for name, level in levels.items())
        linkable = " AND ".join(
            f"{levels[name]} IN ({', '.join(repr(one) for one in sorted(allowed))})"
            for name, allowed in self._model.linking_levels.items()
        )
        work.execute(
            f"""
            CREATE TEMP TABLE weighed AS
            SELECT least(number_l, number_r) AS a, greatest(number_l, number_r) AS b, round(match_weight, 6) AS weight,
                {linkable or "true"} AS linkable,
                to_json(json_object('model', $model, 'weight', round(match_weight, 2), {told}))::VARCHAR AS evidence
            FROM {predicted.physical_name}
            """,  # noqa: S608  # names of comparisons and levels, of this package's own tables
            {"model": self._model.name},
        )
        return int(work.execute("SELECT count(*) FROM weighed").fetchall()[0][0])

    def _write(self, records: int, alike: int, linked: pa.Table, proposals: pa.Table) -> LinkageReport:
        now = self._clock().isoformat()
        with transaction(self._engine, lock=LOCK) as connection:
            last = connection.scalar(sa.select(sa.func.max(tables.CHANGE.c.id))) or 0
            around = store.replace_matches(
                connection, linked.select(["a", "b", "weight", "evidence"]), self._model.name
            )
            if around:
                with duckdb.connect() as work:
                    nobody_arrives(work)
                    place(
                        work,
                        connection,
                        now=now,
                        max_per_source=self._rules.max_per_source,
                        around=pa.array(around, pa.int64()),
                        actor=Actor(self._model.name),
                    )
            # two that became one person through others need nobody's decision
            persons = store.persons_of(connection, {*proposals["a"].to_pylist(), *proposals["b"].to_pylist()})
            apart = [persons[row["a"]] != persons[row["b"]] for row in proposals.select(["a", "b"]).to_pylist()]
            proposals = proposals.filter(pa.array(apart, pa.bool_())).drop_columns(["a", "b"])
            store.write_reviews(connection, proposals, now)
            store.close_linkage_reviews(connection, set(proposals["digest"].to_pylist()))
            change = tables.CHANGE.c
            kinds = list(connection.scalars(sa.select(change.kind).where(change.id > last)))
        return LinkageReport(
            self._model.name,
            records,
            alike,
            len(linked),
            len(proposals),
            kinds.count("merge"),
            kinds.count("split"),
        )


def _level(name: str) -> str:
    """SQL for the name of a comparison's level; splink numbers levels from the last, 0, and calls unknown -1."""
    levels = [level for level in CONDITIONS[name] if level != UNKNOWN]
    cases = " ".join(f"WHEN {len(levels) - 1 - place} THEN '{level}'" for place, level in enumerate(levels))
    return f"CASE gamma_{name} {cases} ELSE '{UNKNOWN}' END"


def _keep_apart(work: duckdb.DuckDBPyConnection) -> None:
    """Components between which somebody decided that they are different persons."""
    work.execute(
        "CREATE TEMP TABLE kept_apart AS SELECT DISTINCT x.component AS x, y.component AS y "
        "FROM decided d JOIN component x ON x.number = d.a JOIN component y ON y.number = d.b "
        "WHERE d.verdict = 'different'"
    )
