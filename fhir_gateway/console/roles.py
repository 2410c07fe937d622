"""What the roles of the console may do.

A page asks for a permission; somebody limited to a practice has only those that a practice may have, and sees its own
members and reports alone, as a FHIR client with the same labels would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from fhir_gateway.config import ConsoleRole
from fhir_gateway.errors import InputError

#: ``see-*`` are pages to look at, ``do-*`` what changes something.
Permission = Literal[
    "see-endpoints",
    "do-endpoints",
    "see-population",
    "do-outreach",
    "see-quality",
    "see-contracts",
    "do-contracts",
    "see-operations",
    "do-operations",
]

_ALL: frozenset[Permission] = frozenset(get_args(Permission))
_SEEN = frozenset(one for one in _ALL if one.startswith("see-"))
Role = ConsoleRole

ROLES: Mapping[Role, frozenset[Permission]] = {
    "admin": _ALL,
    "it": frozenset({"see-endpoints", "do-endpoints", "see-operations", "do-operations"}),
    "quality": frozenset({"see-population", "see-quality"}),
    "contracts": frozenset({"see-population", "see-quality", "see-contracts", "do-contracts"}),
    "outreach": frozenset({"see-population", "do-outreach"}),
    "viewer": _SEEN,
}
#: What somebody may have who is limited to a contract, list or practice: the rest shows what is everybody's.
LIMITED: frozenset[Permission] = frozenset({"see-population", "see-quality", "see-contracts"})


def read_roles(names: Iterable[str]) -> tuple[Role, ...]:
    """Roles by name, in our order; InputError when one is not a role or there is none."""
    given = set(names)
    unknown = given - set(ROLES)
    if unknown or not given:
        raise InputError(f"a role is one of {', '.join(ROLES)}; at least one is needed")
    return tuple(one for one in ROLES if one in given)


def permissions(roles: Iterable[Role], *, limited: bool) -> frozenset[Permission]:
    """What somebody with these roles may do."""
    found: frozenset[Permission] = frozenset().union(*(ROLES[one] for one in roles))
    return found & LIMITED if limited else found
