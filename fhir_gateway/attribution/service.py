"""Attribution: who is whose patient in a period, over all members at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import duckdb
import pyarrow as pa

from fhir_gateway.attribution import methods
from fhir_gateway.attribution.eligibility import member_months, prepare_spans
from fhir_gateway.attribution.models import (
    ATTRIBUTION_SCHEMA,
    CANDIDATE_SCHEMA,
    Attribution,
    AttributionTerms,
    Participant,
)
from fhir_gateway.errors import ContractError

#: Columns of claim lines (:data:`fhir_gateway.lake.claims.LINE_SCHEMA`) that attribution looks at.
LINE_COLUMNS = (
    *("_member", "source", "counts", "denied", "claim_type", "bill_type", "service_from", "service_thru"),
    *("tin", "npi", "organization", "specialty", "procedure", "place_of_service", "allowed", "paid"),
)

#: Explicit choices: a row per member and designation. ``kind`` is free (``voluntary``, ``pcp``, ``roster``).
SELECTION_SCHEMA = pa.schema(
    [("member", pa.string()), ("tin", pa.string()), ("npi", pa.string()), ("made", pa.date32()), ("kind", pa.string())]
)

#: Reasons why a member has no entity, in the order they are tested.
REASONS = {
    "excluded-coverage": "a month of coverage of an excluded type (such as a Medicare group health plan)",
    "below-minimum-months": "fewer months of coverage in the period than the terms ask for",
    "tie": "equal amounts that no tie-break of the terms separates",
    "below-share": "the leader has less than the share of services that the terms ask for",
    "no-competing-clinician": "services only by clinicians, or at times, that no pass compares",
    "no-services": "no counting service in any window",
}

_QUALIFIED = """
CREATE TABLE counting AS
SELECT row_number() OVER () AS line_id, _member AS member, source, claim_type, bill_type[1:2] AS bill_type, tin, npi,
  organization, specialty, procedure, place_of_service, service_from AS day,
  coalesce(service_thru, service_from) AS thru,
  allowed, paid
FROM lines, setting
WHERE counts AND NOT denied AND _member IS NOT NULL AND service_from <= setting.end_day
  AND coalesce(tin, organization, npi) IS NOT NULL;
CREATE TABLE stays AS
SELECT DISTINCT member, bill_type, day, thru FROM counting, setting WHERE list_contains(setting.facilities, bill_type);
CREATE TABLE serving AS -- line -> whether a service list or a facility rule counts it
SELECT line_id, [] AS granted FROM counting c JOIN services_terms s ON s.code = c.procedure
WHERE c.day BETWEEN s.since AND s.until AND NOT list_contains(s.unless_place, coalesce(c.place_of_service, ''))
  AND (len(s.unless_facility) = 0 OR NOT EXISTS (
    SELECT 1 FROM stays t WHERE t.member = c.member AND c.day BETWEEN t.day AND t.thru
      AND list_contains(s.unless_facility, t.bill_type)))
UNION
SELECT line_id, [setting.facility_group] FROM counting, setting
WHERE list_contains(setting.primary_facilities, bill_type);
CREATE TABLE served AS SELECT line_id, flatten(list(granted)) AS granted FROM serving GROUP BY line_id;
-- billing and rendering numbers -> participants; numbers of two entities are left out (42 CFR 425.400(a)(2)(iii))
CREATE TABLE owners AS
SELECT n.tin, n.npi, any_value(p.entity) AS entity, count(DISTINCT p.entity) AS entities
FROM (SELECT DISTINCT tin, npi FROM counting UNION SELECT DISTINCT tin, npi FROM selections_given) n
JOIN participants p ON (p.tin IS NULL OR p.tin = n.tin) AND (p.npi IS NULL OR p.npi = n.npi)
GROUP BY ALL;
CREATE MACRO competitor_of(entity, tin, organization, npi) AS
  coalesce(entity, 'tin:' || tin, 'organization:' || organization, 'npi:' || npi);
CREATE TABLE qualified AS
SELECT c.member, competitor_of(o.entity, c.tin, c.source || '/' || c.organization, c.npi) AS competitor,
  o.entity IS NOT NULL AS participant, c.tin, c.npi, c.day, c.allowed, c.paid,
  list_distinct(s.granted || coalesce(g.groups, []) || setting.everyone) AS groups
