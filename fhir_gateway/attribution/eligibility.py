"""Member months from Coverage, and who can be attributed at all.

Spans are merged first, then counted. Rules (all over calendar months that the period touches): ``snapshot_1st``,
``snapshot_15th``, ``snapshot_last`` covered on that day; ``any_day`` at least one covered day; ``whole_month`` every
day of it; ``prorated`` covered days by days of the month; ``mid_month`` a start on 1-15 counts the month in full,
later the next one, an end on 1-15 does not count the month, later in full. Newborns may count in full in their month
of birth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import duckdb
import pyarrow as pa

from fhir_gateway.attribution.rules import AttributionTerms, Eligibility, MonthRule

#: Columns of Coverage that :func:`member_months` reads; ``class`` may be missing: then types alone are looked at.
COVERAGE_COLUMNS = ("status", "type", "period", "class")

MONTH_SCHEMA = pa.schema([("member", pa.string()), ("month", pa.date32()), ("months", pa.decimal128(28, 8))])
DEATH_SCHEMA = pa.schema([("member", pa.string()), ("died", pa.date32())])
BIRTH_SCHEMA = pa.schema([("member", pa.string()), ("born", pa.date32())])
#: Where members live since when (null: always); the newest that is not after a day holds on it.
RESIDENCE_SCHEMA = pa.schema(
    [("member", pa.string()), ("since", pa.date32())]
    + [(name, pa.string()) for name in ("country", "state", "county", "postal_code")]
)
#: Who is in which other programme, or on which list of members that terms ask for.
PROGRAMME_SCHEMA = pa.schema([("member", pa.string()), ("programme", pa.string())])

_SPANS = """
CREATE TABLE spans AS
WITH stated AS (
  SELECT c._member AS member, c._source || '/' || c.id AS coverage,
    coalesce(try_cast(CASE length(c.period.start) WHEN 4 THEN c.period.start || '-01-01'
      WHEN 7 THEN c.period.start || '-01' ELSE c.period.start[1:10] END AS DATE), DATE '1900-01-01') AS opened,
    least(coalesce(CASE length(c.period.end) WHEN 4 THEN try_cast(c.period.end || '-12-31' AS DATE)
      WHEN 7 THEN last_day(try_cast(c.period.end || '-01' AS DATE))
      ELSE try_cast(c.period.end[1:10] AS DATE) END, DATE '9999-12-31'),
      coalesce(d.died, DATE '9999-12-31')) AS closed,
    list_transform(coalesce(c.type.coding, []), lambda x: x.code) AS types, {classes} AS classes
  FROM coverage c LEFT JOIN deaths d ON d.member = c._member
  WHERE c._member IS NOT NULL AND c.status NOT IN ('cancelled', 'entered-in-error', 'draft')
)
SELECT member, coverage, greatest(opened, $start) AS opened, least(closed, $end) AS closed,
  list_has_any(types || classes, $exclude) AS excluded, {parts} AS parts
FROM stated
WHERE opened <= $end AND closed >= $start AND opened <= closed
  AND (len($include) = 0 OR list_has_any(types || classes, $include) OR list_has_any(types || classes, $exclude))
