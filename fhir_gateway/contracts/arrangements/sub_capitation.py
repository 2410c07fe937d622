"""Sub-capitation: a pool shared out among practitioners, by their panels or by points for first contacts."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

import duckdb
import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.apportion import apportion_by
from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.facts import Facts, Needs
from fhir_gateway.contracts.audit import ZERO, connect, places
from fhir_gateway.contracts.events import spaced_events
from fhir_gateway.contracts.service_categories import CATEGORY_COLUMNS, code_problems, matching
from fhir_gateway.contracts.settlement import Ledger, Number, publish
from fhir_gateway.contracts.statements import add_exposure
from fhir_gateway.contracts.terms import MeasureTerms, Terms


class PoolAmount(Terms):
    """What is shared out: an amount in ``total``, or per member month."""

    kind: Literal["total", "pmpm"]
    amount: Annotated[Decimal, Field(gt=0)]


class ContactPoints(Terms):
    """Points of a first visit to a practitioner; conditions as in service categories, the first that matches counts."""

    points: Annotated[Decimal, Field(gt=0)]
    procedure: tuple[str, ...] = ()
    revenue_code: tuple[str, ...] = ()
    drg: tuple[str, ...] = ()
    place_of_service: tuple[str, ...] = ()
    bill_type: tuple[str, ...] = ()
    claim_type: tuple[str, ...] = ()
    specialty: tuple[str, ...] = ()


@arrangement("sub_capitation")
class SubCapitation(ArrangementTerms):
    """Terms of a pool of practitioners; what each gets is whole cents, and the parts sum to the pool."""

    kind: Literal["sub_capitation"]
    amount: PoolAmount
    share_by: Literal["panel", "contacts"] = Field(
        description="Member months of each practitioner's panel, or points of first contacts (contact capitation)."
    )
    by: Literal["npi", "tin"] = "npi"
    contacts: tuple[ContactPoints, ...] = ()
    again_after_months: int = Field(
        default=12, ge=1, description="A member's next visit to the same practitioner is a first one again."
    )
    tins: tuple[str, ...] = Field(default=(), description="TINs that take part in contacts; none: anybody's.")

    metrics = ("eligible-member", "member-months", "capitation", "earnings-cap")

    def stream(self) -> str:
        """Capitation."""
        return "pcpcp"

    def uses_quality(self) -> bool:
        """Quality plays no part."""
        return False

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        where = self.where
        found = []
        if (self.share_by == "contacts") != bool(self.contacts):
            found.append(f"{where}.contacts: go with share_by = 'contacts'")
        if self.share_by == "panel" and self.tins:
            found.append(f"{where}.tins: go with share_by = 'contacts'")
        for number, one in enumerate(self.contacts, start=1):
            found += code_problems(one, f"{where}.contacts[{number}]")
            if number < len(self.contacts) and not any(getattr(one, name) for name in CATEGORY_COLUMNS):
                found.append(f"{where}.contacts[{number}]: matches everything, those after it are never reached")
        return found

    def needs(self) -> Needs:
        """The roster; claim lines for contacts."""
        lines = ("denied", "service_from", self.by, "tin", *CATEGORY_COLUMNS) if self.share_by == "contacts" else ()
        return Needs(lines=tuple(dict.fromkeys(lines)), people=True)

    def carried_on(self) -> Carried:
        """By services so far."""
        return "time"

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Pool, points, what a point is worth, each practitioner's part; payable."""
        _, months = add_exposure(ledger, inputs.exposure)
        pool = self._pool(inputs, months, ledger)
        facts = inputs.columns()
        if self.share_by == "panel":
            found, unit, what = panels(facts, self.by), "mo", "Member months of the panel"
        else:
            found, unit, what = contact_points(facts, self), "{points}", "Points"
        term = f"{self.where}.share_by"
        whole = ledger.add("points", sum(found.values(), ZERO), what, "sum", term, unit=unit)
        if not whole.value:
            note = "nobody has a part of it: it is not paid"
            nothing = ledger.add("unpaid", ZERO, "Shared out", note, term, (pool, whole))
            ledger.pay(nothing, "Sub-capitation", self.where, "earnings-cap")
            return
        ledger.add("per-point", pool.value / whole.value, "Worth of one", "pool / sum", term, (pool, whole))
        parts = []
        for number, (name, amount) in enumerate(
            apportion_by(publish(pool.value, ledger.rounding), found).items(), start=1
        ):
            own = ledger.add(
                f"points.{number}", found[name], f"{what}: {name}", "of this practitioner", term, unit=unit,
                evidence={self.by: name},
            )  # fmt: skip
            note = "pool x own / sum, in whole cents by largest remainder"
            parts.append(
                ledger.add(f"part.{number}", amount, f"Part of {name}", note, term, (pool, own, whole),
                           evidence={self.by: name})
            )  # fmt: skip
        value = sum((part.value for part in parts), ZERO)
        shared = ledger.add("shared", value, "Shared out", "sum of parts", term, parts, metric="capitation")
        ledger.pay(shared, "Sub-capitation", self.where, "earnings-cap")

    def _pool(self, inputs: SettlementInputs, months: Number, ledger: Ledger) -> Number:
        amount, term = self.amount.amount, f"{self.where}.amount"
        if self.amount.kind == "pmpm":
            return ledger.add("pool", amount * months.value, "Pool", f"{amount} x member months", term, (months,))
        formula = "as agreed" if inputs.part == 1 else "as agreed, for this part of the period"
        return ledger.add("pool", amount * inputs.part, "Pool", formula, term)


