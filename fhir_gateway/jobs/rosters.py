"""The payer's roster beside ours: read from CSV, from a Group, or from what a source sent, and compared."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import sqlalchemy as sa

from fhir_gateway.attribution import entries
from fhir_gateway.attribution.reconciliation import ROSTER_SCHEMA, Reconciliation, reconcile
from fhir_gateway.attribution.roster import NPI_SYSTEM, TIN_SYSTEM
from fhir_gateway.db.audience import EVERYONE, Audience
from fhir_gateway.db.engine import snapshot, table_of
from fhir_gateway.db.resource_tables import ResourceRow, SearchIndexRow
from fhir_gateway.errors import InputError, Location, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.list_parties import numbers_of_list, provider
from fhir_gateway.lake.claims import directory

#: Columns of a roster in CSV; all but the first may be missing or empty.
CSV_COLUMNS = ("member_id", "member_system", "provider_tin", "provider_npi", "start", "end")
_CHUNK = 1000  # values in one statement


def compare(gateway: Gateway, list_id: str, theirs: pa.Table, audience: Audience = EVERYONE) -> Reconciliation:
    """Compare a roster with one of our lists, as ``audience`` sees it; whom it does not see is unknown to it."""
    store = gateway.resources.seen_by(audience)
    group = store.read("Group", list_id).json()
    members = store.members()
    if members is not None:
        mine = pc.is_in(theirs["member"], value_set=pa.array(members, pa.string()))
        known = pc.if_else(mine, theirs["member"], pa.scalar(None, pa.string()))
        theirs = theirs.set_column(theirs.schema.get_field_index("member"), "member", known)
    return reconcile(theirs, _ours(gateway, group))


def of_csv(gateway: Gateway, content: bytes) -> pa.Table:
    """A roster in CSV with a header line; InputError names line or column that is wrong."""
    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(CSV_COLUMNS, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    try:
        table = pyarrow.csv.read_csv(io.BytesIO(content), convert_options=options)
    except pa.ArrowInvalid:
        raise InputError(
            "not CSV with a header and the same columns on every line", location=Location(rule="csv")
        ) from None
    if "member_id" not in table.column_names:
        raise InputError("there is no column member_id", location=Location(rule="csv"))
    if unknown := sorted(set(table.column_names) - set(CSV_COLUMNS)):
        raise InputError(
            f"columns are {', '.join(CSV_COLUMNS)}; {len(unknown)} have another name", location=Location(rule="csv")
        )
    for name in CSV_COLUMNS:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    numbers = list(zip(table["member_system"].to_pylist(), table["member_id"].to_pylist(), strict=True))
    if any(value is None for _, value in numbers):
        raise InputError("a line has no member_id", location=Location(rule="csv"))
    persons = persons_of_numbers(gateway, numbers)
    columns = [
        table["member_id"],
        pa.array([persons.get(one) for one in numbers], pa.string()),
        *(table[name] for name in ("provider_tin", "provider_npi", "start", "end")),
    ]
    return pa.table(columns, schema=ROSTER_SCHEMA)


def of_group(gateway: Gateway, group: Mapping[str, Any]) -> pa.Table:
    """A roster as an ATR Group whose members are ours by reference, or named by their member numbers."""
    numbers = [_identifier(one.get("entity")) for one in _members(group)]
    persons = persons_of_numbers(gateway, [one for one in numbers if one is not None])
    known = _Known(gateway, group)
    rows = []
    for one, number in zip(_members(group), numbers, strict=True):
        reference = str(one["entity"].get("reference", ""))
        ours = reference.removeprefix("Patient/") if reference.startswith("Patient/") else None
        member = persons.get(number) if number is not None else ours
        named = number[1] if number is not None else reference
        rows.append((named, member, *known.numbers(one), *_days(one)))
    return _table(rows)


def of_source(gateway: Gateway, source: str, list_id: str, group_id: str | None = None) -> pa.Table:
    """The roster that a source sent as a Group: the one with an identifier of our list, or the one that is named."""
    version = gateway.lake.version
    rows = gateway.lake.read("Group", ["_raw"], version=version)
    texts = rows.filter(pc.equal(rows["_source"], source))["_raw"].to_pylist()
    group = _chosen(list(map(orjson.loads, texts)), gateway.resources.read("Group", list_id).json(), group_id)
    known = directory(gateway.lake, version)
    known = known.filter(pc.equal(known["source"], source))
    providers = {
        reference: (tin, npi)
        for reference, tin, npi in zip(*(known[name].to_pylist() for name in ("reference", "tin", "npi")), strict=True)
    }
    members = [one for one in _members(group) if not one.get("inactive")]
    patients = [str(one["entity"].get("reference", "")).rpartition("/")[2] for one in members]
    persons = gateway.persons.lookup(source, pa.array(patients, pa.string())).to_pylist()
    here = set(gateway.lake.members(version=version).to_pylist())
    found = []
    for one, patient, person in zip(members, patients, persons, strict=True):
        reference = entries.extension(one, entries.PROVIDER).get("valueReference", {})
        number = reference.get("identifier", {})
        tin, npi = providers.get(reference.get("reference", ""), (None, None))
        tin = tin or (number.get("value") if number.get("system") == TIN_SYSTEM else None)
        npi = npi or (number.get("value") if number.get("system") == NPI_SYSTEM else None)
        found.append((patient, person if person in here else None, tin, npi, *_days(one)))
    return _table(found)


def _chosen(groups: Sequence[dict[str, Any]], ours: Mapping[str, Any], group_id: str | None) -> dict[str, Any]:
    if group_id is not None:
        found = [one for one in groups if one.get("id") == group_id]
    else:
        numbers = {(one.get("system"), one.get("value")) for one in ours.get("identifier", ())}
        found = [
            one
            for one in groups
            if numbers & {(each.get("system"), each.get("value")) for each in one.get("identifier", ())}
        ]
    if not found:
        raise NotFoundError("the source sent no Group with an identifier of this list; name its Group")
    if len(found) > 1:
        raise InputError("the source sent several Groups for this list; name one")
    return found[0]


def _ours(gateway: Gateway, group: Mapping[str, Any]) -> pa.Table:
    known = _Known(gateway, group)
    rows = [
        (patient, patient.removeprefix("Patient/"), *known.numbers(one), *_days(one))
        for (patient, _), one in entries.active(group).items()
    ]
    return _table(rows)


class _Known:
    """TIN and NPI of the providers that a list names, each looked up once."""

    def __init__(self, gateway: Gateway, group: Mapping[str, Any]) -> None:
        self._gateway = gateway
        self._contract = str(group.get("id", ""))
        self._tins = numbers_of_list(group)[0]
        self._found: dict[str, tuple[str | None, str | None]] = {}

    def numbers(self, one: entries.Entry) -> tuple[str | None, str | None]:
        """TIN and NPI of an entry's provider."""
        reference = entries.extension(one, entries.PROVIDER).get("valueReference", {})
        name = entries.provider_name(reference)
        if name not in self._found:
            self._found[name] = self._look_up(reference)
        return self._found[name]

    def _look_up(self, reference: Mapping[str, Any]) -> tuple[str | None, str | None]:
        number = reference.get("identifier", {})
        if number.get("system") == TIN_SYSTEM:
            return number.get("value"), None
        if number.get("system") == NPI_SYSTEM:
            return None, number.get("value")
        found = provider(self._gateway, self._contract, None, reference.get("reference", ""))
        if found is None:
            return None, None
        tins = sorted(found.tins & self._tins) or sorted(found.tins)
        return next(iter(tins), None), next(iter(sorted(found.npis)), None)


