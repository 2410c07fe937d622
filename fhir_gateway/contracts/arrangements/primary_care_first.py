"""Primary Care First: a population payment by risk group, a flat fee per visit, and a performance-based adjustment."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal

import duckdb
import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.arrangements.audited import AuditedTerms
from fhir_gateway.contracts.arrangements.base import Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.capitation_terms import SCORES_SCHEMA
from fhir_gateway.contracts.arrangements.facts import Facts, Needs
from fhir_gateway.contracts.arrangements.performance_adjustment import PerformanceAdjustment, add_adjustment
from fhir_gateway.contracts.audit import AUDIT_SCHEMA, ZERO, connect, newest, places, totals
from fhir_gateway.contracts.programmes import ProgrammeYear, programme_year
from fhir_gateway.contracts.service_categories import malformed, one_of
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.contracts.statements import add_exposure
from fhir_gateway.contracts.terms import MeasureTerms, Money, Terms
from fhir_gateway.errors import ContractError

ONE = Decimal(1)


class Group(Terms):
    """A risk group: mean scores from that of the group before up to, not including, ``below``; the last has no end."""

    group: str
    pbpm: Money = Field(description="Per beneficiary month.")
    below: Annotated[Decimal, Field(gt=0)] | None = None


class PrimaryCareFirstYear(ProgrammeYear):
    """Groups, visit fee and limits of the adjustment."""

    groups: tuple[Group, ...] = Field(min_length=1)
    visit_fee: Money
    lowest_adjustment: Decimal
    highest_adjustment: Decimal


@arrangement("primary_care_first")
class PrimaryCareFirst(AuditedTerms):
    """Terms after Primary Care First; what is not stated is the programme's of ``year``."""

    kind: Literal["primary_care_first"]
    year: int = 2021
    groups: tuple[Group, ...] = ()
    group_by: Literal["practice", "member"] = Field(
        default="practice", description="By the mean score over member months, or by each member's own."
    )
    scores: str = Field(default="risk_scores", description="Table of risk scores.")
    default_score: Annotated[Decimal, Field(gt=0)] = Field(default=ONE, description="Score of who has none.")
    visit_codes: tuple[str, ...] = Field(
        min_length=1, description="Procedures that are a visit, one a day: 99213, 99202-99215."
    )
    visit_fee: Money | None = None
    geo_factor: Annotated[Decimal, Field(gt=0)] = Field(default=ONE, description="Of the visit fee.")
    tins: tuple[str, ...] = Field(min_length=1, description="TINs of the practice.")
    adjustment: PerformanceAdjustment | None = None
    advance: Money = Decimal(0)

    metrics = ("eligible-member", "member-months", "avg-risk-score", "ccf", "performance-ccf", "earnings-ccf")

    def stream(self) -> str:
        """Care coordination fee."""
        return "ccf"

    def uses_quality(self) -> bool:
        """Where there is a performance-based adjustment."""
        return self.adjustment is not None

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        where = self.where
        try:
            programme = self.programme()
        except ContractError as error:
            return [f"{where}.year: {error.message}"]
        found = malformed(self.visit_codes, f"{where}.visit_codes")
        groups = self.groups or programme.groups
        if groups[-1].below is not None:
            found.append(f"{where}.groups: the last group has an end")
        for one, after in pairwise(groups):
            if one.below is None or (after.below is not None and after.below <= one.below):
                found.append(f"{where}.groups: '{after.group}' overlaps '{one.group}'")
        if self.adjustment is not None:
            found += self.adjustment.problems(f"{where}.adjustment")
            parts = [self.adjustment.below, *(step.part for step in self.adjustment.steps)]
            if min(parts) < programme.lowest_adjustment or max(parts) > programme.highest_adjustment:
                limits = f"{programme.lowest_adjustment} and {programme.highest_adjustment}"
                found.append(f"{where}.adjustment: a part is not between {limits}")
        return found

    def programme(self) -> PrimaryCareFirstYear:
        """The programme's own numbers."""
        return programme_year("primary_care_first", self.year, PrimaryCareFirstYear)

    def needs(self) -> Needs:
        """Scores and visits."""
        return Needs(
            lines=("denied", "service_from", "tin", "procedure"), tables={self.scores: SCORES_SCHEMA}, people=True
        )

    def rows(self, inputs: SettlementInputs) -> pa.Table:
        """Population payments (rule ``population``) and visits (rule ``visit``)."""
        return self._rows(inputs.columns())[0]

    def _rows(self, facts: Facts) -> tuple[pa.Table, Decimal]:
        programme = self.programme()
        with connect(months=facts.months, lines=facts.lines, scores=facts.table(self.scores)) as connection:
            mean = self._scored(connection)
            values: dict[str, Decimal | str] = {}
            score = "score" if self.group_by == "member" else f"{mean:f}::DECIMAL(28, 8)"
            group, pbpm = "", ""
            for number, one in enumerate(self.groups or programme.groups):
                values |= {f"group{number}": one.group, f"pbpm{number}": places(one.pbpm)}
                condition = "TRUE" if one.below is None else f"{score} < {one.below:f}"
                group += f" WHEN {condition} THEN $group{number}"
                pbpm += f" WHEN {condition} THEN $pbpm{number}::DECIMAL(28, 8)"
            population = connection.sql(
                f"""
                SELECT member, month, 'population' AS rule, CASE{group} END AS cell, months AS quantity,
                  CASE{pbpm} END AS rate, 1 AS factor, amount_of(months, CASE{pbpm} END, 1) AS amount,
                  'paid' AS status, NULL::VARCHAR AS reason
                FROM scored
                """,  # noqa: S608 numbers
                params=values,
            ).to_arrow_table()
            fee = programme.visit_fee if self.visit_fee is None else self.visit_fee
            connection.register("own", pa.table({"tin": pa.array(self.tins, pa.string())}))
            codes: dict[str, Any] = {}
            visits = connection.sql(
                f"""
                WITH days AS (
                  SELECT DISTINCT _member AS member, service_from AS day FROM lines
                  WHERE NOT denied AND {one_of("procedure", self.visit_codes, codes, "code")}
                    AND tin IN (SELECT tin FROM own)
                )
                SELECT member, month, 'visit' AS rule, 'visit' AS cell, count(*) AS quantity,
                  $fee::DECIMAL(28, 8) AS rate, $geo::DECIMAL(28, 8) AS factor,
                  amount_of(count(*), $fee, $geo) AS amount, 'paid' AS status, NULL::VARCHAR AS reason
                FROM days JOIN months USING (member)
                WHERE months > 0 AND month = date_trunc('month', day) AND day BETWEEN $start AND $end
                GROUP BY member, month
                """,  # noqa: S608 codes are parameters
                params=codes
                | {
                    "fee": places(fee),
                    "geo": places(self.geo_factor),
                    "start": facts.period[0],
                    "end": facts.period[1],
                },
            ).to_arrow_table()
        return pa.concat_tables([population.cast(AUDIT_SCHEMA), visits.cast(AUDIT_SCHEMA)]), mean

    def _scored(self, connection: duckdb.DuckDBPyConnection) -> Decimal:
        """Create ``scored`` (months with the score that holds); the mean by member months, 8 places."""
        connection.execute(
            "CREATE TEMP TABLE scored AS SELECT m.*, coalesce(t.score, $missing)::DECIMAL(28, 8) AS score"  # noqa: S608
            f" FROM {newest(connection, 'months', 'scores', 'm.month', 'month')}",
            {"missing": places(self.default_score)},
        )
        twice, weighted, months = connection.execute(
            "SELECT (SELECT count(*) FROM (SELECT 1 FROM scores GROUP BY member, month HAVING count(*) > 1)),"
            " coalesce(sum(months * score), 0), coalesce(sum(months), 0) FROM scored"
        ).fetchall()[0]
        if twice:
            raise ContractError(f"{self.where}: tables.{self.scores}: a member has two scores of one month")
        return places(weighted / months) if months else ONE

    def carried_on(self) -> Carried:
        """By months and visits so far."""
        return "time"

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Mean score, population payments by group, visits, adjustment, what was paid before; payable."""
        add_exposure(ledger, inputs.exposure)
        where = self.where
        rows, mean = self._rows(inputs.columns())
        scored = ledger.add(
            "score", mean, "Mean risk score", "by member months, 8 places", f"{where}.scores", unit="1",
            metric="avg-risk-score",
        )  # fmt: skip
        parts = []
        for number, ((rule, cell), quantity, amount, count) in enumerate(totals(rows, ["rule", "cell"]), start=1):
            label = f"Population payment, group {cell}" if rule == "population" else "Flat visit fees"
            what = "beneficiary months" if rule == "population" else "visits"
            formula = f"sum of {count} rows, {quantity.normalize():f} {what}"
            term = f"{where}.{'groups' if rule == 'population' else 'visit_fee'}"
            parts.append(ledger.add(f"{rule}.{number}", amount, label, formula, term, (scored,)))
        value = sum((part.value for part in parts), ZERO)
        payment = ledger.add("payment", value, "Primary care payment", "sum of its parts", where, parts, metric="ccf")
        due = [payment]
        if self.adjustment is not None:
            due.append(add_adjustment(self.adjustment, payment, inputs, measures, ledger, f"{where}.adjustment"))
        if self.advance:
            due.append(ledger.add("advance", -self.advance, "Paid already", "as paid, taken off", f"{where}.advance"))
        value = sum((part.value for part in due), ZERO)
        balance = ledger.add("balance", value, "Primary care payment due", "sum of its parts", where, due)
        ledger.pay(balance, "Primary care payment", where, "earnings-ccf")
