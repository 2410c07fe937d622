"""What an edit cannot be judged without, and which claims lack it: those are told as not checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fhir_gateway.claim_edits.specs import SPECS


@dataclass(frozen=True, slots=True)
class Ground:
    """``lacking`` selects the claims (rid) without it; ``why`` says so to people.

    Of a ``partial`` one edits find what can be found without it: a duplicate in the same batch, for one.
    """

    name: str
    why: str
    lacking: str
    partial: bool = False


def _table(name: str) -> Ground:
    lacking = f"""
        SELECT rid FROM days WHERE day IS NULL OR NOT EXISTS (
          SELECT 1 FROM periods p WHERE p.ground = '{name}' AND day BETWEEN p.first AND p.last)"""  # noqa: S608  # names of specs.py
    return Ground(name, f"table {name} is not loaded for the day of service", lacking)


def _payer(name: str) -> Ground:
    lacking = f"""
        SELECT rid FROM c
        EXCEPT SELECT rid FROM c WHERE EXISTS (SELECT 1 FROM {SPECS[name].view} t WHERE t.payer IS NULL)
        EXCEPT SELECT rid FROM payer WHERE payer IN (SELECT DISTINCT payer FROM {SPECS[name].view})"""  # noqa: S608  # names of specs.py
    return Ground(f"{name}:payer", f"table {name} says nothing of the claim's payer", lacking)


_GROUNDS = (
    Ground(
        "claim",
        "it is no claim for payment in force: its use is another, or it was cancelled",
        "SELECT rid FROM claim WHERE current EXCEPT SELECT rid FROM c",
    ),
    Ground(
        "patient",
        "the patient's birth date and sex are not known",
        "SELECT rid FROM c LEFT JOIN person p USING (member) WHERE p.birth IS NULL OR p.sex IS NULL",
    ),
    Ground("coverage", "no coverage of the patient is known", "SELECT rid FROM c ANTI JOIN coverages USING (member)"),
    Ground(
        "attribution", "it is not known who is attributed", "SELECT rid FROM c WHERE NOT getvariable('attribution')"
    ),
    Ground(
        "history",
        "earlier claims of the patient are not known",
        "SELECT rid FROM c WHERE NOT getvariable('history') OR member IS NULL",
        partial=True,
    ),
    *map(_table, SPECS),
    *(_payer(name) for name, spec in SPECS.items() if any(column.name == "payer" for column in spec.columns)),
)
GROUNDS: Mapping[str, Ground] = MappingProxyType({ground.name: ground for ground in _GROUNDS})
