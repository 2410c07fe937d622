"""From claim lines to episodes: triggers, stays that are one anchor, windows, and which of them stand.

Set-based over all members at once. A candidate that does not stand keeps its row with the reason. Checked in this
order, so that one that cannot stand never stops another: payment, eligibility, death, overlap, then whose it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fhir_gateway.contracts.episodes.codes import any_rule, first_rule
from fhir_gateway.contracts.episodes.definition import Definition, Initiator

#: Columns of claim lines (:data:`fhir_gateway.lake.claims.LINE_SCHEMA`) that episodes are made from.
LINE_COLUMNS = (
    *("claim_group", "service_from", "claim_from", "claim_thru", "claim_type", "bill_type", "npi", "tin"),
    *("organization", "specialty", "procedure", "place_of_service", "revenue_code", "diagnosis", "drg"),
    *("allowed", "paid", "denied"),
)
#: Days that members were eligible; both days belong to a span. Overlapping and adjacent spans are one.
ELIGIBILITY_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        pa.field("start", pa.date32(), nullable=False),
        pa.field("end", pa.date32(), nullable=False),
    ]
)
DEATH_SCHEMA = pa.schema([("member", pa.string()), ("died", pa.date32())])
#: Why a candidate does not stand, in the order it is looked at; none: it does.
REASONS = (
    *("unpaid", "not-eligible", "died", "retriggered", "readmission", "replaced", "open", "not-in-population"),
    "other-provider",
)
#: Of episodes that are whole, if others': what a region and a baseline are made of.
WHOLE = "(reason IS NULL OR reason IN ('not-in-population', 'other-provider'))"


@dataclass(frozen=True, slots=True)
class Sources:
    """What episodes are made from. Without ``eligibility`` all are eligible; without ``roster`` all members count.

    Services are known ``through`` a day (empty: as far as needed): what ends later is still open.
    """

    lines: pa.Table
    deaths: pa.Table | None = None
    eligibility: pa.Table | None = None
    roster: pa.Array | None = None
    through: date | None = None


# lines in one form; those that open something are looked for first, so that only members with an anchor are kept
_STATED = """
CREATE VIEW stated AS
SELECT _member AS member, claim_group AS claim, coalesce(service_from, claim_from) AS day,
  coalesce(claim_from, service_from) AS claim_from,
  greatest(coalesce(claim_thru, claim_from, service_from), coalesce(claim_from, service_from)) AS claim_thru,
  claim_type, ltrim(bill_type, '0') AS bill_type, npi, tin, organization, specialty, upper(procedure) AS procedure,
  place_of_service, lpad(ltrim(revenue_code, '0'), 4, '0') AS revenue_code,
  upper(replace(diagnosis, '.', '')) AS diagnosis, lpad(ltrim(drg, '0'), 3, '0') AS drg,
  coalesce({amount}, 0)::DECIMAL(28, 8) AS amount
FROM lines
WHERE coalesce(service_from, claim_from) BETWEEN $first AND $last {denied}
"""

_LINES = """
CREATE TABLE line AS
SELECT *, {trigger} AS rule, {service} AS service, {exclusion} AS exclusion, {complication} AS complication,
  {milestone} AS milestone, coalesce(organization, tin, npi) AS provider
