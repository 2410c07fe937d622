"""What people decide about persons: reviews accepted and rejected, persons merged and parted, decisions taken back.

Each decision is about two patients and is kept with who, when and why; it holds until it is revoked. Persons follow
from the decisions that hold (:mod:`fhir_gateway.identity.partition`), so taking one back restores what was. The lake
follows with its next version (:meth:`fhir_gateway.lake.store.Lake.reassign`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise, product

import duckdb
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fhir_gateway.db.engine import snapshot, transaction
from fhir_gateway.errors import ConfigurationError, ConflictError, NotFoundError
from fhir_gateway.identity import store, tables
from fhir_gateway.identity.crosswalk import LOCK
from fhir_gateway.identity.models import Decision, IdentityRules, Review
from fhir_gateway.identity.placing import Actor, nobody_arrives, place

#: Most pairs one unmerge may part: each patient that goes is parted from each that stays.
MOST_PAIRS = 10_000
_LEAST_PREFIX = 6

Patient = tuple[str, str]
"""A source and the id of a patient there."""


class Stewardship:
    """Decisions about persons, in the control plane of ``engine``."""

    def __init__(
        self,
        engine: Engine,
        rules: IdentityRules | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._rules = rules or IdentityRules()
        self._clock = clock

    def review(self, digest: str) -> Review:
        """The review of that id, or of an id that begins so (6 characters at least)."""
        if len(digest) < _LEAST_PREFIX:
            raise ConfigurationError(f"the id of a review has at least {_LEAST_PREFIX} characters here")
        table = tables.REVIEW
        with snapshot(self._engine) as connection:
            rows = connection.execute(
                sa.select(table).where(table.c.digest.startswith(digest, autoescape=True)).limit(2)
            ).all()
        if not rows:
            raise NotFoundError("there is no such review")
        if len(rows) > 1:
            raise ConfigurationError("several reviews begin so; give more of the id")
        return Review(**rows[0]._mapping)

    def accept(self, digest: str, by: str, reason: str) -> Review:
        """The two patients of a review are one person; ConflictError when that contradicts another decision."""
        review = self.review(digest)
        if review.other_patient_id is None:
            raise ConfigurationError("an identifier that many patients share can only be dismissed (reject)")
        return self._decide(review, "accepted", by, reason)

    def reject(self, digest: str, by: str, reason: str) -> Review:
        """The two patients of a review are different persons; they are never proposed again.

        A review of an identifier that many patients share is dismissed: it is not listed again.
        """
        return self._decide(self.review(digest), "rejected", by, reason)

    def merge(self, person: str, other: str, by: str, reason: str) -> None:
        """Two persons are one. Decisions that kept their patients apart are revoked with it."""
        with transaction(self._engine, lock=LOCK) as connection:
            here, there = self._patients(connection, person), self._patients(connection, other)
            if person == other:
                raise ConfigurationError("that is one person already")
            self._revoke_between(connection, here, there, "different", by, reason)
            self._join(connection, (here[0], there[0]), by, reason)

    def unmerge(self, person: str, by: str, reason: str, patients: Sequence[Patient] = ()) -> None:
        """Part ``patients`` from the rest of ``person``, each from each, until that is revoked.

        Without ``patients``, ``person`` is one that was merged into another: its patients of then leave, and it comes
        back under its id. Decisions that joined them to the rest are revoked.
        """
        with transaction(self._engine, lock=LOCK) as connection:
            if patients:
                everybody = self._patients(connection, person)
                going = self._numbers(connection, patients)
                if strange := set(going) - set(everybody):
                    raise ConfigurationError(f"{len(strange)} of the patients named are not of that person")
            else:
                going = self._merged(connection, person)
                owner = connection.scalar(sa.select(tables.PATIENT.c.person).where(tables.PATIENT.c.number == going[0]))
                everybody = self._patients(connection, str(owner))
                going = [number for number in going if number in set(everybody)]
            staying = [number for number in everybody if number not in set(going)]
            if not staying:
                raise ConfigurationError("these are all patients of that person: nobody would stay")
            if len(going) * len(staying) > MOST_PAIRS:
                raise ConfigurationError(f"that would part more than {MOST_PAIRS} pairs of patients")
            self._revoke_between(connection, going, staying, "same", by, reason)
            self._write(connection, product(going, staying), "different", by, reason)
            self._check(connection, everybody)
            self._place(connection, everybody, by, reason)

    def revoke(self, act: int, by: str, reason: str) -> None:
        """Take what was decided at once back: persons are again as if it had not been decided."""
        table = tables.DECISION
        with transaction(self._engine, lock=LOCK) as connection:
            rows = connection.execute(sa.select(table).where(table.c.act == act).order_by(table.c.id)).all()
            if not rows:
                raise NotFoundError("there is no such decision")
            holding = [row for row in rows if row.revoked_at is None]
            if not holding:
                raise ConflictError("that decision was already revoked")
            self._revoke(connection, [row.id for row in holding], by, reason)
            if rows[0].review is not None:
                store.decide_reviews(connection, [rows[0].review], "open", by, self._now())
            self._place(connection, [number for row in holding for number in (row.a, row.b)], by, reason)

    def decisions(self, person: str | None = None) -> list[Decision]:
        """All decisions, revoked ones too, oldest first; of ``person``, those about its patients."""
        table, first, second = tables.DECISION, tables.PATIENT.alias("first"), tables.PATIENT.alias("second")
        statement = (
            sa.select(
                table,
                first.c.source.label("source"),
                first.c.patient_id.label("patient"),
                second.c.source.label("other_source"),
                second.c.patient_id.label("other_patient"),
            )
            .join(first, first.c.number == table.c.a)
            .join(second, second.c.number == table.c.b)
            .order_by(table.c.id)
        )
        if person is not None:
            statement = statement.where(sa.or_(first.c.person == person, second.c.person == person))
        with snapshot(self._engine) as connection:
            return [
                Decision(
                    row.act,
                    (row.source, row.patient),
                    (row.other_source, row.other_patient),
                    row.verdict,
                    row.decided_by,
                    row.reason,
                    row.review,
                    row.decided_at,
                    row.revoked_by,
                    row.revoked_reason,
                    row.revoked_at,
                )
                for row in connection.execute(statement)
            ]

    def _decide(self, review: Review, status: str, by: str, reason: str) -> Review:
        if review.status in ("accepted", "rejected"):
            raise ConflictError(f"that review was already {review.status} by {review.decided_by}; revoke the decision")
        with transaction(self._engine, lock=LOCK) as connection:
            if review.patient_id is not None and review.other_patient_id is not None:
                pair = self._numbers(
                    connection,
                    [(review.source, review.patient_id), (str(review.other_source), review.other_patient_id)],
                )
                verdict, contrary = ("same", "different") if status == "accepted" else ("different", "same")
                if self._between(connection, [pair[0]], [pair[1]], contrary):
                    raise ConflictError("another decision says the contrary of these two; revoke it first")
                if verdict == "same":
                    self._join(connection, (pair[0], pair[1]), by, reason, review.digest)
                else:
                    self._write(connection, [(pair[0], pair[1])], verdict, by, reason, review.digest)
                    self._check(connection, pair)
                    self._place(connection, pair, by, reason)
            store.decide_reviews(connection, store.reviews_like(connection, review.digest), status, by, self._now())
        return self.review(review.digest)

    def _join(
        self, connection: Connection, pair: tuple[int, int], by: str, reason: str, review: str | None = None
    ) -> None:
        """Decide that a pair is one person, and with it the persons of the two.

        Where other patients of these persons contradict each other, it is decided of them, too: else the contradiction
        would part again what was just joined.
        """
        columns = tables.PATIENT.c
        persons = sa.select(columns.person).where(columns.number.in_(pair))
        rows = connection.execute(
            sa.select(columns.number, columns.birth_date, columns.gender)
            .where(columns.person.in_(persons))
            .order_by(columns.number)
        ).all()
        everybody = [row.number for row in rows]
        pairs = [pair]
        if _contradict({row.birth_date for row in rows}, {row.gender for row in rows}):
            pairs += [(pair[0], number) for number in everybody if number not in pair]
        self._write(connection, pairs, "same", by, reason, review)
        self._check(connection, everybody)
        self._place(connection, everybody, by, reason)

    def _patients(self, connection: Connection, person: str) -> list[int]:
        columns = tables.PATIENT.c
        found = list(
            connection.scalars(sa.select(columns.number).where(columns.person == person).order_by(columns.number))
        )
        if not found:
            raise NotFoundError("there is no such person, or it was merged into another")
        return found

    def _numbers(self, connection: Connection, patients: Iterable[Patient]) -> list[int]:
        columns, numbers = tables.PATIENT.c, []
        for source, patient in dict.fromkeys(patients):
            number = connection.scalar(
                sa.select(columns.number).where(columns.source == source, columns.patient_id == patient)
            )
            if number is None:
                raise NotFoundError(f"source {source} has no such patient")
            numbers.append(number)
        return numbers

    def _merged(self, connection: Connection, person: str) -> list[int]:
        """Numbers of the patients that left ``person`` when it was merged last."""
        change = tables.CHANGE.c
        row = connection.execute(
            sa.select(change.patients)
            .where(change.kind == "merge", change.other == person)
            .order_by(change.id.desc())
            .limit(1)
        ).one_or_none()
        if row is None:
            raise NotFoundError("no such person was merged into another; name --patient of a person to part")
        if row.patients is None:
            raise ConfigurationError("that merge is older than its list of patients; name the patients to part")
        return [int(number) for number in json.loads(row.patients)]

    def _between(self, connection: Connection, some: list[int], others: list[int], verdict: str) -> list[int]:
        """Decisions of that verdict that hold between patients of the two lists."""
        table = tables.DECISION.c
        return list(
            connection.scalars(
                sa.select(table.id).where(
                    table.revoked_at.is_(None),
                    table.verdict == verdict,
                    sa.or_(
                        sa.and_(table.a.in_(some), table.b.in_(others)),
                        sa.and_(table.a.in_(others), table.b.in_(some)),
                    ),
                )
            )
        )

    def _revoke_between(
        self, connection: Connection, some: list[int], others: list[int], verdict: str, by: str, reason: str
    ) -> None:
        self._revoke(connection, self._between(connection, some, others, verdict), by, reason)

    def _revoke(self, connection: Connection, decisions: list[int], by: str, reason: str) -> None:
        table = tables.DECISION
        connection.execute(
            sa.update(table)
            .where(table.c.id.in_(decisions))
            .values(revoked_by=by, revoked_reason=reason, revoked_at=self._now())
        )

    def _write(
        self,
        connection: Connection,
        pairs: Iterable[tuple[int, int]],
        verdict: str,
        by: str,
        reason: str,
        review: str | None = None,
    ) -> None:
        if not by.strip() or not reason.strip():
            raise ConfigurationError("a decision about persons needs who decides and why")
        now = self._now()
        act = (connection.scalar(sa.select(sa.func.max(tables.DECISION.c.act))) or 0) + 1
        rows = [
            {
                "act": act,
                "a": min(pair),
                "b": max(pair),
                "verdict": verdict,
                "decided_by": by,
                "reason": reason,
                "review": review,
                "decided_at": now,
            }
            for pair in pairs
        ]
        connection.execute(sa.insert(tables.DECISION), rows)

    def _check(self, connection: Connection, numbers: list[int]) -> None:
        """ConflictError when decisions that hold say of two patients, maybe through others, that they are both."""
        near = store.neighbourhood(connection, pa.array(numbers, pa.int64()), pa.array([], pa.string())).decided
        circle: dict[int, int] = {}

        def root(number: int) -> int:
            while (above := circle.get(number, number)) != number:
                number = above
            return number

        rows = near.to_pylist()
        for row in rows:
            if row["verdict"] == "same":
                circle[root(row["a"])] = root(row["b"])
        if any(row["verdict"] == "different" and root(row["a"]) == root(row["b"]) for row in rows):
            raise ConflictError("other decisions say the contrary of these patients; revoke them first")

    def _place(self, connection: Connection, numbers: list[int], by: str, reason: str) -> None:
        with duckdb.connect() as work:
            nobody_arrives(work)
            place(
                work,
                connection,
                now=self._now(),
                max_per_source=self._rules.max_per_source,
                around=pa.array(numbers, pa.int64()),
                actor=Actor(by, reason),
            )

    def _now(self) -> str:
        return self._clock().isoformat()


def _contradict(births: set[str | None], genders: set[str | None]) -> bool:
    known = sorted(birth for birth in births if birth)
    return len(genders - {None}) > 1 or any(not later.startswith(one) for one, later in pairwise(known))
