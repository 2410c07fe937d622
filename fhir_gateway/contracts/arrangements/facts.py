"""What settlements of single services, months, episodes and cases are computed from: columns, not sums.

Shared savings and pay for performance need sums only (:class:`~fhir_gateway.contracts.arrangements.Exposure`);
capitation, bundles, case rates and fees look at months, claim lines and persons, and at tables that come with the
contract (rates, weights, peer groups, assessments). An arrangement says what it needs (:class:`Needs`), and gets that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Self

import pyarrow as pa

from fhir_gateway.errors import ContractError

AMOUNT = pa.decimal128(28, 8)

#: A row per member of the roster. ``tin`` and ``npi`` are those that attribution found the member by.
PEOPLE_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("birth_date", pa.date32()),
        ("gender", pa.string()),
        ("died", pa.date32()),
        ("tin", pa.string()),
        ("npi", pa.string()),
        ("months", AMOUNT),
    ]
)


@dataclass(frozen=True, slots=True)
class Needs:
    """What an arrangement looks at beside sums.

    ``lines``: columns of claim lines (:data:`fhir_gateway.lake.claims.LINE_SCHEMA`); ``_member`` always comes too.
    ``tables``: tables of the contract by name, with the columns that must be there; a field that is not nullable must
    have a value in each row, a nullable one may lack its whole column. ``people``: persons and months of the roster.
    ``years``: calendar years that its tables by month speak of, where they are made of the lake.
    """

    lines: tuple[str, ...] = ()
    tables: Mapping[str, pa.Schema] = field(default_factory=dict)
    people: bool = False
    years: tuple[int, ...] = ()

    @classmethod
    def of_people(cls, table: str, schema: pa.Schema) -> Self:
        """A table about persons, and the persons."""
        return cls(tables={table: schema}, people=True)

    def __or__(self, other: Needs) -> Needs:
        lines = tuple(dict.fromkeys((*self.lines, *other.lines)))
        years = tuple(sorted({*self.years, *other.years}))
        return Needs(lines, {**self.tables, **other.tables}, self.people or other.people, years)

    def __bool__(self) -> bool:
        return bool(self.lines or self.tables or self.people)


@dataclass(frozen=True, slots=True)
class Facts:
    """The columns. ``lines`` are of all members, attributed or not, whatever their dates: those that count only
    (newest versions, paid through the contract's last day, nobody's copies). ``people`` (:data:`PEOPLE_SCHEMA`) and
    ``months`` (member, month as its first day, months: the part that counts by the attribution terms' month rule) are
    of the roster; ``baseline_months`` are the same members' of the year before.
    ``coverage`` is everybody's (:data:`fhir_gateway.attribution.eligibility.COVERAGE_COLUMNS`). ``sources`` say what
    tables that are no files of the contract were made of.
    """

    period: tuple[date, date]
    lines: pa.Table
    people: pa.Table
    months: pa.Table
    baseline_months: pa.Table
    tables: Mapping[str, pa.Table]
    coverage: pa.Table | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def source(self, name: str) -> str:
        """Where a table comes from, in words for a line of the statement."""
        return self.sources.get(name, f"as stated in the table {name}")

    def table(self, name: str) -> pa.Table:
        """A table of the contract; ContractError when it was not given."""
        if name not in self.tables:
            raise ContractError(f"tables.{name}: is needed and was not given")
        return self.tables[name]
