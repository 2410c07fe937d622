"""Plurality of primary care services, in ordered passes.

Each pass sums the measure of the terms (allowed, paid, visits, days or relative value units) over the counting
services of its specialty groups in its window, per competitor: participants are pooled into one, everybody else
competes by TIN (42 CFR 425.402(b)). A member is settled by the first pass in which somebody competes for him. More is
strictly more; equals are separated by the tie-breaks of the terms, and when none separates them the member stays
unattributed (``tie``). Where the terms are sticky, who won before stays first while within that share of the leader.

A visit is a distinct day of a clinician at a practice, a day a distinct day. Weights by age are kept as whole numbers
until amounts are compared, so that thirds are exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from math import lcm

from fhir_gateway.attribution.eligibility import window_end, window_start
from fhir_gateway.attribution.methods import Workspace, method
from fhir_gateway.attribution.rules import AttributionTerms, Pass
from fhir_gateway.attribution.services import bits, group_bits, list_bits, prepare_services

#: Tie-break -> (column, larger wins)
_TIES = {
    "latest": ("last_service", True),
    "visits": ("visits", True),
    "allowed": ("allowed", True),
    "paid": ("paid", True),
    "lowest_id": ("competitor", False),
    "hash": ("lottery", False),
}


@dataclass(frozen=True, slots=True)
class _Window:
    """A pass in numbers: days, bits of its groups and lists, whole-number weights by day."""

    step: Pass
    start: date
    end: date
    earliest: date
    lists: int
    groups: dict[str, int]
    divisor: int
    weight: str

    def service(self, groups: Iterable[str], since: date | None = None) -> str:
        """SQL: a service of the groups, in the pass's window or since another day."""
        return f"(groups & {bits(groups, self.groups)} <> 0 AND day >= {_day(since or self.start)})"


@method("plurality")
def plurality(workspace: Workspace) -> None:
    """Settle members by the passes of the terms."""
    connection, terms = workspace.connection, workspace.terms
    windows = [_window(terms, step, window_end(terms, workspace.period)) for step in terms.passes]
    connection.execute(
        "CREATE TABLE contested AS SELECT member FROM eligible WHERE member NOT IN (SELECT member FROM assigned)"
    )
    whole = (min(one.earliest for one in windows), windows[0].end)
    prepare_services(connection, terms, whole, "contested", providers=workspace.knows_providers)
    connection.execute(
        """
        CREATE TABLE parts (step VARCHAR, member VARCHAR, competitor VARCHAR, owner VARCHAR, participant BOOLEAN,
          tin VARCHAR, npi VARCHAR, amount DECIMAL(38, 4), visits BIGINT, last_service DATE, allowed DECIMAL(38, 4),
          paid DECIMAL(38, 4));
        CREATE TABLE competing (step VARCHAR, member VARCHAR, competitor VARCHAR, owner VARCHAR, participant BOOLEAN,
          amount DECIMAL(38, 4), visits BIGINT, last_service DATE, allowed DECIMAL(38, 4), paid DECIMAL(38, 4));
        CREATE TABLE steps (step VARCHAR, opened DATE, closed DATE, divisor BIGINT, by_day BOOLEAN);
        """
    )
    for one in windows:
        _compete(workspace, one)
    _settle(workspace)


def _window(terms: AttributionTerms, step: Pass, end: date) -> _Window:
    start = window_start(end, step.window_months)
    known = list_bits(terms)
    counted = set(step.services or known)
    for one in terms.services:
        touches = one.if_window_touches
        if touches and (touches[1] < start or touches[0] > end):
            counted.discard(one.name)
    fractions = [Fraction(one) for one in step.weights] or [Fraction(1)]
    divisor = lcm(*(one.denominator for one in fractions))
    whole = [int(one * divisor) for one in fractions]
    months = step.window_months // len(whole)
    cases = [
        f"WHEN day < {_day(window_start(end, months * (len(whole) - number - 1)))} THEN {weight}"
        for number, weight in enumerate(whole[:-1])
    ]
    return _Window(
        step=step,
        start=start,
        end=end,
        earliest=min([start, *(window_start(end, need.window_months) for need in step.needs)]),
        lists=bits(counted, known),
        groups=group_bits(terms),
        divisor=divisor,
        weight=f"CASE {' '.join(cases)} ELSE {whole[-1]} END" if cases else str(whole[-1]),
    )