FROM counting c
CROSS JOIN setting
JOIN served s USING (line_id)
LEFT JOIN (SELECT code, list(name ORDER BY name) AS groups FROM group_terms GROUP BY code) g ON g.code = c.specialty
LEFT JOIN owners o ON o.tin IS NOT DISTINCT FROM c.tin AND o.npi IS NOT DISTINCT FROM c.npi
WHERE coalesce(o.entities, 1) = 1;
CREATE TABLE selections AS
SELECT n.member, competitor_of(o.entity, n.tin, NULL, n.npi) AS competitor, o.entity IS NOT NULL AS participant, n.tin,
  n.npi, n.made, n.kind
FROM selections_given n LEFT JOIN owners o ON o.tin IS NOT DISTINCT FROM n.tin AND o.npi IS NOT DISTINCT FROM n.npi
WHERE coalesce(o.entities, 1) = 1;
"""

_RESULTS = """
CREATE TABLE assigned (member VARCHAR, competitor VARCHAR, participant BOOLEAN, method VARCHAR, step VARCHAR,
  tin VARCHAR, npi VARCHAR, amount DECIMAL(28, 8), visits BIGINT, last_service DATE, runner_up VARCHAR,
  runner_up_amount DECIMAL(28, 8), tie_break VARCHAR);
CREATE TABLE candidates (member VARCHAR, step VARCHAR, rank INTEGER, competitor VARCHAR, participant BOOLEAN,
  amount DECIMAL(28, 8), visits BIGINT, last_service DATE);
CREATE TABLE unattributed (member VARCHAR, reason VARCHAR);
"""

_OUTPUT = """
SELECT e.member, a.competitor AS entity, a.participant, a.method, a.step, a.tin, a.npi, a.amount,
  coalesce(a.visits, 0) AS visits, a.last_service, a.runner_up, a.runner_up_amount, a.tie_break, e.months, e.coverage,
  CASE WHEN a.competitor IS NOT NULL THEN NULL
    WHEN e.reason IS NOT NULL THEN e.reason
    WHEN u.reason IS NOT NULL THEN u.reason
    WHEN e.member IN (SELECT member FROM qualified) THEN 'no-competing-clinician'
    ELSE 'no-services' END AS reason
