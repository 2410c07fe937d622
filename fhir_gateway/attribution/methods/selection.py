"""Selections: a clinician whom the member designated, or a roster with the primary care provider of record.

The newest selection that is effective by the period's end wins and settles the member, whatever the claims say: a
designated clinician outside the contract is never replaced by claims (42 CFR 425.402(e)). ``selection`` takes
selections of any kind; the other methods are of one kind each, so that terms can order them.
"""

from __future__ import annotations

from fhir_gateway.attribution.eligibility import window_start
from fhir_gateway.attribution.methods import Workspace, method

#: From which day on a selection of a day holds.
_EFFECTIVE = {
    "immediate": "made",
    "next_month": "(date_trunc('month', made) + INTERVAL 1 MONTH)::DATE",
    "fifteenth": "CASE WHEN day(made) <= 15 THEN date_trunc('month', made)::DATE"
    " ELSE (date_trunc('month', made) + INTERVAL 1 MONTH)::DATE END",
}


def effective(rule: str) -> str:
    """SQL for the first day on which a selection made on the day in column ``made`` holds."""
    return _EFFECTIVE[rule]


@method("selection")
def selection(workspace: Workspace) -> None:
    """Assign members with a selection of any kind."""
    _assign(workspace, None)


@method("voluntary")
def voluntary(workspace: Workspace) -> None:
    """Voluntary alignment: the clinician whom the beneficiary designated."""
    _assign(workspace, "voluntary")


@method("member_selected_pcp")
def member_selected_pcp(workspace: Workspace) -> None:
    """The primary care provider whom the member selected."""
    _assign(workspace, "member_selected_pcp")


@method("plan_assigned_pcp")
def plan_assigned_pcp(workspace: Workspace) -> None:
    """The primary care provider whom the plan assigned."""
    _assign(workspace, "plan_assigned_pcp")


@method("roster")
def roster(workspace: Workspace) -> None:
    """The payer's roster: attribution is what it says."""
    _assign(workspace, "roster")


def _assign(workspace: Workspace, kind: str | None) -> None:
    rule = workspace.terms.selection
    day = workspace.period[1] if rule.by == "period_end" else workspace.period[0]
    values: dict[str, object] = {"day": day, "kind": kind}
    conditions = "first <= $day AND coalesce(until >= $day, TRUE)"
    if rule.lasts_months:
        conditions += " AND first >= $oldest"
        values["oldest"] = window_start(day, rule.lasts_months)
    if rule.needs_visit_months:
        conditions += """ AND EXISTS (
          SELECT 1 FROM lines l WHERE l._member = s.member AND l.counts AND NOT l.denied
            AND (l.npi = s.npi OR (s.npi IS NULL AND l.tin = s.tin)) AND l.service_from BETWEEN $visit AND $day)"""
        values["visit"] = window_start(day, rule.needs_visit_months)
    workspace.connection.execute(
        f"""
        INSERT INTO assigned BY NAME
        SELECT member, competitor, participant, 'selection' AS method, kind AS step, tin, npi, NULL AS amount,
          0 AS visits, first AS last_service, first AS window_start, until AS window_end
        FROM (SELECT *, {effective(rule.effective)} AS first FROM selections) s
        WHERE member IN (SELECT member FROM eligible) AND member NOT IN (SELECT member FROM assigned)
          AND ($kind IS NULL OR kind = $kind) AND {conditions}
        QUALIFY row_number() OVER (PARTITION BY member ORDER BY made DESC, competitor, npi, kind) = 1
        """,  # noqa: S608 only words of this module are spliced in; values are bound
        values,
    )
