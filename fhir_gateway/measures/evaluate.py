"""Evaluating a measure over a population, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from copy import copy
from datetime import date, datetime
from datetime import time as clock
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.cql import Batch, CompiledLibrary, Evaluation, compile_library
from fhir_gateway.cql.evaluation import Failure
from fhir_gateway.cql.units import load_units
from fhir_gateway.errors import GatewayError, InputError
from fhir_gateway.measures.copies import Copies, WithoutCopies
from fhir_gateway.measures.elm_references import references, section
from fhir_gateway.measures.merge import merge_parts, odd_ones
from fhir_gateway.measures.model import GroupResult, MeasureResult, PartResult, RunHeader
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.population import MemoryPopulation, Population
from fhir_gateway.measures.populations import evaluate_group
from fhir_gateway.measures.retrieves import coded_retrieves
from fhir_gateway.measures.sharing import SharedBatch
from fhir_gateway.measures.strata import expected_values
from fhir_gateway.measures.supplemental import SupplementalDefinition, evaluate_supplemental

#: Name of the parameter every measure has (Quality Measure IG, measurement period).
MEASUREMENT_PERIOD = "Measurement Period"
#: The last instant of a day: CQL counts milliseconds.
_LAST = clock(23, 59, 59, 999_000)


Supplemental = Literal["noted", "required", "none"]
#: Said in every report of a measure that does not believe ``meta.profile``.
CONTENT_ALONE = "profiles are told apart by what resources hold; those they declare are not looked at"


class Evaluator:
    """A package that passed its preflight and is compiled; evaluates any number of populations and batches."""

    def __init__(self, package: MeasurePackage, *, supplemental: Supplemental = "noted") -> None:
        """Check terminology and compile what the criteria need.

        ``supplemental`` says what becomes of supplemental data and risk adjustment variables: ``noted`` evaluates
        those that can be compiled and notes the others, ``required`` refuses the measure for them, ``none`` leaves
        all of them out. Raises TerminologyError, UnsupportedElm, LibraryError or MeasureError; nothing has been
        evaluated then.
        """
        self.package = package
        package.preflight()
        self._functions = _functions(package)
        self._types = {retrieve.resource_type for retrieve in coded_retrieves(package)}
        self.compiled = _compiled(package, self._functions)
        self._supplemental, notes = _supplemental(package, self.compiled, supplemental)
        self._strata, unlisted = expected_values(package.definition.groups, package.value_sets)
        notes = (*notes, *unlisted)
        self._notes = (CONTENT_ALONE, *notes) if package.profiles == "content" else notes
        self.withdrawn: Mapping[str, Failure] = {}

    def without(self, members: Mapping[str, Failure]) -> Evaluator:
        """The same measure, for which these members fail: what only the whole population shows (ADR 0137)."""
        other = copy(self)
        other.withdrawn = {**self.withdrawn, **members}
        return other

    @property
    def supplemental(self) -> tuple[SupplementalDefinition, ...]:
        """Supplemental data and risk adjustment variables that are evaluated."""
        return self._supplemental

    @property
    def notes(self) -> tuple[str, ...]:
        """What is noted whoever is evaluated."""
        return self._notes

    def warm(self) -> None:
        """Do beforehand what does not depend on data and would be done for the first members."""
        load_units()

    def evaluate(self, population: Population, period: tuple[date, date], now: datetime) -> MeasureResult:
        """Evaluate the measure for each batch of ``population`` and put the results together.

        ``period`` is inclusive on both ends: from the first instant of its first day to the last millisecond of its
        last, in the time zone of ``now``, which must have one. Members whose data makes an expression fail are
        reported in ``failed``; the others are evaluated.
        """
        (result,) = evaluate_together([self], population, period, now)
        return result

    def header(
        self, lake_version: int | None, period: tuple[date, date], now: datetime, copies: Copies = "all"
    ) -> RunHeader:
        """What a run over ``period`` as of ``now`` is known by."""
        package = self.package
        return RunHeader(
            url=package.url,
            version=package.version,
            name=package.name,
            title=package.title,
            period=period,
            evaluated_at=now,
            engine_version=_engine_version(),
            package_hash=package.package_hash,
            terminology_hash=package.terminology_hash,
            lake_version=lake_version,
            copies=copies,
        )

    def evaluate_batch(self, batch: Batch, period: tuple[date, date], now: datetime) -> PartResult:
        """Everything about one batch."""
        started = time.perf_counter()
        evaluation = self.compiled.evaluate(batch, self.parameters(period, now), now)
        groups = self.groups(evaluation)
        reasons = {
            batch.members[index].as_py(): f"{failure.definition} ({failure.locator}): {failure.reason}"
            for index, failure in evaluation.failures.items()
        }
        initial = np.zeros(len(batch), np.bool_)
        for group in groups:
            for population in group.populations:
                if population.code == "initial-population":
                    initial |= population.counts > 0
        supplemental, notes, unsupplied = evaluate_supplemental(self._supplemental, evaluation, initial)
        notes = (*self._notes, *notes)
        copies = _copies(batch) if "Encounter" in self._types else 0
        seconds = time.perf_counter() - started
        return PartResult(batch.members, groups, reasons, supplemental, notes, seconds, copies, unsupplied)

    def groups(self, evaluation: Evaluation) -> tuple[GroupResult, ...]:
        """The measure's groups out of an evaluation of its library; members that fail count nowhere."""
        if self.withdrawn:
            found = pc.index_in(pa.array(self.withdrawn, pa.string()), evaluation.batch.members)
            for index, failure in zip(found.to_pylist(), self.withdrawn.values(), strict=True):  # failures are few
                if index is not None:
                    evaluation.failures.setdefault(index, failure)
        known = -1
        groups: tuple[GroupResult, ...] = ()
        while known != len(evaluation.failures):  # an observation may fail members that the criteria did not
            known = len(evaluation.failures)
            failed = np.array(sorted(evaluation.failures), dtype=np.intp)
            groups = tuple(
                evaluate_group(g, evaluation, len(evaluation.batch), failed, self._functions, self._strata)
                for g in self.package.definition.groups
            )
        return groups

    def parameters(self, period: tuple[date, date], now: datetime) -> dict[str, object]:
        """Parameters of a run over ``period``."""
        return {MEASUREMENT_PERIOD: self._measurement_period(period, now)}

    def _measurement_period(self, period: tuple[date, date], now: datetime) -> tuple[object, object]:
        """The closed interval, of the point type the primary library declares for the parameter."""
        start, end = period
        if end < start:
            raise InputError("the measurement period ends before it starts")
        if now.tzinfo is None:
            raise InputError("the evaluation instant needs a time zone offset")
        for parameter in section(self.package.libraries[0], "parameters"):
            if parameter["name"] == MEASUREMENT_PERIOD and _point_type(parameter) == "Date":
                return start, end
        return datetime.combine(start, clock.min, now.tzinfo), datetime.combine(end, _LAST, now.tzinfo)


