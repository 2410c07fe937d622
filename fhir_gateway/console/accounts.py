"""Users of the console: those that we keep ourselves, with a password and, for everybody who changes things, a one-time
code; and those that an outside issuer vouches for, with what it said of them last.

A wrong password, a wrong or missing code, an unknown or disabled user and a locked one are told apart in the log, never
to whoever tries. After :data:`MOST_FAILURES` in a row nobody gets in for a while, even with the right password.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyotp
import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from fhir_gateway.console.roles import Role, permissions, read_roles
from fhir_gateway.console.tables import SessionRow, UserRow
from fhir_gateway.db.audience import EVERYONE, Audience
from fhir_gateway.db.engine import snapshot, table_of, transaction
from fhir_gateway.db.secrets import SecretBox
from fhir_gateway.errors import AuthenticationError, ConflictError, InputError, NotFoundError

log = logging.getLogger("fhir_gateway.console")

LOCAL = "local"
MOST_FAILURES = 10
LOCKED_SECONDS = 15 * 60
SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 1024
_STEP = 30  # seconds of a one-time code (RFC 6238)
_ISSUER = "FHIR gateway"
_USERS = table_of(UserRow)
_SESSIONS = table_of(SessionRow)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may sign in; ``labels`` None sees everybody's data."""

    name: str
    origin: str
    roles: tuple[Role, ...]
    labels: tuple[str, ...] | None = None
    has_code: bool = False
    disabled: bool = False
    locked: bool = False

    @property
    def audience(self) -> Audience:
        """Whose data this user may see."""
        return EVERYONE if self.labels is None else Audience.of(self.labels)


def code_uri(name: str, secret: str) -> str:
    """What an authenticator app reads (otpauth URI)."""
    return pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=_ISSUER)


