"""What models of members learn from: a row per member at a day, of the year before; and what the year after brought."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fhir_gateway.risk.prediction.inputs import Inputs
from fhir_gateway.risk.prediction.targets import FEATURES
from fhir_gateway.risk.utilization import stays, visits


def rows(
    persons: pa.Table, inputs: Inputs, lines: pa.Table, charlson: pa.Table, elixhauser: pa.Table, day: date
) -> pa.Table:
    """Members alive on a day of whom there are claims before it: member, :data:`.targets.FEATURES`, both next costs.

    ``charlson`` and ``elixhauser`` are their scores as of the day before. Whether claims reach
    the year after is the caller's to know.
    """
    with duckdb.connect() as work:
        named = {"persons": persons, "stays": inputs.stays, "emergency": inputs.emergency, "office": inputs.office}
        claims = {"lines": lines, "claim_stays": stays(lines), "claim_visits": visits(lines)}
        for name, table in {**named, **claims, "charlson": charlson, "elixhauser": elixhauser}.items():
            work.register(name, table)
        work.execute(
            "CREATE TABLE line AS SELECT _member AS member, coalesce(service_from, claim_from) AS day,"
            " coalesce(allowed, 0)::DOUBLE AS allowed FROM lines WHERE counts AND NOT coalesce(denied, FALSE)"
        )
        work.execute(
            "CREATE TABLE acute AS SELECT member, admitted AS day, coalesce(allowed, 0)::DOUBLE AS allowed"
            " FROM claim_stays WHERE emergent IS NOT FALSE "
            " UNION ALL SELECT member, day, coalesce(allowed, 0)::DOUBLE FROM claim_visits"
            " WHERE kind = 'ed' AND NOT admitted"
        )
        return work.sql(
            """
            SELECT p.member, date_sub('year', p.birth_date, $day)::DOUBLE AS age, (p.gender = 'male')::DOUBLE AS male,
                coalesce(c.cost, 0) AS cost, coalesce(c.cost_late, 0) AS cost_late, coalesce(a.cost, 0) AS acute_cost,
                coalesce(s.number, 0)::DOUBLE AS admissions, coalesce(e.number, 0)::DOUBLE AS emergency,
                coalesce(o.number, 0)::DOUBLE AS office, h.value::DOUBLE AS charlson, x.value::DOUBLE AS elixhauser,
                coalesce(c.later, 0) AS next_cost, coalesce(a.later, 0) AS next_acute_cost
            FROM persons p
            JOIN (SELECT member, sum(allowed) FILTER (day >= $day - 365 AND day < $day) AS cost,
                sum(allowed) FILTER (day >= $day - 90 AND day < $day) AS cost_late,
                sum(allowed) FILTER (day >= $day AND day < $day + 365) AS later
                FROM line GROUP BY member HAVING min(day) < $day) c USING (member)
            LEFT JOIN (SELECT member, sum(allowed) FILTER (day >= $day - 365 AND day < $day) AS cost,
                sum(allowed) FILTER (day >= $day AND day < $day + 365) AS later
                FROM acute GROUP BY member) a USING (member)
            LEFT JOIN (SELECT member, count(*) AS number FROM stays
                WHERE admitted >= $day - 365 AND admitted < $day GROUP BY member) s USING (member)
            LEFT JOIN (SELECT member, count(*) AS number FROM emergency
                WHERE day >= $day - 365 AND day < $day GROUP BY member) e USING (member)
            LEFT JOIN (SELECT member, count(*) AS number FROM office
                WHERE day >= $day - 365 AND day < $day GROUP BY member) o USING (member)
            LEFT JOIN charlson h ON h.key = p.member LEFT JOIN elixhauser x ON x.key = p.member
            WHERE p.died IS NULL OR p.died >= $day ORDER BY p.member
            """,
            params={"day": day},
        ).to_arrow_table()


def matrix(table: pa.Table, names: Sequence[str] = FEATURES) -> NDArray[np.float64]:
    """The features as a matrix; what nobody said is NaN."""
    return np.column_stack([table[name].to_numpy().astype(np.float64) for name in names])