"""

# overlapping and adjacent spans of a part become one (gaps of 0 days are joined)
_MONTHS = """
CREATE OR REPLACE TABLE {name} AS
WITH clipped AS (
  SELECT member, unnest(parts) AS part, greatest(opened, $start) AS opened, least(closed, $end) AS closed
  FROM spans WHERE NOT excluded AND opened <= $end AND closed >= $start
), marked AS (
  SELECT member, part, opened, closed, CASE WHEN opened <= max(closed) OVER (PARTITION BY member, part
    ORDER BY opened, closed ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) + 1 THEN 0 ELSE 1 END AS is_new
  FROM clipped
), numbered AS (
  SELECT *, sum(is_new) OVER (PARTITION BY member, part ORDER BY opened, closed ROWS UNBOUNDED PRECEDING) AS island
  FROM marked
), merged AS (
  SELECT member, part, min(opened) AS opened, max(closed) AS closed FROM numbered GROUP BY member, part, island
), calendar AS (
  SELECT CAST(unnest(generate_series(date_trunc('month', $start), $end, INTERVAL 1 MONTH)) AS DATE) AS month
), overlap AS (
  SELECT m.member, m.part, c.month,
    sum(least(m.closed, last_day(c.month)) - greatest(m.opened, c.month) + 1) AS days,
    bool_or(m.opened <= c.month AND m.closed >= c.month) AS on_1st,
    bool_or(m.opened <= c.month + 14 AND m.closed >= c.month + 14) AS on_15th,
    bool_or(m.opened <= last_day(c.month) AND m.closed >= last_day(c.month)) AS on_last,
    bool_or(m.opened <= c.month + 14 AND m.closed >= c.month + 15) AS mid
  FROM merged m JOIN calendar c ON m.opened <= last_day(c.month) AND m.closed >= c.month
  GROUP BY m.member, m.part, c.month
), counted AS (
  SELECT member, part, month, CASE $rule
    WHEN 'snapshot_1st' THEN on_1st::INT * 100000000
    WHEN 'snapshot_15th' THEN on_15th::INT * 100000000
    WHEN 'snapshot_last' THEN on_last::INT * 100000000
    WHEN 'any_day' THEN 100000000
    WHEN 'mid_month' THEN mid::INT * 100000000
    WHEN 'whole_month' THEN (days = day(last_day(month)))::INT * 100000000
    ELSE (days * 200000000 + day(last_day(month))) // (2 * day(last_day(month))) END AS units -- half up at 8 digits
  FROM overlap
), parted AS (
  SELECT c.member, c.month, min(CASE WHEN b.member IS NULL THEN c.units ELSE 100000000 END) AS units,
    count(*) < $parts AS split
  FROM counted c LEFT JOIN births b ON b.member = c.member AND b.born BETWEEN c.month AND last_day(c.month)
  WHERE c.units > 0 OR b.member IS NOT NULL
  GROUP BY c.member, c.month
)
SELECT member, month, (units::DECIMAL(18, 0) * 0.00000001::DECIMAL(10, 8))::DECIMAL(28, 8) AS months, split
FROM parted p
WHERE NOT $by_month OR NOT EXISTS (SELECT 1 FROM spans s
  WHERE s.excluded AND s.member = p.member AND s.opened <= last_day(p.month) AND s.closed >= p.month)
"""

_ALWAYS = (date(1900, 1, 1), date(9998, 12, 31))
# a sweep over the days on which a part begins or ends; an excluded type outweighs all parts
_COVERED = """
WITH part AS (
  SELECT member, unnest(parts) AS part, opened, closed, 1 AS weight FROM spans WHERE NOT excluded
  UNION ALL SELECT member, NULL, opened, closed, -1 - $parts FROM spans WHERE excluded
), marked AS (
  SELECT *, CASE WHEN opened <= max(closed) OVER (PARTITION BY member, weight, part
    ORDER BY opened, closed ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) + 1 THEN 0 ELSE 1 END AS is_new
  FROM part
), numbered AS (
  SELECT *, sum(is_new) OVER (PARTITION BY member, weight, part ORDER BY opened, closed ROWS UNBOUNDED PRECEDING)
    AS island
  FROM marked
), merged AS (
  SELECT member, weight, min(opened) AS opened, max(closed) AS closed FROM numbered
  GROUP BY member, weight, part, island
), turns AS (
  SELECT member, day, sum(change) AS change FROM (
    SELECT member, opened AS day, weight AS change FROM merged
    UNION ALL SELECT member, closed + 1, -weight FROM merged)
  GROUP BY member, day HAVING sum(change) <> 0
), swept AS (
  SELECT member, day AS start, lead(day) OVER days - 1 AS "end", sum(change) OVER days AS held FROM turns
  WINDOW days AS (PARTITION BY member ORDER BY day)
)
SELECT member, start, "end" FROM swept WHERE held = $parts ORDER BY member, start
"""

_EVERYBODY = """
CREATE TABLE everybody AS
WITH universe AS (
  SELECT _member AS member FROM lines UNION SELECT _member FROM coverage UNION SELECT member FROM named
), newest AS (
  SELECT member, arg_max(coverage, (closed, opened, coverage)) FILTER (NOT excluded) AS coverage FROM spans
  GROUP BY member
), home AS (
  SELECT member, arg_max(country, coalesce(since, DATE '0001-01-01')) AS country FROM residence
  WHERE since IS NULL OR since <= $end GROUP BY member
), elsewhere AS (
  SELECT member, bool_or(list_contains($barred, programme)) AS barred,
    bool_or(list_contains($wanted, programme)) AS wanted
  FROM programmes GROUP BY member
)
SELECT u.member, coalesce(t.months, CASE WHEN $required THEN 0 ELSE $full END)::DECIMAL(28, 8) AS months, n.coverage,
  CASE WHEN t.excluded THEN 'excluded-coverage'
    WHEN t.split THEN 'split-months'
    WHEN $required AND coalesce(t.fewest, 0) < $minimum THEN 'below-minimum-months'
    WHEN len($countries) > 0 AND h.country IS NOT NULL AND NOT list_contains($countries, h.country) THEN 'not-resident'
    WHEN e.barred THEN 'other-programme'
    WHEN len($wanted) > 0 AND NOT coalesce(e.wanted, FALSE) THEN 'criteria-not-met' END AS reason
