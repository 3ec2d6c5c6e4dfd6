"""What hashcli says on stderr when no terminal listens: plain lines, few enough for a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Count = int | float | str
EVERY = 60.0  # seconds between two lines about the same task


class Talk:
    """Lines on stderr: `say` unless quiet, `log` when verbose. Subclasses draw tasks.

    Bytes that are no text have been escaped by those who make the lines.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False, stream: TextIO | None = None) -> None:
        self.quiet, self.verbose = quiet, verbose
        self._stream = stream or sys.stderr

    def say(self, text: str) -> None:
        """A line the user should see unless --quiet."""
        if not self.quiet:
            self._line(text)

    def log(self, event: str, **counts: Count) -> None:
        """Counts of one step, seen with --verbose."""
        if self.verbose:
            self._line(f"{event}: {', '.join(f'{name} {shown(value)}' for name, value in counts.items())}")

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class PlainTask:
    """Counts items and tells at most once a minute how far it is."""

    def __init__(self, what: str, total: int | None, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._what, self._total, self._say, self._clock = what, total, say, clock
        self.done = 0
        self.started = self._told = clock()

    def advance(self, n: int = 1) -> None:
        """`n` more items are done."""
        self.done += n
        now = self._clock()
        if now - self._told < EVERY:
            return
        self._told = now
        rate = self.done / (now - self.started)
        left = f", {duration((self._total - self.done) / rate)} left" if self._total and rate else ""
        of = f" of {self._total:,}" if self._total else ""
        self._say(f"{self._what}: {self.done:,}{of}, {rate:.3g}/s{left}")


class PlainTalk(Talk):
    """Progress as lines: one at the start and one at the end of each task, at most one a minute between."""

    clock = staticmethod(time.monotonic)

    @contextmanager
    def task(self, what: str, total: int | None = None) -> Iterator[PlainTask]:
        """Open one piece of work of `total` items (None: unknown)."""
        self.say(f"{what}: {total:,} to do" if total else f"{what} ...")
        task = PlainTask(what, total, self.say, self.clock)
        yield task
        self.say(f"{what}: {task.done:,} done in {duration(self.clock() - task.started)}")


def shown(value: Count) -> str:
    """A count for people: thousands separated, at most four digits of a fraction."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def duration(seconds: float) -> str:
    """A span of time in the two units that matter: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
