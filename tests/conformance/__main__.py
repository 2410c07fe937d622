"""``make conformance``: every line of the sheet of public test kits against a running gateway, as a table."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

import checks
import page
from face import running


def main() -> int:
    """Run the checks (or those named) and print them; 1 when one is neither passed nor accounted for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ids", nargs="*", help="only these lines or sections, such as A or F17")
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--page", action="store_true", help="write the part of the page that is made from the checks")
    asked = parser.parse_args()
    if asked.page:
        page.PAGE.write_text(page.current(), encoding="utf-8")
        return 0
    chosen = [
        one for one in checks.all_checks() if not asked.ids or any(one.id == id or one.id[0] == id for id in asked.ids)
    ]
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        running(Path(folder), asked.patients) as face,
    ):
        results = list(checks.run(chosen, face))
    console = Console(width=200 if not sys.stdout.isatty() else None)
    table = Table("id", "kit", "level", "check", "result", "reason", title="Conformance", title_justify="left")
    for one in results:
        shown = one.outcome if one.accounted else f"[bold red]{one.outcome}[/]"
        table.add_row(one.check.id, one.check.kit, one.check.level, one.check.says, shown, one.reason)
    console.print(table)
    counts = Counter(one.outcome for one in results)
    console.print(", ".join(f"{number} {name}" for name, number in sorted(counts.items())) + f"; {len(results)} lines")
    return 0 if all(one.accounted for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
