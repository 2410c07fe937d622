"""Patient experience out of the lake: scores by provider, metrics of contracts, points of Hospital VBP's surveys."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.contracts.calendar import Cut
from fhir_gateway.contracts.inputs import MeasureScore
from fhir_gateway.contracts.scoring.hospital_vbp import Rates, consistency_points, measure_points, survey_base
from fhir_gateway.errors import InputError, Location
from fhir_gateway.experience.answers import ENCOUNTER_COLUMNS, RESPONSE_COLUMNS, Answers, answers_of
from fhir_gateway.experience.instrument import Instrument, shipped, shipped_names
from fhir_gateway.experience.metrics import canonical, is_experience, metric
from fhir_gateway.experience.reports import measure, report
from fhir_gateway.experience.scoring import Coefficients, Score, score
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import AttributionReport
from fhir_gateway.jobs.publish import REPORTER

Period = tuple[date, date]
_STANDARDS = ("composite", "floor", "threshold", "benchmark")
#: Decimals that a score has in a contract: more would hang on the order of the sums.
_PLACES = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class SurveyPoints:
    """Points of a hospital in the survey domain: base, consistency, and those of each dimension."""

    provider: str
    dimensions: Mapping[str, int]
    base: int | None
    consistency: int | None


def instrument_of(name: str) -> Instrument:
    """A shipped instrument by id, or one of a TOML file."""
    return shipped(name) if name in shipped_names() or not name.endswith(".toml") else Instrument.load(Path(name))


def answers(gateway: Gateway, instrument: Instrument, period: Period, version: int | None = None) -> Answers:
    """Complete responses to an instrument that were authored in a period."""
    version = gateway.lake.version if version is None else version
    sent = gateway.lake.read("QuestionnaireResponse", list(RESPONSE_COLUMNS), version=version)
    visits = gateway.lake.read("Encounter", list(ENCOUNTER_COLUMNS), version=version, ordered=False)
    return answers_of(instrument, sent, visits, period)


def scores(
    gateway: Gateway,
    instrument: Instrument,
    period: Period,
    *,
    top_box_coefficients: Coefficients | None = None,
    linear_coefficients: Coefficients | None = None,
) -> tuple[Score, ...]:
    """Every composite of every provider."""
    return score(
        instrument,
        answers(gateway, instrument, period),
        top_box_coefficients=top_box_coefficients,
        linear_coefficients=linear_coefficients,
    )


def publish(
    gateway: Gateway, instrument: Instrument, found: Sequence[Score], period: Period, now: datetime
) -> list[str]:
    """Serve a MeasureReport of each provider, for clients that see everybody; gives their ids."""
    by_provider: dict[str, list[Score]] = {}
    for one in found:
        by_provider.setdefault(one.provider, []).append(one)
    reporter = {"reference": f"Organization/{REPORTER}"}
    reports = [report(instrument, of, period, reporter, now) for of in by_provider.values()]
    gateway.resources.put_many([measure(now), *reports])
    return [str(one["id"]) for one in reports]


def experience_outcomes(
    gateway: Gateway, attributed: AttributionReport, cut: Cut | None
) -> tuple[dict[str, MeasureScore], dict[str, str]]:
    """Results of the experience metrics that a contract weighs, as outcomes, and what they were made of.

    They are of the members attributed to the contract's provider, adjusted beside all other responses in the lake.
    """
    wanted = [metric(one.metric) for one in attributed.contract.measures if one.metric and is_experience(one.metric)]
    dates = attributed.contract.dates
    period = (dates[0], dates[1] if cut is None else cut.through)
    outcomes: dict[str, MeasureScore] = {}
    stamps: dict[str, str] = {}
    for name in dict.fromkeys(one.instrument for one in wanted):
        instrument = shipped(name)
        given = answers(gateway, instrument, period, attributed.lake_version)
        theirs = np.asarray(pc.is_in(given.member.cast(pa.string()), value_set=attributed.members.cast(pa.string())))
        found = {
            one.composite: one
            for one in score(instrument, given, providers=pa.array(np.where(theirs, "theirs", "others"), pa.string()))
            if one.provider == "theirs"
        }
        stamps[f"experience.{name}"] = instrument.version
        for one in (one for one in wanted if one.instrument == name):
            reached = found.get(one.composite)
            value = None if reached is None else one.of(reached)
            outcomes[f"{canonical()}#{one.id}"] = MeasureScore(
                None,
                0 if reached is None else reached.completes,
                None if value is None else Decimal(repr(value)).quantize(_PLACES),
            )
    return outcomes, stamps


def survey_points(
    instrument: Instrument, found: Sequence[Score], standards: Mapping[str, Rates]
) -> tuple[SurveyPoints, ...]:
    """Achievement, base and consistency points by 42 CFR 412.165 for providers that have every dimension.

    ``standards`` hold floor, threshold, benchmark and, where there is one, baseline of each dimension, in percent of
    the top box. A dimension of which they say nothing is refused.
    """
    if instrument.vbp is None:
        raise InputError(f"{instrument.id} is no survey of Hospital Value-Based Purchasing")
    if missing := [one for one in instrument.vbp.dimensions if one not in standards]:
        raise InputError(f"standards: there are none of {', '.join(missing)}")
    by_provider: dict[str, dict[str, Score]] = {}
    for one in found:
        by_provider.setdefault(one.provider, {})[one.composite] = one
    points = []
    for provider, of in sorted(by_provider.items()):
        reached = [of[name].adjusted_top_box if of[name].public else None for name in instrument.vbp.dimensions]
        if any(one is None for one in reached):
            points.append(SurveyPoints(provider, {}, None, None))
            continue
        rates = {
            name: Rates(
                standards[name].threshold,
                standards[name].benchmark,
                (100 * Decimal(repr(value))).quantize(Decimal("0.0001")),
                standards[name].baseline,
                standards[name].floor,
            )
            for name, value in zip(instrument.vbp.dimensions, reached, strict=True)
        }
        dimensions = {name: measure_points(one).score for name, one in rates.items()}
        base = survey_base(list(dimensions.values()))
        points.append(SurveyPoints(provider, dimensions, base, consistency_points(list(rates.values()))))
    return tuple(points)


def read_standards(path: Path) -> dict[str, Rates]:
    """Performance standards of a CSV file: composite, floor, threshold, benchmark, and baseline where there is one."""
    found: dict[str, Rates] = {}
    for line, row in _rows(path, _STANDARDS):
        try:
            floor, threshold, benchmark = (Decimal(row[name].removesuffix("%")) for name in _STANDARDS[1:])
            baseline = (row.get("baseline") or "").removesuffix("%")
            found[row["composite"]] = Rates(
                threshold, benchmark, Decimal(0), Decimal(baseline) if baseline else None, floor
            )
        except ArithmeticError:
            raise InputError("a standard is not a number", location=Location(file=str(path), line=line)) from None
    return found


def read_coefficients(path: Path) -> dict[str, dict[str, float]]:
    """Case-mix coefficients of a CSV file: item, characteristic (``health``, ``language:2``), coefficient."""
    found: dict[str, dict[str, float]] = {}
    for line, row in _rows(path, ("item", "characteristic", "coefficient")):
        try:
            found.setdefault(row["item"], {})[row["characteristic"]] = float(row["coefficient"])
        except ValueError:
            raise InputError("a coefficient is not a number", location=Location(file=str(path), line=line)) from None
    return found


def read_sampled(path: Path) -> dict[str, tuple[int, int]]:
    """How many each provider's survey was sent to, and how many of them were not eligible, from a CSV file."""
    found: dict[str, tuple[int, int]] = {}
    for line, row in _rows(path, ("provider", "sampled")):
        try:
            found[row["provider"]] = int(row["sampled"]), int(row.get("ineligible") or 0)
        except ValueError:
            raise InputError("a count is not a whole number", location=Location(file=str(path), line=line)) from None
    return found


def read_benchmarks(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Percentiles of adjusted top-box rates from a CSV file: composite, percentile, value."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line, row in _rows(path, ("composite", "percentile", "value")):
        try:
            found.setdefault(row["composite"], []).append((float(row["percentile"]), float(row["value"])))
        except ValueError:
            raise InputError("a percentile is not a number", location=Location(file=str(path), line=line)) from None
    return found


def _rows(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in needed if name not in (reader.fieldnames or ())]:
                raise InputError(f"the table lacks the columns {', '.join(missing)}", location=Location(file=str(path)))
            return [(line, {k: (v or "").strip() for k, v in row.items() if k}) for line, row in enumerate(reader, 2)]
    except (OSError, UnicodeDecodeError):
        raise InputError("there is no such file of text", location=Location(file=str(path))) from None
