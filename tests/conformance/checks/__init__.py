"""One check for each line of the sheet of public test kits: section and number, the kit, and what it looks at.

A check is a function over the running gateway that asserts. A line without a function is "not built"; a line that is
not built, does not apply or does not pass needs its reason in ``reasons.toml``, and a reason that is no longer
needed fails the run.
"""

from __future__ import annotations

import tomllib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from face import Face

REASONS = Path(__file__).parents[1] / "reasons.toml"
SECTIONS = ("discovery", "tokens", "introspection", "export", "client", "deqm_us", "deqm_uv", "deqm_legacy", "own")

Function = Callable[[Face], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One line: its number, the kit and level (M mandatory, O optional, S skips), what it looks at, and how."""

    id: str
    kit: str
    level: str
    says: str
    function: Function | None = None

    @property
    def order(self) -> tuple[str, int]:
        return self.id[0], int(self.id[1:])


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check: passed, failed, not applicable or not built, with the reason when it did not pass."""

    check: Check
    outcome: str
    reason: str
    accounted: bool  # passed, or its reason is written down


LINES: dict[str, Check] = {}


def check(id: str, kit: str, level: str, says: str) -> Callable[[Function], Function]:
    """Register the function of a line."""

    def register(function: Function) -> Function:
        assert id not in LINES, id
        LINES[id] = Check(id, kit, level, says, function)
        return function

    return register


def line(id: str, kit: str, level: str, says: str) -> None:
    """Register a line that has no function: its reason must be written down."""
    assert id not in LINES, id
    LINES[id] = Check(id, kit, level, says)


def all_checks() -> list[Check]:
    """All lines in the order of the sheet."""
    for name in SECTIONS:
        import_module(f"checks.{name}")
    return sorted(LINES.values(), key=lambda one: one.order)


def reasons() -> dict[str, str]:
    """Id -> why a line is not passed."""
    return {id: str(reason) for id, reason in tomllib.loads(REASONS.read_text(encoding="utf-8")).items()}


def run(checks: list[Check], face: Face) -> Iterator[Result]:
    """Run checks one after the other."""
    known = reasons()
    for one in checks:
        reason = known.get(one.id)
        if one.function is None:
            yield Result(one, "not applicable" if reason else "not built", reason or "", reason is not None)
            continue
        try:
            one.function(face)
        except Exception as error:  # noqa: BLE001 a check that stops has failed, whatever stops it
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {str(error)[:300]} ({Path(where.filename).name}:{where.lineno})"
            yield Result(one, "failed", reason or said, reason is not None)
            continue
        if reason is not None:
            yield Result(one, "passed", f"passes: take its reason out of {REASONS.name}", accounted=False)
            continue
        yield Result(one, "passed", "", accounted=True)