class Accounts:
    """Users in the control plane. Safe to share between threads."""

    def __init__(self, engine: Engine, secrets: SecretBox, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._secrets = secrets
        self._clock = clock
        self._hasher = PasswordHasher()
        self._nobody = self._hasher.hash("nobody has this password")  # checked for those who are not there

    def add(
        self, name: str, password: str, roles: Sequence[str], labels: Sequence[str] | None = None, *, code: bool = True
    ) -> str | None:
        """Let somebody in; returns the secret of their one-time codes, which is shown once (None without ``code``).

        InputError for a short password, an unknown role or label, or codes left out for somebody who may change things.
        """
        found = read_roles(roles)
        if labels is not None:
            Audience.of(labels)
        _check_name(name)
        changes = any(one.startswith("do-") for one in permissions(found, limited=labels is not None))
        if changes and not code:
            raise InputError("somebody who may change things needs one-time codes")
        secret = pyotp.random_base32() if code else None
        row = {
            "name": name,
            "origin": LOCAL,
            "roles": " ".join(found),
            "labels": None if labels is None else json.dumps(sorted(labels)),
            "password_hash": self._hashed(password),
            "code_secret": None if secret is None else self._secrets.encrypt(secret.encode()).decode("ascii"),
            "code_used": 0,
            "failures": 0,
            "locked_until": 0,
            "disabled": False,
            "created_at": int(self._clock()),
        }
        try:
            with transaction(self._engine) as connection:
                connection.execute(sa.insert(_USERS).values(row))
        except IntegrityError:
            raise ConflictError("there is a user of this name already") from None
        return secret

    def vouch(self, origin: str, subject: str, name: str, roles: Sequence[Role], labels: Sequence[str] | None) -> User:
        """Somebody whom an issuer vouches for, as it says today. AuthenticationError when they may not come in here.

        The issuer's ``subject`` is who it is; a name that another user has here is not theirs to take.
        """
        _check_name(name)
        said = {
            "name": name,
            "roles": " ".join(roles),
            "labels": None if labels is None else json.dumps(sorted(labels)),
        }
        mine = (_USERS.c.origin == origin) & (_USERS.c.subject == subject)
        try:
            with transaction(self._engine) as connection:
                row = connection.execute(sa.select(_USERS).where(mine)).mappings().first()
                if row is None:
                    fresh = {"code_used": 0, "failures": 0, "locked_until": 0, "disabled": False}
                    known = {"origin": origin, "subject": subject, "created_at": int(self._clock())}
                    connection.execute(sa.insert(_USERS).values(said | fresh | known))
                elif row["disabled"]:
                    raise AuthenticationError("this user is disabled here")
                else:
                    connection.execute(sa.update(_USERS).where(mine).values(said))
                    if row["name"] != name:
                        connection.execute(sa.delete(_SESSIONS).where(_SESSIONS.c.user_name == row["name"]))
        except IntegrityError:
            log.warning("sign-in refused: the name is another user's")
            raise AuthenticationError("this name is another user's here") from None
        return User(name, origin, tuple(roles), None if labels is None else tuple(sorted(labels)))

    def all(self) -> list[User]:
        """All users by name."""
        with snapshot(self._engine) as connection:
            return [self._user(row) for row in connection.execute(sa.select(_USERS).order_by(_USERS.c.name)).mappings()]

    def disable(self, name: str, disabled: bool = True) -> None:
        """Let a user in no more (or again); their sessions end."""
        self._change(name, {"disabled": disabled, "failures": 0, "locked_until": 0})

    def set_password(self, name: str, password: str) -> None:
        """Another password; sessions end. ConflictError for whom an issuer vouches for."""
        self._check_local(name)
        self._change(name, {"password_hash": self._hashed(password), "failures": 0, "locked_until": 0})

    def new_code(self, name: str) -> str:
        """Another secret of one-time codes, in the place of a lost one; sessions end."""
        self._check_local(name)
        secret = pyotp.random_base32()
        self._change(name, {"code_secret": self._secrets.encrypt(secret.encode()).decode("ascii"), "code_used": 0})
        return secret

    def sign_in(self, name: str, password: str, code: str) -> User:
        """The user behind a name, password and one-time code; AuthenticationError says nothing but no."""
        now = int(self._clock())
        with snapshot(self._engine) as connection:
            row = connection.execute(sa.select(_USERS).where(_USERS.c.name == name)).mappings().first()
        known = row is not None and row["password_hash"] is not None
        right = self._fits(row["password_hash"] if row is not None and known else self._nobody, password)
        failed = self._failed(row, right, now)
        counter = None
        if failed is None and row is not None and row["code_secret"] is not None:
            counter = self._counter(row, code, now)
            failed = "code" if counter is None else None
        if failed is None and counter is not None and not self._take(name, counter):
            failed = "code was used"
        if failed is not None or row is None:
            log.warning("sign-in refused: %s", failed)
            if row is not None and failed != "locked":
                self._count(name, now)
            raise AuthenticationError("name, password or code is wrong")
        with transaction(self._engine) as connection:
            connection.execute(sa.update(_USERS).where(_USERS.c.name == name).values(failures=0, locked_until=0))
        return self._user(row)

    def _failed(self, row: Any, right: bool, now: int) -> str | None:
        if row is None:
            return "nobody of this name"
        if row["locked_until"] > now:
            return "locked"
        if not right:
            return "password"
        return "disabled" if row["disabled"] else None

    def _counter(self, row: Any, code: str, now: int) -> int | None:
        """Counter of a right code, of this half minute or the ones beside it; None when it is wrong."""
        totp = pyotp.TOTP(self._secrets.decrypt(row["code_secret"].encode("ascii")).decode())
        given = code.replace(" ", "")
        for counter in (now // _STEP + offset for offset in (0, -1, 1)):
            if pyotp.utils.strings_equal(given, totp.generate_otp(counter)):
                return counter
        return None

    def _take(self, name: str, counter: int) -> bool:
        """Use up a code: each gets somebody in once, whatever process they ask."""
        taken = sa.update(_USERS).where(_USERS.c.name == name, _USERS.c.code_used < counter).values(code_used=counter)
        with transaction(self._engine) as connection:
            return connection.execute(taken).rowcount == 1

    def _count(self, name: str, now: int) -> None:
        mine = _USERS.c.name == name
        with transaction(self._engine) as connection:
            connection.execute(sa.update(_USERS).where(mine).values(failures=_USERS.c.failures + 1))
            often = mine & (_USERS.c.failures >= MOST_FAILURES)
            connection.execute(sa.update(_USERS).where(often).values(failures=0, locked_until=now + LOCKED_SECONDS))

    def _change(self, name: str, values: dict[str, Any]) -> None:
        with transaction(self._engine) as connection:
            if not connection.execute(sa.update(_USERS).where(_USERS.c.name == name).values(values)).rowcount:
                raise NotFoundError("no such user")
            connection.execute(sa.delete(_SESSIONS).where(_SESSIONS.c.user_name == name))

    def _check_local(self, name: str) -> None:
        with snapshot(self._engine) as connection:
            origin = connection.execute(sa.select(_USERS.c.origin).where(_USERS.c.name == name)).scalar()
        if origin not in (None, LOCAL):
            raise ConflictError("this user signs in at an outside provider, and has neither password nor code here")

    def _hashed(self, password: str) -> str:
        if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            raise InputError(f"a password has {SHORTEST_PASSWORD} characters or more")
        return self._hasher.hash(password)

    def _fits(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password[: LONGEST_PASSWORD + 1])
        except Argon2Error:
            return False

    def _user(self, row: Any) -> User:
        return User(
            row["name"],
            row["origin"],
            read_roles(row["roles"].split()),
            None if row["labels"] is None else tuple(json.loads(row["labels"])),
            row["code_secret"] is not None,
            bool(row["disabled"]),
            row["locked_until"] > self._clock(),
        )


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= 255 or not name.isprintable() or name != name.strip():
        raise InputError("a user's name is up to 255 printable characters")