def evaluate_together(
    evaluators: Sequence[Evaluator], population: Population, period: tuple[date, date], now: datetime
) -> list[MeasureResult]:
    """Evaluate several measures over one population, each batch once for all of them.

    The results are those of one measure at a time. They are held in memory; see :mod:`fhir_gateway.measures.run` for
    populations that are not.
    """
    parts: list[list[PartResult]] = [[] for _ in evaluators]
    for batch in population.batches():
        for found, part in zip(parts, evaluate_batch(evaluators, batch, period, now), strict=True):
            found.append(part)
    if not all(parts):  # nobody: the same groups, with zeros
        parts = [[part] for part in evaluate_batch(evaluators, nobody(), period, now)]
    pairs = zip(evaluators, parts, strict=True)
    return [put_together(evaluator, found, population, period, now) for evaluator, found in pairs]


def put_together(
    evaluator: Evaluator,
    parts: Sequence[PartResult],
    population: Population,
    period: tuple[date, date],
    now: datetime,
) -> MeasureResult:
    """One result of the batches of ``population``; they are evaluated again without members who turn out odd."""
    odd = odd_ones(parts)
    if odd:
        return evaluator.without(odd).evaluate(population, period, now)
    return merge_parts(evaluator.header(population.lake_version, period, now, population.copies), parts)


def evaluate_batch(
    evaluators: Sequence[Evaluator], batch: Batch, period: tuple[date, date], now: datetime
) -> list[PartResult]:
    """All measures over one batch, whose tables they share."""
    if len(evaluators) > 1:
        batch = SharedBatch(batch, [evaluator.compiled for evaluator in evaluators])
    return [evaluator.evaluate_batch(batch, period, now) for evaluator in evaluators]


def nobody() -> Batch:
    """A batch without members."""
    return Batch(pa.array([], pa.string()), MemoryPopulation([]).read)


def evaluate(
    package: MeasurePackage, population: Population, period: tuple[date, date], now: datetime
) -> MeasureResult:
    """Compile ``package`` and evaluate it over ``population``; see :meth:`Evaluator.evaluate`."""
    return Evaluator(package).evaluate(population, period, now)


@cache
def _engine_version() -> str:
    """Which gateway this is: looking through what is installed takes a millisecond."""
    return version("fhir-gateway")


def _copies(batch: Batch) -> int:
    """Encounters of a batch that were set aside."""
    within = batch.batch if isinstance(batch, SharedBatch) else batch
    return within.copies.count if isinstance(within, WithoutCopies) else 0


def _supplemental(
    package: MeasurePackage, compiled: CompiledLibrary, wanted: Supplemental
) -> tuple[tuple[SupplementalDefinition, ...], tuple[str, ...]]:
    """The supplemental data that can be evaluated, and notes on the rest."""
    if wanted == "none":
        return (), ()
    usable, notes = [], []
    for definition in package.definition.supplemental:
        try:
            needed = references(package.libraries, package.primary, [definition.expression])
            package.value_sets.require(needed.value_sets, needed.code_systems)
            compiled.compiler.definition(compiled.primary, definition.expression)
            usable.append(definition)
        except GatewayError as error:
            if wanted == "required":
                raise
            notes.append(f"supplemental data {definition.id} is not computed: {error}")
    return tuple(usable), tuple(notes)


def _functions(package: MeasurePackage) -> frozenset[str]:
    """Functions of the primary library that observations and strata use."""
    defined = {d["name"] for d in section(package.libraries[0], "statements") if d.get("type") == "FunctionDef"}
    return frozenset(defined & set(package.definition.expressions))


def _compiled(package: MeasurePackage, functions: frozenset[str]) -> CompiledLibrary:
    """The primary library with all criteria compiled, functions included."""
    criteria = [name for name in package.definition.expressions if name not in functions]
    compiled = compile_library(
        package.libraries, package.primary, package.value_sets, definitions=criteria, profiles=package.profiles
    )
    for name in sorted(functions):
        for body in compiled.primary.functions[name]:
            compiled.compiler.function(compiled.primary, body)
    return compiled


def _point_type(parameter: Mapping[str, Any]) -> str:
    specifier = parameter.get("parameterTypeSpecifier") or {}
    return str((specifier.get("pointType") or {}).get("name", "")).rpartition("}")[2]
