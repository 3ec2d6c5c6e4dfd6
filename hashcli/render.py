"""What people see on a terminal: tables and progress bars. With `preview`, the only importer of rich."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.progress import Task as Bar
from rich.table import Table
from rich.text import Text

from hashcli.formats import Cell, Row, text
from hashcli.progress import Task
from hashcli.talk import Talk, duration

UNFOLDED = 10_000  # columns: wide enough that a table in a file is not folded
REDRAW_EVERY = 0.1  # seconds


def table(columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Print a table on stdout, as wide as the terminal; numbers to the right, long paths folded."""
    kept = list(rows)
    drawn = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, name in enumerate(columns):
        numbers = all(isinstance(row[i], int | float | None) for row in kept)
        drawn.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in kept:
        drawn.add_row(*(_cell(cell) for cell in row))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else UNFOLDED, highlight=False)
    console.print(drawn)


def _cell(cell: Cell) -> Text:
    return Text(text(cell))  # as Text: a path like [red].jpg is no markup


class LiveTalk(Talk):
    """Progress bars on stderr, with rate and remaining time; lines scroll by above them.

    Redrawn by the work itself, a few times a second at most: a drawing thread could be caught holding a lock by
    a fork of the decoding workers.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        super().__init__(quiet, verbose)
        self._console = Console(file=sys.stderr, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            console=self._console,
            auto_refresh=False,
            transient=True,
            disable=quiet,
        )
        self._open = 0

    @contextmanager
    def task(self, what: str, total: int | None = None) -> Iterator[Task]:
        """Open one piece of work of `total` items (None: unknown)."""
        if not self._open:
            self._bars.start()
        self._open += 1
        bar = self._bars.add_task(what, total=total)
        self._bars.refresh()
        try:
            yield LiveTask(self._bars, bar)
        finally:
            self._bars.remove_task(bar)
            self._open -= 1
            if not self._open:
                self._bars.stop()

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


class LiveTask:
    """One bar."""

    def __init__(self, bars: Progress, bar: TaskID) -> None:
        self._bars, self._bar = bars, bar
        self._drawn = bars.get_time()

    def advance(self, n: int = 1) -> None:
        """`n` more items are done."""
        self._bars.advance(self._bar, n)
        now = self._bars.get_time()
        if now - self._drawn > REDRAW_EVERY:
            self._drawn = now
            self._bars.refresh()


class _Speed(ProgressColumn):
    def render(self, task: Bar) -> Text:
        if not task.speed:
            return Text("")
        left = "" if task.time_remaining is None else f", {duration(task.time_remaining)} left"
        return Text(f"{task.speed:.3g}/s{left}")