FROM stated SEMI JOIN (SELECT DISTINCT member FROM stated WHERE {any_trigger}) USING (member)
"""

# acute stays; interim claims (bill types 112, 113) are one with what follows them
_STAYS = """
CREATE TABLE stay AS
WITH claims AS (
  SELECT member, claim, min(claim_from) AS opened, max(claim_thru) AS closed, min(rule) AS rule,
    min(provider) AS provider, bool_or(bill_type IN ('112', '113')) AS interim
  FROM line
  WHERE claim_type = 'inpatient'
    AND (rule IS NOT NULL OR (drg IS NOT NULL AND (bill_type IS NULL OR bill_type[1:2] IN ('11', '12', '41'))))
  GROUP BY member, claim
), following AS (
  SELECT *, max(closed) OVER before AS reached, lag(provider) OVER stays IS NOT DISTINCT FROM provider AS same,
    lag(interim) OVER stays AS unfinished
  FROM claims
  WINDOW stays AS (PARTITION BY member ORDER BY opened, closed, claim),
    before AS (PARTITION BY member ORDER BY opened, closed, claim ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), marked AS (
  SELECT *, CASE WHEN opened < reached OR (opened = reached AND (NOT same OR $same_day))
    OR (NOT same AND opened <= reached + $gap)
    OR (same AND unfinished AND opened <= reached + 1) THEN 0 ELSE 1 END AS is_new
  FROM following
)
SELECT member, claim, opened, closed, rule,
  sum(is_new) OVER (PARTITION BY member ORDER BY opened, closed, claim ROWS UNBOUNDED PRECEDING) AS chain
FROM marked
"""

# one candidate per event: a procedure on the days of a stay that triggers is part of it
_CANDIDATES = """
CREATE TABLE candidate AS
WITH chained AS (
  SELECT member, chain, min(opened) AS opened, max(closed) AS closed,
    {pick}(claim, (opened, closed, claim)) FILTER (rule IS NOT NULL) AS claim,
    {pick}(rule, (opened, closed, claim)) FILTER (rule IS NOT NULL) AS rule
  FROM stay GROUP BY member, chain HAVING bool_or(rule IS NOT NULL)
), other AS (
  SELECT member, claim, min(rule) AS rule, min(day) AS opened, min(day) AS closed
  FROM line WHERE rule IS NOT NULL AND claim_type <> 'inpatient' GROUP BY member, claim
), events AS (
  SELECT member, claim, rule, opened, closed, chain, 0 AS kind FROM chained
  UNION ALL
  SELECT member, claim, rule, opened, closed, NULL, 1 FROM other
), marked AS (
  SELECT *, CASE WHEN opened < max(closed) OVER before OR opened = max(opened) OVER before THEN 0 ELSE 1 END AS is_new
  FROM events
  WINDOW before AS (PARTITION BY member ORDER BY opened, kind, rule, claim
    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), numbered AS (
  SELECT *, sum(is_new) OVER (PARTITION BY member ORDER BY opened, kind, rule, claim ROWS UNBOUNDED PRECEDING) AS event
  FROM marked
), chosen AS (
  SELECT member, min(opened) AS opened, max(closed) AS closed, arg_min(claim, (kind, rule, opened, claim)) AS claim,
    arg_min(rule, (kind, rule, opened, claim)) AS rule, arg_min(chain, (kind, rule, opened, claim)) AS chain
  FROM numbered GROUP BY member, event
), trigger_line AS (
  SELECT member, claim, rule, min(npi) AS npi, min(tin) AS tin,
    min(organization) AS organization, min(drg) AS drg, min(procedure) AS procedure, bool_or(claim_type = 'inpatient')
      AS inpatient, {remap}
  FROM line WHERE rule IS NOT NULL GROUP BY member, claim, rule
), paid AS (
  SELECT member, claim, sum(amount) AS amount FROM line GROUP BY member, claim
)
SELECT (row_number() OVER (ORDER BY c.member, c.opened, c.claim))::BIGINT AS number, c.member, c.claim, c.chain, c.rule,
  c.opened AS anchor_start, c.closed AS anchor_end, c.opened - $lead AS window_start,
  greatest(c.closed + $after, c.closed) AS window_end, t.npi, t.tin, t.organization,
  CASE WHEN t.inpatient THEN coalesce(t.drg, t.procedure) ELSE coalesce(t.procedure, t.drg) END AS code,
  {remapped} AS remap, p.amount AS anchor_amount
FROM chosen c JOIN trigger_line t USING (member, claim, rule) JOIN paid p USING (member, claim)
"""

_JUDGED = """
CREATE TABLE judged AS
WITH spans AS (
  SELECT member, "start" AS opened, "end" AS closed, CASE WHEN "start" <= max("end") OVER (PARTITION BY member
    ORDER BY "start", "end" ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) + 1 THEN 0 ELSE 1 END AS is_new
  FROM eligibility WHERE "start" <= "end"
), numbered AS (
  SELECT *, sum(is_new) OVER (PARTITION BY member ORDER BY opened, closed ROWS UNBOUNDED PRECEDING) AS island FROM spans
), merged AS (
  SELECT member, min(opened) AS opened, max(closed) AS closed FROM numbered GROUP BY member, island
), death AS (
  SELECT member, min(died) AS died FROM deaths WHERE died IS NOT NULL GROUP BY member
), accountable AS (
  SELECT c.number, min(i.name) AS entity FROM candidate c JOIN initiators i
    ON (i.kind = 'tin' AND i.value = c.tin) OR (i.kind = 'npi' AND i.value = c.npi)
      OR (i.kind = 'organization' AND i.value = c.organization)
  GROUP BY c.number
), covered AS (
  SELECT DISTINCT c.number FROM candidate c LEFT JOIN death d USING (member) JOIN merged m ON m.member = c.member
    AND m.opened <= c.anchor_start AND m.closed >= least(c.window_end, coalesce(d.died, c.window_end))
)
SELECT c.*, d.died, NOT $listed OR r.member IS NOT NULL AS in_population,
  CASE WHEN $initiated THEN a.entity ELSE 'all' END AS entity, CASE
    WHEN c.anchor_amount <= 0 THEN 'unpaid'
    WHEN $checked AND v.number IS NULL THEN 'not-eligible'
    WHEN $on_death = 'cancel' AND d.died <= c.window_end THEN 'died'
    WHEN $on_death = 'cancel_in_anchor' AND d.died <= c.anchor_end THEN 'died'
    ELSE NULL END AS reason
FROM candidate c LEFT JOIN death d USING (member) LEFT JOIN (SELECT DISTINCT member FROM roster) r USING (member)
  LEFT JOIN covered v USING (number) LEFT JOIN accountable a USING (number)
ORDER BY number
"""


def construct(
    connection: duckdb.DuckDBPyConnection,
    definition: Definition,
    sources: Sources,
    span: tuple[date, date],
    initiators: tuple[Initiator, ...] = (),
) -> None:
    """Leave tables ``line`` and ``episode`` in the connection: all candidates whose anchor touches ``span``, judged."""
    connection.register("lines", sources.lines)
    # nothing is spliced in but patterns of codes and words that the definition's types enumerate
    spliced = {
        "amount": definition.amount,
        "denied": "AND denied IS NOT TRUE" if definition.amount == "allowed" else "",
        "first": f"DATE '{span[0] - definition.reach}'",
        "last": f"DATE '{span[1] + definition.reach}'",
    }
    view = _STATED.replace("$first", spliced["first"]).replace("$last", spliced["last"])
    connection.execute(view.format(**spliced))
    triggers = [trigger.match for trigger in definition.triggers]
    milestones = ", ".join(
        f"CASE WHEN {milestone.match.condition} THEN {number} END"
        for number, milestone in enumerate(definition.milestones)
    )
    connection.execute(
        _LINES.format(
            trigger=first_rule(triggers),
            any_trigger=any_rule(triggers),
            service=first_rule(service.match for service in definition.services),
            exclusion=first_rule(exclusion.match for exclusion in definition.exclusions),
            complication=any_rule(definition.complications),
            milestone=f"list_filter([{milestones}], lambda x: x IS NOT NULL)" if milestones else "NULL::INTEGER[]",
        )
    )
    transfers = definition.transfers
    connection.execute(_STAYS, {"gap": transfers.gap_days, "same_day": transfers.same_day_readmission == "combine"})
    remap = ", ".join(
        f"bool_or({one.match.condition}) AS remap_{number}" for number, one in enumerate(definition.remap)
    )
    connection.execute(
        _CANDIDATES.format(
            pick="arg_max" if transfers.anchor == "last" else "arg_min",
            remap=remap or "NULL AS remap_none",
            remapped=_remapped(definition),
        ),
        {"lead": definition.window.lead_days, "after": definition.window.after},
    )
    _judge(connection, definition, sources, initiators)


def _remapped(definition: Definition) -> str:
    """Which remaps may apply, as a list of their positions."""
    cases = ", ".join(
        f"CASE WHEN c.opened < DATE '{one.before}' AND t.remap_{number} THEN {number} END"
        for number, one in enumerate(definition.remap)
    )
    return f"list_filter([{cases}], lambda x: x IS NOT NULL)" if cases else "[]::INTEGER[]"


def _judge(
    connection: duckdb.DuckDBPyConnection,
    definition: Definition,
    sources: Sources,
    initiators: tuple[Initiator, ...],
) -> None:
    eligibility, deaths = sources.eligibility, sources.deaths
    connection.register("eligibility", ELIGIBILITY_SCHEMA.empty_table() if eligibility is None else eligibility)
    connection.register("deaths", DEATH_SCHEMA.empty_table() if deaths is None else deaths)
    members = pa.array([], pa.string()) if sources.roster is None else sources.roster.cast(pa.string())
    connection.register("roster", pa.table({"member": members}))
    connection.register("initiators", _named(initiators))
    connection.execute(
        _JUDGED,
        {
            "initiated": bool(initiators),
            "listed": sources.roster is not None,
            "checked": eligibility is not None,
            "on_death": definition.on_death,
        },
    )
    judged = connection.sql("SELECT * FROM judged ORDER BY number").to_arrow_table()
    connection.register("overlap", overlaps(judged, definition.on_retrigger))
    groups = _groups(definition)
    connection.register("trigger_rules", groups)
    connection.register(
        "remaps",
        pa.table(
            {
                "remap": pa.array(range(len(definition.remap)), pa.int32()),
                "from_group": pa.array([one.group for one in definition.remap], pa.string()),
                "becomes": pa.array([one.becomes for one in definition.remap], pa.string()),
            }
        ),
    )
    connection.execute(
        """
        CREATE TABLE episode AS
        WITH named AS (
          SELECT j.* EXCLUDE (reason, window_start), t.family, coalesce(t.price, j.code) AS stated_group,
            coalesce(o.window_start, j.window_start) AS window_start, coalesce(o.first, j.number) AS first,
            CASE WHEN j.reason IS NOT NULL THEN j.reason WHEN o.reason IS NOT NULL THEN o.reason
              WHEN j.window_end > $through THEN 'open'
              WHEN NOT j.in_population THEN 'not-in-population'
              WHEN j.entity IS NULL THEN 'other-provider' END AS reason
          FROM judged j JOIN trigger_rules t USING (rule) LEFT JOIN overlap o USING (number)
        )
        SELECT n.* EXCLUDE (stated_group, code, remap), coalesce(r.becomes, n.stated_group) AS price_group
        FROM named n LEFT JOIN remaps r ON r.from_group = n.stated_group AND list_contains(n.remap, r.remap)
        QUALIFY row_number() OVER (PARTITION BY n.number ORDER BY r.remap) = 1
        """,
        {"through": sources.through},
    )


def _named(initiators: tuple[Initiator, ...]) -> pa.Table:
    rows = [
        (one.name, kind, value)
        for one in initiators
        for kind, values in (("tin", one.tins), ("npi", one.npis), ("organization", one.organizations))
        for value in values
    ]
    columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
    return pa.table({n: pa.array(c, pa.string()) for n, c in zip(("name", "kind", "value"), columns, strict=True)})


def _groups(definition: Definition) -> pa.Table:
    return pa.table(
        {
            "rule": pa.array(range(len(definition.triggers)), pa.int32()),
            "family": pa.array([trigger.family for trigger in definition.triggers], pa.string()),
            "price": pa.array([trigger.price for trigger in definition.triggers], pa.string()),
        }
    )


def overlaps(judged: pa.Table, on_retrigger: str) -> pa.Table:
    """What an open episode does to the triggers in it: number, reason (null: it stands), window start, first anchor.

    ``judged`` is sorted by member and anchor start; candidates that already have a reason take no part.
    """
    free = judged.filter(judged["reason"].is_null())
    members = free["member"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    start = _days(free["window_start"])
    end = _days(free["window_end"])
    count = len(members)
    reason = np.full(count, None, dtype=object)
    first = np.arange(count)
    if count:
        # the next candidate begins while this one is open
        hit = np.zeros(count, dtype=bool)
        hit[:-1] = (members[1:] == members[:-1]) & (start[1:] <= end[:-1])
        if on_retrigger == "readmission":
            standing = _greedy(members, start, end)
            reason[~standing] = "readmission"
            first = np.maximum.accumulate(np.where(standing, np.arange(count), 0))
        else:
            reason[hit] = "retriggered" if on_retrigger == "cancel" else "replaced"
            if on_retrigger == "replace":  # of each run of overlapping candidates the last stands, from the first's day
                begins = np.concatenate([[True], ~hit[:-1]])
                first = np.maximum.accumulate(np.where(begins, np.arange(count), 0))
    numbers = free["number"].combine_chunks()
    window_start = free["window_start"].combine_chunks()
    if on_retrigger == "replace":
        window_start = window_start.take(pa.array(first))
    return pa.table(
        {
            "number": numbers,
            "reason": pa.array(reason.tolist(), pa.string()),
            "window_start": window_start,
            "first": numbers.take(pa.array(first)),
        }
    )


def _days(column: pa.ChunkedArray) -> NDArray[np.int64]:
    days: NDArray[np.int64] = column.combine_chunks().cast(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int64)
    return days


def _greedy(members: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which stand when each open episode keeps others from opening: as many rounds as a member has episodes.

    All members at once: the position of member and day on one axis, so that the next free one is a binary search.
    """
    width = int(end.max() - start.min()) + 2
    axis = members.astype(np.int64) * width * 2 + (start - start.min())
    after = members.astype(np.int64) * width * 2 + (end - start.min()) + 1
    following = np.searchsorted(axis, after, side="left")
    standing = np.zeros(len(members), dtype=bool)
    front = np.flatnonzero(np.concatenate([[True], members[1:] != members[:-1]]))
    while len(front):
        standing[front] = True
        step = following[front]
        inside = step < len(members)
        step, of = step[inside], front[inside]
        front = step[members[step] == members[of]]
    return standing
