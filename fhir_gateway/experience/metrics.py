"""Names of experience metrics, by which contracts weigh them: ``hcahps.nurses``, ``cg-cahps.access.linear``.

``INSTRUMENT.COMPOSITE`` is the adjusted top-box rate, a fraction; with ``.linear`` the adjusted linear mean, 0 to 100.
"""

from __future__ import annotations

from dataclasses import dataclass

from fhir_gateway.errors import NotFoundError
from fhir_gateway.experience.instrument import Instrument, shipped, shipped_names
from fhir_gateway.experience.scoring import Score

#: The Measure whose groups are the metrics, and its version: that of this naming.
MEASURE_URL = "https://fhir-gateway.example/fhir/Measure/patient-experience"
VERSION = "1"


@dataclass(frozen=True, slots=True)
class ExperienceMetric:
    """A composite of an instrument, as a rate or a linear mean."""

    instrument: str
    composite: str
    linear: bool = False

    @property
    def id(self) -> str:
        """Its name, also that of its group."""
        return f"{self.instrument}.{self.composite}" + (".linear" if self.linear else "")

    def of(self, score: Score) -> float | None:
        """Its value in a provider's score of that composite."""
        return score.adjusted_linear if self.linear else score.adjusted_top_box


def is_experience(name: str) -> bool:
    """Whether a metric's name is of patient experience."""
    return "." in name


def metric(name: str) -> ExperienceMetric:
    """The metric of a name; NotFoundError says what there is."""
    parts = name.split(".")
    if parts[0] not in shipped_names():
        raise NotFoundError(f"there is no such instrument; there are {', '.join(shipped_names())}")
    instrument = shipped(parts[0])
    if len(parts) not in (2, 3) or parts[1] not in instrument.composites or parts[2:] not in ([], ["linear"]):
        raise NotFoundError(f"{instrument.id} has the metrics {', '.join(instrument.composites)}, also with .linear")
    return ExperienceMetric(instrument.id, parts[1], len(parts) == 3)


def metrics_of(instrument: Instrument) -> tuple[ExperienceMetric, ...]:
    """All metrics of an instrument."""
    return tuple(
        ExperienceMetric(instrument.id, composite, linear)
        for composite in instrument.composites
        for linear in (False, True)
    )


def canonical() -> str:
    """Versioned canonical of the Measure."""
    return f"{MEASURE_URL}|{VERSION}"
