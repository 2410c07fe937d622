"""Changed terms: one number of a contract set otherwise, by its path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from decimal import Decimal
from typing import Any

from fhir_gateway.errors import ContractError


def changed(stated: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Parsed terms with some set otherwise; the terms given are left alone.

    A path is names joined by points; in a list an element is named by its ``id`` (``arrangements.savings.rate``), for
    distributions by its ``arrangement``, and any by its place, from 1 (``measures.visits.scoring.steps.2.points``). A
    term that was left to its default may be set. ContractError names a path that leads nowhere.
    """
    terms: dict[str, Any] = deepcopy(dict(stated))
    for path, value in changes.items():
        *names, last = path.split(".")
        place: Any = terms
        for number, name in enumerate(names):
            place = _inside(place, name, ".".join(names[: number + 1]))
        if isinstance(place, list):
            found = _inside(place, last, path)
            place[next(number for number, one in enumerate(place) if one is found)] = value
        elif isinstance(place, dict):
            place[last] = value
        else:
            raise ContractError(f"{'.'.join(names)}: is no group of terms")
    return terms


def read_value(text: str) -> Any:
    """A value as given at a prompt: a number (exact), true, false, null, a list or mapping in JSON, or else a text."""
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_text)
    except json.JSONDecodeError:
        return text


def _text(name: str) -> Any:
    return name


def _inside(place: Any, name: str, path: str) -> Any:
    if isinstance(place, dict):
        return place.setdefault(name, {})
    if isinstance(place, list):
        for element in place:
            if isinstance(element, dict) and name in (element.get("id"), element.get("arrangement")):
                return element
        if name.isascii() and name.isdigit() and 1 <= int(name) <= len(place):
            return place[int(name) - 1]
        raise ContractError(f"{path}: there is none of that id or place")
    raise ContractError(f"{path}: is no group of terms")
