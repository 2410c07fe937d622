"""The part of ``docs/develop/conformance-suite.md`` that is made from the checks and their reasons."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import checks

PAGE = Path(__file__).parents[2] / "docs" / "develop" / "conformance-suite.md"
BEGIN, END = "<!-- lines: generated -->", "<!-- lines: end -->"


def lines() -> str:
    """How many lines of each kit pass, and why the others do not; CI holds that this is so."""
    known, every = checks.reasons(), checks.all_checks()
    total = Counter(one.kit for one in every)
    passed = Counter(one.kit for one in every if one.id not in known)
    rows = ["| kit | lines | pass |", "|---|---|---|"]
    rows += [f"| {kit} | {total[kit]} | {passed[kit]} |" for kit in dict.fromkeys(one.kit for one in every)]
    rows += [f"| all | {total.total()} | {passed.total()} |", "", "| line | level | what | why it does not pass |"]
    rows.append("|---|---|---|---|")
    rows += [f"| {one.id} | {one.level} | {one.says} | {known[one.id]} |" for one in every if one.id in known]
    return "\n".join(rows)


def current() -> str:
    """The page as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n{lines()}\n{END}{rest.partition(END)[2]}"
