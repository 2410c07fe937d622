"""Where a page of a search ends, as a token, and how the next one begins behind it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import orjson
import sqlalchemy as sa

from fhir_gateway.errors import InputError

#: What a search is sorted by, and whether descending.
Order = tuple[sa.ColumnElement[Any], bool]


def beyond(
    orders: Sequence[Order], key: sa.ColumnElement[int], values: Sequence[Any], last: int
) -> sa.ColumnElement[bool]:
    """Condition on the rows that come behind those ``values`` of ``orders``; ``key`` tells equals apart.

    Equal rows come in the order of their keys, which is descending when the first order is.
    """
    whole = [*zip(orders, values, strict=True), ((key, orders[0][1]), last)]
    behind = []
    for number, ((order, descending), value) in enumerate(whole):
        equal = [one == same for (one, _), same in whole[:number]]
        behind.append(sa.and_(*equal, order < value if descending else order > value))
    return sa.or_(*behind)


def encode(sort: str | None, values: Sequence[int | str], key: int) -> str:
    """Token of the row that ends a page."""
    return base64.urlsafe_b64encode(orjson.dumps([sort, values, key])).decode()


def decode(after: str, sort: str | None, orders: Sequence[sa.ColumnElement[Any]]) -> tuple[list[Any], int]:
    """The row behind which a page begins; InputError for a token that is damaged or of another search."""
    kinds = [str if isinstance(order.type, sa.String) else int for order in orders]
    try:
        of_sort, values, key = orjson.loads(base64.urlsafe_b64decode(after))
        alike = [isinstance(value, kind) for value, kind in zip(values, kinds, strict=True)]
    except (ValueError, TypeError) as error:
        raise InputError("the page token is damaged") from error
    if of_sort != sort or not isinstance(key, int) or not all(alike):
        raise InputError("the page token belongs to another search")
    return values, key
