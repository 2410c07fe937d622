"""Published results of real programmes against what the gateway settles from the same inputs.

    python -m tests.contract.public_tables PROGRAMME FILE... [--limit 20]

Prints `matched/total` per quantity and the rows that differ. Exit code 0 when the run went through, whatever matched;
2 when a file is not such a table. A programme is a module of this package with ``check(paths) -> Iterable[Report]``.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from tests.contract.public_tables.report import NotSuchATable

#: Name of the programme -> module of this package that knows its files.
PROGRAMMES = {
    "hac": "hac",
    "hrrp": "hrrp",
    "hvbp": "hvbp",
    "mssp": "mssp",
    "reach": "reach",
}


def main(arguments: list[str] | None = None) -> int:
    """Check the files that are named; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract.public_tables", description=__doc__)
    parser.add_argument("programme", choices=sorted(PROGRAMMES))
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--limit", type=int, default=20, help="rows listed per quantity (default 20)")
    given = parser.parse_args(arguments)
    programme = import_module(f"tests.contract.public_tables.{PROGRAMMES[given.programme]}")
    try:
        reports = list(programme.check(given.paths))
    except NotSuchATable as error:
        print(f"{given.programme}: {error}", file=sys.stderr)
        return 2
    for report in reports:
        print(report.render(given.limit))
    if len(reports) > 1:
        print(reports[0].whole(reports).render(0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
