"""Claim lines: one row per line of an ExplanationOfBenefit, with the version of each claim that counts.

Input are tables as :meth:`Lake.read` gives them; everything is set-based (DuckDB over the nested columns). Shapes
understood: CARIN Blue Button (C4BB), the CMS Blue Button variables, and Synthea. Amounts are exact decimals in the
currency of the claim; a null amount means the payer did not say. Dates are the days as written by the payer.

Versions of a claim. EOBs of one member and source belong to one *claim group* when they share the unique claim id
(identifier type ``uc``), a claim group identifier, or name each other in ``related`` (CARIN BB 2.2.0: ``prior``,
``replacedby``). In a group

* an EOB with a negative net amount is a *reversal*; it cancels the version with exactly the opposite amount (the one it
  names, else the earliest unreversed one), and neither counts; a negative EOB that opposes no version counts as an
  *adjustment* beside the version it corrects;
* the newest other version decides: it alone counts when it is ``active`` and not reversed; when it is ``cancelled`` or
  reversed the claim is void.

Copies of a claim. What several sources of one member say of the same claim counts once, in the words of one of them;
those of the others have the status ``copy`` and the ``claim_group`` of the one that stands. It is the same claim when

* a unique claim id, or a claim group identifier, is the same number in the same system; or
* the unique claim id is the same number, whatever its system, the insurer is the same by an identifier (its own, or its
  NPI or tax number), and the first day of service, where both say it, is the same; or
* an identifier of no stated kind is the same number in the same system, of the same insurer and the same first day.

Anything else is another claim: two payers each pay their part. Whose words count: the first source of ``precedence``
that sent it, else the one that knows the latest version, then the most versions, then the first by name. Versions are
judged within that source alone, so the money is what that source says.

All rows stay in the table: ``counts`` says which to add up, ``version_status`` why, and ``copies`` how many other
sources sent the claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fhir_gateway.r4.spec import arrow_type, column_structure, narrowed

#: Columns of ExplanationOfBenefit that :func:`claim_lines` reads.
EOB_COLUMNS = (
    *("identifier", "status", "use", "type", "subType", "created", "billablePeriod", "insurer", "provider", "outcome"),
    *("related", "claim", "careTeam", "supportingInfo", "diagnosis", "procedure", "insurance", "item", "adjudication"),
    *("total", "payment"),
)
#: What it reads of the Claims that EOBs answer, and of the Encounters that lines of either name.
CLAIM_COLUMNS = ("provider", "item.encounter.reference")
ENCOUNTER_COLUMNS = ("status", "class.code", "period.start", "period.end")
#: Columns of the directory resources that :func:`providers` reads.
PRACTITIONER_COLUMNS = ("identifier", "qualification", "name")
ROLE_COLUMNS = ("identifier", "practitioner", "organization", "specialty", "code")
ORGANIZATION_COLUMNS = ("identifier", "name")
#: Where EOBs name entries of the directory.
_NAMING_COLUMNS = ("provider.reference", "insurer.reference", "careTeam.provider.reference")
#: What the directory is made of.
DIRECTORY_TYPES = frozenset({"Practitioner", "PractitionerRole", "Organization"})


_AMOUNT = pa.decimal128(28, 8)
#: Columns of a claim line table, in order. From ``admitted`` on they are what the claim says of a stay and of all its
#: diagnoses (the principal one first) and procedures of its head, the same on each of its lines; null: not said. Days
#: of an inpatient stay that the claim does not say are those of the Encounters that its lines name.
LINE_SCHEMA = pa.schema(
    [
        ("_member", pa.string()),
        ("source", pa.string()),
        ("eob", pa.string()),
        ("claim_group", pa.string()),
        ("version", pa.int32()),
        ("version_status", pa.string()),
        ("counts", pa.bool_()),
        ("copies", pa.int32()),
        ("line", pa.int64()),
        ("service_from", pa.date32()),
        ("service_thru", pa.date32()),
        ("claim_from", pa.date32()),
        ("claim_thru", pa.date32()),
        ("claim_type", pa.string()),
        ("bill_type", pa.string()),
        ("npi", pa.string()),
        ("tin", pa.string()),
        ("organization", pa.string()),
        ("specialty", pa.string()),
        ("procedure_system", pa.string()),
        ("procedure", pa.string()),
        ("place_of_service", pa.string()),
        ("revenue_code", pa.string()),
        ("diagnosis", pa.string()),
        ("drg", pa.string()),
        ("submitted", _AMOUNT),
        ("allowed", _AMOUNT),
        ("paid", _AMOUNT),
        ("patient", _AMOUNT),
        ("amount_level", pa.string()),
        ("denied", pa.bool_()),
        ("payment_date", pa.date32()),
        ("coverage", pa.string()),
        ("insurer", pa.string()),
        ("units", _AMOUNT),
        ("admitted", pa.date32()),
        ("discharged", pa.date32()),
        ("discharge_status", pa.string()),
        ("admission_type", pa.string()),
        ("diagnoses", pa.list_(pa.string())),
        ("procedures", pa.list_(pa.string())),
    ]
)

#: Columns of a provider directory.
DIRECTORY_SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in ("source", "reference", "npi", "tin", "organization", "specialty", "specialty_system", "name")
    ]
)

#: Adjudication categories: (code or last segment of a code, amount, rank). Of the ranks present the lowest is taken and
#: its categories are added. Sources: HL7 adjudication codes; CARIN BB CodeSystem C4BBAdjudication; CMS Blue Button
#: variables (line_* on carrier and DME claims, rev_cntr_* on institutional ones).
_CATEGORIES = (
    ("submitted", "submitted", 1), ("line_sbmtd_chrg_amt", "submitted", 2), ("rev_cntr_tot_chrg_amt", "submitted", 3),
    ("eligible", "allowed", 1), ("line_alowd_chrg_amt", "allowed", 2),
    ("paidtoprovider", "paid", 1), ("paidtopatient", "paid", 1), ("benefit", "paid", 2),
    ("line_nch_pmt_amt", "paid", 3), ("rev_cntr_pmt_amt_amt", "paid", 4),
    ("line_prvdr_pmt_amt", "paid", 5), ("line_bene_pmt_amt", "paid", 5),
    ("memberliability", "patient", 1),
    ("copay", "patient", 2), ("deductible", "patient", 2), ("coinsurance", "patient", 2), ("noncovered", "patient", 2),
    ("line_coinsrnc_amt", "patient", 3), ("line_bene_ptb_ddctbl_amt", "patient", 3),
    ("paidbypatient", "patient", 4),
)  # fmt: skip


@cache
def _sections() -> Mapping[str, str]:
    """Queries of ``claims.sql`` by section name."""
    text = files(__package__).joinpath("claims.sql").read_text(encoding="utf-8")
    return {name.strip(): body for name, body in (part.split("\n", 1) for part in text.split("-- section:")[1:])}


@cache
def macros() -> str:
    """Macros of ``macros.sql``, which queries over FHIR columns share."""
    return files(__package__).joinpath("macros.sql").read_text(encoding="utf-8")


class ClaimSource(Protocol):
    """What :func:`claims` needs of a lake."""

    def read(
        self,
        resource_type: str,
        columns: Sequence[str] | None = None,
        bucket: int | None = None,
        version: int | None = None,
        members: pa.Array | None = None,
    ) -> pa.Table:
        """Newest rows of a resource type (of these members)."""


def claims(
    lake: ClaimSource,
    bucket: int | None = None,
    version: int | None = None,
    paid_through: date | None = None,
    precedence: Sequence[str] = (),
    providers: pa.Table | None = None,
    members: pa.Array | None = None,
) -> pa.Table:
    """Claim lines of a lake (of one member bucket, of these members, as of a version and a payment date), providers
    resolved.

    ``providers`` is the :func:`directory` of that version, for whoever has it already.
    """

    def read(resource_type: str, columns: Sequence[str]) -> pa.Table:
        return lake.read(resource_type, columns, bucket=bucket, version=version, members=members)

    return claim_lines(
        read("ExplanationOfBenefit", EOB_COLUMNS),
        directory(lake, version=version) if providers is None else providers,
        read("Claim", CLAIM_COLUMNS),
        paid_through,
        precedence,
        read("Encounter", ENCOUNTER_COLUMNS),
    )


def directory(lake: ClaimSource, version: int | None = None) -> pa.Table:
    """Provider directory of a lake: :func:`providers` over all its Practitioners, roles and Organizations."""
    return providers(
        lake.read("Practitioner", PRACTITIONER_COLUMNS, version=version),
        lake.read("PractitionerRole", ROLE_COLUMNS, version=version),
        lake.read("Organization", ORGANIZATION_COLUMNS, version=version),
    )


def naming(lake: ClaimSource, bucket: int, version: int, before: pa.Table, now: pa.Table) -> pa.Array:
    """Members of a bucket whose claims name somebody of whom two directories say different things."""
    with _connect(
        before=before,
        now=now,
        eobs=lake.read("ExplanationOfBenefit", _NAMING_COLUMNS, bucket=bucket, version=version),
        claim_rows=lake.read("Claim", ("provider.reference",), bucket=bucket, version=version),
    ) as connection:
        found = connection.sql(_sections()["naming"]).to_arrow_table()
    return found["_member"].combine_chunks()


def _connect(**tables: pa.Table) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(macros())
    connection.execute(_sections()["macros"])
    for name, table in tables.items():
        connection.register(name, table)
    return connection


def _fetch(connection: duckdb.DuckDBPyConnection, query: str, schema: pa.Schema) -> pa.Table:
    result = connection.sql(query).to_arrow_table()
    return result.select(schema.names).cast(schema).combine_chunks()


def providers(practitioners: pa.Table, roles: pa.Table, organizations: pa.Table) -> pa.Table:
    """Provider directory: one row per Practitioner, PractitionerRole and Organization of each source.

    ``reference`` is the typed relative reference; ``organization`` the billing Organization (of a Practitioner: that
    of the first role by id); ``tin`` is that Organization's tax number. References by identifier are resolved by
    NPI within the source. A specialty is the first coding of the role, else of the Practitioner's qualification.
    """
    with _connect(practitioners=practitioners, roles=roles, organizations=organizations) as connection:
        return _fetch(connection, _sections()["providers"], DIRECTORY_SCHEMA)


def claim_lines(
    eobs: pa.Table,
    directory: pa.Table | None = None,
    submitted_claims: pa.Table | None = None,
    paid_through: date | None = None,
    precedence: Sequence[str] = (),
    encounters: pa.Table | None = None,
) -> pa.Table:
    """One row per claim line (:data:`LINE_SCHEMA`), sorted by member, source, EOB and line.

    ``eobs`` has ``_member, _source, id, _last_updated`` and :data:`EOB_COLUMNS`; ``directory`` comes from
    :func:`providers`; ``submitted_claims`` are Claim rows with :data:`CLAIM_COLUMNS`, used where an EOB names no
    billing organization or no encounter; ``encounters`` are rows with :data:`ENCOUNTER_COLUMNS`. EOBs paid after
    ``paid_through`` are as if unknown, so the version that counted then counts. An amount the payer gives only for the
    whole claim stands on its first line (``amount_level`` ``header``). Allowed, where not given, is paid plus patient
    share. ``payment_date`` falls back to ``created``. ``precedence`` names sources, the best first, for claims that
    several sent.
    """
    if paid_through is not None:
        with _connect(eobs=eobs) as connection:
            known = connection.sql(
                "SELECT coalesce(first_day(coalesce(payment.date, created)) <= $day, TRUE) AS known FROM eobs",
                params={"day": paid_through},
            ).to_arrow_table()
        eobs = eobs.filter(known["known"].combine_chunks())
    connection = _connect(
        eobs=eobs.append_column("rid", pa.array(np.arange(eobs.num_rows, dtype=np.int64))),
        directory=directory if directory is not None else DIRECTORY_SCHEMA.empty_table(),
        categories=pa.Table.from_arrays(
            [pa.array(column) for column in zip(*_CATEGORIES, strict=True)], names=["code", "amount", "rank"]
        ),
    )
    with connection:
        for name, kind, columns, given in (
            ("claim_rows", "Claim", CLAIM_COLUMNS, submitted_claims),
            ("encounters", "Encounter", ENCOUNTER_COLUMNS, encounters),
        ):
            connection.register(name, _nothing(kind, columns) if given is None else given)
        connection.execute(_sections()["submitters"])
        connection.register(
            "precedence", pa.table({"source": pa.array(precedence, pa.string()), "rank": range(len(precedence))})
        )
        connection.execute(_sections()["lines"])
        connection.register("grouping", _claim_groups(connection, eobs.num_rows))
        connection.execute(_sections()["versions"])
        return _fetch(connection, _sections()["output"], LINE_SCHEMA)


@cache
def _nothing(resource_type: str, columns: Sequence[str]) -> pa.Table:
    """No rows of a resource type, with such columns."""
    keys = [pa.field(name, pa.string()) for name in ("_source", "id", "_member")]
    structure = narrowed(column_structure(resource_type), columns)
    return pa.schema([*keys, *(pa.field(name, arrow_type(part)) for name, part in structure.items())]).empty_table()


def _claim_groups(connection: duckdb.DuckDBPyConnection, count: int) -> pa.Table:
    """Of each EOB (rid) the ``component`` of versions at its source, and the ``claim`` of all sources it is of."""
    connection.execute(_sections()["links"])
    connection.execute(_sections()["copies"])
    versions = _ends(connection, "links")
    component = _components(versions, count)
    copies = _ends(connection, "same_claim")
    claim = _components(np.concatenate([versions, copies], axis=1), count) if copies.shape[1] else component
    return pa.table({"rid": np.arange(count, dtype=np.int64), "component": component, "claim": claim})


def _ends(connection: duckdb.DuckDBPyConnection, table: str) -> NDArray[np.int64]:
    found: dict[str, Any] = connection.sql(f"SELECT a, b FROM {table}").fetchnumpy()  # noqa: S608  # our own name
    return np.stack([found["a"], found["b"]]).astype(np.int64)


def _components(ends: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Connected components of a graph of ``count`` nodes, numbered."""
    if count == 0:  # a graph needs a node
        return np.empty(0, dtype=np.int64)
    graph = coo_array((np.ones(ends.shape[1], dtype=np.int8), (ends[0], ends[1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels, dtype=np.int64)
