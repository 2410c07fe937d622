"""What prices are multiplied by for a member's risk: as stated, or out of age, number of HCCs and social risk.

HCCs are counted by the risk room's CMS-HCC over the diagnoses of a lookback before the anchor, as TEAM does; ages are
those of the anchor's first day. What a band or a number is worth is a term of the contract.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from fhir_gateway.contracts.terms import Fraction, Terms
from fhir_gateway.errors import InputError
from fhir_gateway.risk.hcc import payment_year, score

ONE, ZERO = Decimal(1), Decimal(0)
TEN = Decimal("1e-10")
Factor = Annotated[Decimal, Field(gt=0)]
_MULTIPLIER = pa.decimal128(18, 10)

#: Risk multipliers of members (for an anchor that starts on ``anchor_start``; empty: all of theirs).
MULTIPLIER_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        pa.field("multiplier", _MULTIPLIER, nullable=False),
        pa.field("anchor_start", pa.date32()),
    ]
)
#: Diagnoses (ICD-10-CM) that count for risk adjustment, with the day of the service.
DIAGNOSES_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        pa.field("diagnosis", pa.string(), nullable=False),
        pa.field("day", pa.date32(), nullable=False),
    ]
)
#: What :func:`with_risk` adds to episodes: age on the anchor's first day, HCCs of the lookback; null: not known.
RISK_COLUMNS = ("age", "hccs")


class SocialFactor(Terms):
    """What prices are multiplied by for members who are dual eligible, of low income, or from deprived areas."""

    factor: Factor
    table: str = "social_risk"
    adi: int = Field(default=80, ge=1, le=100, description="National percentile of deprivation from which on.")


class AgeStep(Terms):
    """What an age is worth, from so many years on."""

    age_from: int = Field(default=0, ge=0)
    value: Decimal


class HccStep(Terms):
    """What a number of HCCs is worth, from so many on."""

    hccs: int = Field(default=0, ge=0)
    value: Decimal


class RiskFactors(Terms):
    """A multiplier out of a member's age and number of HCCs.

    ``form``: the ``product`` of both values, their ``sum`` with the ``constant``, or e to the power of that sum
    (``exponential``: coefficients of a regression of logarithms).
    """

    table: str = "diagnoses"
    model: Literal["V24", "V28"] = "V28"
    year: int = Field(description="Payment year whose CMS-HCC tables hold.")
    lookback_days: int = Field(default=180, ge=1, le=730, description="Days before the anchor whose diagnoses count.")
    ages: tuple[AgeStep, ...] = ()
    hccs: tuple[HccStep, ...] = ()
    form: Literal["product", "sum", "exponential"] = "product"
    constant: Decimal = ZERO

    def problems(self, where: str) -> list[str]:
        """Contradictions."""
        found = []
        if not self.ages and not self.hccs:
            found.append(f"{where}: neither ages nor hccs say what anybody is worth")
        for name, starts in (("ages", [a.age_from for a in self.ages]), ("hccs", [h.hccs for h in self.hccs])):
            if starts and (starts[0] != 0 or starts != sorted(set(starts))):
                found.append(f"{where}.{name}: begin at 0 and rise, each once")
        if self.form == "product" and self.constant:
            found.append(f"{where}.constant: belongs to a sum, not to a product")
        if self.form != "exponential" and not found and min(self.values.values()) <= 0:
            found.append(f"{where}: somebody's multiplier would not be above zero")
        try:
            payment_year(self.year).model(self.model)
        except InputError as error:
            found.append(f"{where}.year: {error.message}")
        return found

    @property
    def values(self) -> dict[tuple[int, int], Decimal]:
        """The multiplier by first age of a band and first number of HCCs of a step, ten decimals."""
        neutral = ONE if self.form == "product" else ZERO
        ages = {step.age_from: step.value for step in self.ages} or {0: neutral}
        counts = {step.hccs: step.value for step in self.hccs} or {0: neutral}
        return {(age, count): self._of(ages[age], counts[count]) for age in ages for count in counts}

    def _of(self, age: Decimal, count: Decimal) -> Decimal:
        if self.form == "product":
            value = age * count
        else:
            value = self.constant + age + count
            value = value.exp() if self.form == "exponential" else value
        return value.quantize(TEN, ROUND_HALF_UP)


class Normalisation(Terms):
    """Multipliers are brought to a mean of 1: by ``prospective`` as announced, or by what it takes, within ``cap``."""

    prospective: Factor = ONE
    cap: Fraction | None = None

    def factor(self, mean: Decimal) -> Decimal:
        """The factor for a mean multiplier, ten decimals."""
        if self.cap is None:
            return self.prospective
        low, high = self.prospective * (1 - self.cap), self.prospective * (1 + self.cap)
        return max(low, min(high, ONE / mean)).quantize(TEN)


def with_multipliers(connection: duckdb.DuckDBPyConnection, capped: pa.Table, multipliers: pa.Table | None) -> pa.Table:
    """Episodes with their ``multiplier``; null where there is none."""
    connection.register("episodes", capped)
    connection.register(
        "multipliers",
        pa.schema([f.with_nullable(True) for f in MULTIPLIER_SCHEMA]).empty_table()
        if multipliers is None
        else multipliers,
    )
    return connection.sql(
        """
        SELECT e.*, m.multiplier FROM episodes e LEFT JOIN multipliers m ON m.member = e.member
          AND (m.anchor_start IS NULL OR m.anchor_start = e.anchor_start)
        QUALIFY row_number() OVER (PARTITION BY e.episode, e.period
          ORDER BY m.anchor_start NULLS LAST, m.multiplier) = 1
        ORDER BY episode, period
        """
    ).to_arrow_table()


_AGED = """
SELECT e.episode::VARCHAR AS member, datesub('year', p.birth_date, e.anchor_start)::SMALLINT AS age,
  CASE p.gender WHEN 'male' THEN 'M' WHEN 'female' THEN 'F' END AS sex
