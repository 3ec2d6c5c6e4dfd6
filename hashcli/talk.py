"""What hashcli says on stderr where no terminal can draw: plain lines, few enough for a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hashcli.progress import Task

Count = int | float | str
EVERY = 60.0  # seconds between two lines about the same task


class Talk:
    """A Progress of lines: of each task one at the start, one at the end, at most one a minute between.

    A task of no item or a single one passes unmentioned: that is a query, and the answer says it all.
    `say` is silent with `quiet`, `log` speaks with `verbose`. Bytes that are no text have been escaped by those
    who make the lines.
    """

    clock = staticmethod(time.monotonic)

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet, self.verbose = quiet, verbose

    @contextmanager
    def task(self, what: str, total: int | None = None) -> Iterator[Task]:
        """Open one piece of work of `total` items (None: unknown)."""
        task = CountedTask(what, total, self)
        if total in (0, 1):
            yield task
            return
        self.say(f"{what}: {total:,} to do" if total else f"{what} ...")
        yield task
        self.say(f"{what}: {task.done:,} done in {duration(self.clock() - task.started)}")

    def say(self, text: str) -> None:
        """A line the user should see unless --quiet."""
        if not self.quiet:
            self._line(text)

    def log(self, event: str, **counts: Count) -> None:
        """Counts of one step, seen with --verbose."""
        if self.verbose:
            self._line(f"{event}: {', '.join(f'{name} {shown(value)}' for name, value in counts.items())}")

    def _line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class CountedTask:
    """Counts items and tells at most once a minute how far it is."""

    def __init__(self, what: str, total: int | None, talk: Talk) -> None:
        self._what, self._total, self._talk = what, total, talk
        self.done = 0
        self.started = self._told = talk.clock()

    def advance(self, n: int = 1) -> None:
        """`n` more items are done."""
        self.done += n
        now = self._talk.clock()
        if now - self._told < EVERY:
            return
        self._told = now
        rate = self.done / (now - self.started)
        of, left = "", ""
        if self._total and rate:
            of, left = f" of {self._total:,}", f", {duration((self._total - self.done) / rate)} left"
        self._talk.say(f"{self._what}: {self.done:,}{of}, {rate:.3g}/s{left}")


def shown(value: Count) -> str:
    """A count for people: thousands separated, at most four digits of a fraction."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def duration(seconds: float) -> str:
    """A span of time in the two units that matter: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
