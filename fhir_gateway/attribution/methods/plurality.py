"""Plurality of primary care services, in ordered passes.

Each pass sums the measure of the terms (allowed, paid, visits or days) over the counting services of its specialty
groups in its window, per competitor: participants are pooled into one, everybody else competes by TIN (42 CFR
425.402(b)). A member is settled by the first pass in which somebody competes for him. More is strictly more; equals are
separated by the tie-breaks of the terms, and when none separates them the member stays unattributed (``tie``).

A visit is a distinct pair of clinician and day, a day a distinct day.
"""

from __future__ import annotations

from datetime import date, timedelta

from fhir_gateway.attribution.methods import Workspace, method
from fhir_gateway.attribution.models import Pass

_AMOUNTS = {
    "allowed": "sum(coalesce(allowed, 0))",
    "paid": "sum(coalesce(paid, 0))",
    "visits": "count(DISTINCT coalesce(npi, '') || day)",
    "days": "count(DISTINCT day)",
}

#: Tie-break -> (column, larger wins)
_TIES = {
    "latest": ("last_service", True),
    "visits": ("visits", True),
    "allowed": ("allowed", True),
    "paid": ("paid", True),
    "lowest_id": ("competitor", False),
    "hash": ("lottery", False),
}


def window_start(end: date, months: int) -> date:
    """First day of a window of so many whole months that ends on ``end``."""
    following = end + timedelta(days=1)
    index = following.year * 12 + following.month - 1 - months
    year, month = divmod(index, 12)
    day = following.day
    while True:  # 31 Mar minus one month: the last day there is
        try:
            return date(year, month + 1, day)
        except ValueError:
            day -= 1


def window_end(workspace: Workspace) -> date:
    """Last day of the windows."""
    end = workspace.period[1]
    offset = workspace.terms.window_offset_months
    return window_start(end, offset) - timedelta(days=1) if offset else end


@method("plurality")
def plurality(workspace: Workspace) -> None:
    """Settle members by the passes of the terms."""
    connection, terms = workspace.connection, workspace.terms
    competitor = {"entity": "competitor", "tin": "coalesce('tin:' || tin, competitor)"}.get(
        terms.level, "coalesce('npi:' || npi, competitor)"
    )
    connection.execute(
        f"CREATE TABLE services AS SELECT * REPLACE ({competitor} AS competitor), competitor AS owner FROM qualified"  # noqa: S608 fixed words
        " WHERE member IN (SELECT member FROM eligible) AND member NOT IN (SELECT member FROM assigned)"
    )
    connection.execute(
        "CREATE TABLE competing (step VARCHAR, member VARCHAR, competitor VARCHAR, owner VARCHAR, participant BOOLEAN,"
        " amount DECIMAL(28, 8), visits BIGINT, last_service DATE, allowed DECIMAL(38, 8), paid DECIMAL(38, 8),"
        " lottery VARCHAR)"
    )
    connection.execute("CREATE TABLE steps (step VARCHAR, groups VARCHAR[], opened DATE, closed DATE)")
    for step in terms.passes:
        _compete(workspace, step)
    _settle(workspace)


def _compete(workspace: Workspace, step: Pass) -> None:
    """Competitors of one pass for the members that no pass before had competitors for."""
    terms, end = workspace.terms, window_end(workspace)
    start = window_start(end, step.window_months)
    workspace.connection.execute("INSERT INTO steps VALUES (?, ?, ?, ?)", [step.name, list(step.groups), start, end])
    values: dict[str, object] = {
        "step": step.name,
        "groups": list(step.groups),
        "start": start,
        "end": end,
        "unless": list(step.unless_any),
        "visits": terms.min_visits,
        "seed": f"{terms.name}|{terms.version}|{workspace.period[0]}|{workspace.period[1]}",
    }
    needs = "TRUE"
    for number, need in enumerate(step.needs):
        values |= {f"need{number}": list(need.groups), f"since{number}": window_start(end, need.window_months)}
        needs += f" AND bool_or(list_has_any(groups, $need{number}) AND day BETWEEN $since{number} AND $end)"
    fitting = "s.member IN (SELECT member FROM fits) AND (NOT participant OR f.competitor IS NOT NULL)"
    workspace.connection.execute(
        f"""
        INSERT INTO competing BY NAME
        WITH fits AS (
          SELECT member, competitor FROM services WHERE participant GROUP BY member, competitor HAVING {needs}
        )
        SELECT $step AS step, s.member, s.competitor, any_value(owner) AS owner, any_value(participant) AS participant,
          {_AMOUNTS[terms.measure]} AS amount, {_AMOUNTS["visits"]} AS visits, max(day) AS last_service,
          sum(coalesce(allowed, 0)) AS allowed, sum(coalesce(paid, 0)) AS paid,
          md5($seed || '|' || s.member || '|' || s.competitor) AS lottery
        FROM services s LEFT JOIN fits f ON f.member = s.member AND f.competitor = s.competitor
        WHERE list_has_any(groups, $groups) AND day BETWEEN $start AND $end
          AND (len($unless) = 0 OR s.member NOT IN (
            SELECT member FROM services WHERE list_has_any(groups, $unless) AND day BETWEEN $start AND $end))
          AND s.member NOT IN (SELECT member FROM competing)
          AND {fitting if step.needs else "TRUE"}
        GROUP BY s.member, s.competitor
        HAVING visits >= $visits
        """,  # noqa: S608 only words of this module are spliced in; values are bound
        values,
    )