FROM multiplied e LEFT JOIN people p ON p.member = e.member ORDER BY e.episode
"""
_LOOKBACK = """
SELECT DISTINCT e.episode::VARCHAR AS member, d.diagnosis FROM multiplied e JOIN diagnoses d ON d.member = e.member
  AND d.day >= e.anchor_start - $days::INTEGER AND d.day < e.anchor_start
"""
_VALUED = """
SELECT e.* REPLACE (CASE WHEN k.age IS NULL THEN e.multiplier
    ELSE (coalesce(e.multiplier, 1)::DECIMAL(18, 10) * v.value)::DECIMAL(18, 10) END AS multiplier),
  k.age::INTEGER AS age, k.hccs
FROM multiplied e LEFT JOIN known k ON k.member = e.episode::VARCHAR
LEFT JOIN worth v ON k.age >= v.age_from AND k.age < v.age_until AND k.hccs >= v.hccs_from AND k.hccs < v.hccs_until
ORDER BY episode, period
"""


def with_risk(
    connection: duckdb.DuckDBPyConnection, found: pa.Table, people: pa.Table, diagnoses: pa.Table, risk: RiskFactors
) -> pa.Table:
    """Episodes of the period with :data:`RISK_COLUMNS`, their multiplier times what these are worth.

    ``people`` have ``member``, ``birth_date`` and ``gender``. Of whom one of these is not known neither age nor HCCs
    are told, and nothing is multiplied.
    """
    connection.register("multiplied", found)
    connection.register("people", people)
    connection.register("diagnoses", diagnoses)
    aged = connection.sql(_AGED).to_arrow_table()
    coded = connection.sql(_LOOKBACK, params={"days": risk.lookback_days}).to_arrow_table()
    scores = score(aged, coded, risk.model, risk.year, detail=False).scores
    known = pa.table({"member": aged["member"], "age": aged["age"], "hccs": scores["hccs"]})
    connection.register("known", known.filter(pc.is_null(scores["reason"])))
    connection.register("worth", _worth(risk))
    return connection.sql(_VALUED).to_arrow_table()


def _worth(risk: RiskFactors) -> pa.Table:
    """Values with the ranges they hold for."""
    values = risk.values
    ages, counts = (sorted({key[place] for key in values}) for place in (0, 1))
    most = 1_000_000
    until = {
        name: dict(zip(starts, [*starts[1:], most], strict=True)) for name, starts in (("age", ages), ("hccs", counts))
    }
    rows = [
        {
            "age_from": age,
            "age_until": until["age"][age],
            "hccs_from": count,
            "hccs_until": until["hccs"][count],
            "value": value,
        }
        for (age, count), value in values.items()
    ]
    names = ("age_from", "age_until", "hccs_from", "hccs_until")
    schema = pa.schema([*((name, pa.int32()) for name in names), ("value", _MULTIPLIER)])
    return pa.Table.from_pylist(rows, schema=schema)


def with_social_risk(
    connection: duckdb.DuckDBPyConnection, found: pa.Table, risky: pa.Table, factor: Decimal
) -> pa.Table:
    """Episodes whose multiplier is times ``factor`` for members at risk (``risky``: member, at_risk)."""
    connection.register("multiplied", found)
    connection.register("risky", risky)
    return connection.sql(
        """
        SELECT e.* REPLACE ((coalesce(e.multiplier, 1)::DECIMAL(18, 10)
          * CASE WHEN r.at_risk THEN $factor::DECIMAL(18, 10) ELSE 1 END)::DECIMAL(18, 10) AS multiplier)
        FROM multiplied e LEFT JOIN risky r USING (member) ORDER BY episode, period
        """,
        params={"factor": factor.quantize(TEN, ROUND_HALF_UP)},
    ).to_arrow_table()


def mean_multiplier(found: pa.Table) -> Decimal:
    """Mean of the multipliers of episodes, those without one as 1."""
    if not found.num_rows:
        return ONE
    total = Decimal(pc.sum(pc.fill_null(found["multiplier"], ONE)).as_py())
    return Decimal(total / found.num_rows)
