"""LMDB as hashcli uses it: opened only when its file is whole, growing by itself, its failures in our words."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import lmdb

from hashcli import guard
from hashcli.errors import DamagedError, LibraryError, LockedError, MachineError
from hashcli.pages import check_file, fill_up
from hashcli.seals import REPAIR, damaged, seal, unseal

T = TypeVar("T")
Transaction = Any  # lmdb.Transaction, of memoryviews, which die with it and with the next change

SMALLEST_MAP = 1 << 28  # address space, not disk space
_NO_ROOM = "make room on the disk, then try again"
_COUNTER_KEY = b"counter"
_COUNTER = struct.Struct("<Q")

_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.PanicError,
    lmdb.NotFoundError,
    lmdb.IncompatibleError,
    lmdb.CursorFullError,
    lmdb.PageFullError,
    lmdb.BadValsizeError,
    lmdb.BadTxnError,
    lmdb.BadDbiError,
)


class Environment:
    """One LMDB folder: its named databases and its transaction counter.

    LMDB can open a file only once in a process, so all who open a folder here share one environment.
    """

    _shared: ClassVar[dict[tuple[int, int], Environment]] = {}

    def __init__(self, folder: Path, databases: Sequence[str], create: bool, write: bool) -> None:
        self.folder, self._names = folder, databases
        self._users = 0
        self._reads = 0
        self._counting = threading.Lock()
        self._map(create, write)

    @classmethod
    def open(
        cls,
        folder: Path,
        databases: Sequence[str],
        *,
        create: bool = False,
        write: bool = False,
        older: bool = False,
    ) -> Environment:
        """Open `folder`. `databases`: their names; one is "meta".

        Raises DamagedError when the file is cut, foreign or (unless `older` is taken, too) older than its counter
        says, LibraryError and MachineError when it cannot be opened.
        """
        data = folder / "data.mdb"
        if not create:
            check_file(data)
            mirrored = 0 if older else _read_mirror(folder)  # before the map is looked at: a writer may be at work
        with translated(folder), on_disk(folder):
            environment = None if create else cls._shared.get(_identity(data))
            if environment is None:
                environment = cls(folder, databases, create, write or create)
                cls._shared[_identity(data)] = environment
            elif write and environment._env.flags()["readonly"]:
                if environment._reads:
                    raise RuntimeError("a gallery cannot be opened for writing while this process reads it")
                environment._env.close()
                environment._map(create=False, write=True)
            environment.folder = folder
            environment._users += 1
        try:
            if not create and not older and environment._counter() < mirrored:
                raise damaged(f"the gallery in {folder}", "its last changes are gone (an older state has come back)")
        except BaseException:
            environment.close()
            raise
        return environment

    def _map(self, create: bool, write: bool) -> None:
        # where nothing can be written, not even a place in the table of readers can be taken
        lock = create or all(os.access(path, os.W_OK) for path in (self.folder, *self.folder.glob("*.mdb")))
        if write and not lock:
            raise LibraryError(f"{self.folder} cannot be written", "check the permissions of the library's folder")
        self._env = lmdb.open(
            os.fsencode(self.folder),
            map_size=SMALLEST_MAP,
            create=create,
            readonly=not write,
            lock=lock,
            max_dbs=len(self._names),
            mode=0o644,
        )
        try:
            self.databases = {name: self._env.open_db(name.encode(), create=create) for name in self._names}
        except lmdb.Error:
            self._env.close()
            raise

    def close(self) -> None:
        """Give the environment back; the last user's call closes the file."""
        self._users -= 1
        if self._users == 0:
            Environment._shared = {k: e for k, e in Environment._shared.items() if e is not self}
            self._env.close()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A state of all databases that no writer changes. Values are views that die with it."""
        with translated(self.folder), guard.reading(self.folder), self._begin(write=False) as txn:
            with self._counting:
                self._reads += 1
            try:
                yield txn
            finally:
                with self._counting:
                    self._reads -= 1

    def commit(self, work: Callable[[Transaction], T], room: int = 0) -> T:
        """Do `work` in one transaction, all or nothing, on disk when this returns.

        `room`: bytes it is likely to need. When the map is too small for it all the same, it grows and `work` is
        called again. Raises MachineError when the disk is full.
        """
        with translated(self.folder), guard.reading(self.folder):
            used = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
            self._grow(used + room)
            while True:
                try:
                    with self._begin(write=True) as txn:
                        result = work(txn)
                        counter = self._counter(txn) + 1
                        value = seal(_COUNTER_KEY, _COUNTER.pack(counter))
                        txn.put(_COUNTER_KEY, value, db=self.databases["meta"])
                    break
                except lmdb.MapFullError:
                    self._grow(self._env.info()["map_size"] + 1)
        with on_disk(self.folder):
            fill_up(self.folder / "data.mdb")
            _write_mirror(self.folder, counter)
        return result

    def _begin(self, write: bool) -> Transaction:
        begin: Any = self._env.begin
        try:
            return begin(write=write, buffers=True)
        except lmdb.MapResizedError:  # another process has grown the map
            self._resize(0)
            return begin(write=write, buffers=True)

    def _grow(self, needed: int) -> None:
        size = self._env.info()["map_size"]
        if needed > size:
            while size < needed:
                size *= 2
            self._resize(size)

    def _resize(self, size: int) -> None:
        if self._reads:  # its views would point nowhere
            raise RuntimeError("the map cannot be resized while this process reads it")
        self._env.set_mapsize(size)

    def _counter(self, txn: Transaction | None = None) -> int:
        if txn is None:
            with self.read() as txn:
                return self._counter(txn)
        value = txn.get(_COUNTER_KEY, db=self.databases["meta"])
        return 0 if value is None else _decode_counter(value, "the transaction counter")


@contextmanager
def translated(folder: Path) -> Iterator[None]:
    """LMDB's failures as HashcliErrors."""
    try:
        yield
    except lmdb.MapFullError:
        raise
    except _DAMAGE as error:
        raise damaged(f"the database in {folder}", str(error)) from error
    except lmdb.DiskError as error:
        raise MachineError(f"cannot write to {folder}: {error}", _NO_ROOM) from error
    except lmdb.MemoryError as error:
        raise MachineError(f"cannot map the database in {folder}: {error}", "free some memory") from error
    except (lmdb.ReadersFullError, lmdb.LockError) as error:
        raise LockedError(f"the database in {folder} is in use by too many processes: {error}") from error
    except lmdb.Error as error:
        raise LibraryError(f"cannot use the database in {folder}: {error}", "check permissions and disk") from error


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """The system's failures as HashcliErrors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(f"cannot write to {folder}: {error.strerror}", _NO_ROOM) from error
        raise LibraryError(f"cannot use {folder}: {error.strerror}", "check permissions and disk") from error


def _identity(data: Path) -> tuple[int, int]:
    status = data.stat()
    return status.st_dev, status.st_ino


def _read_mirror(folder: Path) -> int:
    mirror = folder / "counter"
    try:
        return _decode_counter(mirror.read_bytes(), str(mirror))
    except FileNotFoundError:
        raise DamagedError(f"{mirror} is missing", REPAIR) from None


def _decode_counter(value: bytes | memoryview, what: str) -> int:
    payload = unseal(_COUNTER_KEY, value, what)
    if len(payload) != _COUNTER.size:
        raise damaged(what, "it is not what was written")
    return int(_COUNTER.unpack(payload)[0])


def _write_mirror(folder: Path, counter: int) -> None:
    """In place: twelve bytes of one sector are written whole or not at all."""
    descriptor = os.open(folder / "counter", os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, seal(_COUNTER_KEY, _COUNTER.pack(counter)), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
