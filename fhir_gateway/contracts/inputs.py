"""What a settlement is computed from: exposure and cost out of claim lines, outcomes out of measure results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution import Attribution
from fhir_gateway.attribution.eligibility import months_by
from fhir_gateway.contracts.arrangements import Exposure, Facts, SettlementInputs
from fhir_gateway.contracts.arrangements.facts import AMOUNT, PEOPLE_SCHEMA
from fhir_gateway.contracts.calendar import Cut
from fhir_gateway.contracts.contract import Contract
from fhir_gateway.contracts.distribution import ORGANIZATION, Panel
from fhir_gateway.contracts.scoring import MeasureOutcome
from fhir_gateway.errors import ContractError
from fhir_gateway.measures.model import MeasureResult

#: Columns of claim lines (:data:`fhir_gateway.lake.claims.LINE_SCHEMA`) that cost is computed from.
COST_COLUMNS = (
    *("_member", "counts", "denied", "claim_type", "service_from", "claim_from", "claim_thru", "payment_date"),
    *("allowed", "paid"),
)


@dataclass(frozen=True, slots=True)
class MeasureScore:
    """A measure's result over the attributed members, as plain numbers."""

    numerator: int | None
    denominator: int
    score: Decimal | None


_COST = """
WITH cost AS (
  SELECT r.member, coalesce(sum(l.amount), 0) AS amount
  FROM roster r LEFT JOIN counting l USING (member) GROUP BY r.member
)
SELECT count(*), coalesce(sum(amount), 0)::DECIMAL(38, 8),
  coalesce(sum(CASE WHEN $truncation IS NULL THEN amount ELSE least(amount, $truncation) END), 0)::DECIMAL(38, 8),
  count(*) FILTER (amount > $truncation)
FROM cost
"""


def exposure(
    contract: Contract,
    members: pa.Array,
    months: Decimal,
    lines: pa.Table,
    period: tuple[date, date],
    paid_through: date | None = None,
) -> Exposure:
    """Cost of members in a period by the claims terms: counting lines only, truncated per member, completed.

    Paid through the contract's last day, or an earlier one.
    """
    claims = contract.claims
    with duckdb.connect() as connection:
        connection.register("roster", pa.table({"member": members}))
        connection.register("lines", lines)
        connection.execute(
            f"""
            CREATE TABLE dated AS
            SELECT _member AS member, {claims.amount} AS amount, claim_type FROM lines
            WHERE counts AND {"NOT denied" if claims.amount == "allowed" else "TRUE"}
              AND {_day_column(claims.service_date)} BETWEEN $start AND $end AND payment_date <= $paid_through
            """,  # noqa: S608 the words spliced in are enumerated in ClaimsTerms
            {"start": period[0], "end": period[1], "paid_through": paid_through or claims.paid_through},
        )
        _refuse_untyped(connection)
        connection.execute(
            "CREATE TABLE counting AS SELECT member, amount FROM dated WHERE list_contains($types, claim_type)",
            {"types": list(claims.types)},
        )
        truncation = None if claims.truncation is None else claims.truncation.quantize(Decimal("1e-8"))
        row = connection.execute(_COST, {"truncation": truncation}).fetchone()
    if row is None:
        raise ContractError("claims: no cost could be computed")
    count, raw, truncated, over = row
    return Exposure(
        members=count,
        member_months=months,
        cost=truncated * claims.completion_factor,
        cost_before_truncation=raw,
        cost_before_completion=truncated,
        truncated_members=over if claims.truncation is not None else 0,
    )


def _refuse_untyped(connection: duckdb.DuckDBPyConnection) -> None:
    """ContractError when cost of the members lies in lines of no type: the lake gives each line one."""
    found = connection.execute(
        "SELECT count(*) FROM dated SEMI JOIN roster USING (member) WHERE claim_type IS NULL AND amount <> 0"
    ).fetchall()
    if count := found[0][0]:
        raise ContractError(f"claims.types: {count} claim lines have no type, so they would count nowhere")


def _day_column(name: str) -> str:
    return {"line": "service_from", "claim_from": "claim_from", "claim_thru": "claim_thru"}[name]


