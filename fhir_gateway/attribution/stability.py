"""How stable an attribution is: churn and retention between two runs, losers by a hair, care outside of the entity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution.evidence import line_evidence
from fhir_gateway.attribution.models import Attribution


@dataclass(frozen=True, slots=True)
class Churn:
    """Who stayed, came and left between two runs.

    ``churn`` is 1 - |now and before| / |before|, null when nobody was there before. ``retention`` has a row per step
    of the run before (method, step, members, retained); ``changes`` a row per member who came or left, with the reason.
    """

    before: int
    now: int
    stayed: int
    retention: pa.Table
    changes: pa.Table

    @property
    def churn(self) -> Decimal | None:
        """Share of the members of before who are no longer there."""
        return None if not self.before else 1 - Decimal(self.stayed) / Decimal(self.before)


def churn(previous: pa.Table, current: pa.Table, entity: str) -> Churn:
    """Compare two attributions (tables of ``ATTRIBUTION_SCHEMA``) of an entity.

    The reason of who left is that of now (a reason, or ``entity:`` and who has him); of who came, his method and step.
    """
    with duckdb.connect() as connection:
        connection.register("previous", previous)
        connection.register("current", current)
        connection.execute(
            """
            CREATE TABLE before AS SELECT * FROM previous WHERE entity = $entity""",
            {"entity": entity},
        )
        connection.execute("CREATE TABLE now AS SELECT * FROM current WHERE entity = $entity", {"entity": entity})
        retention = connection.sql(
            """
            SELECT b.method, b.step, count(*) AS members, count(n.member) AS retained
            FROM before b LEFT JOIN now n USING (member) GROUP BY ALL ORDER BY ALL
            """
        ).to_arrow_table()
        changes = connection.sql(
            """
            SELECT b.member, 'left' AS change, b.method, b.step,
              coalesce(c.reason, 'entity:' || c.entity, 'no longer known') AS reason
            FROM before b LEFT JOIN current c USING (member) WHERE b.member NOT IN (SELECT member FROM now)
            UNION ALL
            SELECT n.member, 'came', n.method, n.step, coalesce(p.reason, 'entity:' || p.entity, 'not known before')
            FROM now n LEFT JOIN previous p USING (member) WHERE n.member NOT IN (SELECT member FROM before)
            ORDER BY ALL
            """
        ).to_arrow_table()
        before, now, stayed = connection.sql(
            "SELECT (SELECT count(*) FROM before), (SELECT count(*) FROM now),"
            " (SELECT count(*) FROM before SEMI JOIN now USING (member))"
        ).fetchall()[0]
    return Churn(before, now, stayed, retention, changes)


def near_misses(
    attribution: Attribution, entity: str, within: Decimal = Decimal("0.10"), amount: Decimal = Decimal(50)
) -> pa.Table:
    """Members whom an entity lost by at most a share of the winner's amount, or by at most an amount.

    Columns: member, step, winner, winner_amount, amount, gap; the closest first. Amounts are in the terms' measure.
    """
    with duckdb.connect() as connection:
        connection.register("candidates", attribution.candidates)
        connection.register("attributed", attribution.table)
        return connection.sql(
            """
            SELECT c.member, c.step, w.competitor AS winner, w.amount AS winner_amount, c.amount,
              w.amount - c.amount AS gap
            FROM candidates c JOIN candidates w ON w.member = c.member AND w.rank = 1
              JOIN attributed a ON a.member = c.member
            WHERE c.competitor = $entity AND c.rank > 1 AND a.entity IS DISTINCT FROM $entity
              AND (w.amount - c.amount <= $amount OR w.amount - c.amount <= $within * w.amount)
            ORDER BY gap, c.member
            """,
            params={"entity": entity, "within": within, "amount": amount},
        ).to_arrow_table()


@dataclass(frozen=True, slots=True)
class Leakage:
    """Primary care of the entity's members in and outside of it.

    ``inside`` and ``outside`` are allowed amounts; ``members`` has a row per member (member, inside, outside),
    ``providers`` one per other competitor (competitor, members, allowed, services), the largest first.
    """

    inside: Decimal
    outside: Decimal
    members: pa.Table
    providers: pa.Table

    @property
    def share(self) -> Decimal | None:
        """Share of primary care that is outside; null without any."""
        return None if not self.inside + self.outside else self.outside / (self.inside + self.outside)


def leakage(attribution: Attribution, lines: pa.Table, entity: str, groups: Sequence[str] | None = None) -> Leakage:
    """Primary care outside of an entity: services that count, in the period, of its members.

    ``groups`` are the specialty groups whose services are primary care; default: those of the terms' first pass.
    """
    terms = attribution.terms
    chosen = tuple(groups or (terms.passes[0].groups if terms.passes else ()))
    codes = {code for name in chosen for code in terms.groups[name].codes}
    anybody = any(terms.groups[name].any for name in chosen)
    evidence = line_evidence(lines, terms, attribution.period, attribution.participants, attribution.members_of(entity))
    counted = evidence.filter(pc.is_null(evidence["reason"]))
    if not anybody:
        counted = counted.filter(pc.is_in(counted["specialty"], value_set=pa.array(sorted(codes), pa.string())))
    with duckdb.connect() as connection:
        connection.register("counted", counted)
        connection.execute(
            "CREATE TABLE services AS SELECT *, competitor = $entity AS ours FROM counted"
            " WHERE day BETWEEN $start AND $end",
            {"entity": entity, "start": attribution.period[0], "end": attribution.period[1]},
        )
        members = connection.sql(
            """
            SELECT member, coalesce(sum(allowed) FILTER (ours), 0)::DECIMAL(28, 4) AS inside,
              coalesce(sum(allowed) FILTER (NOT ours), 0)::DECIMAL(28, 4) AS outside
            FROM services GROUP BY member ORDER BY member
            """
        ).to_arrow_table()
        providers = connection.sql(
            """
            SELECT competitor, count(DISTINCT member) AS members, sum(allowed)::DECIMAL(28, 4) AS allowed,
              count(*) AS services
            FROM services WHERE NOT ours GROUP BY competitor ORDER BY allowed DESC, competitor
            """
        ).to_arrow_table()
    inside, outside = (pc.sum(members[name]).as_py() or Decimal(0) for name in ("inside", "outside"))
    return Leakage(inside, outside, members, providers)
