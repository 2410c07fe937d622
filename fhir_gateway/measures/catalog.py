"""The measures that are installed: found by what requests name them by, compiled once, and kept.

Compiling a measure takes a second or so, evaluating it for one person some milliseconds: whoever answers requests
shares one catalog.
"""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from fhir_gateway.cql.profiles import ProfilePolicy
from fhir_gateway.errors import NotFoundError
from fhir_gateway.garbage import spare_what_is_kept
from fhir_gateway.measures.evaluate import Evaluator
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.supplement import supplemented
from fhir_gateway.terminology.canonical import split_canonical, version_order
from fhir_gateway.terminology.store import TerminologyStore

#: Combinations of measure and first day of the period whose terminology is remembered; clients choose the day.
REMEMBERED = 200
_State = tuple[tuple[Path, int], ...]


class MeasureCatalog:
    """Installed packages and their evaluators. Safe to share between threads."""

    def __init__(
        self,
        paths: Callable[[], Sequence[Path]],
        terminology: Callable[[], TerminologyStore],
        profiles: ProfilePolicy = "declared",
    ) -> None:
        """``paths`` are the folders of packages now: what is added or replaced later is found."""
        self._paths, self._terminology, self._profiles = paths, terminology, profiles
        self._lock = threading.Lock()
        self._loaded: tuple[_State, tuple[MeasurePackage, ...]] | None = None
        self._supplemented: OrderedDict[tuple[str, date, str], MeasurePackage] = OrderedDict()
        self._evaluators: dict[tuple[str, str], Evaluator] = {}
        self._compiling: dict[tuple[str, str], threading.Lock] = {}

    def packages(self) -> tuple[MeasurePackage, ...]:
        """All packages, in the order of their folders."""
        paths = self._paths()
        state = tuple((path, path.stat().st_mtime_ns) for path in paths)
        with self._lock:
            if self._loaded is None or self._loaded[0] != state:
                self._loaded = state, tuple(MeasurePackage.load(path, profiles=self._profiles) for path in paths)
            return self._loaded[1]

    def by_canonical(self, canonical: str) -> MeasurePackage:
        """The package of ``url`` or ``url|version``, the newest when no version is named; NotFoundError without one."""
        url, version = split_canonical(canonical)
        return _newest(one for one in self.packages() if one.url == url and version in (None, one.version))

    def by_id(self, measure_id: str) -> MeasurePackage:
        """The package whose Measure has that id; NotFoundError without one."""
        return _newest(one for one in self.packages() if one.measure.get("id") == measure_id)

    def by_identifier(self, token: str) -> MeasurePackage:
        """The package of a business identifier, ``value`` or ``system|value``; NotFoundError without one."""
        return _newest(one for one in self.packages() if any(_is(i, token) for i in one.measure.get("identifier", ())))

    def on_topics(self, tokens: Sequence[str]) -> list[MeasurePackage]:
        """The newest package of each measure that has one of these topics; of all measures without topics."""
        found: dict[str, list[MeasurePackage]] = {}
        for one in self.packages():
            codings = [coding for topic in one.measure.get("topic", ()) for coding in topic.get("coding", ())]
            if not tokens or any(_is({**c, "value": c.get("code")}, token) for c in codings for token in tokens):
                found.setdefault(one.url, []).append(one)
        return [_newest(same) for same in found.values()]

    def evaluator(self, package: MeasurePackage, on: date) -> Evaluator:
        """The compiled measure with the terminology in force on a day; measures compile beside each other."""
        asked = (package.package_hash, on, self._terminology().revision())
        with self._lock:
            made = self._supplemented.get(asked)
        if made is None:
            made = supplemented(package, self._terminology(), on)
        key = (made.package_hash, made.terminology_hash)
        with self._lock:
            self._supplemented[asked] = made
            self._supplemented.move_to_end(asked)
            if len(self._supplemented) > REMEMBERED:
                self._forget()
            compiling = self._compiling.setdefault(key, threading.Lock())
        with compiling:
            evaluator = self._evaluators.get(key)
            if evaluator is None:
                evaluator = Evaluator(made)
                keep_ready(evaluator)
                with self._lock:
                    self._evaluators[key] = evaluator
        return evaluator

    def _forget(self) -> None:
        """Let go of what was asked for longest ago, and of the evaluators that nothing remembered needs."""
        while len(self._supplemented) > REMEMBERED // 2:
            self._supplemented.popitem(last=False)
        needed = {(one.package_hash, one.terminology_hash) for one in self._supplemented.values()}
        self._evaluators = {key: one for key, one in self._evaluators.items() if key in needed}
        self._compiling = {key: one for key, one in self._compiling.items() if key in needed or one.locked()}
        gc.unfreeze()  # what is let go of is garbage; the next one that is compiled freezes the others again


def keep_ready(evaluator: Evaluator) -> None:
    """Do what the first subjects would wait for, and have the collector of garbage pass over what is compiled."""
    evaluator.warm()
    spare_what_is_kept()


def _newest(packages: Iterable[MeasurePackage]) -> MeasurePackage:
    found = max(packages, key=lambda one: version_order(one.version), default=None)
    if found is None:
        raise NotFoundError("there is no such Measure that can be evaluated here")
    return found


def _is(identifier: dict[str, Any], token: str) -> bool:
    """Whether a token (``value`` or ``system|value``) names an Identifier."""
    system, bar, value = token.rpartition("|")
    return identifier.get("value") == value and (not bar or identifier.get("system", "") == system)
