"""Which claim lines are services that count, by which specialty groups, of which competitor.

Groups and service lists are bits of integers, so that a pass takes its lines with two bit tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal

import duckdb
import pyarrow as pa

from fhir_gateway.attribution.models import Participant
from fhir_gateway.attribution.rules import AttributionTerms

#: Columns of claim lines (:data:`fhir_gateway.lake.claims.LINE_SCHEMA`) that attribution looks at; ``ccn`` is looked at
#: where lines have it.
LINE_COLUMNS = (
    *("_member", "source", "eob", "counts", "denied", "claim_type", "bill_type", "service_from", "service_thru"),
    *("tin", "npi", "organization", "specialty", "procedure", "place_of_service", "revenue_code", "allowed", "paid"),
)

#: Clinicians by period: primary TIN, and specialty for lines that state none. An open start or end is null.
PROVIDER_SCHEMA = pa.schema(
    [
        ("npi", pa.string()),
        ("tin", pa.string()),
        ("specialty", pa.string()),
        ("start", pa.date32()),
        ("end", pa.date32()),
    ]
)

#: Why a line is no service that counts, in the order it is tested.
LINE_REASONS = {
    "superseded": "another version or copy of the claim counts",
    "denied": "the payer denied the line",
    "outside-window": "its day is outside of every window",
    "no-provider": "it names no provider by number",
    "facility-claim": "a facility claim of a kind that does not count",
    "code-list": "its code is on no service list, or not in these years",
    "place": "on a service list, but not at this place, or during a stay in a facility of this kind",
    "add-on": "an add-on whose base service does not count",
    "two-entities": "billed under a number of several participants",
    "specialty": "by a specialty of no group",
}

_JUDGED = """
SELECT l._member AS member, {claim} coalesce({tin}) AS tin, l.npi, l.ccn,
  CASE WHEN l.tin IS NULL THEN l.source || '/' || l.organization END AS organization, l.service_from AS day,
  coalesce(l.service_thru, l.service_from) AS thru, coalesce(l.allowed, 0)::DECIMAL(18, 4) AS allowed,
  {paid} AS paid, coalesce(c.rvu, 0) AS rvu,
  coalesce(g.bits, 0) | coalesce(f.groups, 0) | $everyone::BIGINT AS groups,
  CASE WHEN f.bit IS NOT NULL AND f.lists = 0 THEN f.bit
    WHEN f.bit IS NOT NULL THEN coalesce(c.bit, 0) & f.lists
    WHEN $listed_only AND (l.bill_type IS NOT NULL OR l.claim_type IN ('inpatient', 'outpatient')) THEN 0
    ELSE coalesce(c.bit, 0) & ~$only_facility::BIGINT END AS lists,
  coalesce(c.stays, FALSE) AS stays, coalesce(c.needs_base, FALSE) AS needs_base{more}
FROM lines l
LEFT JOIN service_codes c ON c.code = l.procedure AND l.service_from BETWEEN c.since AND c.until
  AND NOT list_contains(c.unless_place, coalesce(l.place_of_service, ''))
