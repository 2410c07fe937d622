"""Control plane tables of the console: who may sign in, and who is.

Times are epoch seconds. A password is kept as its argon2id hash, the secret of one-time codes encrypted, a session only
as the SHA-256 of its id: who reads the tables can sign in as nobody.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Text
from sqlmodel import Field, SQLModel


class UserRow(SQLModel, table=True):
    """A person who may sign in."""

    __tablename__ = "console_user"

    name: str = Field(primary_key=True, max_length=255)
    origin: str = Field(max_length=255)  # "local", or the issuer that vouches
    subject: str | None = Field(default=None, max_length=255)  # who that issuer says it is; names may change there
    roles: str = Field(sa_column=Column(Text, nullable=False))  # by blanks
    labels: str | None = Field(default=None, sa_column=Column(Text, nullable=True))  # JSON list; null: everybody's data
    password_hash: str | None = Field(default=None, max_length=255)
    code_secret: str | None = Field(default=None, sa_column=Column(Text, nullable=True))  # encrypted
    code_used: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))  # counter of the last code taken
    failures: int = Field(default=0)
    locked_until: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    disabled: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})
    created_at: int = Field(sa_column=Column(BigInteger, nullable=False))


class SessionRow(SQLModel, table=True):
    """Somebody who is signed in."""

    __tablename__ = "console_session"

    id_hash: str = Field(primary_key=True, max_length=64)
    user_name: str = Field(max_length=255, index=True)
    roles: str = Field(sa_column=Column(Text, nullable=False))  # as of the sign-in: an issuer may say others each time
    labels: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    form_token: str = Field(max_length=64)
    id_token: str | None = Field(default=None, sa_column=Column(Text, nullable=True))  # encrypted; to sign out there
    started_at: int = Field(sa_column=Column(BigInteger, nullable=False))
    seen_at: int = Field(sa_column=Column(BigInteger, nullable=False))
