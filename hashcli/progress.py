"""How long work tells its progress; `render` draws it, tests and scripts may stay silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Event = tuple[str, dict[str, int | float | str]]


class Task(Protocol):
    """One running piece of work."""

    def advance(self, n: int = 1) -> None:
        """`n` more items are done."""


class Progress(Protocol):
    """Where work reports; all of it is talk (stderr), never data."""

    def task(self, what: str, total: int | None = None) -> AbstractContextManager[Task]:
        """Open one piece of work of `total` items (None: unknown)."""

    def say(self, text: str) -> None:
        """A line the user should see unless --quiet."""

    def log(self, event: str, **counts: int | float | str) -> None:
        """Counts of one step, seen with --verbose and recorded with the hasher."""


class _Nothing:
    def advance(self, n: int = 1) -> None:
        pass


class Silent:
    """A Progress that keeps the log and shows nothing."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @contextmanager
    def task(self, what: str, total: int | None = None) -> Iterator[Task]:
        yield _Nothing()

    def say(self, text: str) -> None:
        pass

    def log(self, event: str, **counts: int | float | str) -> None:
        self.events.append((event, counts))


class Recorded:
    """Another Progress that also keeps the log: it is stored with the hasher."""

    def __init__(self, progress: Progress) -> None:
        self.events: list[Event] = []
        self._progress = progress
        self.task, self.say = progress.task, progress.say

    def log(self, event: str, **counts: int | float | str) -> None:
        """Keep the event and pass it on."""
        self.events.append((event, counts))
        self._progress.log(event, **counts)
