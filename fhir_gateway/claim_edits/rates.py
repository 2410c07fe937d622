"""How many claims are clean, and which edits stop the others: by provider, payer and edit."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa

from fhir_gateway.claim_edits.models import Checked
from fhir_gateway.claim_edits.registry import edits

_BY = {"provider": "provider", "payer": "payer"}


def clean_rates(checked: Checked, by: str | None = None) -> list[dict[str, Any]]:
    """Claims, clean ones and their share, of all or by ``provider`` (NPI) or ``payer``; the fewest clean first."""
    group = _BY[by] if by else "'all'"
    return _rows(
        checked,
        f"""
        SELECT {group} AS {by or "claims_of"}, count(*) AS claims, count(*) FILTER (clean) AS clean,
          count(*) FILTER (clean) / count(*) AS clean_claim_rate, count(d.rid) AS deny_likely,
          count(d.rid) / count(*) AS denial_likely_rate
        FROM claims LEFT JOIN deny d USING (rid) GROUP BY 1 ORDER BY count(*) FILTER (NOT clean) DESC, 1""",  # noqa: S608  # names of this module
    )


def edit_rates(checked: Checked, by: str | None = None) -> list[dict[str, Any]]:
    """Findings and claims of each edit, the most frequent first; of each ``provider`` or ``payer`` where asked."""
    group = f"{_BY[by]}, " if by else ""
    return _rows(
        checked,
        f"""
        SELECT {group}edit, family, severity, count(*) AS findings, count(DISTINCT rid) AS claims,
          count(DISTINCT rid) / (SELECT count(*) FROM claims) AS share
        FROM findings JOIN claims USING (rid) JOIN edits USING (edit)
        GROUP BY ALL ORDER BY claims DESC, {group}edit""",  # noqa: S608  # names of this module
    )


def unchecked_edits(checked: Checked) -> list[dict[str, Any]]:
    """Edits that were not checked of some claims, of how many, and for want of what."""
    needs = [(edit.id, ground) for edit in edits().values() for ground in ("claim", *edit.needs)]
    return _rows(
        checked,
        """
        SELECT n.edit, count(DISTINCT u.rid) AS claims, list(DISTINCT u.ground ORDER BY u.ground) AS lacking
        FROM unchecked u JOIN needs n USING (ground) GROUP BY n.edit ORDER BY claims DESC, n.edit""",
        pa.table({"edit": [edit for edit, _ in needs], "ground": [ground for _, ground in needs]}),
    )


def _rows(checked: Checked, query: str, needs: pa.Table | None = None) -> list[dict[str, Any]]:
    known = [(edit.id, edit.family, edit.severity) for edit in edits().values()]
    names = ("edit", "family", "severity")
    table = pa.table({name: [row[at] for row in known] for at, name in enumerate(names)})
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("claims", checked.claims)
        connection.register("findings", checked.findings)
        connection.register("unchecked", checked.unchecked)
        connection.register("edits", table)
        connection.execute(
            "CREATE VIEW deny AS SELECT DISTINCT rid FROM findings JOIN edits USING (edit)"
            " WHERE severity = 'deny-likely'"
        )
        if needs is not None:
            connection.register("needs", needs)
        found: list[dict[str, Any]] = connection.sql(query).to_arrow_table().to_pylist()
        return found
