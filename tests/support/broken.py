"""Lines of resources with a few bytes changed: most are broken, some are valid in rare ways."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from tests.support.invalid import types, valid

_PIECES = [
    *'"{}[],:\\ \t',
    *"0123456789-+.eE",
    "null",
    "true",
    '"x"',
    "\\u0041",
    "\\n",
    "é",
    "\u3000",
    "{}",
    "[]",
    '"id":"2",',
]


def broken_texts(seed: int, count: int) -> Iterator[bytes]:
    """Valid lines with a few bytes replaced, put in or taken out."""
    chance = random.Random(seed)  # noqa: S311 - a test's choice
    texts = [json.dumps(valid(kind, "1"), ensure_ascii=chance.random() < 0.5) for kind in types()]
    for _ in range(count):
        text = chance.choice(texts)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(text))
            end = at + chance.choice([0, 0, 1, 1, 2, 8])
            text = text[:at] + chance.choice([*_PIECES, ""]) + text[end:]
        yield text.encode()
