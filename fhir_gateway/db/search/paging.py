"""Where a page of a search ends, as a token, and how the next one begins behind it."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import sqlalchemy as sa

from fhir_gateway.errors import InputError


def beyond(
    order: sa.ColumnElement[Any], key: sa.ColumnElement[int], after: tuple[Any, int], descending: bool
) -> sa.ColumnElement[bool]:
    """Condition on the rows that come behind ``after``, a value of ``order`` and the key that tells equals apart."""
    value, last = after
    if descending:
        return sa.or_(order < value, sa.and_(order == value, key < last))
    return sa.or_(order > value, sa.and_(order == value, key > last))


def encode(sort: str | None, value: int | str, key: int) -> str:
    """Token of the row that ends a page."""
    return base64.urlsafe_b64encode(orjson.dumps([sort, value, key])).decode()


def decode(after: str, sort: str | None, order: sa.ColumnElement[Any]) -> tuple[Any, int]:
    """The row behind which a page begins; InputError for a token that is damaged or of another search."""
    kind = str if isinstance(order.type, sa.String) else int
    try:
        of_sort, value, key = orjson.loads(base64.urlsafe_b64decode(after))
    except (ValueError, TypeError) as error:
        raise InputError("the page token is damaged") from error
    if of_sort != sort or not isinstance(key, int) or not isinstance(value, kind):
        raise InputError("the page token belongs to another search")
    return value, key
