"""Attribution: who is whose patient in a period, over all members at once.

Every member is judged by his own rows alone, so members are worked on in slices, which bounds memory; slices give what
the whole would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import duckdb
import pyarrow as pa

from fhir_gateway.attribution import methods
from fhir_gateway.attribution.eligibility import (
    BIRTH_SCHEMA,
    DEATH_SCHEMA,
    PROGRAMME_SCHEMA,
    RESIDENCE_SCHEMA,
    prepare_eligible,
    register,
    window_end,
    window_start,
)
from fhir_gateway.attribution.models import (
    ATTRIBUTION_SCHEMA,
    CANDIDATE_SCHEMA,
    Attribution,
    Participant,
)
from fhir_gateway.attribution.rules import AttributionTerms
from fhir_gateway.attribution.services import (
    LINE_COLUMNS,
    PROVIDER_SCHEMA,
    prepare_owners,
    prepare_terms,
)
from fhir_gateway.attribution.slices import member_slices
from fhir_gateway.errors import ContractError

__all__ = ["LINE_COLUMNS", "REASONS", "SELECTION_SCHEMA", "Facts", "attribute"]

#: Explicit choices: a row per member and designation. ``kind`` is ``voluntary``, ``member_selected_pcp``,
#: ``plan_assigned_pcp``, ``roster`` or what the terms make of it; ``until`` is its last day, null while it holds.
SELECTION_SCHEMA = pa.schema(
    [("member", pa.string()), ("tin", pa.string()), ("npi", pa.string()), ("made", pa.date32()), ("kind", pa.string()),
     ("until", pa.date32())]
)  # fmt: skip

#: Reasons why a member has no entity, in the order they are tested.
REASONS = {
    "excluded-coverage": "a month of coverage of an excluded type (such as a Medicare group health plan)",
    "split-months": "a month with some of the parts of coverage that the terms ask for, not all",
    "below-minimum-months": "fewer months of coverage in the period than the terms ask for",
    "not-resident": "lives outside of the countries that the terms name, by the latest address",
    "other-programme": "in a programme that excludes this one",
    "criteria-not-met": "on none of the lists of members that the terms ask for",
    "outside-service-area": "lived in the entity's service area in no covered month",
    "tie": "equal amounts that no tie-break of the terms separates, or the areas of several entities",
    "below-share": "the leader has less than the share of services that the terms ask for",
    "no-competing-clinician": "services only by clinicians, or at times, that no pass compares",
    "no-services": "no counting service in any window",
    "no-selection": "no selection, roster entry or area; the terms do not look at claims",
}

_LINES_OF_A_SLICE = 2_500_000  # claim lines that are worked on at once: some 2 GB at most

_RESULTS = """
CREATE TABLE assigned (member VARCHAR, competitor VARCHAR, participant BOOLEAN, method VARCHAR, step VARCHAR,
  tin VARCHAR, npi VARCHAR, amount DECIMAL(28, 8), visits BIGINT, last_service DATE, runner_up VARCHAR,
  runner_up_amount DECIMAL(28, 8), tie_break VARCHAR, window_start DATE, window_end DATE);
CREATE TABLE candidates (member VARCHAR, step VARCHAR, rank INTEGER, competitor VARCHAR, participant BOOLEAN,
  amount DECIMAL(28, 8), visits BIGINT, last_service DATE);
CREATE TABLE unattributed (member VARCHAR, reason VARCHAR);
CREATE TABLE area_months (member VARCHAR, months DECIMAL(28, 8));
"""

#: Of each clinician the TIN and specialty on a day, from what is known of providers.
CLINICIANS = """
CREATE TABLE clinicians AS
SELECT npi, any_value(tin ORDER BY start DESC NULLS LAST, tin) AS tin,
  any_value(specialty ORDER BY start DESC NULLS LAST, specialty) AS specialty
