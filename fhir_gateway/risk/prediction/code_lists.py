"""ICD-10 code lists of comorbidities, with the weights that scores give them: TOML beside this module."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fhir_gateway.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class CodeList:
    """Categories by code prefix (without dot), which of two counts, and weights by name of the score."""

    name: str
    source: str
    trust: str
    categories: Mapping[str, tuple[str, ...]]
    hierarchies: tuple[tuple[str, str], ...]
    weights: Mapping[str, Mapping[str, int]]

    def superiors(self, category: str) -> tuple[str, ...]:
        """Categories in whose presence a category does not count."""
        return tuple(higher for higher, lower in self.hierarchies if lower == category)


@cache
def code_list(name: str) -> CodeList:
    """A shipped code list: ``charlson``, ``lace`` or ``elixhauser``."""
    path = files(__package__).joinpath("codes", f"{name}.toml")
    if not path.is_file():
        raise ConfigurationError(f"no code list {name}")
    table = tomllib.loads(path.read_text("utf-8"))
    categories = {name: tuple(_prefixes(said)) for name, said in table["categories"].items()}
    found = CodeList(
        name,
        table["source"],
        table["trust"],
        categories,
        tuple((higher, lower) for higher, lower in table["hierarchies"]),
        table["weights"],
    )
    named = {one for pair in found.hierarchies for one in pair} | {one for w in found.weights.values() for one in w}
    if unknown := sorted(named - categories.keys()):
        raise ConfigurationError(f"code list {name} names categories it does not have: {', '.join(unknown)}")
    return found


def _prefixes(said: str) -> Iterator[str]:
    """``I425-I429`` are five prefixes; both ends have the same letter and the same number of digits."""
    for one in said.split():
        first, _, last = one.partition("-")
        if not last:
            yield first
            continue
        letter, width = first[0], len(first) - 1
        if last[0] != letter or len(last) != len(first):
            raise ConfigurationError(f"{one} is no range of codes")
        yield from (f"{letter}{number:0{width}d}" for number in range(int(first[1:]), int(last[1:]) + 1))