FROM everybody e LEFT JOIN assigned a USING (member) LEFT JOIN unattributed u USING (member)
ORDER BY e.member
"""


def attribute(
    lines: pa.Table,
    coverage: pa.Table,
    terms: AttributionTerms,
    period: tuple[date, date],
    participants: Sequence[Participant] = (),
    selections: pa.Table | None = None,
    members: pa.Array | None = None,
    deaths: pa.Table | None = None,
) -> Attribution:
    """Attribute all members to participants or to whoever else wins.

    ``lines`` are claim lines (:data:`LINE_COLUMNS` are enough), ``coverage`` what the lake gives for
    :data:`~fhir_gateway.attribution.eligibility.COVERAGE_COLUMNS`, ``period`` the performance period (both days in it).
    The result has a row for every member with a claim line or Coverage, and for ``members`` besides. The same input in
    any order gives the same result.
    """
    _check(terms, participants)
    with duckdb.connect() as connection:
        _eligible(connection, lines, coverage, terms, period, members, deaths)
        _prepare(connection, terms, period, participants, selections)
        connection.execute(_RESULTS)
        workspace = methods.Workspace(connection, terms, period)
        for name in terms.methods:
            methods.find(name)(workspace)
        table = connection.sql(_OUTPUT).to_arrow_table()
        candidates = connection.sql("SELECT * FROM candidates ORDER BY member, rank").to_arrow_table()
    return Attribution(
        table=table.select(ATTRIBUTION_SCHEMA.names).cast(ATTRIBUTION_SCHEMA).combine_chunks(),
        candidates=candidates.select(CANDIDATE_SCHEMA.names).cast(CANDIDATE_SCHEMA).combine_chunks(),
        terms=terms,
        period=period,
        participants=tuple(participants),
    )


def _check(terms: AttributionTerms, participants: Sequence[Participant]) -> None:
    for name in terms.methods:
        methods.find(name)
    for participant in participants:
        if not participant.tins and not participant.npis:
            raise ContractError(f"participants: '{participant.entity}' has neither a TIN nor an NPI")
        if ":" in participant.entity:
            raise ContractError(f"participants: '{participant.entity}' must not contain a colon")


def _eligible(
    connection: duckdb.DuckDBPyConnection,
    lines: pa.Table,
    coverage: pa.Table,
    terms: AttributionTerms,
    period: tuple[date, date],
    members: pa.Array | None,
    deaths: pa.Table | None,
) -> None:
    """Tables ``everybody`` (member, months, coverage, reason) and ``eligible`` (member)."""
    rule = terms.eligibility
    prepare_spans(connection, coverage, period, rule.include_types, rule.exclude_types, deaths)
    months = member_months(coverage, period, rule.month_rule, rule.include_types, rule.exclude_types, deaths)
    connection.register("months", months)
    connection.register("lines", lines)
    connection.register("named", pa.table({"member": members if members is not None else pa.array([], pa.string())}))
    calendar_months = (period[1].year - period[0].year) * 12 + period[1].month - period[0].month + 1
    connection.execute(
        """
        CREATE TABLE everybody AS
        WITH total AS (SELECT member, sum(months)::DECIMAL(28, 8) AS months FROM months GROUP BY member),
        newest AS (
          SELECT member, arg_max(coverage, (closed, opened, coverage)) FILTER (NOT excluded) AS coverage,
            bool_or(excluded) AS excluded
          FROM spans GROUP BY member
        ), universe AS (
          SELECT _member AS member FROM lines UNION SELECT _member FROM coverage UNION SELECT member FROM named
        )
        SELECT u.member, CASE WHEN $required THEN coalesce(t.months, 0) ELSE coalesce(t.months, $full) END
            ::DECIMAL(28, 8) AS months, n.coverage,
          CASE WHEN n.excluded THEN 'excluded-coverage'
            WHEN $required AND coalesce(t.months, 0) < $minimum THEN 'below-minimum-months' END AS reason
        FROM universe u LEFT JOIN total t USING (member) LEFT JOIN newest n USING (member)
        WHERE u.member IS NOT NULL
        """,
        {"required": rule.coverage == "required", "minimum": rule.min_months, "full": calendar_months},
    )
    connection.execute("CREATE TABLE eligible AS SELECT member FROM everybody WHERE reason IS NULL")


def _prepare(
    connection: duckdb.DuckDBPyConnection,
    terms: AttributionTerms,
    period: tuple[date, date],
    participants: Sequence[Participant],
    selections: pa.Table | None,
) -> None:
    """Tables ``qualified`` and ``selections`` (see :class:`fhir_gateway.attribution.methods.Workspace`)."""
    services = [
        (code, s.since or date.min, s.until or date.max, list(s.unless_place), list(s.unless_facility))
        for s in terms.services
        for code in s.expanded()
    ]
    texts = pa.list_(pa.string())
    days = [("since", pa.date32()), ("until", pa.date32())]
    fields = [("code", pa.string()), *days, ("unless_place", texts), ("unless_facility", texts)]
    _register(connection, "services_terms", services, fields)
    grouped = [(code, name) for name, group in terms.groups.items() for code in group.codes]
    _register(connection, "group_terms", grouped, [("code", pa.string()), ("name", pa.string())])
    owned = [(p.entity, tin, npi) for p in participants for tin in (p.tins or (None,)) for npi in (p.npis or (None,))]
    _register(connection, "participants", owned, [(name, pa.string()) for name in ("entity", "tin", "npi")])
    connection.register("selections_given", selections if selections is not None else SELECTION_SCHEMA.empty_table())
    facility = terms.facility_services
    values = (
        period[1],
        sorted({bill for s in terms.services for bill in s.unless_facility}),
        facility.group if facility else None,
        list(facility.bill_types) if facility else [],
        sorted(name for name, group in terms.groups.items() if group.any),
    )
    names = ("end_day", "facilities", "facility_group", "primary_facilities", "everyone")
    _register(
        connection, "setting", [values], list(zip(names, (pa.date32(), texts, pa.string(), texts, texts), strict=True))
    )
    connection.execute(_QUALIFIED)


def _register(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    rows: Sequence[tuple[object, ...]],
    fields: Sequence[tuple[str, pa.DataType]],
) -> None:
    schema = pa.schema(list(fields))
    connection.register(name, pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema))