def collect(
    contract: Contract,
    attribution: Attribution,
    lines: pa.Table,
    outcomes: Mapping[str, MeasureOutcome],
    coverage: pa.Table | None = None,
    stamps: Mapping[str, str] | None = None,
    persons: pa.Table | None = None,
    cut: Cut | None = None,
    tables: Mapping[str, pa.Table] | None = None,
    sources: Mapping[str, str] | None = None,
) -> SettlementInputs:
    """Inputs of a settlement.

    ``lines`` are claim lines (:data:`COST_COLUMNS` are enough) as of the contract's paid-through date
    (``lake.claims(..., paid_through=...)``);
    ``outcomes`` are measure results over the attributed members by canonical (``url|version`` or ``url``);
    ``coverage`` is needed when a target is last year's cost of the same members. Where an arrangement looks at columns
    (``contract.needs()``), ``lines`` must have those it names and ``persons`` (``member``, ``birth_date``, ``gender``,
    ``died``) are who the members are. ContractError when attribution was made under other terms or another period than
    the contract's. With a ``cut``, services up to it and payments up to its paid-through date count; the roster is the
    same. ``tables`` are those of the contract that are no files (``contract.risk_tables()``,
    ``contract.lake_tables()``), ``sources`` what they were made of.
    """
    if attribution.period != contract.dates:
        raise ContractError("period: the attribution is of another period than the contract")
    if contract.attribution_terms is None or attribution.terms.digest != contract.attribution_terms.digest:
        raise ContractError("attribution.terms: the attribution was made under other terms")
    chosen = attribution.table.filter(pc.equal(attribution.table["entity"], contract.provider.entity))
    if cut is not None:
        chosen = _until(attribution, chosen, coverage, contract.dates[0], cut, persons)
    members = chosen["member"].combine_chunks()
    months = _total(chosen["months"])
    period = contract.dates if cut is None else (contract.dates[0], cut.through)
    baseline = None
    if any(terms.needs_baseline() for terms in contract.arrangements):
        if coverage is None:
            raise ContractError("target: Coverage is needed to count the member months of the year before")
        baseline = _baseline(contract, attribution, members, lines, coverage, _before(period))
    given = dict(stamps or {})
    given |= {"attribution_terms": attribution.terms.digest, "contract": contract.digest}
    return SettlementInputs(
        exposure=exposure(contract, members, months, lines, period, cut.paid_through if cut else None),
        outcomes=_by_measure(contract, outcomes),
        baseline=baseline,
        stamps=given,
        facts=_facts(contract, attribution, chosen, lines, coverage, persons, period, tables or {}, sources or {})
        if contract.needs()
        else None,
        cut=cut,
        part=_part(contract.dates, period),
        panels={by: _panels(chosen, by) for by in ("tin", "npi")},
    )


def _until(
    attribution: Attribution,
    chosen: pa.Table,
    coverage: pa.Table | None,
    start: date,
    cut: Cut,
    persons: pa.Table | None,
) -> pa.Table:
    """The roster with its months up to the cut."""
    if coverage is None:
        raise ContractError("interim: Coverage is needed to count the member months up to the cut")
    if attribution.terms.eligibility.coverage == "ignored":  # then everybody is covered in every month
        whole = Decimal(_months_between(start, cut.through))
        months = pc.min_element_wise(chosen["months"].cast(AMOUNT), pa.scalar(whole, AMOUNT))
    else:
        counted = _months(attribution, chosen["member"], coverage, (start, cut.through), persons)
        sums = counted.group_by("member").aggregate([("months", "sum")])
        joined = chosen.select(["member"]).join(sums, "member", join_type="left outer").sort_by("member")
        chosen = chosen.sort_by("member")
        months = pc.fill_null(joined["months_sum"].cast(AMOUNT), Decimal(0))
    return chosen.set_column(chosen.column_names.index("months"), "months", months)


def _months_between(start: date, end: date) -> int:
    return (end.year - start.year) * 12 + end.month - start.month + 1


def _part(whole: tuple[date, date], period: tuple[date, date]) -> Decimal:
    """Calendar months of a period by those of the whole."""
    return Decimal(_months_between(*period)) / _months_between(*whole)


def _panels(chosen: pa.Table, by: str) -> dict[str, Panel]:
    """Members and months of the roster by TIN or NPI; those without one are the organization's."""
    party = pc.fill_null(chosen[by], ORGANIZATION)
    grouped = pa.table({"party": party, "months": chosen["months"]}).group_by("party")
    counts = grouped.aggregate([("months", "count"), ("months", "sum")]).sort_by("party").to_pylist()
    return {one["party"]: Panel(one["months_count"], one["months_sum"]) for one in counts}


