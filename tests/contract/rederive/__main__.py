"""The command."""

from __future__ import annotations

import json
import sys
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from tests.contract.rederive import __doc__ as usage
from tests.contract.rederive.findings import findings
from tests.contract.rederive.rows import read_rows, row_findings


def read(path: Path) -> dict[str, Any]:
    """A contract; numbers stay as written where the format allows."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return tomllib.loads(text, parse_float=Decimal)
    found: dict[str, Any] = json.loads(text, parse_float=Decimal) if path.suffix == ".json" else yaml.safe_load(text)
    return found


def main(arguments: list[str]) -> int:
    """Print findings; 1 if there are any, 2 when called wrongly."""
    if len(arguments) not in (2, 3):
        print(usage, file=sys.stderr)
        return 2
    contract, statement, *rows = map(Path, arguments)
    lines = json.loads(statement.read_text(encoding="utf-8"), parse_float=Decimal)
    found = list(findings(read(contract), lines))
    for path in rows:
        found += row_findings(read(contract), lines, read_rows(path), contract.parent)
    print("\n".join(found) if found else f"all {len(lines['lines'])} lines follow")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
