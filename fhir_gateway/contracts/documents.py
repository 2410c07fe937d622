"""A contract's text as plain values, from TOML, YAML or JSON: numbers are exact decimals, whatever the form."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Hashable
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from fhir_gateway.errors import ContractError, Location


class _Loader(yaml.SafeLoader):
    """YAML without binary fractions, and without keys that silently replace each other."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are all different."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                mark = node.value[number][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is there twice", mark)
        return super().construct_mapping(node, deep)


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> Decimal:
    try:
        return Decimal(str(loader.construct_scalar(node)).replace("_", ""))
    except ArithmeticError as error:
        raise yaml.constructor.ConstructorError(None, None, "not a decimal number", node.start_mark) from error


_Loader.add_constructor("tag:yaml.org,2002:float", _decimal)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key '{key}' is there twice")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _toml(text: str) -> Any:
    return tomllib.loads(text, parse_float=Decimal)


def _yaml(text: str) -> Any:
    return yaml.load(text, _Loader)  # noqa: S506 a safe loader


def _json(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_unique)


_READERS = {".toml": _toml, ".yaml": _yaml, ".yml": _yaml, ".json": _json}
SUFFIXES = tuple(_READERS)


def read_document(path: Path) -> dict[str, Any]:
    """The values of a contract file; ContractError names file, and line where the form is broken."""
    where = Location(file=str(path))
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ContractError(f"a contract is a file of {', '.join(SUFFIXES)}", location=where)
    try:
        values = reader(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ContractError("contract not found", location=where) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        problem = getattr(error, "problem", None) or "the text cannot be read"
        raise ContractError(f"not YAML: {problem}", location=Location(file=str(path), line=line)) from error
    except ValueError as error:  # TOML and JSON errors name line and column
        form = path.suffix.lstrip(".").upper()
        raise ContractError(f"not {form}: {error}", location=where) from error
    if not isinstance(values, dict):
        raise ContractError("a contract is a mapping of terms", location=where)
    return values
