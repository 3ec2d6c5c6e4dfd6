"""LMDB environments shared by everything in this process, which grow by themselves and fail as HashcliErrors."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import lmdb

from hashcli import guard
from hashcli.environment import on_disk, translated
from hashcli.pages import check_file, fill_up

T = TypeVar("T")

_LARGEST = 1 << 16  # bytes; a damaged page may claim that a value has gigabytes

# LMDB forbids a process to open an environment twice, so all users of a folder get the same one.
_open: weakref.WeakValueDictionary[str, Env] = weakref.WeakValueDictionary()
_open_lock = threading.Lock()


class Env:
    """One environment. Transactions of this process come one after the other, so that the map can grow between."""

    def __init__(self, folder: Path, write: bool, map_size: int) -> None:
        self.folder = folder
        self._map_size = map_size
        self._lock = threading.RLock()
        self._open(write)

    def _open(self, write: bool) -> None:
        with translated(self.folder), on_disk(self.folder):
            if write:
                self.folder.mkdir(parents=True, exist_ok=True)
            if not write or (self.folder / "data.mdb").exists():
                check_file(self.folder / "data.mdb")
            self._env = lmdb.open(
                os.fspath(self.folder),
                map_size=self._map_size,
                readonly=not write,
                create=write,
                lock=write or os.access(self.folder, os.W_OK),
            )
            self._env.reader_check()
        self.writable = write

    def allow_writing(self) -> None:
        """Open again for writing, if it is open for reading alone."""
        with self._lock:
            if not self.writable:
                self._env.close()
                self._open(write=True)

    @contextmanager
    def reading(self) -> Iterator[lmdb.Transaction]:
        """A read transaction; nothing it gave may be used after it."""
        with self._lock, translated(self.folder), on_disk(self.folder), guard.reading(self.folder):
            try:
                transaction = self._env.begin(buffers=True)
            except lmdb.MapResizedError:  # another process wrote more than our map holds
                self._env.set_mapsize(0)
                transaction = self._env.begin(buffers=True)
            with transaction:
                yield transaction

    def last_change(self) -> int:
        """The number of the last transaction that wrote."""
        with self.reading() as transaction:
            return int(transaction.id())

    def write(self, work: Callable[[lmdb.Transaction], T]) -> T:
        """Run `work` in a write transaction; once more from the start, in a larger map, whenever the map is full."""
        with self._lock, translated(self.folder), on_disk(self.folder), guard.reading(self.folder):
            while True:
                try:
                    with self._env.begin(write=True, buffers=True) as transaction:
                        result = work(transaction)
                    fill_up(self.folder / "data.mdb")
                    return result
                except lmdb.MapFullError:
                    self._env.set_mapsize(2 * self._env.info()["map_size"])
                except lmdb.MapResizedError:
                    self._env.set_mapsize(0)


def open_env(folder: Path, write: bool, map_size: int = 16 << 20) -> Env:
    """The environment in `folder`, made if `write` and there is none; it closes when its last user drops it.

    Raises DamagedError for files that LMDB did not write or that are cut off, MachineError for what the system
    refuses.
    """
    key = os.path.realpath(folder)
    with _open_lock:
        env = _open.get(key)
        if env is None:
            env = _open[key] = Env(folder, write, map_size)
        elif write:
            env.allow_writing()
        return env


def get(transaction: lmdb.Transaction, key: bytes) -> bytes | None:
    """The value of `key`; None where there is none, or where one is too large to be ours."""
    value = transaction.get(key)
    return None if value is None or len(value) > _LARGEST else bytes(value)
