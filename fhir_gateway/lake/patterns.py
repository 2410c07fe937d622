"""Patterns of codes as SQL conditions: what rules state as data becomes a condition over a column.

A pattern is a code (``470``), the codes of one length from one to another (``480-482``), those that begin so
(``S72*``), or any at all (``*``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: What patterns may be; nothing else is spliced into SQL.
PATTERN = r"^([A-Za-z0-9]{1,15}(\*|-[A-Za-z0-9]{1,15})?|\*)$"


def is_pattern(text: str) -> bool:
    """Whether a text is a pattern that can match a code."""
    first, _, last = text.partition("-")
    return re.fullmatch(PATTERN, text) is not None and (not last or (len(first) == len(last) and first <= last))


def one_of(column: str, patterns: Sequence[str]) -> str:
    """The SQL condition that a column has a code of one of the patterns; false for null.

    Both are spliced in: the caller's own words, and patterns that :data:`PATTERN` allowed.
    """
    codes = [p for p in patterns if "-" not in p and "*" not in p]
    found = [f"{column} IN ({', '.join(map(_text, codes))})"] if codes else []
    for pattern in patterns:
        if pattern == "*":
            found.append(f"{column} IS NOT NULL")
        elif pattern.endswith("*"):
            found.append(f"starts_with({column}, {_text(pattern[:-1])})")
        elif "-" in pattern:
            first, last = pattern.split("-")
            found.append(f"({column} BETWEEN {_text(first)} AND {_text(last)} AND length({column}) = {len(first)})")
    return f"coalesce({' OR '.join(found) or 'FALSE'}, FALSE)"


def _text(code: str) -> str:
    return f"'{code}'"