def _compete(workspace: Workspace, window: _Window) -> None:
    """Competitors of one pass for the members that no pass before had competitors for."""
    terms, step, connection = workspace.terms, window.step, workspace.connection
    connection.execute(
        "INSERT INTO steps VALUES (?, ?, ?, ?, ?)",
        [step.name, window.start, window.end, window.divisor, step.winner == "latest"],
    )
    value = {"visits": "1", "days": "1"}.get(terms.measure, terms.measure)
    flags = {
        f"need{number}": window.service(need.groups, window_start(window.end, need.window_months))
        for number, need in enumerate(step.needs)
    }
    if step.unless_any:
        flags["barred"] = window.service(step.unless_any)
    weighted = value if window.weight == "1" else f"{value} * {window.weight}"
    kept = {"amount": _if("fits", weighted)}
    if step.at_least:
        of = (*step.at_least.groups, *step.at_least.of)
        kept |= {
            "counted": _if(window.service(step.at_least.groups), weighted),
            "whole": _if(window.service(of), weighted),
        }
    keys = "member, competitor, owner, participant"
    # money is summed over lines; a visit is one row of a clinician, practice and day, a day one row of a day
    once = value == "1"
    grain = f"{keys}, day" if terms.measure == "days" else f"{keys}, tin, npi, day"
    combine = "max" if once else "sum"
    beside = {  # the measure: what tie-breaks look at
        name: _if("fits", name) if name in terms.tie_break else "NULL::DECIMAL(18, 4)" for name in ("allowed", "paid")
    }
    daily = "".join(f", {combine}({term}) AS {name}" for name, term in kept.items())
    daily += "".join(f", sum({term}) AS {name}" for name, term in beside.items())
    daily += "".join(f", bool_or({term}) AS {name}" for name, term in flags.items())
    added = "".join(f", sum({name}) AS {name}" for name in (*kept, *beside))
    added += "".join(f", bool_or({name}) AS {name}" for name in flags)
    open_ = "" if not _begun(workspace) else " AND member NOT IN (SELECT member FROM competing)"
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE tallied AS
        WITH services AS (
          SELECT *, {window.service(step.groups)} AS fits FROM qualified
          WHERE lists & {window.lists} <> 0 AND day BETWEEN {_day(window.earliest)} AND {_day(window.end)}{open_}
        ), daily AS (
          SELECT {grain}, bool_or(fits) AS fits{daily}
          FROM services GROUP BY {grain}
        )
        SELECT {grain.removesuffix(", day")}, count(*) FILTER (fits) AS visits,
          max(day) FILTER (fits) AS last_service{added}
        FROM daily GROUP BY {grain.removesuffix(", day")}
        """  # noqa: S608 only words and numbers of the terms' own bits and days are spliced in
    )
    needs = " AND ".join(f"bool_or({name})" for name in flags if name.startswith("need"))
    allowed_in = []
    if needs:  # for a member of whom no participant has what it needs this pass is none
        allowed_in.append(
            f"member IN (SELECT member FROM tallied WHERE participant GROUP BY member, competitor HAVING {needs})"  # noqa: S608 words of this module
        )
    if step.unless_any:
        allowed_in.append("member NOT IN (SELECT member FROM tallied WHERE barred)")
    if step.at_least:
        share = Fraction(step.at_least.share)
        reached = f"sum(counted) > 0 AND sum(counted) * {share.denominator} >= sum(whole) * {share.numerator}"
        allowed_in.append(f"member IN (SELECT member FROM tallied GROUP BY member HAVING {reached})")  # noqa: S608
    connection.execute(
        f"""
        INSERT INTO competing BY NAME
        SELECT $step AS step, {keys}, sum(amount) AS amount, sum(visits) AS visits, max(last_service) AS last_service,
          sum(allowed) AS allowed, sum(paid) AS paid
        FROM tallied {"WHERE " + " AND ".join(allowed_in) if allowed_in else ""}
        GROUP BY {keys}
        HAVING sum(visits) >= $visits {f"AND (NOT participant OR ({needs}))" if needs else ""}
        """,  # noqa: S608 only words of this module are spliced in; values are bound
        {"step": step.name, "visits": terms.min_visits},
    )
    if terms.measure != "days":
        connection.execute(
            "INSERT INTO parts BY NAME SELECT ? AS step, t.member, t.competitor, t.owner, t.participant, t.tin, t.npi,"
            " t.amount, t.visits, t.last_service, t.allowed, t.paid FROM (FROM tallied WHERE visits > 0) t"
            " SEMI JOIN competing c USING (member, competitor, owner)",
            [step.name],
        )
        return
    connection.execute(
        f"""
        INSERT INTO parts BY NAME
        SELECT ? AS step, {keys}, tin, npi, count(DISTINCT day) AS amount, count(DISTINCT day) AS visits,
          max(day) AS last_service
        FROM qualified q
        WHERE lists & {window.lists} <> 0 AND {window.service(step.groups)} AND day <= {_day(window.end)}
          AND EXISTS (SELECT 1 FROM competing c WHERE c.member = q.member AND c.competitor = q.competitor
            AND c.owner = q.owner AND c.step = ?)
        GROUP BY {keys}, tin, npi
        """,  # noqa: S608 only words and numbers of the terms' own bits and days are spliced in
        [step.name, step.name],
    )


def _begun(workspace: Workspace) -> bool:
    return bool(workspace.connection.execute("SELECT count(*) FROM steps").fetchall()[0][0] > 1)


def _settle(workspace: Workspace) -> None:
    """Rank the competitors and write winners, runners-up and reasons."""
    connection, terms = workspace.connection, workspace.terms
    ties = [(name, *_TIES[name]) for name in terms.tie_break]
    order = ", ".join(
        ["score DESC", *(f"{column} {'DESC' if larger else 'ASC'} NULLS LAST" for _, column, larger in ties)]
    )
    separates = "".join(f" WHEN r.{column} <> o.{column} THEN '{name}'" for name, column, _ in ties)
    seed = f"{terms.name}|{terms.version}|{workspace.period[0]}|{workspace.period[1]}"
    stays = Fraction(1) - Fraction(terms.stickiness)
    sticky = (
        "h.competitor IS NOT NULL AND NOT p.by_day"
        f" AND c.amount * {stays.denominator} >= max(c.amount) OVER (PARTITION BY c.member) * {stays.numerator}"
    )
    held = "LEFT JOIN held h ON h.member = c.member AND h.competitor = c.competitor"
    connection.execute(
        f"""
        CREATE TABLE ranked AS
        WITH scored AS (
          SELECT c.* EXCLUDE (amount), c.amount AS units, (((c.amount::DECIMAL(24, 4) * 10000)::HUGEINT * 20000
              + p.divisor) // (2 * p.divisor))::DECIMAL(28, 0) * 0.00000001::DECIMAL(10, 8) AS amount, -- half up
            CASE WHEN p.by_day THEN date_diff('day', DATE '1900-01-01', c.last_service) ELSE c.amount END AS score,
            {sticky if terms.stickiness else "FALSE"} AS sticky, p.by_day
          FROM competing c JOIN steps p USING (step) {held if terms.stickiness else ""}
        ), drawn AS (
          SELECT *, CASE WHEN count(*) OVER (PARTITION BY member, score) > 1
            THEN md5($seed || '|' || member || '|' || competitor) END AS lottery FROM scored
        )
        SELECT *, row_number() OVER (PARTITION BY member ORDER BY sticky DESC, {order}, competitor, owner) AS rank,
          sum(units) OVER (PARTITION BY member) AS total
        FROM {"drawn" if "hash" in terms.tie_break else "scored"}
        """,  # noqa: S608 only words of this module are spliced in
        {"seed": seed},
    )
    connection.execute(
        f"""
        INSERT INTO candidates BY NAME
        SELECT member, step, rank, competitor, participant, amount, visits, last_service FROM ranked;
        CREATE TABLE decided AS
        SELECT r.* EXCLUDE (rank), o.competitor AS runner_up, o.amount AS runner_up_amount,
          CASE WHEN o.member IS NULL THEN NULL WHEN r.sticky AND o.score > r.score THEN 'stickiness'
            WHEN o.score <> r.score OR r.sticky <> o.sticky THEN NULL{separates} ELSE 'none' END AS tie_break
        FROM ranked r LEFT JOIN ranked o ON o.member = r.member AND o.rank = 2
        WHERE r.rank = 1
        """  # noqa: S608 only words of this module are spliced in
    )
    share = Fraction(terms.min_share)
    connection.execute(
        f"""
        INSERT INTO unattributed BY NAME
        SELECT member, CASE WHEN tie_break = 'none' THEN 'tie' ELSE 'below-share' END AS reason
        FROM decided
        WHERE tie_break = 'none' OR (NOT by_day AND units * {share.denominator} < {share.numerator} * total)
        """  # noqa: S608 only numbers are spliced in
    )
    connection.execute(
        """
        INSERT INTO assigned BY NAME
        WITH winning AS (
          SELECT p.member, p.tin, p.npi, p.amount, p.last_service
          FROM parts p JOIN decided d USING (member, competitor, owner, step)
        ), by_tin AS (
          SELECT member, tin FROM winning GROUP BY member, tin
          QUALIFY row_number() OVER (PARTITION BY member ORDER BY sum(amount) DESC, max(last_service) DESC, tin) = 1
        ), by_npi AS (
          SELECT w.member, w.tin, w.npi FROM winning w
          JOIN by_tin t ON t.member = w.member AND t.tin IS NOT DISTINCT FROM w.tin
          QUALIFY row_number() OVER (PARTITION BY w.member ORDER BY w.amount DESC, w.last_service DESC, w.npi) = 1
        )
        SELECT d.member, d.owner AS competitor, d.participant, 'plurality' AS method, d.step, n.tin, n.npi, d.amount,
          d.visits, d.last_service, d.runner_up, d.runner_up_amount, d.tie_break, s.opened AS window_start,
          s.closed AS window_end
        FROM decided d JOIN steps s USING (step) LEFT JOIN by_npi n USING (member)
        WHERE d.member NOT IN (SELECT member FROM unattributed)
        """
    )


def _if(condition: str, value: str) -> str:
    return f"CASE WHEN {condition} THEN {value} ELSE 0 END"


def _day(day: date) -> str:
    return f"DATE '{day.isoformat()}'"
