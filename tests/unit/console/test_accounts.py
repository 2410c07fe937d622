"""Users of the console: what lets them in, what does not, and what the tables hold."""

from __future__ import annotations

import logging

import pyotp
import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet

from fhir_gateway.console.accounts import LOCKED_SECONDS, MOST_FAILURES, Accounts, code_uri
from fhir_gateway.console.roles import LIMITED, ROLES, permissions, read_roles
from fhir_gateway.console.sessions import IDLE_SECONDS, LONGEST_SECONDS, Sessions
from fhir_gateway.db.engine import create_engine, snapshot
from fhir_gateway.db.migrate import upgrade
from fhir_gateway.db.secrets import SecretBox
from fhir_gateway.errors import AuthenticationError, ConflictError, InputError, NotFoundError

PASSWORD = "a long enough password"
NOON = 1_700_000_000.0


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine() -> sa.Engine:
    made = create_engine("sqlite://")
    upgrade(made)
    return made


@pytest.fixture
def accounts(engine: sa.Engine, clock: Clock) -> Accounts:
    return Accounts(engine, SecretBox(Fernet.generate_key()), clock)


def code_at(secret: str | None, moment: float) -> str:
    assert secret is not None
    return pyotp.TOTP(secret).at(int(moment))


def test_name_password_and_code_let_in_and_a_code_does_so_once(accounts: Accounts, clock: Clock) -> None:
    secret = accounts.add("ann", PASSWORD, ["it", "admin"])
    code = code_at(secret, clock.now)
    user = accounts.sign_in("ann", PASSWORD, code)
    assert (user.name, user.roles, user.labels, user.has_code) == ("ann", ("admin", "it"), None, True)
    with pytest.raises(AuthenticationError):
        accounts.sign_in("ann", PASSWORD, code)
    clock.now += 30
    assert accounts.sign_in("ann", PASSWORD, code_at(secret, clock.now)).name == "ann"
    clock.now += 90
    with pytest.raises(AuthenticationError):  # of a half minute that is long over
        accounts.sign_in("ann", PASSWORD, code_at(secret, clock.now - 90))
    assert accounts.sign_in("ann", PASSWORD, code_at(secret, clock.now - 30)).name == "ann"  # a clock that is slow


@pytest.mark.parametrize(
    ("name", "password", "code"),
    [("nobody", PASSWORD, ""), ("ann", PASSWORD + "x", None), ("ann", PASSWORD, "000000"), ("ann", PASSWORD, "")],
)
def test_every_refusal_says_the_same(
    accounts: Accounts, clock: Clock, caplog: pytest.LogCaptureFixture, name: str, password: str, code: str | None
) -> None:
    secret = accounts.add("ann", PASSWORD, ["admin"])
    given = code_at(secret, clock.now) if code is None else code
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(AuthenticationError, match=r"^name, password or code is wrong$"),
    ):
        accounts.sign_in(name, password, given)
    assert "sign-in refused" in caplog.text
    assert password not in caplog.text


def test_many_failures_lock_even_the_right_password_out_for_a_while(accounts: Accounts, clock: Clock) -> None:
    accounts.add("eve", PASSWORD, ["viewer"], code=False)
    for _ in range(MOST_FAILURES):
        with pytest.raises(AuthenticationError):
            accounts.sign_in("eve", "wrong password, wrong", "")
    assert accounts.all()[0].locked
    with pytest.raises(AuthenticationError):
        accounts.sign_in("eve", PASSWORD, "")
    clock.now += LOCKED_SECONDS + 1
    assert accounts.sign_in("eve", PASSWORD, "").name == "eve"


def test_a_right_sign_in_forgets_failures(accounts: Accounts) -> None:
    accounts.add("eve", PASSWORD, ["viewer"], code=False)
    for _ in range(3):
        for _ in range(MOST_FAILURES - 1):
            with pytest.raises(AuthenticationError):
                accounts.sign_in("eve", "wrong password, wrong", "")
        assert accounts.sign_in("eve", PASSWORD, "").name == "eve"


def test_what_is_refused_of_a_new_user(accounts: Accounts) -> None:
    accounts.add("ann", PASSWORD, ["viewer"], code=False)
    with pytest.raises(ConflictError):
        accounts.add("ann", PASSWORD, ["viewer"], code=False)
    for name, password, roles, labels, code in [
        ("bob", "short", ["viewer"], None, False),
        ("bob", PASSWORD, ["king"], None, True),
        ("bob", PASSWORD, [], None, True),
        ("bob", PASSWORD, ["viewer"], ["tin:1"], False),
        ("bob", PASSWORD, ["it"], None, False),  # may change things: needs codes
        (" bob", PASSWORD, ["viewer"], None, False),
    ]:
        with pytest.raises(InputError):
            accounts.add(name, password, roles, labels, code=code)
    assert [one.name for one in accounts.all()] == ["ann"]


def test_the_tables_hold_neither_password_nor_secret_nor_session(
    accounts: Accounts, engine: sa.Engine, clock: Clock
) -> None:
    secret = accounts.add("ann", PASSWORD, ["admin"])
    session = Sessions(engine, clock).start(accounts.sign_in("ann", PASSWORD, code_at(secret, clock.now)))
    with snapshot(engine) as connection:
        held = [
            str(tuple(row))
            for table in ("console_user", "console_session")
            for row in connection.execute(sa.text(f"select * from {table}"))  # noqa: S608 - our names
        ]
    assert len(held) == 2
    assert not any(one in "".join(held) for one in (PASSWORD, str(secret), session))
    assert "ann" in code_uri("ann", str(secret))


def test_a_session_ends_by_idleness_by_age_by_its_end_and_with_its_user(
    accounts: Accounts, engine: sa.Engine, clock: Clock
) -> None:
    secret = accounts.add("ann", PASSWORD, ["admin"], ["contract:c1"])
    user = accounts.sign_in("ann", PASSWORD, code_at(secret, clock.now))
    sessions = Sessions(engine, clock)

    idle = sessions.start(user)
    found = sessions.find(idle)
    assert found is not None
    assert (found.user, found.labels) == ("ann", ("contract:c1",))
    clock.now += IDLE_SECONDS + 1
    assert sessions.find(idle) is None

    used = sessions.start(user)
    for _ in range(LONGEST_SECONDS // IDLE_SECONDS):
        clock.now += IDLE_SECONDS - 1
        assert sessions.find(used) is not None
    clock.now += IDLE_SECONDS - 1
    assert sessions.find(used) is None

    left = sessions.start(user)
    sessions.end(left)
    assert sessions.find(left) is None

    for change in (lambda: accounts.disable("ann"), lambda: accounts.set_password("ann", PASSWORD + "2")):
        begun = sessions.start(user)
        change()
        assert sessions.find(begun) is None
    with pytest.raises(NotFoundError):
        accounts.disable("nobody")
    assert sessions.find("made up") is None


def test_roles_allow_what_they_say() -> None:
    assert read_roles(["viewer", "admin", "admin"]) == ("admin", "viewer")
    everything = permissions(["admin"], limited=False)
    assert all(found <= everything for found in ROLES.values())
    assert not any(one.startswith("do-") for one in permissions(["viewer"], limited=False))
    assert permissions(["admin"], limited=True) == LIMITED
    assert permissions(["it"], limited=True) == frozenset()
    assert permissions(["quality", "it"], limited=False) == ROLES["quality"] | ROLES["it"]
