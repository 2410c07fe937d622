"""A contract: its terms as one validated value, from TOML, YAML or JSON.

Loading refuses unknown keys and terms that contradict each other; the ContractError names every term concerned.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import BeforeValidator, Field, InstanceOf, SerializeAsAny, ValidationError
from pydantic.json_schema import SkipJsonSchema

from fhir_gateway.attribution import AttributionTerms, Participant, Roster
from fhir_gateway.contracts import scoring
from fhir_gateway.contracts.arrangements import ARRANGEMENTS, ArrangementTerms, Needs
from fhir_gateway.contracts.benchmarks.person_years import ENROLMENT_SCHEMA
from fhir_gateway.contracts.calendar import Calendar
from fhir_gateway.contracts.distribution import Distribution
from fhir_gateway.contracts.documents import read_document
from fhir_gateway.contracts.episodes.multipliers import DIAGNOSES_SCHEMA
from fhir_gateway.contracts.given import Given
from fhir_gateway.contracts.settlement import Rounding
from fhir_gateway.contracts.social_risk import SOCIAL_RISK_SCHEMA
from fhir_gateway.contracts.terms import (
    AttributionReference,
    ClaimsTerms,
    Identifier,
    LakeTable,
    MeasureTerms,
    Party,
    Period,
    ProviderParty,
    RiskReference,
    TableReference,
    Terms,
)
from fhir_gateway.errors import ContractError, Location


def _arrangement(value: Any) -> Any:
    if isinstance(value, ArrangementTerms):
        return value
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in ARRANGEMENTS:
        raise ValueError(f"kind: there is no such payment arrangement (there are {', '.join(sorted(ARRANGEMENTS))})")
    return ARRANGEMENTS[kind].model_validate(value)


#: Tables of a contract that attribution looks at, not an arrangement: the numbers that other organizations compete by,
#: and the counties of ZIP codes.
ATTRIBUTION_TABLES: dict[str, pa.Schema] = {
    "rivals": pa.schema([("entity", pa.string()), ("tin", pa.string()), ("npi", pa.string()), ("ccn", pa.string())]),
    "counties": pa.schema([("postal_code", pa.string()), ("county", pa.string())]),
}


#: Columns of the tables that are made of the lake.
LAKE_TABLES: dict[LakeTable, pa.Schema] = {
    "diagnoses": DIAGNOSES_SCHEMA,
    "social-risk": SOCIAL_RISK_SCHEMA,
    "enrolment": ENROLMENT_SCHEMA,
}
#: What a column of risk scores is called in tables of arrangements.
SCORE_NAMES = ("score", "multiplier")


class Contract(Terms):
    """All terms of a value-based contract between a payer and a provider organization."""

    id: str = Field(pattern=r"^[A-Za-z0-9\-.]{1,64}$")
    url: str = Field(description="Canonical url of the contract as a VBPR Measure.")
    version: str
    title: str
    description: str = ""
    status: Literal["draft", "active", "retired"] = "active"
    identifier: Identifier
    line_of_business: Literal["medicare", "medicaid", "private"]
    hcp_lan: Literal["2A", "2B", "2C", "3A", "3B", "3N", "4A", "4B", "4C", "4N"]
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    rounding: Rounding = "cent"
    payer: Party
    provider: ProviderParty
    period: Period
    attribution: AttributionReference
    claims: ClaimsTerms
    measures: tuple[MeasureTerms, ...] = ()
    arrangements: tuple[Annotated[SerializeAsAny[ArrangementTerms], BeforeValidator(_arrangement)], ...]
    calendar: Calendar = Calendar()
    distributions: tuple[Distribution, ...] = ()
    tables: dict[str, TableReference] = Field(
        default={}, description="Tables (CSV) that arrangements look at: rates, weights, peer groups, assessments."
    )
    attribution_terms: SkipJsonSchema[AttributionTerms | None] = Field(default=None, exclude=True)
    given: SkipJsonSchema[Mapping[str, InstanceOf[Given]]] = Field(default={}, exclude=True)

    @classmethod
    def load(cls, path: Path | str, known_measures: Collection[str] | None = None) -> Self:
        """The contract of a file. ``known_measures`` are canonicals (url or url|version) that can be evaluated."""
        path = Path(path)
        return cls.of(read_document(path), path.parent, known_measures, Location(file=str(path)))

    @classmethod
    def of(
        cls,
        stated: dict[str, Any],
        folder: Path | None = None,
        known_measures: Collection[str] | None = None,
        where: Location | None = None,
    ) -> Self:
        """The contract of already parsed terms; paths in them are relative to ``folder``."""
        if derived := sorted({"attribution_terms", "given"} & set(stated)):
            raise ContractError(
                f"{derived[0]}: is not a term; it is read from the files that terms name", location=where
            )
        if unwieldy := list(_unwieldy(stated)):
            rule = "a number has at most 15 digits before its decimal point"
            raise ContractError("; ".join(f"{term}: {rule}" for term in unwieldy), location=where)
        try:
            contract = cls.model_validate(stated)
        except ValidationError as error:
            found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
            raise ContractError("; ".join(found), location=where) from error
        if found := [*contract.problems(), *contract.unknown_measures(known_measures)]:
            raise ContractError("; ".join(found), location=where)
        name = contract.attribution.terms
        try:
            terms = AttributionTerms.load((folder or Path()) / name if name.endswith(".toml") else name)
        except ContractError as error:
            if error.location.file is not None:
                raise  # it names the file of the attribution terms
            raise ContractError(f"attribution.terms: {error.message}", location=where) from error
        given = {
            name: Given.read((folder or Path()) / file, schema, name)
            for name, schema in sorted({**contract.table_schemas(), **contract.attribution_tables()}.items())
            if (file := contract.tables[name].path) is not None
        }
        return contract.model_copy(update={"attribution_terms": terms, "given": given})

    def problems(self) -> list[str]:
        """Contradictions between terms, each as ``term: message``."""
        found = []
        if self.period.end < self.period.start:
            found.append("period.end: before period.start")
        if self.claims.paid_through < self.period.end:
            found.append("claims.paid_through: before period.end, the period would not be paid out")
        if not self.arrangements:
            found.append("arrangements: there is none, nothing would be paid")
        if not self.provider.tins and not self.provider.npis:
            found.append("provider.tins: neither a TIN nor an NPI is given")
        found += _repeated("measures", "id", [m.id for m in self.measures])
        canonicals = [f"{m.canonical.partition('|')[0]}#{m.group or ''}".rstrip("#") for m in self.measures]
        found += _repeated("measures", "canonical", canonicals)
        found += _repeated("arrangements", "id", [a.id for a in self.arrangements])
        found += [
            f"arrangements.{a.id}.pool: '{a.pool}' is already paid by arrangement '{b.id}'"
            for n, a in enumerate(self.arrangements)
            for b in self.arrangements[:n]
            if a.pool == b.pool
        ]
        for measure in self.measures:
            found += scoring.problems(measure)
        found += self.calendar.problems(self.period.start)
        found += _repeated("distributions", "arrangement", [one.arrangement for one in self.distributions])
        for shared in self.distributions:
            found += shared.problems()
            if shared.arrangement not in {a.id for a in self.arrangements}:
                found.append(f"{shared.where}: there is no arrangement '{shared.arrangement}'")
        known = {m.id for m in self.measures}
        for terms in self.arrangements:
            found += terms.problems()
            found += [
                f"{terms.where}.measures: there is no measure '{name}'"
                for name in (*(terms.measures or ()), *terms.names_measures())
                if name not in known
            ]
            found += self._weights(terms)
            found += [
                f"{terms.where}: needs a table '{name}', and tables has none"
                for name in terms.needs().tables
                if name not in self.tables
            ]
        found += self._table_problems()
        used = {name for terms in self.arrangements for name in terms.needs().tables}
        used |= set(ATTRIBUTION_TABLES)
        return found + [f"tables.{name}: no arrangement looks at it" for name in self.tables if name not in used]

    def table_schemas(self) -> dict[str, pa.Schema]:
        """Columns of each table, by all arrangements that look at it; ContractError where they do not agree."""
        schemas: dict[str, pa.Schema] = {}
        for terms in self.arrangements:
            for name, schema in terms.needs().tables.items():
                try:
                    schemas[name] = pa.unify_schemas([schemas.get(name, pa.schema([])), schema])
                except pa.ArrowTypeError as error:
                    raise ContractError(f"{terms.where}: tables.{name}: another arrangement has other types") from error
        return schemas

    def risk_tables(self) -> dict[str, tuple[RiskReference, pa.Schema]]:
        """Tables that are kept risk scores, with the columns they have."""
        schemas = self.table_schemas()
        return {name: (one.risk, schemas[name]) for name, one in self.tables.items() if one.risk and name in schemas}

    def lake_tables(self) -> dict[str, LakeTable]:
        """Tables that are made of the lake."""
        return {name: one.lake for name, one in self.tables.items() if one.lake}

    def _table_problems(self) -> list[str]:
        found = [
            f"tables.{name}: needs one of path, risk and lake"
            for name, one in self.tables.items()
            if [one.path, one.risk, one.lake].count(None) != 2
        ]
        schemas = self.table_schemas()
        found += [
            f"tables.{name}.lake: the table is not of {one.lake}"
            for name, one in self.tables.items()
            if one.lake and name in schemas and schemas[name] != LAKE_TABLES[one.lake]
        ]
        return found + [
            f"tables.{name}.risk: the table is not of members and their scores"
            for name, (_, schema) in self.risk_tables().items()
            if "member" not in schema.names or not set(SCORE_NAMES) & set(schema.names)
        ]

    def needs(self) -> Needs:
        """What all arrangements together look at beside sums."""
        each = [terms.needs() for terms in self.arrangements]
        return Needs(
            lines=tuple(sorted({column for one in each for column in one.lines})),
            tables=self.table_schemas(),
            people=any(one.people for one in each),
            years=tuple(sorted({year for one in each for year in one.years})),
        )

    def _weights(self, terms: ArrangementTerms) -> list[str]:
        chosen = terms.chosen(self.measures)
        if not terms.uses_quality():
            return [f"{terms.where}.measures: quality plays no part in it"] if terms.measures else []
        if not chosen:
            return [f"{terms.where}.measures: it pays by quality and has no measure"]
        if not terms.weighs_measures():
            return []
        total = sum((m.weight for m in chosen), Decimal(0))
        found = [f"{terms.where}.measures: the weights of its measures sum to {total}, not 1"] if total != 1 else []
        found += [f"measures.{m.id}.weight: is zero, but it is contractual" for m in chosen if m.weight == 0]
        return found

    def unknown_measures(self, known: Collection[str] | None) -> list[str]:
        """Measures that are not among the known canonicals."""
        if known is None:
            return []
        urls = {canonical.partition("|")[0] for canonical in known}
        return [
            f"measures.{m.id}.canonical: no such measure is installed"
            for m in self.measures
            if not m.metric and (m.canonical not in known if "|" in m.canonical else m.canonical not in urls)
        ]

    @property
    def digest(self) -> str:
        """SHA-256 of all terms, of attribution terms and tables by what they say and not by where they lie.

        A term left to its default is not among them: a version of the gateway that knows another term must find a
        contract of before, which cannot state it, to be what it was.
        """
        text = self.model_dump_json(exclude={"tables": True, "attribution": {"terms"}}, exclude_defaults=True) + (
            self.attribution_terms.digest if self.attribution_terms else ""
        )
        text += "".join(f"{name} {one.digest}" for name, one in sorted(self.given.items()))
        text += "".join(
            f"{name} {one.risk.model_dump_json(exclude_defaults=True)}"
            for name, one in sorted(self.tables.items())
            if one.risk
        )
        text += "".join(f"{name} {one.lake}" for name, one in sorted(self.tables.items()) if one.lake)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def dates(self) -> tuple[date, date]:
        """First and last day of the performance period."""
        return self.period.start, self.period.end

    def attribution_tables(self) -> dict[str, pa.Schema]:
        """Tables that attribution looks at, of those that came with the contract."""
        return {name: schema for name, schema in ATTRIBUTION_TABLES.items() if name in self.tables}

    @property
    def participants(self) -> tuple[Participant, ...]:
        """The provider as a participant of attribution, and its rivals where the contract has their lists."""
        party, area = self.provider, self.attribution.service_area
        ours = Participant(party.entity, party.tins, party.npis, party.ccns, area)
        return (ours, *(Participant.rivals(self.given["rivals"].table) if "rivals" in self.given else ()))

    def roster(
        self, organizations: Mapping[str, str] | None = None, practitioners: Mapping[str, str] | None = None
    ) -> Roster:
        """What the ATR Group of this contract says; served Organizations by TIN or NPI, Practitioners by NPI."""
        return Roster(
            contract_system=self.identifier.system,
            contract_value=self.identifier.value,
            name=self.title,
            contract_period=self.dates,
            managing_entity=self.payer.refer(organizations or {}),
            tins=self.provider.tins,
            npis=self.provider.npis,
            organizations=organizations or {},
            practitioners=practitioners or {},
        )


def _repeated(where: str, name: str, values: list[str]) -> list[str]:
    return [f"{where}: two have the {name} '{value}'" for value, count in Counter(values).items() if count > 1]


def _unwieldy(stated: Any, term: str = "") -> Iterator[str]:
    """Terms with numbers that the 28 digits of exact arithmetic could not carry through a settlement."""
    if isinstance(stated, dict):
        for name, inner in stated.items():
            yield from _unwieldy(inner, f"{term}.{name}" if term else name)
    elif isinstance(stated, list):
        for number, inner in enumerate(stated):
            yield from _unwieldy(inner, f"{term}.{number}")
    elif isinstance(stated, int | Decimal) and Decimal(stated).is_finite() and Decimal(stated).adjusted() >= 15:
        yield term
