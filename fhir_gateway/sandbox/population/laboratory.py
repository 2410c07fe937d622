"""Blood that is drawn at visits of the EHR, and what the laboratory finds in it: most of a record are such results.

A population has them only when it is asked for them (``drawn``): no measure of ours looks at them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fhir_gateway.sandbox.population.columns import Ints
from fhir_gateway.sandbox.population.visits import PROCEDURE, Events


@dataclass(frozen=True, slots=True)
class Analyte:
    """What is measured (LOINC), in which unit (UCUM), and how it lies in adults: mean, spread, decimal places."""

    code: str
    display: str
    unit: str
    mean: float
    spread: float
    places: int


#: Basic and liver panels, lipids, and a blood count.
ANALYTES = (
    Analyte("2345-7", "Glucose [Mass/volume] in Serum or Plasma", "mg/dL", 104, 22, 0),
    Analyte("3094-0", "Urea nitrogen [Mass/volume] in Serum or Plasma", "mg/dL", 15, 4, 0),
    Analyte("2160-0", "Creatinine [Mass/volume] in Serum or Plasma", "mg/dL", 0.95, 0.2, 2),
    Analyte("17861-6", "Calcium [Mass/volume] in Serum or Plasma", "mg/dL", 9.4, 0.4, 1),
    Analyte("2951-2", "Sodium [Moles/volume] in Serum or Plasma", "mmol/L", 139, 3, 0),
    Analyte("2823-3", "Potassium [Moles/volume] in Serum or Plasma", "mmol/L", 4.2, 0.4, 1),
    Analyte("2075-0", "Chloride [Moles/volume] in Serum or Plasma", "mmol/L", 103, 3, 0),
    Analyte("2028-9", "Carbon dioxide, total [Moles/volume] in Serum or Plasma", "mmol/L", 26, 3, 0),
    Analyte("1751-7", "Albumin [Mass/volume] in Serum or Plasma", "g/dL", 4.3, 0.3, 1),
    Analyte("2885-2", "Protein [Mass/volume] in Serum or Plasma", "g/dL", 7.1, 0.4, 1),
    Analyte("1975-2", "Bilirubin.total [Mass/volume] in Serum or Plasma", "mg/dL", 0.7, 0.2, 1),
    Analyte("6768-6", "Alkaline phosphatase [Enzymatic activity/volume] in Serum or Plasma", "U/L", 74, 19, 0),
    Analyte("1742-6", "Alanine aminotransferase [Enzymatic activity/volume] in Serum or Plasma", "U/L", 26, 9, 0),
    Analyte("1920-8", "Aspartate aminotransferase [Enzymatic activity/volume] in Serum or Plasma", "U/L", 24, 7, 0),
    Analyte("2093-3", "Cholesterol [Mass/volume] in Serum or Plasma", "mg/dL", 189, 37, 0),
    Analyte("2571-8", "Triglyceride [Mass/volume] in Serum or Plasma", "mg/dL", 130, 40, 0),
    Analyte("2085-9", "Cholesterol in HDL [Mass/volume] in Serum or Plasma", "mg/dL", 53, 11, 0),
    Analyte("718-7", "Hemoglobin [Mass/volume] in Blood", "g/dL", 13.9, 1.3, 1),
    Analyte("4544-3", "Hematocrit [Volume Fraction] of Blood by Automated count", "%", 41.5, 3.7, 1),
    Analyte("6690-2", "Leukocytes [#/volume] in Blood by Automated count", "10*3/uL", 7.0, 1.4, 1),
    Analyte("777-3", "Platelets [#/volume] in Blood by Automated count", "10*3/uL", 245, 55, 0),
)


@dataclass(frozen=True, slots=True)
class Draws:
    """A row per draw: ``event`` is a position in the events of the EHR, ``values`` a column per analyte."""

    event: Ints
    values: npt.NDArray[np.int64]


def draw_blood(rng: np.random.Generator, events: Events, drawn: float) -> Draws:
    """Blood of that share of the visits; procedures have none."""
    rows = np.flatnonzero((events.what != PROCEDURE) & (rng.random(len(events)) < drawn))
    mean, spread, scale = (
        np.array(column) for column in zip(*((a.mean, a.spread, 10.0**a.places) for a in ANALYTES), strict=True)
    )
    found = np.clip(rng.normal(mean, spread, (len(rows), len(ANALYTES))), mean / 4, mean * 4)
    return Draws(rows, (found * scale).round().astype(np.int64))