FROM universe u LEFT JOIN tested t USING (member) LEFT JOIN newest n USING (member) LEFT JOIN home h USING (member)
  LEFT JOIN elsewhere e USING (member)
WHERE u.member IS NOT NULL
"""


def member_months(
    coverage: pa.Table,
    period: tuple[date, date],
    rule: MonthRule,
    include_types: Sequence[str] = (),
    exclude_types: Sequence[str] = (),
    deaths: pa.Table | None = None,
    births: pa.Table | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
    *,
    without_parts: Sequence[str] = (),
    by_month: bool = False,
) -> pa.Table:
    """Months counted per member (:data:`MONTH_SCHEMA`); months that do not count have no row.

    ``coverage`` is what the lake gives for :data:`COVERAGE_COLUMNS`; cancelled and erroneous Coverages are left out.
    ``deaths`` (member, died date32) end every span; the month of ``births`` (member, born date32) counts in full for
    who is covered in it. Spans of excluded types do not count; ``by_month``, nor does any month they touch. Of
    ``parts`` (codes by part) a month counts that has them all; Coverage ``without_parts`` has none.
    """
    with duckdb.connect() as connection:
        prepare_spans(connection, coverage, period, include_types, exclude_types, deaths, parts, without_parts)
        register(connection, "births", births, BIRTH_SCHEMA)
        _count(connection, "counted_months", period, rule, max(1, len(parts or ())), by_month=by_month)
        result = connection.sql(
            "SELECT member, month, months FROM counted_months WHERE NOT split ORDER BY member, month"
        ).to_arrow_table()
    return result.cast(MONTH_SCHEMA)


def months_by(rule: Eligibility, coverage: pa.Table, period: tuple[date, date], people: pa.Table | None) -> pa.Table:
    """Member months (:data:`MONTH_SCHEMA`) as attribution terms count them; ``people`` have birth_date and died."""
    deaths = births = None
    if people is not None:
        deaths = people.filter(people["died"].is_valid()).select(["member", "died"])
    if people is not None and rule.newborns == "birth_month":
        born = people.filter(people["birth_date"].is_valid()).select(["member", "birth_date"])
        births = born.rename_columns(["member", "born"]).cast(BIRTH_SCHEMA)
    return member_months(
        coverage,
        period,
        rule.month_rule,
        rule.include_types,
        rule.exclude_types,
        deaths,
        births,
        rule.parts,
        without_parts=rule.without_parts,
        by_month=rule.excludes == "month",
    )


def covered_days(
    coverage: pa.Table,
    include_types: Sequence[str] = (),
    exclude_types: Sequence[str] = (),
    deaths: pa.Table | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
) -> pa.Table:
    """Days on which members are covered (``member, start, end``): by all ``parts``, and by no excluded type.

    What the arguments mean is as in :func:`member_months`; spans do not overlap, and adjacent ones are one.
    """
    with duckdb.connect() as connection:
        prepare_spans(connection, coverage, _ALWAYS, include_types, exclude_types, deaths, parts)
        return connection.sql(_COVERED, params={"parts": max(1, len(parts or ()))}).to_arrow_table()


def prepare_spans(
    connection: duckdb.DuckDBPyConnection,
    coverage: pa.Table,
    period: tuple[date, date],
    include_types: Sequence[str] = (),
    exclude_types: Sequence[str] = (),
    deaths: pa.Table | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
    without_parts: Sequence[str] = (),
) -> None:
    """Create the table ``spans`` (member, coverage, opened, closed, excluded, parts), clipped to the period."""
    connection.register("coverage", coverage)
    register(connection, "deaths", deaths, DEATH_SCHEMA)
    values: dict[str, object] = {
        "start": period[0],
        "end": period[1],
        "include": list(include_types),
        "exclude": list(exclude_types),
    }
    covered = "['']"
    if parts:
        flags = []
        for number, (part, codes) in enumerate(sorted(parts.items())):
            values |= {f"part{number}": part, f"codes{number}": list(codes)}
            flags.append(f"(CASE WHEN list_has_any(types || classes, $codes{number}) THEN [$part{number}] ELSE [] END)")
        everything = ", ".join(f"$part{number}" for number in range(len(flags)))
        stated = " || ".join(flags)
        values["without"] = list(without_parts)
        none = "CASE WHEN list_has_any(types || classes, $without) THEN [] ELSE"
        covered = f"CASE WHEN len({stated}) = 0 THEN {none} [{everything}] END ELSE {stated} END"
    has_class = "class" in coverage.column_names
    classes = 'list_transform(coalesce(c."class", []), lambda x: x.value)' if has_class else "[]::VARCHAR[]"
    connection.execute(_SPANS.format(classes=classes, parts=covered), values)


def register(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table | None, schema: pa.Schema) -> None:
    """Register a table under a name; an empty one where none was given."""
    connection.register(name, table if table is not None else schema.empty_table())


def _count(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    period: tuple[date, date],
    rule: MonthRule,
    parts: int,
    *,
    by_month: bool = False,
) -> None:
    """Create the table ``name`` (member, month, months, split) out of ``spans``."""
    connection.execute(
        _MONTHS.format(name=name),
        {"start": period[0], "end": period[1], "rule": rule, "parts": parts, "by_month": by_month},
    )


def prepare_eligible(
    connection: duckdb.DuckDBPyConnection,
    coverage: pa.Table,
    terms: AttributionTerms,
    period: tuple[date, date],
    window: tuple[date, date],
) -> None:
    """Tables ``everybody`` (member, months, coverage, reason), ``eligible`` (member) and ``counted_months`` of the
    period.

    Reads the tables ``lines``, ``named``, ``deaths``, ``births``, ``residence`` and ``programmes``.
    """
    rule = terms.eligibility
    ranges = {"period": [period], "window": [window], "window_and_period": [window, period]}[rule.over]
    whole = (min(period[0], *(one[0] for one in ranges)), max(period[1], *(one[1] for one in ranges)))
    deaths = connection.table("deaths").to_arrow_table()
    prepare_spans(
        connection, coverage, whole, rule.include_types, rule.exclude_types, deaths, rule.parts, rule.without_parts
    )
    parts, by_month = max(1, len(rule.parts)), rule.excludes == "month"
    tests = []
    for number, one in enumerate([*ranges, period]):
        last = number == len(ranges)
        name = "counted_months" if last else f"months_{number}"
        if last or one != period:
            _count(connection, name, one, rule.month_rule, parts, by_month=by_month)
        tests.append(_test(connection, rule, "counted_months" if one == period else name, number, one, last=last))
    connection.execute(
        f"""
        CREATE TABLE tested AS
        SELECT member, coalesce(sum(months) FILTER (last), 0) AS months, bool_or(excluded AND NOT last) AS excluded,
          bool_or(split AND NOT last) AS split,
          CASE WHEN count(*) FILTER (NOT last) < {len(ranges)} THEN 0 ELSE min(months) FILTER (NOT last) END AS fewest
        FROM ({" UNION ALL BY NAME ".join(reversed(tests))}) GROUP BY member
        """  # noqa: S608 only numbers and words of this module are spliced in
    )
    calendar_months = (period[1].year - period[0].year) * 12 + period[1].month - period[0].month + 1
    connection.execute(
        _EVERYBODY,
        {
            "end": period[1],
            "required": rule.coverage == "required",
            "minimum": rule.min_months,
            "full": calendar_months,
            "countries": list(rule.countries),
            "barred": list(rule.exclude_programmes),
            "wanted": list(rule.require_programmes),
        },
    )
    connection.execute("CREATE TABLE eligible AS SELECT member FROM everybody WHERE reason IS NULL")


def _test(
    connection: duckdb.DuckDBPyConnection,
    rule: Eligibility,
    name: str,
    number: int,
    period: tuple[date, date],
    *,
    last: bool,
) -> str:
    """A query of what the tests of one range of days find: months, excluded, split; ``last`` is the period's months."""
    start, end = (f"DATE '{day.isoformat()}'" for day in period)
    split = "bool_or(split)" if rule.split_months == "excluded" else "FALSE"
    excluded = "FALSE" if rule.excludes == "month" else f"excluded AND opened <= {end} AND closed >= {start}"
    return f"""
      SELECT member, sum(months) AS months, bool_or(excluded) AS excluded, bool_or(split) AS split, {last} AS last
      FROM (
        SELECT member, sum(months) FILTER (NOT split) AS months, FALSE AS excluded, {split} AS split FROM {name}
        GROUP BY member
        UNION ALL SELECT DISTINCT member, 0, TRUE, FALSE FROM spans WHERE {excluded}
      ) GROUP BY member"""  # noqa: S608 only dates and words of this module are spliced in


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


def window_end(terms: AttributionTerms, period: tuple[date, date]) -> date:
    """Last day of the claims windows of a period."""
    offset = terms.window_offset_months
    return window_start(period[1], offset) - timedelta(days=1) if offset else period[1]
