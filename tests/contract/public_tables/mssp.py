"""Results of the Medicare Shared Savings Program, one row an ACO, as published for performance years since 2013.

Column names, formats and what is published changed over the years; what a file lacks is said so. Each row becomes an
arrangement ``mssp`` with the published benchmark, expenditures, minimum rate, level and quality flags as its terms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

from fhir_gateway.contracts.arrangements.corridor import exact_msr
from fhir_gateway.contracts.arrangements.mssp_rules import mssp_rules, mssp_year
from fhir_gateway.contracts.benchmarks.adjustment import final_adjustment
from fhir_gateway.contracts.benchmarks.blend import weighted
from fhir_gateway.errors import ContractError
from tests.contract.public_tables import tables
from tests.contract.public_tables.mssp_file import (
    BENCHMARK,
    ID,
    MSR,
    ONE,
    START,
    Case,
    D,
    ResultsFile,
    as_published,
    day_of,
    half_a_unit,
)
from tests.contract.public_tables.report import Report
from tests.contract.public_tables.tables import cell, is_on, number

EARNED = ("EarnSaveLoss", "EarnShrSavings")
OWED = ("OweLosses", "Owe_Losses")
TYPES = {"ESRD": "ESRD", "DIS": "DIS", "AGDU": "AGED_Dual", "AGND": "AGED_NonDual"}

#: Quantity -> columns, any of which is enough.
QUANTITIES = {
    "minimum savings or loss rate (variable)": MSR,
    "savings rate": ("Sav_rate",),
    "benchmark minus expenditures": ("BnchmkMinExp",),
    "generated savings or losses": ("GenSaveLoss",),
    "final sharing rate": ("FinalShareRate",),
    "final loss rate": ("FinalLossRate",),
    "disaster relief within $1": ("DisAdj",),
    "relief below the minimum rate (low revenue)": ("ReducedSS",),
    "advance payments recouped": ("Adv_Pay_Recoup", "AIPRecoup", "AIP_Recoup"),
    "final adjustment (regional or prior savings)": ("FinalAdjCat", "Final_Adj_Cat"),
    "benchmark from per capita and person years within 0.03 %": ("UpdatedBnchmk",),
    "expenditures per capita from enrolment types within 0.1 %": ("Per_Capita_Exp_TOTAL_PY",),
}


def check(paths: Sequence[Path]) -> Iterator[Report]:
    """One report a file."""
    for path in paths:
        yield Results(ResultsFile(tables.read(path))).report()


class Results:
    """The quantities of a file."""

    def __init__(self, file: ResultsFile) -> None:
        self.file = file
        rows = f"{len(file.table.rows)} rows"
        self.out = Report(f"{file.table.path.name} (performance year {file.year}, {file.told_by}; {rows})")

    def report(self) -> Report:
        """All of them."""
        for quantity, columns in QUANTITIES.items():
            if any(self.file.table.has(column) for column in columns):
                self.out.tally(quantity)
            else:
                self.out.lacks(quantity, f"no column {' or '.join(columns)}")
        if not any(self.file.table.has(column) for column in (*EARNED, *OWED)):
            self.out.lacks("earned savings and shared losses", f"no column {' or '.join((*EARNED, *OWED))}")
        for position, row in enumerate(self.file.table.rows, 2):
            name = cell(row, *ID) or f"row {position}"
            try:
                self._count(self.file.case(name, row))
            except ContractError as error:
                self.out.skip(name, error.message)
        return self.out

    def _count(self, case: Case) -> None:
        lines = case.settled()
        self._minimum_rate(case)
        self._savings(case, lines)
        if case.unknown is None:
            self._rates(case, lines)
            self._earned(case, lines)
        else:
            self.out.skip(case.name, f"shares and amounts: {case.unknown}")
        self._per_capita(case)
        self._adjustment(case)

    def _agree(self, quantity: str, case: Case, computed: Decimal, published: Decimal) -> None:
        self.out.tally(quantity).add(case.name, abs(computed - published) <= 1, computed, published)

    def _rate(self, quantity: str, case: Case, computed: Decimal, column: str, *, by_score: bool = False) -> None:
        """A rate as it was published, rounded."""
        published, text = self.file.fraction(case.row, column), cell(case.row, column)
        if published is None or text is None:
            return
        score = cell(case.row, "QualScore") if by_score else None
        dollar = ONE / case.benchmark if column == "Sav_rate" else D(0)
        agrees = as_published(computed, published, text, self.file.in_percent(column), score, dollar)
        self.out.tally(quantity).add(case.name, agrees, f"{computed:.6f}", text)

    def _minimum_rate(self, case: Case) -> None:
        """By size: of one-sided levels, and of two-sided ones that did not elect another."""
        published = self.file.fraction(case.row, *MSR)
        if case.level.two_sided and published in mssp_rules().election.rates:
            return
        self._rate("minimum savings or loss rate (variable)", case, exact_msr(case.people), MSR[0])

    def _savings(self, case: Case, lines: dict[str, Decimal]) -> None:
        rate = lines["gross"] / case.benchmark if "guarded" in lines else lines["rate"]
        self._rate("savings rate", case, rate, "Sav_rate")
        published = number(case.row, "BnchmkMinExp")
        if published is not None:
            self._agree("benchmark minus expenditures", case, case.benchmark - case.cost, published)
        if self.file.table.has("GenSaveLoss") and not (case.level.two_sided and case.unknown):
            counted = lines["counted"] if case.level.two_sided else max(D(0), lines["counted"])
            counted = counted * case.terms.get("participation_months", 12) / 12
            self._agree("generated savings or losses", case, counted, number(case.row, "GenSaveLoss") or D(0))

    def _rates(self, case: Case, lines: dict[str, Decimal]) -> None:
        """Sharing and loss rates: of what was settled, or of what would have been with savings or losses."""
        stated = self.file.fraction(case.row, "FinalShareRate")
        if stated or self.file.table.has("Met_QPS"):  # else a zero was taken as the word about the standard
            share = lines["share"] if "share" in lines else case.settled(cost=D(0), guardrail=None)["share"]
            self._rate("final sharing rate", case, share, "FinalShareRate", by_score=True)
        if case.level.two_sided and self.file.fraction(case.row, "FinalLossRate") is not None:
            rate = lines["loss-rate"] if "loss-rate" in lines else case.settled(cost=2 * case.benchmark)["loss-rate"]
            self._rate("final loss rate", case, rate, "FinalLossRate")
        reduced = is_on(case.row, "ReducedSS")
        if reduced is not None:
            relieved = 0 < lines["rate"] < lines["msr"] and lines["counted"] > 0
            tally = self.out.tally("relief below the minimum rate (low revenue)")
            tally.add(case.name, relieved == reduced, relieved, reduced)

    def _earned(self, case: Case, lines: dict[str, Decimal]) -> None:
        published, owed = number(case.row, *EARNED), number(case.row, *OWED)
        if owed:
            published = -abs(owed)
        if published is None:
            return
        amount = lines["amount"]
        if lines["gross"] >= 0:
            self._amount("earned savings", case, amount, published)
            if mssp_year(self.file.year).trust == "M":
                other = replace(case, terms={**case.terms, "sequestration": D("0.02")})
                what = "earned savings, were 2 % sequestered (the year's rule is from memory),"
                self._amount(what, other, other.settled()["amount"], published)
            self._advances(case, amount, published)
            return
        owed = lines.get("limited", lines["loss"])
        if not case.level.two_sided or owed == published == 0:
            return
        self._amount("shared losses", case, amount, published)
        relief = abs(number(case.row, "DisAdj") or D(0))
        if relief:
            self._agree("disaster relief within $1", case, min(-owed, published - owed), relief)

    def _amount(self, what: str, case: Case, computed: Decimal, published: Decimal) -> None:
        """Until 2020 the share is the score's part, and the score is published rounded: its least and highest value."""
        if mssp_year(self.file.year).quality != "score":
            self._agree(f"{what} within $1", case, computed, published)
            return
        half = half_a_unit(cell(case.row, "QualScore"), self.file.in_percent("QualScore"))
        scores = (min(ONE, max(D(0), case.score + step)) for step in (-half, half))
        low, high = (case.settled(score=score)["amount"] for score in scores)
        agrees = low - 1 <= published <= high + 1
        tally = self.out.tally(f"{what} within $1 and the rounding of the published score")
        tally.add(case.name, agrees, f"{low} to {high}", published)
        exact = self.out.tally(f"{what} that are exact although the score is rounded")
        exact.add(case.name, abs(computed - published) <= 1, computed, published)

    def _advances(self, case: Case, earned: Decimal, published: Decimal) -> None:
        """Advance payments kept back from savings: of the first years, and advance investment payments since 2024."""
        recouped = number(case.row, "Adv_Pay_Recoup", "AIPRecoup", "AIP_Recoup")
        given = number(case.row, "Adv_Pay_Amt", "AIPBalance", "AIP_Balance")
        if recouped is None or not given:
            return
        computed = case.settled(advances=given)["recouped"]
        slack = abs(earned - published)  # where all that was earned is kept, it differs as that does
        agrees = abs(computed - abs(recouped)) <= 1 + slack
        self.out.tally("advance payments recouped").add(case.name, agrees, computed, recouped)

    def _per_capita(self, case: Case) -> None:
        """Totals are per capita times person years (not heads); per capita is the mean over enrolment types."""
        row = case.row
        years, per_capita = number(row, "N_AB_Year_PY", "N_AB_Year"), number(row, "UpdatedBnchmk")
        if years and per_capita:
            computed = per_capita * years
            agrees = abs(computed / case.benchmark - 1) <= D("0.0003")
            tally = self.out.tally("benchmark from per capita and person years within 0.03 %")
            tally.add(case.name, agrees, computed, number(row, *BENCHMARK))
        costs = [number(row, f"Per_Capita_Exp_ALL_{kind}_PY") for kind in TYPES]
        weights = [number(row, f"N_AB_Year_{kind}_PY", f"N_AB_Year_{kind}") for kind in TYPES.values()]
        stated = number(row, "Per_Capita_Exp_TOTAL_PY")
        known = [(cost, weight) for cost, weight in zip(costs, weights, strict=True) if cost is not None and weight]
        if stated and known and len(known) == sum(1 for weight in weights if weight is None or weight):
            mean = weighted([cost for cost, _ in known], [weight for _, weight in known])
            tally = self.out.tally("expenditures per capita from enrolment types within 0.1 %")
            tally.add(case.name, abs(mean / stated - 1) <= D("0.001"), f"{mean:.2f}", stated)

    def _adjustment(self, case: Case) -> None:
        """Which adjustment the historical benchmark got: the higher one."""
        category = cell(case.row, "FinalAdjCat", "Final_Adj_Cat")
        if category is None:
            return
        regional, prior = number(case.row, "RegAdj", "Reg_Adj"), number(case.row, "PriorSavAdj", "Prior_Sav_Adj")
        start = day_of(cell(case.row, *START))
        found = final_adjustment(regional, prior, new_rules=start is not None and start >= date(2024, 1, 1))
        words = category.lower()
        stated = "prior" if "prior" in words else "none" if words.startswith("no") else "regional"
        tally = self.out.tally("final adjustment (regional or prior savings)")
        tally.add(case.name, found.kind == stated, f"{found.kind} {found.amount}", category)