def _members(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    members = group.get("member", [])
    if not isinstance(members, list) or not all(
        isinstance(one, dict) and isinstance(one.get("entity"), dict) for one in members
    ):
        raise InputError("members of a roster have an entity", location=Location(path="Group.member"))
    return members


def _identifier(entity: Mapping[str, Any] | None) -> tuple[str | None, str] | None:
    number = (entity or {}).get("identifier")
    if isinstance(number, dict) and isinstance(number.get("value"), str):
        return number.get("system"), number["value"]
    return None


def _days(one: Mapping[str, Any]) -> tuple[str | None, str | None]:
    span = one.get("period") or {}
    return span.get("start"), span.get("end")


def _table(rows: Sequence[tuple[str | None, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(ROSTER_SCHEMA)
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=ROSTER_SCHEMA)


def persons_of_numbers(
    gateway: Gateway, numbers: Iterable[tuple[str | None, str]]
) -> dict[tuple[str | None, str], str]:
    """Persons by member number (Patient or Coverage identifiers); a number of several persons is nobody's."""
    wanted = list(dict.fromkeys(numbers))
    values = sorted({value for _, value in wanted})
    found: dict[tuple[str | None, str], set[str]] = {}
    resource, number, beneficiary = (
        table_of(ResourceRow),
        table_of(SearchIndexRow).alias(),
        table_of(SearchIndexRow).alias(),
    )
    patients = sa.select(number.c.system, number.c.value, resource.c.id).join_from(
        number, resource, number.c.key == resource.c.key
    )
    coverages = sa.select(number.c.system, number.c.value, beneficiary.c.value).join_from(
        number, beneficiary, number.c.key == beneficiary.c.key
    )
    statements = (
        patients.where(number.c.parameter == "Patient.identifier", resource.c.deleted.is_(False)),
        coverages.where(
            number.c.parameter == "Coverage.identifier",
            beneficiary.c.parameter == "Coverage.beneficiary",
            beneficiary.c.system == "Patient",
        ),
    )
    with snapshot(gateway.engine) as connection:
        for start in range(0, len(values), _CHUNK):
            for statement in statements:
                some = values[start : start + _CHUNK]
                for system, value, person in connection.execute(statement.where(number.c.value.in_(some))):
                    found.setdefault((system, value), set()).add(person)
                    found.setdefault((None, value), set()).add(person)
    return {one: next(iter(found[one])) for one in wanted if len(found.get(one, ())) == 1}
