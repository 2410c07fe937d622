"""Selections of clinicians: from files that somebody loads, from ``Patient.generalPractitioner``, from a payer's Group.

What each is by the standards: ``Patient.generalPractitioner`` is the care provider whom the patient nominated
(``member_selected_pcp``); the attributed provider of an entry of a payer's attribution list (Da Vinci ATR) is
``roster``. A file says what it is: ``voluntary``, ``member_selected_pcp``, ``plan_assigned_pcp``, ``roster``, or
``programme:NAME`` for members who are in another programme or on a list that terms ask for.
"""

from __future__ import annotations

import io
import re
from datetime import UTC, date, datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import sqlalchemy as sa

from fhir_gateway.attribution import SELECTION_SCHEMA
from fhir_gateway.attribution.eligibility import PROGRAMME_SCHEMA
from fhir_gateway.attribution.reconciliation import ROSTER_SCHEMA
from fhir_gateway.attribution.selection_store import SelectionBatch
from fhir_gateway.contracts import Contract
from fhir_gateway.db.engine import snapshot
from fhir_gateway.errors import InputError, Location
from fhir_gateway.factory import Gateway
from fhir_gateway.identity.tables import PERSON
from fhir_gateway.jobs.rosters import of_source, persons_of_numbers
from fhir_gateway.lake.claims import directory

KINDS = ("voluntary", "member_selected_pcp", "plan_assigned_pcp", "roster")
_PROGRAMME = "programme:"
#: Columns of a file of selections; all but the first may be missing or empty.
CSV_COLUMNS = ("member_id", "member_system", "provider_tin", "provider_npi", "start", "end")

_NOMINATED = """
WITH each AS (
  SELECT _member AS member, _source AS source, _last_updated AS updated, unnest(generalPractitioner) AS named
  FROM patients WHERE _member IS NOT NULL
), numbered AS (
  SELECT member, updated, d.tin, coalesce(d.npi, CASE WHEN named.identifier.system = 'http://hl7.org/fhir/sid/us-npi'
    THEN named.identifier.value END) AS npi
  FROM each LEFT JOIN directory d ON d.source = each.source AND d.reference = named.reference
)
SELECT DISTINCT member, tin, npi, coalesce(updated::DATE, $day) AS made, 'member_selected_pcp' AS kind,
  NULL::DATE AS until
FROM numbered WHERE coalesce(tin, npi) IS NOT NULL ORDER BY ALL
"""


def load(
    gateway: Gateway, content: bytes, kind: str, *, name: str, by: str, contract: str | None = None
) -> tuple[SelectionBatch, int]:
    """Keep the selections of a CSV file for a contract, or for all; the batch, and how many members nobody here is.

    InputError names line or column that is wrong; a line of an unknown member is left out and counted.
    """
    if kind not in KINDS and not re.fullmatch(rf"{_PROGRAMME}[a-z0-9\-]{{1,30}}", kind):
        raise InputError(f"kind is one of {', '.join(KINDS)}, or {_PROGRAMME}NAME")
    table = _read(content)
    numbers = list(zip(table["member_system"].to_pylist(), table["member_id"].to_pylist(), strict=True))
    persons = persons_of_numbers(gateway, numbers)
    made, until = (_days(table[column], column) for column in ("start", "end"))
    rows = pa.table(
        [
            pa.array([persons.get(one) for one in numbers], pa.string()),
            table["provider_tin"],
            table["provider_npi"],
            pc.fill_null(made, date(1900, 1, 1)),
            pa.repeat(pa.scalar(kind), table.num_rows),
            until,
        ],
        schema=SELECTION_SCHEMA,
    )
    known = rows.filter(rows["member"].is_valid())
    if not kind.startswith(_PROGRAMME):
        provided = pc.or_(rows["tin"].is_valid(), rows["npi"].is_valid())
        if not pc.all(provided).as_py():
            line = provided.to_pylist().index(False) + 2
            raise InputError("a selection names a TIN or an NPI", location=Location(line=line, rule="csv"))
    batch = gateway.selections.load(known, kind=kind, name=name, by=by, at=datetime.now(UTC), contract=contract)
    return batch, rows.num_rows - known.num_rows


