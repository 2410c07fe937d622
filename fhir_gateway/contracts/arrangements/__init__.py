"""Registry of payment arrangements: one module each, with its terms, its contradictions and its arithmetic.

An arrangement is a class of terms derived from :class:`ArrangementTerms`, registered under its ``kind``. Adding one:
a module here with ``@arrangement("kind")`` (every module of this package is imported), its test, and a line in
``docs/use/contracts.md`` (``docs/develop/add-an-arrangement.md`` walks through it).
"""

from importlib import import_module
from pkgutil import iter_modules

from fhir_gateway.contracts.arrangements.base import (
    ARRANGEMENTS,
    ArrangementTerms,
    Exposure,
    SettlementInputs,
    arrangement,
)
from fhir_gateway.contracts.arrangements.facts import Facts, Needs

__all__ = ["ARRANGEMENTS", "ArrangementTerms", "Exposure", "Facts", "Needs", "SettlementInputs", "arrangement"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
