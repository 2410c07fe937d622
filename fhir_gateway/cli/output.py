"""What commands print: tables for people, JSON for machines; progress goes to the error stream."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from fhir_gateway.errors import GatewayError
from fhir_gateway.sources.outcome import Progress as Tell
from fhir_gateway.sources.outcome import PullProgress


def _error_console() -> Console:
    return Console(stderr=True)


def _wide(console: Console) -> Console:
    """A pipe or file has no width; 80 columns would break tables that nobody asked to be narrow."""
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160
    return console


@dataclass
class Output:
    """Where a command's answer goes. With ``json``, exactly one JSON value is written to the output stream."""

    json: bool = False
    out: Console = field(default_factory=lambda: _wide(Console()))
    err: Console = field(default_factory=_error_console)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows under the columns named; JSON gets every key of a row."""
        if self.json:
            self.value(list(rows))
            return
        if not rows:
            self.out.print(f"{title}: none")
            return
        table = Table(title=title, title_justify="left", header_style="bold")
        for number, name in enumerate(columns):
            numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
            table.add_column(
                name.replace("_", " "), justify="right" if numeric else "left", overflow="fold", no_wrap=number == 0
            )
        for row in rows:
            table.add_row(*(escape(_shown(row.get(name))) for name in columns))
        self.out.print(table)

    def value(self, value: Any) -> None:
        """One JSON value, whatever the mode."""
        sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")

    def say(self, text: str) -> None:
        """A sentence for people; nothing with JSON."""
        if not self.json:
            self.out.print(escape(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """A sentence on the error stream."""
        self.err.print(f"[yellow]warning:[/yellow] {escape(text)}", soft_wrap=True)

    def fail(self, error: GatewayError) -> None:
        """An error: ``error: file:line path [rule]: message``; with JSON also its code."""
        if self.json:
            place = error.location
            body = {
                "code": error.code,
                "message": error.message,
                "file": place.file,
                "line": place.line,
                "path": place.path,
                "rule": place.rule,
            }
            sys.stderr.write(orjson.dumps({"error": body}).decode() + "\n")
            return
        self.err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)

    @contextmanager
    def progress(self) -> Iterator[Tell]:
        """Shows phases as they come, one line each; nothing when the error stream is no terminal."""
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.fields[phase]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        disabled = self.json or not self.err.is_terminal
        with Progress(*columns, console=self.err, disable=disabled) as shown:
            tasks: dict[str, Any] = {}

            def tell(event: PullProgress) -> None:
                phase = "export" if event.phase == "wait" else event.phase
                if phase not in tasks:
                    for task in tasks.values():
                        shown.stop_task(task)
                    tasks[phase] = shown.add_task("", total=None, phase=phase)
                total = event.total if event.total is not None else None
                shown.update(tasks[phase], description=escape(event.message), completed=event.done, total=total)

            yield tell


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
