"""A file of Shared Savings Program results: which year, which level, what each row states and is settled to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Context, Decimal, localcontext
from typing import Any

from fhir_gateway.contracts import Exposure, MeasureScore, SettlementInputs
from fhir_gateway.contracts.arrangements.mssp import SharedSavingsProgram
from fhir_gateway.contracts.arrangements.mssp_rules import Level, mssp_rules, mssp_year
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.contracts.terms import MeasureTerms
from fhir_gateway.errors import ContractError
from tests.contract.public_tables.report import NotSuchATable
from tests.contract.public_tables.tables import Table, cell, is_on, key, number, parse

D = Decimal
ONE, NOTHING = D(1), D(0)
Row = Mapping[str, str]

ID = ("ACO_ID", "ACO_Num", "ACO_Name")
BENCHMARK = ("ABtotBnchmk",)
COST = ("ABtotExp",)
MSR = ("MinSavPerc",)
START = ("Current_Start_Date", "Start_Date", "Agreement_Start_Date")
FIRST_YEAR = 2013  # paid for reporting: everybody has a full score
NEEDED = {"benchmark": BENCHMARK, "expenditures": COST, "beneficiaries": ("N_AB",)}

QUALITY = MeasureTerms.model_validate(
    {
        "id": "quality",
        "canonical": "https://example.org/Measure/quality-performance-score",
        "name": "Quality performance score",
        "direction": "increase",
        "weight": 1,
        "scoring": {"kind": "linear", "threshold": 0, "target": 1},
    }
)


@dataclass(frozen=True)
class Case:
    """A row as terms and inputs, and the ledger lines it was settled to."""

    name: str
    row: Row
    level: Level
    terms: Mapping[str, Any]
    benchmark: Decimal
    cost: Decimal
    people: int
    score: Decimal
    unknown: str | None = None  # what the file does not state and an amount depends on

    def settled(self, *, cost: Decimal | None = None, score: Decimal | None = None, **terms: Any) -> dict[str, Decimal]:
        """Values by line, and the published amount; other cost, score or terms on request."""
        program = SharedSavingsProgram.model_validate({**self.terms, **terms})
        if problems := program.problems():
            raise ContractError("; ".join(problems))
        spent = self.cost if cost is None else cost
        exposure = Exposure(self.people, D(self.people * 12), spent, spent, spent, 0)
        outcome = MeasureScore(None, 1, self.score if score is None else score)
        ledger = Ledger(program.id, "USD", "dollar", None)
        with localcontext(Context(prec=60)):
            program.settle(SettlementInputs(exposure, {"quality": outcome}), (QUALITY,), ledger)
        lines = {line.id.removeprefix("aco."): line.value for line in ledger.lines if line.value is not None}
        amount = ledger.lines[-1].amount
        return lines | ({} if amount is None else {"amount": amount})


class ResultsFile:
    """What a file states, whatever its year."""

    def __init__(self, table: Table) -> None:
        self.table = table
        lacks = [what for what, names in NEEDED.items() if not any(table.has(name) for name in names)]
        if lacks:
            what = "not results of the Shared Savings Program"
            raise NotSuchATable(f"{table.path}: {what}: no column of {', '.join(lacks)}")
        self.year, self.told_by = self._year()
        self._percents: dict[str, bool] = {}

    def _year(self) -> tuple[int, str]:
        for column in ("performance_year", "perf_year", "PY", "year"):
            for row in self.table.rows:
                if found := re.search(r"20\d\d", row.get(key(column), "")):
                    return int(found[0]), "by its column"
        if found := re.search(r"20\d\d", self.table.path.stem):
            return int(found[0]), "by the file's name"
        starts = [day.year for row in self.table.rows if (day := day_of(cell(row, *START)))]
        if not starts:
            raise NotSuchATable(
                f"{self.table.path}: neither a column, the name nor start dates tell the performance year"
            )
        return max(starts), "by the latest start"

    def fraction(self, row: Row, *names: str) -> Decimal | None:
        """A share, rate or score as a fraction, whether the column is in percent or not."""
        for name in names:
            text = cell(row, name)
            value = None if text is None else parse(text)
            if text is None or value is None:
                continue
            return value if "%" in text or not self.in_percent(name) else value / 100
        return None

    def in_percent(self, name: str) -> bool:
        """A column without percent signs that has values above 1 (above 0.3 for minimum rates, none is so high)."""
        if name not in self._percents:
            bound = D("0.3") if name in MSR else ONE
            values = [parse(text) for row in self.table.rows if (text := cell(row, name)) and "%" not in text]
            self._percents[name] = any(value is not None and abs(value) > bound for value in values)
        return self._percents[name]

    def _level(self, row: Row) -> Level:
        """The level by its column, or by the flag columns of earlier years; ContractError for an unknown name."""
        rules = mssp_rules()
        if stated := cell(row, "Current_Track", "Track", "Current_Level"):
            return rules.level(stated)
        flagged = []
        for column in self.table.columns:
            named = re.fullmatch(r"(?:current)?(track[0-9]|track1plus|track[123]|basic[a-e]|enhanced|en)", column)
            if named and is_on(row, column):
                flagged.append(rules.level(named[1]))
        if len({level.level for level in flagged}) == 1:
            return flagged[0]
        if not flagged and self.table.has("Track2") and not self.table.has("Track1"):
            return rules.level("1")  # the first files flag Track 2 only
        raise ContractError("level: no or several level columns are set")

    def case(self, name: str, row: Row) -> Case:
        """A row; ContractError says why it cannot be settled."""
        benchmark, cost, people = number(row, *BENCHMARK), number(row, *COST), number(row, "N_AB")
        if benchmark is None or cost is None or people is None:
            raise ContractError("benchmark, expenditures or beneficiaries: no number")
        level = self._level(row)
        terms = self._terms(row, level, benchmark)
        unknown = self._unknown(level, terms)
        return Case(name, row, level, terms, benchmark, cost, int(people), self._score(row), unknown)

    def _unknown(self, level: Level, terms: Mapping[str, Any]) -> str | None:
        """What would have to be guessed: a minimum rate that could be elected, a score that the share depends on."""
        if terms["msr"] is None and level.two_sided:
            return "no minimum rate, and the level elects it"
        by_score = mssp_year(self.year).quality == "score" or terms["standard"] == "alternative"
        if by_score and self.year > FIRST_YEAR and not self.table.has("QualScore"):
            return "no quality score, and the share depends on it"
        return None

    def _score(self, row: Row) -> Decimal:
        """The quality score; those in their first year, who are paid for reporting, have a full one."""
        score = self.fraction(row, "QualScore")
        return ONE if score is None else score

    def _standard(self, row: Row) -> str:
        met, alternative = is_on(row, "Met_QPS"), is_on(row, "Met_AltQPS")
        if met is None:  # without that column a rate of zero is the only word about it
            return "failed" if self.fraction(row, "FinalShareRate") == 0 else "met"
        if met:
            return "met"
        return "alternative" if alternative and mssp_year(self.year).quality == "alternative" else "failed"

    def _terms(self, row: Row, level: Level, benchmark: Decimal) -> dict[str, Any]:
        stated = cell(row, "Rev_Exp_Cat") or ""
        terms: dict[str, Any] = {
            "kind": "mssp",
            "id": "aco",
            "pool": "mssp",
            "performance_year": self.year,
            "level": level.level,
            "agreement_start": day_of(cell(row, *START)),
            "year_of_agreement": self._year_of_agreement(row),
            "low_revenue": "low" in stated.lower(),
            "target": {"kind": "total", "amount": benchmark},
            "msr": self.fraction(row, *MSR),
            "standard": self._standard(row),
        }
        if level.two_sided:
            if mssp_year(self.year).emergency_months < 12:  # else all losses are forgiven, whatever they come to
                terms["relief_amount"] = abs(number(row, "DisAdj") or NOTHING)
                terms["disaster"] = None if terms["relief_amount"] else {"months": 0, "share": 0}
            terms["guardrail"] = {"applied": True} if is_on(row, "Guardrail") else None
        start = terms["agreement_start"]
        if self.year == 2019 and start == date(2019, 7, 1):
            terms["participation_months"] = 6
        return terms

    def _year_of_agreement(self, row: Row) -> int | None:
        """Year of the first agreement period; None in later ones, whose limits do not grow."""
        period, start = number(row, "Agreement_Period_Num"), day_of(cell(row, *START))
        if start is None or (period is not None and period > 1):
            return None
        return max(1, self.year - max(start.year, 2013) + 1)


def day_of(text: str | None) -> date | None:
    """A day as 7/1/12, 07/01/2019 12:00:00 AM or 2019-07-01."""
    if text is None:
        return None
    if found := re.match(r"(\d{4})-(\d\d)-(\d\d)", text):
        return date(int(found[1]), int(found[2]), int(found[3]))
    if found := re.match(r"(\d{1,2})/(\d{1,2})/(\d{2,4})", text):
        year = int(found[3])
        return date(year + 2000 if year < 100 else year, int(found[1]), int(found[2]))
    return None


def _places(text: str) -> int:
    _, _, after = text.strip().rstrip("%").strip().partition(".")
    return len(re.sub(r"\D.*", "", after))


def half_a_unit(text: str | None, percent: bool) -> Decimal:
    """Half of the last published place, as a fraction; nothing where no number is published."""
    if text is None or parse(text) is None:
        return D(0)
    if parse(text) in (0, 1, 100) and "%" not in text and _places(text) == 0:
        return D(0)  # a whole score, not one of no places
    places = _places(text) + (2 if percent or "%" in text else 0)
    return D(5) / D(10) ** (places + 1)


def as_published(
    exact: Decimal,
    published: Decimal,
    text: str,
    percent: bool,
    score_text: str | None = None,
    slack: Decimal = NOTHING,
) -> bool:
    """Whether a rate, rounded as it was published, is the published one.

    Up to four decimals of a fraction (two of a percent) are rounded half up; more are the unrounded rate. A rate that
    comes of a published score carries half a unit of that score's last place as well; one that comes of rounded
    amounts, the ``slack`` of those.
    """
    places = _places(text) + (2 if percent or "%" in text else 0)
    slack += D(5) / D(10) ** (places + 1)
    if score_text is not None:
        slack += half_a_unit(score_text, False)
    return abs(exact - published) <= slack + D("1e-9")
