"""Somebody who may sign in at the console of the demo: sees all, changes nothing, has another password each time."""

from __future__ import annotations

import secrets

from fhir_gateway.console.accounts import Accounts
from fhir_gateway.errors import ConflictError
from fhir_gateway.factory import Gateway

NAME = "demo"
ROLES = ("viewer",)


def sign_up(gateway: Gateway) -> str:
    """The password of this run, for who reads what the demo prints; that of an earlier run is good no more."""
    accounts = Accounts(gateway.engine, gateway.secrets)
    password = secrets.token_urlsafe(12)
    try:
        accounts.add(NAME, password, ROLES, code=False)
    except ConflictError:
        accounts.set_password(NAME, password)
    return password
