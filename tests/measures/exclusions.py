"""Which published expectations are known to be wrong, with the proof, from ``exclusions.toml``.

``[[case]]`` excuses the population counts of one case, ``[[stratum]]`` the strata of named stratifiers of one case,
``[[observation]]`` the values of one observation of one case, and ``[[habit]]`` a number of differences of a measure
that are all of one kind which contradicts itself (see ``expectations.py``). ``[[content]]`` excuses the populations
of a case that is read without its declared profiles, which its content contradicts. Whatever is listed must differ: an
entry that is met, or a habit found more or less often than listed, fails the run.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.measures.expectations import Difference

#: Measure, case, kind of expectation, and its stratifier or observation (``*`` for populations).
Key = tuple[str, str, str, str]


@dataclass
class Exclusions:
    """What is listed, and what of it has been used so far."""

    listed: frozenset[Key]
    habits: Mapping[tuple[str, str], int]
    used: set[Key] = field(default_factory=set)
    found: Counter[tuple[str, str]] = field(default_factory=Counter)

    @classmethod
    def load(cls, path: Path, *, content: bool = False) -> Exclusions:
        """Read the file; a difference may be listed once. With ``content`` those of data without declared profiles."""
        listed = tomllib.loads(path.read_text("utf-8"))
        if content:
            listed = {"case": [*listed.get("case", ()), *listed.get("content", ())]}
        keys = [(e["measure"], e["id"], "populations", "*") for e in listed.get("case", ())]
        keys += [(e["measure"], e["id"], "strata", s) for e in listed.get("stratum", ()) for s in e["stratifiers"]]
        keys += [(e["measure"], e["id"], "observations", e["observation"]) for e in listed.get("observation", ())]
        if len(set(keys)) < len(keys):
            raise ValueError(f"{path.name} lists a difference twice")
        habits = {(m, habit["kind"]): n for habit in listed.get("habit", ()) for m, n in habit["measures"].items()}
        return cls(frozenset(keys), habits)

    def excuses(self, measure: str, case: str, difference: Difference) -> bool:
        """Whether the difference is listed, by itself or as one of its measure's habits."""
        subject = "*" if difference.kind == "populations" else difference.subject
        key = (measure, case, difference.kind, subject)
        habit = next((h for h in difference.habits if (measure, h) in self.habits), None)
        if habit is not None:
            self.found[measure, habit] += 1
        elif key in self.listed:
            self.used.add(key)
        return habit is not None or key in self.used

    def stale(self, measure: str, cases: Iterator[str]) -> Iterator[str]:
        """What is listed for the measure and these cases, all of them compared, but was not found so."""
        evaluated = set(cases)
        for name, case, kind, subject in sorted(self.listed - self.used):
            if name == measure and case in evaluated:
                what = "" if subject == "*" else f" {kind} {subject}"
                yield f"{measure} {case}{what} passes although it is excluded"
        for (name, habit), count in self.habits.items():
            if name == measure and self.found[name, habit] != count:
                yield f"{measure} differs by {habit} {self.found[name, habit]} times, not {count} as listed"
