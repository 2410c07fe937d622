"""Steps of the tour, shown as they are done: a spinner while one runs, a line with its time when it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

Note = Callable[[str], None]


class Steps:
    """Prints steps to a console; on something that is no terminal only their last lines."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Note]:
        """One step. The block is given a function to say how far it is, or in the end what came of it."""
        started = time.perf_counter()
        last = ""
        with self._console.status(escape(title)) as status:

            def note(text: str) -> None:
                nonlocal last
                last = text
                status.update(f"{escape(title)} [dim]{escape(text)}[/dim]")

            yield note
        seconds = time.perf_counter() - started
        self._console.print(f"[green]✓[/green] {title:<34}{seconds:6.1f} s   [dim]{escape(last)}[/dim]", soft_wrap=True)
