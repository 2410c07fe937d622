"""Control plane tables of authorization: clients, assertions seen, tokens issued.

All of it is shared by every process of the gateway. Times are epoch seconds (integers), so that no driver's idea of
time zones comes between. Tokens and assertion ids are kept only as SHA-256 digests.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Engine, RowMapping, Text, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, SQLModel

from fhir_gateway.auth.models import Client, IssuedToken
from fhir_gateway.auth.scopes import parse_scopes
from fhir_gateway.db.audience import EVERYONE, Audience
from fhir_gateway.db.engine import snapshot, table_of, transaction
from fhir_gateway.errors import ConflictError, NotFoundError

_PURGE_INTERVAL_SECONDS = 60
_CLOCK_SECONDS = 2 * 86_400
"""How far a clock may be wrong."""


class ClientRow(SQLModel, table=True):
    """A registered backend client."""

    __tablename__ = "auth_client"

    client_id: str = Field(primary_key=True, max_length=255)
    name: str = Field(max_length=255)
    scopes: str = Field(sa_column=Column(Text, nullable=False))
    jwks: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    jwks_url: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    disabled: bool = Field(default=False)
    created_at: int = Field(sa_column=Column(BigInteger, nullable=False))
    grants: str | None = Field(default=None, sa_column=Column(Text, nullable=True))  # JSON list; null: everything
    purpose: str | None = Field(default=None, max_length=40)
    pending: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})  # until an operator approves
    origin: str | None = Field(default=None, max_length=100)  # of a self-registered client: the invitation it used
    requested: str | None = Field(default=None, sa_column=Column(Text, nullable=True))  # scopes it asked for
    contacts: str | None = Field(default=None, sa_column=Column(Text, nullable=True))  # JSON list


class InvitationRow(SQLModel, table=True):
    """An initial access token (RFC 7591): whoever holds it may register, so many times, until it ends."""

    __tablename__ = "auth_invitation"

    name: str = Field(primary_key=True, max_length=64)
    token_hash: str = Field(max_length=64, unique=True)
    created_at: int = Field(sa_column=Column(BigInteger, nullable=False))
    expires_at: int = Field(sa_column=Column(BigInteger, nullable=False))
    uses_left: int


class AssertionRow(SQLModel, table=True):
    """A client assertion that was used; the primary key is what refuses it a second time."""

    __tablename__ = "auth_assertion"

    client_id: str = Field(primary_key=True, max_length=255)
    jti_hash: str = Field(primary_key=True, max_length=64)
    expires_at: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))


class TokenRow(SQLModel, table=True):
    """An access token that was issued."""

    __tablename__ = "auth_token"

    token_hash: str = Field(primary_key=True, max_length=64)
    client_id: str = Field(max_length=255, index=True)
    scope: str = Field(sa_column=Column(Text, nullable=False))
    issued_at: int = Field(sa_column=Column(BigInteger, nullable=False))
    expires_at: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    revoked: bool = Field(default=False)


_CLIENT = table_of(ClientRow)
_INVITATION = table_of(InvitationRow)
_ASSERTION = table_of(AssertionRow)
_TOKEN = table_of(TokenRow)


def digest(secret: str) -> str:
    """SHA-256 of a high-entropy secret, in hex (no salt is needed: it cannot be guessed)."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class AuthStore:
    """Reads and writes the tables; every method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: Another object after every change of a client or a token by this process: what was read before may be old.
        self.state = object()
        self._purge_lock = threading.Lock()
        self._purged_at = 0.0

    def create_tables(self) -> None:
        """Create the tables in a database that has no migrations (in memory: sandbox, tests)."""
        SQLModel.metadata.create_all(self._engine, tables=[_CLIENT, _INVITATION, _ASSERTION, _TOKEN])

    def add_client(self, client: Client) -> None:
        """Register ``client``; ConflictError when its id is taken."""
        row = {
            "client_id": client.client_id,
            "name": client.name,
            "scopes": " ".join(map(str, client.scopes)),
            "jwks": keys_text(client.jwks),
            "jwks_url": client.jwks_url,
            "disabled": client.disabled,
            "created_at": int(time.time()),
            "grants": grants_text(client.audience),
            "purpose": client.purpose,
            "pending": client.pending,
            "origin": client.origin,
            "requested": client.requested,
            "contacts": json.dumps(client.contacts) if client.contacts else None,
        }
        try:
            with transaction(self._engine) as connection:
                connection.execute(insert(_CLIENT).values(row))
        except IntegrityError as error:
            raise ConflictError(f"client {client.client_id} is already registered") from error

    def client(self, client_id: str) -> Client | None:
        """The client with that id, None when there is none or it was disabled."""
        with snapshot(self._engine) as connection:
            row = connection.execute(select(_CLIENT).where(_CLIENT.c.client_id == client_id)).mappings().first()
        client = None if row is None else _client(row)
        return None if client is None or client.disabled else client

    def any_client(self, client_id: str) -> Client:
        """The client with that id, also a disabled one; raises NotFoundError."""
        with snapshot(self._engine) as connection:
            row = connection.execute(select(_CLIENT).where(_CLIENT.c.client_id == client_id)).mappings().first()
        if row is None:
            raise NotFoundError(f"there is no client {client_id}")
        return _client(row)

    def change_client(self, client_id: str, values: Mapping[str, object]) -> None:
        """Set columns of a client and end its tokens, which say what was true before; raises NotFoundError."""
        with transaction(self._engine) as connection:
            changed = connection.execute(update(_CLIENT).where(_CLIENT.c.client_id == client_id).values(values))
            if not changed.rowcount:
                raise NotFoundError(f"there is no client {client_id}")
            connection.execute(update(_TOKEN).where(_TOKEN.c.client_id == client_id).values(revoked=True))
        self.state = object()

    def remove_client(self, client_id: str) -> None:
        """Forget a client and its tokens; raises NotFoundError."""
        with transaction(self._engine) as connection:
            removed = connection.execute(delete(_CLIENT).where(_CLIENT.c.client_id == client_id))
            if not removed.rowcount:
                raise NotFoundError(f"there is no client {client_id}")
            connection.execute(delete(_TOKEN).where(_TOKEN.c.client_id == client_id))
        self.state = object()

    def pending_clients(self) -> int:
        """How many registrations wait for approval."""
        waiting = select(sa.func.count()).select_from(_CLIENT).where(_CLIENT.c.pending, sa.not_(_CLIENT.c.disabled))
        with snapshot(self._engine) as connection:
            return int(connection.scalar(waiting) or 0)

    def clients(self) -> list[Client]:
        """All clients, by id, disabled ones included."""
        with snapshot(self._engine) as connection:
            rows = connection.execute(select(_CLIENT).order_by(_CLIENT.c.client_id)).mappings().all()
        return [_client(row) for row in rows]

    def invite(self, name: str, token: str, expires_at: int, uses: int) -> None:
        """Record an initial access token (as a digest); ConflictError when the name is taken."""
        row = {
            "name": name,
            "token_hash": digest(token),
            "created_at": int(time.time()),
            "expires_at": expires_at,
            "uses_left": uses,
        }
        try:
            with transaction(self._engine) as connection:
                connection.execute(insert(_INVITATION).values(row))
        except IntegrityError as error:
            raise ConflictError(f"there is an invitation {name} already") from error

    def use_invitation(self, token: str, now: int) -> str | None:
        """Use up one registration of an initial access token and return its name; None for one that is not good.

        The update itself decides, so that of two processes only as many register as were allowed.
        """
        good = (
            _INVITATION.c.token_hash == digest(token),
            _INVITATION.c.expires_at > now,
            _INVITATION.c.uses_left > 0,
        )
        with transaction(self._engine) as connection:
            used = connection.execute(
                update(_INVITATION).where(*good).values(uses_left=_INVITATION.c.uses_left - 1)
            ).rowcount
            name = select(_INVITATION.c.name).where(_INVITATION.c.token_hash == digest(token))
            return str(connection.scalar(name)) if used else None

    def use_assertion(self, client_id: str, jti: str, expires_at: int) -> bool:
        """Record an assertion as used; False when it was used before.

        The insert itself decides, so of two processes that see the same assertion at once only one wins.
        ``expires_at`` is when the assertion can no longer be accepted and the row may go.
        """
        row = {"client_id": client_id, "jti_hash": digest(jti), "expires_at": expires_at}
        try:
            with transaction(self._engine) as connection:
                connection.execute(insert(_ASSERTION).values(row))
        except IntegrityError:
            return False
        return True

    def add_token(self, token: str, client_id: str, scope: str, issued_at: int, expires_at: int) -> None:
        """Record an issued token (as a digest), and now and then clear what has expired."""
        row = {
            "token_hash": digest(token),
            "client_id": client_id,
            "scope": scope,
            "issued_at": issued_at,
            "expires_at": expires_at,
            "revoked": False,
        }
        with transaction(self._engine) as connection:
            connection.execute(insert(_TOKEN).values(row))
        if self._purge_is_due(issued_at):
            self.purge(issued_at)

    def token(self, token: str) -> IssuedToken | None:
        """The issued token, expired and revoked ones included; None when it is unknown."""
        with snapshot(self._engine) as connection:
            row = connection.execute(select(_TOKEN).where(_TOKEN.c.token_hash == digest(token))).mappings().first()
        return None if row is None else IssuedToken(**row, now=int(time.time()))

    def revoke_token(self, token_hash: str) -> None:
        """Refuse a token from now on."""
        with transaction(self._engine) as connection:
            connection.execute(update(_TOKEN).where(_TOKEN.c.token_hash == token_hash).values(revoked=True))
        self.state = object()

    def purge(self, now: int) -> None:
        """Delete assertions and tokens that can no longer be accepted anyway.

        Assertions are kept for days more: were the clock ahead and is set right, those used before must not pass again.
        """
        with transaction(self._engine) as connection:
            connection.execute(delete(_ASSERTION).where(_ASSERTION.c.expires_at < now - _CLOCK_SECONDS))
            connection.execute(delete(_TOKEN).where(_TOKEN.c.expires_at < now))

    def _purge_is_due(self, now: float) -> bool:
        with self._purge_lock:
            due = now - self._purged_at >= _PURGE_INTERVAL_SECONDS
            if due:
                self._purged_at = now
        return due


def keys_text(jwks: Mapping[str, Any] | None) -> str | None:
    """A JWK Set as its column."""
    return None if jwks is None else json.dumps(jwks, sort_keys=True)


def grants_text(audience: Audience) -> str | None:
    """The labels of an audience as their column."""
    return None if audience.labels is None else json.dumps(sorted(audience.labels))


def _client(row: RowMapping) -> Client:
    return Client(
        client_id=row["client_id"],
        name=row["name"],
        scopes=parse_scopes(row["scopes"]),
        jwks=None if row["jwks"] is None else json.loads(row["jwks"]),
        jwks_url=row["jwks_url"],
        disabled=row["disabled"],
        audience=EVERYONE if row["grants"] is None else Audience.of(json.loads(row["grants"])),
        purpose=row["purpose"],
        pending=row["pending"],
        origin=row["origin"],
        requested=row["requested"],
        contacts=tuple(json.loads(row["contacts"] or "[]")),
    )