LEFT JOIN facilities f ON f.bill_type = l.bill_type[1:2] AND coalesce(f.ccn = l.ccn, f.ccn IS NULL)
  AND coalesce(f.revenue = lpad(l.revenue_code, 4, '0')[1:3], f.revenue IS NULL)
{providers}
LEFT JOIN specialties g ON g.code = {specialty}
"""

_NUMBERS = ("tin", "npi", "ccn", "organization")


def prepare_lines(connection: duckdb.DuckDBPyConnection, name: str, lines: pa.Table) -> None:
    """Register claim lines under a name, with a ``ccn`` column."""
    if "ccn" not in lines.column_names:
        lines = lines.append_column("ccn", pa.nulls(lines.num_rows, pa.string()))
    connection.register(name, lines)


def prepare_terms(
    connection: duckdb.DuckDBPyConnection, terms: AttributionTerms, participants: Sequence[Participant]
) -> None:
    """Tables of codes, facilities, specialties and participants."""
    lists = list_bits(terms)
    codes = [
        (code, bits((s.name for s in found), lists), s.since or date.min, s.until or date.max, list(s.unless_place),
         bool(s.unless_facility), s.needs_base, terms.rvu.get(code, Decimal(0)))
        for code, found in terms.lists_of_codes()
        for s in found[:1]
    ]  # fmt: skip
    texts, days, flag = pa.list_(pa.string()), pa.date32(), pa.bool_()
    _register(
        connection,
        "service_codes",
        codes,
        [("code", pa.string()), ("bit", pa.int64()), ("since", days), ("until", days), ("unless_place", texts),
         ("stays", flag), ("needs_base", flag), ("rvu", pa.decimal128(18, 4))],
    )  # fmt: skip
    groups = group_bits(terms)
    facilities = [
        (bill, revenue, ccn, lists[one.name], bits(one.services, lists), groups[one.group] if one.group else 0)
        for one in terms.facility_services
        for bill in one.bill_types
        for revenue in (one.revenue_codes or (None,))
        for ccn in (one.ccns or (None,))
    ]
    text = pa.string()
    _register(
        connection,
        "facilities",
        facilities,
        [("bill_type", text), ("revenue", text), ("ccn", text)] + [(n, pa.int64()) for n in ("bit", "lists", "groups")],
    )
    specialties: Counter[str] = Counter()
    for name, group in terms.groups.items():
        for code in group.codes:
            specialties[code] |= groups[name]
    _register(connection, "specialties", list(specialties.items()), [("code", text), ("bits", pa.int64())])
    shielded = [(lists[s.name], bill) for s in terms.services for bill in s.unless_facility]
    _register(connection, "shielded", shielded, [("bit", pa.int64()), ("bill_type", text)])
    owned = [
        (p.entity, tin, npi, None) for p in participants for tin in (p.tins or (None,)) for npi in (p.npis or (None,))
        if tin or npi
    ] + [(p.entity, None, None, ccn) for p in participants for ccn in p.ccns]  # fmt: skip
    _register(connection, "participants", owned, [(name, text) for name in ("entity", "tin", "npi", "ccn")])


def prepare_services(
    connection: duckdb.DuckDBPyConnection,
    terms: AttributionTerms,
    window: tuple[date, date],
    members: str,
    *,
    providers: bool,
    more: str = "",
) -> None:
    """Tables ``counting`` and ``owners``, and the view ``qualified``, of members in the table ``members``.

    ``qualified`` (member, competitor, owner, participant, tin, npi, day, groups, lists, allowed, paid, rvu): services
    that count in ``window``. Services under numbers of several participants are left out (42 CFR 425.400(a)(2)(iii)).
    """
    values = {"start": window[0], "end": window[1], **judging_values(terms)}
    judged = judging(terms, providers=providers, more=more, since=window[0])
    where = f"l.counts AND NOT l.denied AND l.service_from BETWEEN $start AND $end AND l._member IN (FROM {members})"
    connection.execute(
        f"CREATE TABLE counting AS SELECT * FROM ({judged} WHERE {where} AND (c.bit IS NOT NULL OR f.bit IS NOT NULL))"  # noqa: S608
        " WHERE lists <> 0 AND coalesce(tin, npi, ccn, organization) IS NOT NULL",
        values,
    )
    _conditional(connection, terms, window[0])
    prepare_owners(connection, "SELECT DISTINCT tin, npi, ccn, organization FROM counting")
    at_level = {"entity": "owner", "tin": "coalesce('tin:' || c.tin, owner)"}.get(
        terms.level, "coalesce('npi:' || c.npi, owner)"
    )
    connection.execute(
        f"""
        CREATE VIEW qualified AS
        SELECT c.member, {at_level} AS competitor, o.owner, o.participant, c.tin, c.npi, c.day, c.groups, c.lists,
          c.allowed, c.paid, c.rvu
        FROM counting c JOIN owners o ON {" AND ".join(f"o.{one} IS NOT DISTINCT FROM c.{one}" for one in _NUMBERS)}
        WHERE o.entities <= 1
        """  # noqa: S608 only words of this module are spliced in
    )


def judging_values(terms: AttributionTerms) -> dict[str, object]:
    """The parameters of :func:`judging`."""
    return {
        "everyone": bits((name for name, group in terms.groups.items() if group.any), group_bits(terms)),
        "only_facility": bits((one.name for one in terms.services if one.only_facility), list_bits(terms)),
        "listed_only": terms.institutional == "listed",
    }


def judging(terms: AttributionTerms, *, providers: bool, more: str = "", since: date | None = None) -> str:
    """The query over ``lines`` that says what each line counts as.

    With ``since``, the first day that matters, columns that the terms do not look at are null.
    """
    add_ons = since is None or _has_add_ons(terms, since)
    paid = since is None or terms.measure == "paid" or "paid" in terms.tie_break
    return _JUDGED.format(
        claim="l.source, l.eob," if add_ons else "NULL::VARCHAR AS source, NULL::VARCHAR AS eob,",
        paid="coalesce(l.paid, 0)::DECIMAL(18, 4)" if paid else "NULL::DECIMAL(18, 4)",
        tin="p.tin, l.tin" if providers and terms.roll_up == "primary_tin" else "l.tin",
        specialty="coalesce(l.specialty, p.specialty)" if providers else "l.specialty",
        providers="LEFT JOIN clinicians p ON p.npi = l.npi" if providers else "",
        more=more,
    )


def _has_add_ons(terms: AttributionTerms, since: date) -> bool:
    """Whether a service since a day may be an add-on that needs its base."""
    return any(one.needs_base and (one.until or since) >= since for one in terms.services)


def _conditional(connection: duckdb.DuckDBPyConnection, terms: AttributionTerms, since: date) -> None:
    """Take back lines during a stay in a facility that excludes them, and add-ons without a base service."""
    if any(s.unless_facility for s in terms.services):
        connection.execute(
            """
            CREATE TABLE stays AS
            SELECT DISTINCT _member AS member, bill_type[1:2] AS bill_type, service_from AS day,
              coalesce(service_thru, service_from) AS thru
            FROM lines WHERE counts AND NOT denied AND bill_type[1:2] IN (SELECT bill_type FROM shielded);
            DELETE FROM counting c WHERE c.stays AND EXISTS (
              SELECT 1 FROM stays t JOIN shielded s ON s.bill_type = t.bill_type
              WHERE t.member = c.member AND c.day BETWEEN t.day AND t.thru AND (s.bit & c.lists) <> 0)
            """
        )
    if _has_add_ons(terms, since):
        connection.execute(
            """
            DELETE FROM counting c WHERE c.needs_base AND NOT EXISTS (
              SELECT 1 FROM counting b WHERE b.member = c.member AND b.source = c.source AND b.eob = c.eob
                AND NOT b.needs_base)
            """
        )


def prepare_owners(connection: duckdb.DuckDBPyConnection, numbers: str, name: str = "owners") -> None:
    """Table ``owners`` (or of another name): numbers of providers -> owner (participant, else the number), and how
    many participants."""
    joins = (
        "n.tin = p.tin AND p.npi IS NULL",
        "n.npi = p.npi AND p.tin IS NULL",
        "n.tin = p.tin AND n.npi = p.npi",
        "n.ccn = p.ccn",
    )
    owned = " UNION ALL ".join(
        f"SELECT n.*, p.entity FROM numbers n JOIN participants p ON {join}"  # noqa: S608 words of this module
        for join in joins
    )
    keys = ", ".join(_NUMBERS)
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE {name} AS
        WITH numbers AS ({numbers}), owned AS (
          SELECT {keys}, min(entity) AS entity, count(DISTINCT entity) AS entities FROM ({owned}) GROUP BY {keys}
        )
        SELECT n.*, o.entity IS NOT NULL AS participant, coalesce(o.entities, 0) AS entities,
          coalesce(o.entity, 'ccn:' || n.ccn, 'tin:' || n.tin, 'organization:' || n.organization, 'npi:' || n.npi) AS
          owner
        FROM numbers n LEFT JOIN owned o ON {" AND ".join(f"o.{one} IS NOT DISTINCT FROM n.{one}" for one in _NUMBERS)}
        """  # noqa: S608 only words of this module are spliced in
    )


def group_bits(terms: AttributionTerms) -> dict[str, int]:
    """The bit of each specialty group."""
    return {name: 1 << number for number, name in enumerate(terms.groups)}


def list_bits(terms: AttributionTerms) -> dict[str, int]:
    """The bit of each service list and of each kind of facility services."""
    names = (*(one.name for one in terms.services), *(one.name for one in terms.facility_services))
    return {name: 1 << number for number, name in enumerate(names)}


def bits(names: Iterable[str], known: dict[str, int]) -> int:
    """The bits of several names together."""
    found = 0
    for name in names:
        found |= known[name]
    return found


def _register(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    rows: Sequence[tuple[object, ...]],
    fields: Sequence[tuple[str, pa.DataType]],
) -> None:
    schema = pa.schema(list(fields))
    connection.register(name, pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema))