def _settle(workspace: Workspace) -> None:
    """Rank the competitors and write winners, runners-up and reasons."""
    connection, terms = workspace.connection, workspace.terms
    ties = [(name, *_TIES[name]) for name in terms.tie_break]
    order = ", ".join(["amount DESC", *(f"{column} {'DESC' if larger else 'ASC'}" for _, column, larger in ties)])
    separates = "".join(f" WHEN r.{column} <> o.{column} THEN '{name}'" for name, column, _ in ties)
    connection.execute(
        f"""
        CREATE TABLE ranked AS
        SELECT *, row_number() OVER (PARTITION BY member ORDER BY {order}, competitor) AS rank,
          sum(amount) OVER (PARTITION BY member) AS total
        FROM competing;
        INSERT INTO candidates BY NAME
        SELECT member, step, rank, competitor, participant, amount, visits, last_service FROM ranked;
        CREATE TABLE decided AS
        SELECT r.* EXCLUDE (rank), o.competitor AS runner_up, o.amount AS runner_up_amount,
          CASE WHEN o.amount IS NULL OR o.amount <> r.amount THEN NULL{separates} ELSE 'none' END AS tie_break
        FROM ranked r LEFT JOIN ranked o ON o.member = r.member AND o.rank = 2
        WHERE r.rank = 1
        """  # noqa: S608 only words of this module are spliced in
    )
    connection.execute(
        """
        INSERT INTO unattributed BY NAME
        SELECT member, CASE WHEN tie_break = 'none' THEN 'tie' ELSE 'below-share' END AS reason
        FROM decided WHERE tie_break = 'none' OR amount < $share * total
        """,
        {"share": terms.min_share},
    )
    connection.execute(
        f"""
        INSERT INTO assigned BY NAME
        WITH winning AS (
          SELECT s.member, s.tin, s.npi, {_AMOUNTS[terms.measure]} AS amount, max(day) AS last_day
          FROM services s
          JOIN (SELECT member, competitor, step FROM decided) d ON d.member = s.member AND d.competitor = s.competitor
          JOIN steps p ON p.step = d.step AND list_has_any(s.groups, p.groups) AND s.day BETWEEN p.opened AND p.closed
          GROUP BY s.member, s.tin, s.npi
        ), by_tin AS (
          SELECT member, tin FROM winning GROUP BY member, tin
          QUALIFY row_number() OVER (PARTITION BY member ORDER BY sum(amount) DESC, max(last_day) DESC, tin) = 1
        ), by_npi AS (
          SELECT w.member, w.tin, w.npi FROM winning w
          JOIN by_tin t ON t.member = w.member AND t.tin IS NOT DISTINCT FROM w.tin
          QUALIFY row_number() OVER (PARTITION BY w.member ORDER BY w.amount DESC, w.last_day DESC, w.npi) = 1
        )
        SELECT d.member, d.owner AS competitor, d.participant, 'plurality' AS method, d.step, n.tin, n.npi, d.amount,
          d.visits, d.last_service, d.runner_up, d.runner_up_amount, d.tie_break
        FROM decided d LEFT JOIN by_npi n USING (member)
        WHERE d.member NOT IN (SELECT member FROM unattributed)
        """  # noqa: S608 only words of this module are spliced in
    )