def panels(facts: Facts, by: Literal["npi", "tin"]) -> dict[str, Decimal]:
    """Member months by the practitioner that attribution found each member by; members without one have no part."""
    with duckdb.connect() as connection:
        connection.register("months", facts.months)
        connection.register("people", facts.people)
        rows = connection.execute(
            f"SELECT {by}, sum(m.months) FROM months m JOIN people USING (member)"  # noqa: S608 npi or tin
            f" WHERE {by} IS NOT NULL GROUP BY {by} ORDER BY {by}"
        ).fetchall()
    return dict(rows)


def contact_points(facts: Facts, terms: SubCapitation) -> dict[str, Decimal]:
    """Points by practitioner: one contact of a member with each, and again after so many months."""
    values: dict[str, object] = {}
    whens = ""
    for number, one in enumerate(terms.contacts):
        values[f"points{number}"] = places(one.points)
        condition = matching(one, values, f"c{number}_")
        whens += f" WHEN {condition} THEN $points{number}::DECIMAL(28, 8)"
    with connect(lines=facts.lines, months=facts.months) as connection:
        connection.register("own", pa.table({"tin": pa.array(terms.tins, pa.string())}))
        connection.execute(
            f"""
            CREATE TEMP TABLE visits AS SELECT member, {terms.by} AS who, day, max(points) AS points FROM (
              SELECT _member AS member, {terms.by}, service_from AS day, CASE{whens} END AS points FROM lines
              WHERE NOT denied AND service_from <= $end {"AND tin IN (SELECT tin FROM own)" if terms.tins else ""})
            WHERE points IS NOT NULL AND {terms.by} IS NOT NULL GROUP BY ALL
            """,  # noqa: S608 codes are parameters
            {**values, "end": facts.period[1]},
        )
        rows = connection.execute(
            f"""
            WITH first AS ({spaced_events("visits", ("member", "who"), terms.again_after_months)})
            SELECT who, sum(points) FROM first JOIN visits USING (member, who, day) JOIN months USING (member)
            WHERE month = date_trunc('month', day) AND months > 0 AND day BETWEEN $start AND $end
            GROUP BY who ORDER BY who
            """,  # noqa: S608 names of our own tables
            {"start": facts.period[0], "end": facts.period[1]},
        ).fetchall()
    return dict(rows)
