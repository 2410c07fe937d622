"""Who provides care: practices, specialty groups, hospitals, pharmacies, the payer and the settlement organization.

The directory is the same for all batches of a population. Organizations of the home network share one EHR; the
outside network bills the payer but is on no EHR here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fhir_gateway.sandbox.population.codes import SPECIALTIES
from fhir_gateway.sandbox.population.columns import Bools, Ints
from fhir_gateway.sandbox.population.identifiers import npi, tin

PRACTICE, GROUP, HOSPITAL, PHARMACY, PAYER, ACO = range(6)
KINDS = ("practice", "specialty-group", "hospital", "pharmacy", "payer", "settlement-organization")

#: Persons per practice of the home network.
PERSONS_PER_PRACTICE = 700

_SPECIALTY = {specialty.cms: position for position, specialty in enumerate(SPECIALTIES)}
_STAFF: dict[int, tuple[str, ...]] = {
    PRACTICE: ("08", "11", "50", "08", "97", "11", "38"),
    GROUP: ("06", "46", "20", "07"),
    HOSPITAL: ("93", "93", "C6", "C6"),
}
_PLACES = (
    "Agave",
    "Saguaro",
    "Ocotillo",
    "Palo Verde",
    "Mesquite",
    "Cholla",
    "Ironwood",
    "Juniper",
    "Manzanita",
    "Yucca",
)
_SUFFIX = {
    PRACTICE: "Family Practice",
    GROUP: "Specialists",
    HOSPITAL: "Medical Center",
    PHARMACY: "Pharmacy",
    PAYER: "Health Plan",
    ACO: "Accountable Care",
}


@dataclass(frozen=True, slots=True)
class Directory:
    """Organizations and practitioners as columns; rows are referred to by position."""

    kind: Ints
    name: tuple[str, ...]
    organization_npi: Ints
    organization_tin: Ints
    on_ehr: Bools
    settles_with: Ints  # organization that settles contracts for this one, itself when independent
    organization: Ints  # of each practitioner
    specialty: Ints  # position in codes.SPECIALTIES
    practitioner_npi: Ints
    family: Ints  # positions in the name tables of people
    given: Ints
    female: Bools

    def of_kind(self, kind: int, *, on_ehr: bool | None = None) -> Ints:
        """Positions of organizations of a kind, on the EHR, off it, or both."""
        chosen = self.kind == kind
        if on_ehr is not None:
            chosen &= self.on_ehr == on_ehr
        return np.flatnonzero(chosen)

    @property
    def payer(self) -> int:
        """Position of the payer."""
        return int(self.of_kind(PAYER)[0])

    @property
    def staff_start(self) -> Ints:
        """First practitioner of each organization (practitioners are sorted by organization)."""
        return np.searchsorted(self.organization, np.arange(len(self.kind)))

    @property
    def staff_size(self) -> Ints:
        """Practitioners of each organization."""
        return np.bincount(self.organization, minlength=len(self.kind)).astype(np.int64)

    def staff(self, cms: str) -> Ints:
        """First practitioner with a specialty in each organization, -1 where there is none."""
        found = np.full(len(self.kind), -1, np.int64)
        rows = np.flatnonzero(self.specialty == _SPECIALTY[cms])[::-1]
        found[self.organization[rows]] = rows
        return found


def _name(kind: int, position: int) -> str:
    round_, place = divmod(position + 3 * kind, len(_PLACES))
    return f"{_PLACES[place]} {_SUFFIX[kind]}" + (f" {round_ + 1}" if round_ else "")


def make_directory(rng: np.random.Generator, patients: int) -> Directory:
    """Organizations enough for so many persons, at least three practices of the home network."""
    home = max(3, round(patients / PERSONS_PER_PRACTICE))
    counts = {  # kind -> (on the EHR, off it)
        PRACTICE: (home, max(1, home // 5)),
        GROUP: (max(1, home // 4), max(1, home // 10)),
        HOSPITAL: (max(2, home // 6), max(1, home // 12)),
        PHARMACY: (0, max(2, home // 4)),
        PAYER: (0, 1),
        ACO: (0, max(1, home // 40)),
    }
    kind: list[int] = []
    on_ehr: list[bool] = []
    name: list[str] = []
    for which, (inside, outside) in counts.items():
        kind += [which] * (inside + outside)
        on_ehr += [True] * inside + [False] * outside
        name += [_name(which, position) for position in range(inside + outside)]
    kinds, inside_ehr = np.array(kind), np.array(on_ehr)
    settles_with = np.arange(len(kind))
    acos = np.flatnonzero(kinds == ACO)
    partners = np.flatnonzero((kinds == PRACTICE) & inside_ehr)[:-1]  # the last practice stays independent
    settles_with[partners] = acos[np.arange(len(partners)) * len(acos) // len(partners)]

    staff = [(org, _SPECIALTY[cms]) for org, which in enumerate(kind) for cms in _STAFF.get(which, ())]
    number = len(staff)
    return Directory(
        kind=kinds,
        name=tuple(name),
        organization_npi=npi(np.arange(len(kind))),
        organization_tin=tin(np.arange(len(kind))),
        on_ehr=inside_ehr,
        settles_with=settles_with,
        organization=np.array([org for org, _ in staff]),
        specialty=np.array([specialty for _, specialty in staff]),
        practitioner_npi=npi(1_000_000 + np.arange(number)),
        family=rng.integers(0, 10_000, number),
        given=rng.integers(0, 10_000, number),
        female=rng.random(number) < 0.5,
    )