def _total(amounts: pa.ChunkedArray) -> Decimal:
    total: Decimal | None = pc.sum(amounts).as_py()
    return Decimal(0) if total is None else total


def _facts(
    contract: Contract,
    attribution: Attribution,
    chosen: pa.Table,
    lines: pa.Table,
    coverage: pa.Table | None,
    persons: pa.Table | None,
    period: tuple[date, date],
    tables: Mapping[str, pa.Table],
    sources: Mapping[str, str],
) -> Facts:
    needs = contract.needs()
    if coverage is None or persons is None:
        raise ContractError("arrangements: Coverage and persons are needed and were not given")
    if missing := sorted({"counts", "_member", *needs.lines} - set(lines.column_names)):
        raise ContractError(f"arrangements: claim lines lack {', '.join(missing)}")
    roster = chosen.select(["member", "tin", "npi", "months"])
    people = roster.join(persons, "member", join_type="left outer").select(PEOPLE_SCHEMA.names).sort_by("member")
    return Facts(
        period=period,
        lines=lines.filter(lines["counts"]).select(["_member", *(name for name in needs.lines if name != "_member")]),
        people=people.cast(PEOPLE_SCHEMA).combine_chunks(),
        months=_months(attribution, chosen["member"], coverage, period, persons),
        baseline_months=_months(attribution, chosen["member"], coverage, _before(period), persons),
        tables={name: one.table for name, one in contract.given.items()} | dict(tables),
        coverage=coverage,
        sources=sources,
    )


def _months(
    attribution: Attribution,
    members: pa.Array,
    coverage: pa.Table,
    period: tuple[date, date],
    persons: pa.Table | None = None,
) -> pa.Table:
    """Member months of the roster in a period, by the attribution terms' month rule."""
    counted = months_by(attribution.terms.eligibility, coverage, period, persons)
    return counted.filter(pc.is_in(counted["member"], value_set=members)).sort_by(
        [("member", "ascending"), ("month", "ascending")]
    )


def measure_scores(results: Iterable[MeasureResult], members: pa.Array) -> dict[str, MeasureScore]:
    """Results restricted to ``members``, by canonical.

    ``url|version`` for a measure's only group and ``url|version#group`` for every group. Members that could not be
    evaluated count in no population.
    """
    scores: dict[str, MeasureScore] = {}
    for result in results:
        chosen = pc.is_in(result.members.cast(pa.string()), value_set=members.cast(pa.string()))
        mask = chosen.to_numpy(zero_copy_only=False)
        for group in result.groups:
            removed = sum(group.count(f"denominator-{kind}", mask) for kind in ("exclusion", "exception"))
            has_numerator = group.population("numerator") is not None
            score = MeasureScore(
                numerator=group.count("numerator", mask) if has_numerator else None,
                denominator=group.count("denominator", mask) - removed,
                score=group.score(mask),
            )
            canonical = f"{result.url}|{result.version}"
            scores[f"{canonical}#{group.id}"] = score
            if len(result.groups) == 1:
                scores[canonical] = score
    return scores


def _by_measure(contract: Contract, outcomes: Mapping[str, MeasureOutcome]) -> dict[str, MeasureOutcome]:
    """Outcomes by measure id; a canonical without version takes the only version there is."""
    versions: dict[str, list[str]] = {}
    for canonical in outcomes:
        url, _, group = canonical.partition("#")
        versions.setdefault(f"{url.partition('|')[0]}#{group}", []).append(canonical)
    found: dict[str, MeasureOutcome] = {}
    for measure in contract.measures:
        wanted = f"{measure.canonical}#{measure.group}" if measure.group else measure.canonical
        candidates = versions.get(f"{measure.canonical}#{measure.group or ''}", [])
        if wanted in outcomes:
            found[measure.id] = outcomes[wanted]
        elif len(candidates) == 1:
            found[measure.id] = outcomes[candidates[0]]
    return found


def _baseline(
    contract: Contract,
    attribution: Attribution,
    members: pa.Array,
    lines: pa.Table,
    coverage: pa.Table,
    before: tuple[date, date],
) -> Exposure:
    mine = _months(attribution, members, coverage, before)
    months = _total(mine["months"])
    return exposure(contract, members, months, lines, before)


def _before(period: tuple[date, date]) -> tuple[date, date]:
    return _year_before(period[0]), _year_before(period[1])


def _year_before(day: date) -> date:
    return date(day.year - 1, day.month, 28 if (day.month, day.day) == (2, 29) else day.day)