FROM providers WHERE coalesce(start <= $day, TRUE) AND coalesce("end" >= $day, TRUE) GROUP BY npi
"""

# who was selected without a practice: that of the clinician
_SELECTIONS = """
CREATE TABLE chosen AS
SELECT n.member, coalesce(n.tin, p.tin) AS tin, n.npi, n.made, n.kind, n.until
FROM selections_given n LEFT JOIN clinicians p ON p.npi = n.npi
"""

_OWNED_SELECTIONS = """
CREATE TABLE selections AS
SELECT n.member, o.owner AS competitor, o.participant, n.tin, n.npi, n.made, n.kind, n.until
FROM chosen n JOIN owners o ON o.tin IS NOT DISTINCT FROM n.tin AND o.npi IS NOT DISTINCT FROM n.npi
WHERE o.entities <= 1 AND coalesce(n.tin, n.npi) IS NOT NULL
"""

# months in the area of the entity: where the member lived on the month's first day
_AREA_MONTHS = """
INSERT INTO area_months
SELECT a.member, coalesce(sum(m.months) FILTER (EXISTS (
    SELECT 1 FROM areas x WHERE x.entity = a.competitor AND x.code IN (m.county, m.postal_code))), 0)
FROM assigned a LEFT JOIN (
  SELECT c.member, c.month, c.months, arg_max(r.county, coalesce(r.since, DATE '0001-01-01')) AS county,
    arg_max(r.postal_code[1:5], coalesce(r.since, DATE '0001-01-01')) AS postal_code
  FROM counted_months c JOIN residence r ON r.member = c.member AND (r.since IS NULL OR r.since <= c.month)
  WHERE NOT c.split GROUP BY ALL
) m ON m.member = a.member
WHERE a.competitor IN (SELECT entity FROM areas)
GROUP BY a.member
"""

_OUTPUT = """
WITH found AS (
  SELECT e.member, CASE WHEN z.months = 0 THEN NULL ELSE a.competitor END AS entity, a.* EXCLUDE (member, competitor),
    coalesce(z.months, e.months) AS counted_months, e.coverage,
    CASE WHEN z.months = 0 THEN 'outside-service-area'
      WHEN a.competitor IS NOT NULL THEN NULL
      WHEN e.reason IS NOT NULL THEN e.reason
      WHEN u.reason IS NOT NULL THEN u.reason
      WHEN NOT $claims THEN 'no-selection'
      WHEN e.member IN (SELECT member FROM counting) THEN 'no-competing-clinician'
      ELSE 'no-services' END AS reason
  FROM everybody e LEFT JOIN assigned a USING (member) LEFT JOIN unattributed u USING (member)
    LEFT JOIN area_months z USING (member)
)
SELECT * EXCLUDE (visits, participant, counted_months), coalesce(visits, 0) AS visits, $rule AS rule,
  counted_months AS months, CASE WHEN entity IS NULL THEN NULL ELSE participant END AS participant
