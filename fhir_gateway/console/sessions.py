"""Who is signed in: a random id in a cookie, its digest in the control plane, an end by idleness and by age."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fhir_gateway.console.accounts import User
from fhir_gateway.console.roles import Permission, Role, permissions, read_roles
from fhir_gateway.console.tables import SessionRow, UserRow
from fhir_gateway.db.audience import EVERYONE, Audience
from fhir_gateway.db.engine import snapshot, table_of, transaction

IDLE_SECONDS = 30 * 60
LONGEST_SECONDS = 12 * 60 * 60
_RENEW_SECONDS = 60  # a session's last use is written down no oftener
_SESSIONS = table_of(SessionRow)
_USERS = table_of(UserRow)


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in; ``form_token`` is what every form of theirs must say."""

    user: str
    roles: tuple[Role, ...]
    labels: tuple[str, ...] | None
    form_token: str

    @property
    def audience(self) -> Audience:
        """Whose data this person may see."""
        return EVERYONE if self.labels is None else Audience.of(self.labels)

    def may(self, permission: Permission) -> bool:
        """True when this person has a permission."""
        return permission in permissions(self.roles, limited=self.labels is not None)


class Sessions:
    """Sessions in the control plane: good in every process. Safe to share between threads."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    def start(self, user: User, id_token: str | None = None) -> str:
        """Begin a session; returns the id for the cookie. ``id_token`` is kept as it is: encrypted, or none."""
        found, now = secrets.token_urlsafe(32), int(self._clock())
        row = {
            "id_hash": _digest(found),
            "user_name": user.name,
            "roles": " ".join(user.roles),
            "labels": None if user.labels is None else json.dumps(user.labels),
            "form_token": secrets.token_urlsafe(32),
            "id_token": id_token,
            "started_at": now,
            "seen_at": now,
        }
        over = (_SESSIONS.c.seen_at < now - IDLE_SECONDS) | (_SESSIONS.c.started_at < now - LONGEST_SECONDS)
        with transaction(self._engine) as connection:
            connection.execute(sa.delete(_SESSIONS).where(over))
            connection.execute(sa.insert(_SESSIONS).values(row))
        return found

    def find(self, session_id: str, *, used: bool = True) -> Session | None:
        """The session of a cookie; None when there is none, it is over, or its user was disabled.

        Without use for a while a session is over; who only looks whether it is there says ``used=False``.
        """
        now = int(self._clock())
        chosen = (
            sa.select(_SESSIONS)
            .outerjoin(_USERS, _USERS.c.name == _SESSIONS.c.user_name)
            .where(
                _SESSIONS.c.id_hash == _digest(session_id),
                _SESSIONS.c.seen_at >= now - IDLE_SECONDS,
                _SESSIONS.c.started_at >= now - LONGEST_SECONDS,
                sa.func.coalesce(_USERS.c.disabled, sa.false()).is_(False),
            )
        )
        with snapshot(self._engine) as connection:
            row: Any = connection.execute(chosen).mappings().first()
        if row is None:
            return None
        if used and row["seen_at"] < now - _RENEW_SECONDS:
            with transaction(self._engine) as connection:
                mine = _SESSIONS.c.id_hash == row["id_hash"]
                connection.execute(sa.update(_SESSIONS).where(mine).values(seen_at=now))
        labels = None if row["labels"] is None else tuple(json.loads(row["labels"]))
        return Session(row["user_name"], read_roles(row["roles"].split()), labels, row["form_token"])

    def end(self, session_id: str) -> str | None:
        """Sign out; returns the ID token that was kept, if there was one."""
        mine = _SESSIONS.c.id_hash == _digest(session_id)
        with transaction(self._engine) as connection:
            kept: str | None = connection.execute(sa.select(_SESSIONS.c.id_token).where(mine)).scalar()
            connection.execute(sa.delete(_SESSIONS).where(mine))
        return kept


def _digest(session_id: str) -> str:
    return hashlib.sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()
