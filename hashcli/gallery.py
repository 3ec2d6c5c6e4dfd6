"""The gallery: photos' codes and records in one LMDB environment, searched straight from the map.

A slot is given once and never again; a removed one stays as a tombstone in its block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from hashcli import block_search, codes, gallery_header, salvage
from hashcli.checking import contradictions
from hashcli.codes import Packed
from hashcli.environment import Environment, Transaction
from hashcli.errors import DamagedError, LibraryError
from hashcli.gallery_header import Header
from hashcli.mounts import is_network_folder
from hashcli.pages import structure
from hashcli.records import Domain, Record, Root, path_key
from hashcli.salvage import Salvaged
from hashcli.scan import Ints, TopK
from hashcli.store import GalleryInfo, Slots, Store
from hashcli.tables import DATABASES, Tables

__all__ = ["Gallery", "GalleryInfo", "Record", "Root", "Store", "is_network_folder"]

T = TypeVar("T")

BLOCK_SLOTS = 16384  # of new galleries; each gallery keeps its own
_BYTES_PER_PHOTO = 600  # in all databases, pages half full


class Gallery:
    """A `Store` in one folder. One process writes at a time (the library's lock sees to that), any number read."""

    def __init__(self, folder: Path, environment: Environment, write: bool) -> None:
        self._folder, self._environment, self._write = folder, environment, write
        self._pinned: Tables | None = None
        with environment.read() as txn:
            header = gallery_header.decode(txn.get(gallery_header.KEY, db=environment.databases["meta"]), folder)
        self._n_bits, self._hasher_digest, self._capacity = header

    @classmethod
    def create(cls, folder: Path, n_bits: int, hasher_digest: str) -> Gallery:
        """Make an empty gallery, open for writing. Raises LibraryError where there is one, UsageError for n_bits."""
        codes.check_n_bits(n_bits)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "data.mdb").exists():
            raise LibraryError(f"{folder} already holds a gallery")
        environment = Environment.open(folder, DATABASES, create=True)
        header = gallery_header.encode(Header(n_bits, hasher_digest, BLOCK_SLOTS))

        def work(txn: Transaction) -> None:
            txn.put(gallery_header.KEY, header, db=environment.databases["meta"])
            Tables(txn, environment.databases, BLOCK_SLOTS, codes.n_words(n_bits)).create()

        environment.commit(work)
        return cls(folder, environment, write=True)

    @classmethod
    def open(cls, folder: Path, write: bool = False, older: bool = False) -> Gallery:
        """Open what `create` made. Raises DamagedError, NewerFormatError, LibraryError, MachineError.

        `older`: take it even when an older state has come back, to salvage what it holds.
        """
        environment = Environment.open(folder, DATABASES, write=write, older=older)
        try:
            return cls(folder, environment, write)
        except BaseException:
            environment.close()
            raise

    def close(self) -> None:
        """Give the folder back."""
        self._environment.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def n_bits(self) -> int:
        """Bits of each code."""
        return self._n_bits

    @property
    def hasher_digest(self) -> str:
        """The hasher that made the codes."""
        return self._hasher_digest

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Inside, all reading sees the state of now, whatever is written meanwhile."""
        with self._read() as tables:
            before, self._pinned = self._pinned, tables
            try:
                yield
            finally:
                self._pinned = before

    def count(self) -> int:
        """Photos in the gallery."""
        with self._read() as tables:
            return tables.counts().photos

    def info(self) -> GalleryInfo:
        """Sizes and origin."""
        size = sum(file.stat().st_blocks * 512 for file in self._folder.iterdir())
        with self._read() as tables:
            counts = tables.counts()
        return GalleryInfo(
            counts.photos, counts.slots, counts.roots, self._n_bits, self._hasher_digest, size, gallery_header.VERSION
        )

    def roots(self) -> list[Root]:
        """All roots by id."""
        with self._read() as tables:
            return tables.roots()

    def add_root(self, path: bytes, domain: Domain, by_folder: bool = True) -> int:
        """Note a root (see `Root`) and give its id; one that is known under this path keeps its id alone."""

        def work(tables: Tables) -> int:
            known = {root.path: root.id for root in tables.roots()}
            number = known.get(path, max(known.values(), default=-1) + 1)
            tables.set_root(Root(number, path, domain, by_folder))
            return number

        return self._commit(work)

    def set_root(self, root: Root) -> None:
        """Write a root under its id: the photos of a folder that moved keep their records."""
        self._commit(lambda tables: tables.set_root(root))

    def append(self, records: Sequence[Record], packed: Packed) -> Ints:
        """Add photos with their codes (n, n_bits // 8), in one transaction -> their slots (n,).

        A path that the gallery holds already passes to its new slot, and the old slot is removed.
        """
        codes.check_packed(packed, self._n_bits)
        if len(records) != len(packed):
            raise ValueError(f"{len(records)} records with {len(packed)} codes")
        keys = _path_keys(records)
        words = codes.to_words(packed)

        def work(tables: Tables) -> int:
            tables.free_paths(keys)
            return tables.append(records, words)

        first = self._commit(work, len(records) * _BYTES_PER_PHOTO + 3 * sum(map(len, keys)) + 2 * words.nbytes)
        return np.arange(first, first + len(records))

    def remove(self, slots: Slots) -> None:
        """Take photos out, in one transaction. Raises ValueError for a slot that holds none."""
        unique = np.unique(np.asarray(slots, np.int64)).tolist()
        self._commit(lambda tables: tables.remove(unique))

    def replace_records(self, changes: Sequence[tuple[int, Record]]) -> None:
        """Give slots new records, codes untouched, in one transaction: photos that moved.

        Another photo at one of the new paths is removed.
        """
        _path_keys([record for _, record in changes])
        self._commit(lambda tables: tables.replace(changes))

    def records(self, slots: Slots) -> list[Record]:
        """The records of slots. Raises ValueError for a slot that holds no photo."""
        with self._read() as tables:
            return [tables.record(int(slot)) for slot in slots]

    def paths(self, slots: Slots) -> list[tuple[int, bytes]]:
        """Root and path of slots, much quicker than their records. Raises ValueError for a slot without photo."""
        with self._read() as tables:
            return [tables.path(int(slot)) for slot in slots]

    def codes(self, slots: Slots) -> Packed:
        """Packed codes (n, n_bits // 8) of slots, removed ones included. Raises ValueError for one never given."""
        wanted = np.asarray(slots, np.int64)
        words = np.empty((codes.n_words(self._n_bits), len(wanted)), np.uint64)
        with self._read() as tables:
            total = tables.slots()
            if len(wanted) and (wanted.min() < 0 or wanted.max() >= total):
                raise ValueError(f"slots must be from 0 to {total - 1}, not {wanted.min()} to {wanted.max()}")
            numbers = wanted // self._capacity
            for number in sorted(set(numbers.tolist())):  # np.unique would import masked arrays, and a query waits
                here = np.flatnonzero(numbers == number)
                block = tables.block(number, total).verified()
                words[:, here] = block.words[:, wanted[here] - block.first_slot]
        return codes.from_words(words, self._n_bits)

    def slot_of(self, root: int, path: bytes) -> int | None:
        """The slot of a path, if the gallery holds it. Raises DamagedError when that cannot be told for sure."""
        with self._read() as tables:
            return tables.slot_at(path_key(root, path))

    def slots_by_path(self, root: int) -> Iterator[int]:
        """The slots of a root's photos in the order of path bytes. Raises DamagedError."""
        with self._read() as tables:
            yield from tables.slots_by_path(root)

    def slots_of_digest(self, digest: bytes) -> list[int]:
        """All slots whose photos have this content, in order."""
        with self._read() as tables:
            return tables.slots_of(digest)

    def scan(self) -> Iterator[tuple[int, Record]]:
        """All photos by slot, read block by block (in `snapshot()`, of one state). Raises DamagedError."""
        first, total = 0, 1
        while first < total:
            with self._read() as tables:
                total = tables.slots()
                rows = tables.records_of(tables.block(first // self._capacity, total)) if total else []
                for slot, record in rows:
                    tables.confirm(slot, record)
            yield from rows
            first += self._capacity

    def verify(self) -> list[str]:
        """Read and compare every byte that was written; what is wrong, in words. Empty when all is well."""
        found = structure(self._folder / "data.mdb")
        with self._read() as tables:
            return found or list(contradictions(tables, self._capacity))

    def salvage(self) -> Iterator[Salvaged]:
        """What can be read of a damaged gallery, block by block."""
        number, total = 0, 1
        while number * self._capacity < total:
            try:
                with self._read() as tables:
                    total = salvage.slots(tables, self._capacity)
                    found = salvage.block(tables, number, self._capacity)
            except DamagedError:
                found = Salvaged([], np.empty((0, 0), np.uint64), [], min(self._capacity, total))
            yield found
            number += 1

    def readable_roots(self) -> list[Root]:
        """The roots that can be read of a damaged gallery. Raises DamagedError when all are lost."""
        with self._read() as tables:
            return salvage.roots(tables)

    def search(self, packed: Packed, k: int | None, radius: int | None = None) -> list[tuple[Ints, Ints]]:
        """Per query (q, n_bits // 8): (slots, Hamming distances), by distance, then slot.

        The `k` nearest, all within `radius`, or the `k` nearest within it. Every block is compared with its
        checksum while it is searched; raises DamagedError.
        """
        codes.check_packed(packed, self._n_bits)
        with self._read() as tables:
            return block_search.search(tables, self._capacity, TopK(codes.to_words(packed), k, radius))

    @contextmanager
    def _read(self) -> Iterator[Tables]:
        if self._pinned is not None:
            yield self._pinned
            return
        with self._environment.read() as txn:
            yield self._tables(txn)

    def _commit(self, work: Callable[[Tables], T], room: int = 0) -> T:
        if not self._write:
            raise ValueError("this gallery was opened for reading")
        return self._environment.commit(lambda txn: work(self._tables(txn)), room)

    def _tables(self, txn: Transaction) -> Tables:
        return Tables(txn, self._environment.databases, self._capacity, codes.n_words(self._n_bits))


def _path_keys(records: Sequence[Record]) -> list[bytes]:
    keys = [path_key(record.root, record.path) for record in records]
    if len(set(keys)) < len(keys):
        raise ValueError("a path comes twice in one batch")
    return keys