FROM found
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What else is known of members and clinicians; without a table the rules that need it find nothing.

    ``residence`` (:data:`~.eligibility.RESIDENCE_SCHEMA`), ``programmes`` (:data:`~.eligibility.PROGRAMME_SCHEMA`),
    ``births`` (:data:`~.eligibility.BIRTH_SCHEMA`), ``providers`` (:data:`~.services.PROVIDER_SCHEMA`), and
    ``previous``: the attribution before this one (:data:`~.models.ATTRIBUTION_SCHEMA`), for terms that are sticky.
    """

    residence: pa.Table | None = None
    programmes: pa.Table | None = None
    births: pa.Table | None = None
    providers: pa.Table | None = None
    previous: pa.Table | None = None


def attribute(
    lines: pa.Table,
    coverage: pa.Table,
    terms: AttributionTerms,
    period: tuple[date, date],
    participants: Sequence[Participant] = (),
    selections: pa.Table | None = None,
    members: pa.Array | None = None,
    deaths: pa.Table | None = None,
    facts: Facts | None = None,
    *,
    slices: int | None = None,
) -> Attribution:
    """Attribute all members to participants or to whoever else wins.

    ``lines`` are claim lines (:data:`LINE_COLUMNS` are enough), ``coverage`` what the lake gives for
    :data:`~fhir_gateway.attribution.eligibility.COVERAGE_COLUMNS`, ``period`` the performance period (both days in it).
    The result has a row for every member with a claim line or Coverage, and for ``members`` besides. The same input in
    any order, and in any number of ``slices`` of members (default: by the number of lines), gives the same result.
    """
    _check(terms, participants)
    facts = facts or Facts()
    named = pa.table({"member": members if members is not None else pa.array([], pa.string())})
    if selections is not None and "until" not in selections.column_names:
        selections = selections.append_column("until", pa.nulls(selections.num_rows, pa.date32()))
    by_member = {
        "named": named,
        "deaths": _or_none(deaths, DEATH_SCHEMA),
        "births": _or_none(facts.births if terms.eligibility.newborns == "birth_month" else None, BIRTH_SCHEMA),
        "residence": _or_none(facts.residence, RESIDENCE_SCHEMA),
        "programmes": _or_none(facts.programmes, PROGRAMME_SCHEMA),
        "selections_given": _or_none(selections, SELECTION_SCHEMA),
        "previous": _or_none(facts.previous, ATTRIBUTION_SCHEMA),
    }
    tables, candidates = [], []
    for part in member_slices(lines, slices or 1 + lines.num_rows // _LINES_OF_A_SLICE):
        with duckdb.connect() as connection:
            mine = part.prepare(connection, by_member, coverage)
            register(connection, "providers", facts.providers, PROVIDER_SCHEMA)
            found = _attribute(
                connection, mine, terms, period, participants, knows_providers=facts.providers is not None
            )
        tables.append(found[0])
        candidates.append(found[1])
    return Attribution(
        table=pa.concat_tables(tables).sort_by("member").combine_chunks(),
        candidates=pa.concat_tables(candidates)
        .sort_by([("member", "ascending"), ("rank", "ascending")])
        .combine_chunks(),
        terms=terms,
        period=period,
        participants=tuple(participants),
    )


def _or_none(table: pa.Table | None, schema: pa.Schema) -> pa.Table:
    return table if table is not None else schema.empty_table()


def _attribute(
    connection: duckdb.DuckDBPyConnection,
    coverage: pa.Table,
    terms: AttributionTerms,
    period: tuple[date, date],
    participants: Sequence[Participant],
    *,
    knows_providers: bool,
) -> tuple[pa.Table, pa.Table]:
    """The attribution and the candidates of the members whose rows the connection has."""
    end = window_end(terms, period)
    first = terms.passes[0].window_months if terms.passes else 12
    prepare_eligible(connection, coverage, terms, period, (window_start(end, first), end))
    prepare_terms(connection, terms, participants)
    areas = [(p.entity, code) for p in participants for code in p.service_area]
    connection.register(
        "areas",
        pa.table([pa.array(list(column), pa.string()) for column in zip(*areas, strict=True)], names=["entity", "code"])
        if areas
        else pa.schema([("entity", pa.string()), ("code", pa.string())]).empty_table(),
    )
    connection.execute(CLINICIANS, {"day": period[1]})
    connection.execute(_SELECTIONS)
    prepare_owners(
        connection, "SELECT DISTINCT tin, npi, NULL::VARCHAR AS ccn, NULL::VARCHAR AS organization FROM chosen"
    )
    connection.execute(_OWNED_SELECTIONS)
    held: Literal["entity", "tin", "npi"] = terms.level
    name = {"entity": "entity", "tin": "coalesce('tin:' || tin, entity)", "npi": "coalesce('npi:' || npi, entity)"}[
        held
    ]
    connection.execute(
        f"CREATE TABLE held AS SELECT DISTINCT member, {name} AS competitor FROM previous WHERE entity IS NOT NULL"  # noqa: S608
    )
    connection.execute(_RESULTS)
    workspace = methods.Workspace(connection, terms, period, knows_providers)
    for one in terms.methods:
        methods.find(one)(workspace)
    if terms.eligibility.service_area and areas:
        connection.execute(_AREA_MONTHS)
    connection.execute("CREATE TABLE IF NOT EXISTS counting (member VARCHAR)")
    values = {"claims": "plurality" in terms.methods, "rule": terms.rule}
    table = connection.sql(_OUTPUT, params=values).to_arrow_table()
    candidates = connection.sql("SELECT * FROM candidates").to_arrow_table()
    return (
        table.select(ATTRIBUTION_SCHEMA.names).cast(ATTRIBUTION_SCHEMA),
        candidates.select(CANDIDATE_SCHEMA.names).cast(CANDIDATE_SCHEMA),
    )


def _check(terms: AttributionTerms, participants: Sequence[Participant]) -> None:
    for name in terms.methods:
        methods.find(name)
    for participant in participants:
        if not (participant.tins or participant.npis or participant.ccns):
            raise ContractError(f"participants: '{participant.entity}' has neither a TIN nor an NPI nor a CCN")
        if ":" in participant.entity:
            raise ContractError(f"participants: '{participant.entity}' must not contain a colon")