def selections_of(
    gateway: Gateway, contract: Contract, version: int, members: pa.Array | None = None
) -> tuple[pa.Table, pa.Table, list[str]]:
    """Selections and programmes for a contract's attribution, and the ids of the batches they are from.

    With ``members`` of whom patients nominated only what these did.
    """
    standing = gateway.selections.standing(contract.id)
    batches = [one.id for one in gateway.selections.batches(contract.id) if one.withdrawn_at is None]
    elsewhere = pc.starts_with(standing["kind"], _PROGRAMME)
    found = [standing.filter(pc.invert(elsewhere))] if "loaded" in contract.attribution.selections_from else []
    for source in contract.attribution.selections_from:
        if source == "generalPractitioner":
            found.append(_nominated(gateway, version, contract.dates[0], members))
        elif source.startswith("roster:"):
            found.append(_of_roster(of_source(gateway, source.removeprefix("roster:"), contract.id), contract.dates[0]))
    selections = pa.concat_tables(found) if found else SELECTION_SCHEMA.empty_table()
    if standing.num_rows and (merged := _merged(gateway)):
        selections, standing = (_followed(one, merged) for one in (selections, standing))
    return selections, _programmes(standing, contract.dates[1]), batches


def _nominated(gateway: Gateway, version: int, day: date, members: pa.Array | None) -> pa.Table:
    """Whom patients nominated; made when the source last said so, on ``day`` where it does not say."""
    with duckdb.connect() as connection:
        patients = gateway.lake.read("Patient", ["generalPractitioner"], version=version, members=members)
        connection.register("patients", patients)
        connection.register("directory", directory(gateway.lake, version))
        return connection.sql(_NOMINATED, params={"day": day}).to_arrow_table().cast(SELECTION_SCHEMA)


def _of_roster(roster: pa.Table, day: date) -> pa.Table:
    """Entries of a payer's list as selections; an entry without a start has always been one."""
    known = roster.select(ROSTER_SCHEMA.names).filter(roster["member"].is_valid())
    with duckdb.connect() as connection:
        connection.register("roster", known)
        return (
            connection.sql(
                """
                SELECT DISTINCT member, tin, npi, coalesce(try_cast(start[1:10] AS DATE), $day) AS made,
                  'roster' AS kind,
                  try_cast("end"[1:10] AS DATE) AS until
                FROM roster WHERE coalesce(tin, npi) IS NOT NULL ORDER BY ALL
                """,
                params={"day": day},
            )
            .to_arrow_table()
            .cast(SELECTION_SCHEMA)
        )


def _programmes(standing: pa.Table, day: date) -> pa.Table:
    """Who is in a programme on a day."""
    holds = pc.and_(
        pc.less_equal(standing["made"], pa.scalar(day)),
        pc.fill_null(pc.greater_equal(standing["until"], pa.scalar(day)), True),
    )
    now = standing.filter(pc.and_(pc.starts_with(standing["kind"], _PROGRAMME), holds))
    names = pc.replace_substring(now["kind"], _PROGRAMME, "", max_replacements=1)
    return pa.table([now["member"], names], schema=PROGRAMME_SCHEMA)


def _merged(gateway: Gateway) -> dict[str, str]:
    """Persons who became others, and who they are by now."""
    with snapshot(gateway.engine) as connection:
        query = sa.select(PERSON.c.person, PERSON.c.merged_into).where(PERSON.c.merged_into.is_not(None))
        into = {row.person: row.merged_into for row in connection.execute(query)}
    found = {}
    for person in into:
        now = person
        while now in into:
            now = into[now]
        found[person] = now
    return found


def _followed(table: pa.Table, merged: dict[str, str]) -> pa.Table:
    """Rows under the person that somebody is by now."""
    members = pa.array([merged.get(one, one) for one in table["member"].to_pylist()], pa.string())
    return table.set_column(table.schema.get_field_index("member"), "member", members)


def _read(content: bytes) -> pa.Table:
    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(CSV_COLUMNS, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    where = Location(rule="csv")
    try:
        table = pyarrow.csv.read_csv(io.BytesIO(content), convert_options=options)
    except pa.ArrowInvalid:
        raise InputError("not CSV with a header and the same columns on every line", location=where) from None
    if "member_id" not in table.column_names or set(table.column_names) - set(CSV_COLUMNS):
        raise InputError(f"columns are {', '.join(CSV_COLUMNS)}; member_id must be there", location=where)
    for name in CSV_COLUMNS:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    if table["member_id"].null_count:
        raise InputError("a line has no member_id", location=where)
    return table


def _days(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    try:
        return column.cast(pa.date32())
    except pa.ArrowInvalid:
        raise InputError(f"{name} is a day such as 2025-01-31", location=Location(rule="csv")) from None
