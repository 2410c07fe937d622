"""Metrics of utilization and cost, by name: definition, numerator, denominator, unit. Data in ``metrics.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from fhir_gateway.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: ``numerator`` x ``per`` / ``denominator`` (names of tallies), or the numerator itself.

    ``unit`` is UCUM, ``{money}`` the currency; ``vbpr`` the code of Da Vinci VBPR's metrics; ``better`` the direction;
    ``needs`` what must be given (``network``) or imported (``ed-probabilities``).
    """

    id: str
    title: str
    numerator: str
    definition: str
    source: str
    trust: Literal["T", "M"]
    per: int
    unit: str
    version: str
    denominator: str | None = None
    vbpr: str | None = None
    better: Literal["increase", "decrease"] | None = None
    by_category: bool = False
    needs: str | None = None


@cache
def metrics() -> dict[str, Metric]:
    """All metrics by id, in their order."""
    stated = tomllib.loads(files(__package__).joinpath("metrics.toml").read_text(encoding="utf-8"))
    return {one["id"]: Metric(**one, version=stated["version"]) for one in stated["metric"]}


def metric(name: str) -> Metric:
    """A metric by id; NotFoundError when there is none."""
    found = metrics().get(name)
    if found is None:
        raise NotFoundError(f"there is no utilization metric '{name}'")
    return found
