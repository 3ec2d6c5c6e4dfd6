"""The gallery: photos' codes and records in one LMDB environment, searched straight from the map.

Databases: blocks (number -> `blocks`), records (slot -> `records`), paths (root and path -> slot),
digests (digest -> slots), roots, meta. A slot is given once and never again; a removed one stays as a tombstone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hashcli import blocks, codes
from hashcli import records as photo_records
from hashcli.codes import Packed, Words
from hashcli.environment import Environment, Transaction
from hashcli.errors import LibraryError, NewerFormatError
from hashcli.mounts import is_network_folder
from hashcli.records import Domain, Record, Root
from hashcli.scan import Ints, TopK
from hashcli.seals import damaged, seal, unseal

__all__ = ["Gallery", "GalleryInfo", "Record", "Root", "Store", "is_network_folder"]

FORMAT, VERSION = "hashcli-gallery", 1
BLOCK_SLOTS = 16384
_DATABASES = {"blocks": False, "records": False, "paths": False, "digests": True, "roots": False, "meta": False}
_ROWS_AT_ONCE = 4096
_BYTES_PER_PHOTO = 600  # of all databases, with room for pages that fill by halves


@dataclass(frozen=True)
class GalleryInfo:
    """What `library info` tells about a gallery."""

    count: int
    slots: int  # given so far, removed ones included
    roots: int
    n_bits: int
    hasher_digest: str
    size_bytes: int
    version: int


class Store(Protocol):
    """What the rest of hashcli needs of a gallery; another engine would offer the same."""

    @property
    def n_bits(self) -> int: ...
    @property
    def hasher_digest(self) -> str: ...
    def count(self) -> int: ...
    def info(self) -> GalleryInfo: ...
    def roots(self) -> list[Root]: ...
    def add_root(self, path: bytes, domain: Domain) -> int: ...
    def append(self, records: Sequence[Record], packed: Packed) -> Ints: ...
    def remove(self, slots: Sequence[int] | Ints) -> None: ...
    def replace_records(self, changes: Sequence[tuple[int, Record]]) -> None: ...
    def records(self, slots: Sequence[int] | Ints) -> list[Record]: ...
    def codes(self, slots: Sequence[int] | Ints) -> Packed: ...
    def slot_of(self, root: int, path: bytes) -> int | None: ...
    def slots_of_digest(self, digest: bytes) -> list[int]: ...
    def scan(self) -> Iterator[tuple[int, Record]]: ...
    def search(self, packed: Packed, k: int | None, radius: int | None = None) -> list[tuple[Ints, Ints]]: ...
    def close(self) -> None: ...


class Gallery:
    """A `Store` in one folder. One process writes at a time (the library's lock sees to that), any number read."""

    def __init__(self, folder: Path, environment: Environment, write: bool) -> None:
        self._folder, self._environment, self._write = folder, environment, write
        self._pinned: Transaction | None = None
        with self._read() as txn:
            header = _header(txn.get(b"format", db=self._db("meta")), folder)
        self._n_bits: int = header["n_bits"]
        self._hasher_digest: str = header["hasher_digest"]
        self._capacity: int = header["block_slots"]

    @classmethod
    def create(cls, folder: Path, n_bits: int, hasher_digest: str) -> Gallery:
        """Make an empty gallery, open for writing. Raises LibraryError where there is one, UsageError for n_bits."""
        codes.check_n_bits(n_bits)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "data.mdb").exists():
            raise LibraryError(f"{folder} already holds a gallery")
        environment = Environment.open(folder, _DATABASES, create=True)
        header = {"format": FORMAT, "version": VERSION, "n_bits": n_bits, "hasher_digest": hasher_digest}
        header["block_slots"] = BLOCK_SLOTS
        value = seal(b"format", json.dumps(header).encode())
        environment.commit(lambda txn: txn.put(b"format", value, db=environment.databases["meta"]))
        return cls(folder, environment, write=True)

    @classmethod
    def open(cls, folder: Path, write: bool = False) -> Gallery:
        """Open what `create` made. Raises DamagedError, NewerFormatError, LibraryError, MachineError."""
        environment = Environment.open(folder, _DATABASES, write=write)
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
        with self._read() as txn:
            before, self._pinned = self._pinned, txn
            try:
                yield
            finally:
                self._pinned = before

    def count(self) -> int:
        """Photos in the gallery."""
        with self._read() as txn:
            return self._entries(txn, "records")

    def info(self) -> GalleryInfo:
        """Sizes and origin."""
        with self._read() as txn:
            count, roots, slots = self._entries(txn, "records"), self._entries(txn, "roots"), self._slots(txn)
        size = sum(file.stat().st_blocks * 512 for file in self._folder.iterdir())
        return GalleryInfo(count, slots, roots, self._n_bits, self._hasher_digest, size, VERSION)

    def roots(self) -> list[Root]:
        """All roots by id."""
        with self._read() as txn:
            return [photo_records.decode_root(bytes(k), v) for k, v in self._cursor(txn, "roots")]

    def add_root(self, path: bytes, domain: Domain) -> int:
        """Note a root and give its id; one that is known under this path keeps its id and takes the domain."""
        known = {root.path: root.id for root in self.roots()}
        number = known.get(path, max(known.values(), default=-1) + 1)
        self.set_root(Root(number, path, domain))
        return number

    def set_root(self, root: Root) -> None:
        """Write a root under its id: a moved folder's photos keep their records."""
        value = photo_records.encode_root(root)
        self._commit(lambda txn: txn.put(photo_records.root_key(root.id), value, db=self._db("roots")))

    def append(self, records: Sequence[Record], packed: Packed) -> Ints:
        """Add photos with their codes (n, n_bits // 8), in one transaction -> their slots (n,).

        A path that the gallery holds already passes to its new slot, and the old slot is removed.
        """
        codes.check_packed(packed, self._n_bits)
        if len(records) != len(packed):
            raise ValueError(f"{len(records)} records with {len(packed)} codes")
        keys = _path_keys(records)
        words = codes.to_words(packed)

        def work(txn: Transaction) -> int:
            first = self._slots(txn)
            if self._entries(txn, "records"):
                self._remove(txn, [s for s in self._slots_at(txn, keys) if s is not None])
            rows = [
                (photo_records.slot_key(s), photo_records.encode_record(s, r)) for s, r in enumerate(records, first)
            ]
            paths = sorted((key, photo_records.encode_slot(s, key)) for s, key in enumerate(keys, first))
            digests = sorted((r.digest, photo_records.encode_slot(s, r.digest)) for s, r in enumerate(records, first))
            if self._cursor(txn, "records").putmulti(rows, overwrite=False, append=True)[1] < len(rows):
                raise damaged("the gallery", f"slots from {first} on are taken already")
            self._cursor(txn, "paths").putmulti(paths)
            self._cursor(txn, "digests").putmulti(digests)
            self._append_words(txn, first, words)
            txn.put(b"slots", photo_records.encode_slot(first + len(rows), b"slots"), db=self._db("meta"))
            return first

        room = len(records) * _BYTES_PER_PHOTO + 3 * sum(map(len, keys)) + 2 * words.nbytes
        first = self._commit(work, room)
        return np.arange(first, first + len(records))

    def remove(self, slots: Sequence[int] | Ints) -> None:
        """Take photos out, in one transaction. Raises ValueError for a slot that holds none."""
        self._commit(lambda txn: self._remove(txn, np.unique(np.asarray(slots, np.int64)).tolist()))

    def replace_records(self, changes: Sequence[tuple[int, Record]]) -> None:
        """Give slots new records, codes untouched, in one transaction: photos that moved.

        Another photo at one of the new paths is removed.
        """
        keys = _path_keys([record for _, record in changes])
        slots = [slot for slot, _ in changes]

        def work(txn: Transaction) -> None:
            for slot in slots:
                self._forget(txn, slot)
            self._remove(txn, [s for s in self._slots_at(txn, keys) if s is not None])
            for (slot, record), key in zip(changes, keys, strict=True):
                value = photo_records.encode_record(slot, record)
                txn.put(photo_records.slot_key(slot), value, db=self._db("records"))
                txn.put(key, photo_records.encode_slot(slot, key), db=self._db("paths"))
                value = photo_records.encode_slot(slot, record.digest)
                txn.put(record.digest, value, db=self._db("digests"))

        self._commit(work)

    def records(self, slots: Sequence[int] | Ints) -> list[Record]:
        """The records of live slots. Raises ValueError for a slot that holds none."""
        with self._read() as txn:
            return [self._record(txn, int(slot)) for slot in slots]

    def codes(self, slots: Sequence[int] | Ints) -> Packed:
        """Packed codes (n, n_bits // 8) of slots, removed ones included."""
        wanted = np.asarray(slots, np.int64)
        words = np.empty((codes.n_words(self._n_bits), len(wanted)), np.uint64)
        with self._read() as txn:
            total = self._slots(txn)
            if len(wanted) and (wanted.min() < 0 or wanted.max() >= total):
                raise ValueError(f"slots must be from 0 to {total - 1}, not {wanted.min()} to {wanted.max()}")
            for number in np.unique(wanted // self._capacity):
                here = np.flatnonzero(wanted // self._capacity == number)
                block = self._block(txn, int(number)).verified()
                words[:, here] = block.words[:, wanted[here] - block.first_slot]
        return codes.from_words(words, self._n_bits)

    def slot_of(self, root: int, path: bytes) -> int | None:
        """The slot of a path, if the gallery holds it."""
        with self._read() as txn:
            return next(self._slots_at(txn, [photo_records.path_key(root, path)]))

    def slots_of_digest(self, digest: bytes) -> list[int]:
        """All slots whose photos have this content, in order."""
        with self._read() as txn:
            cursor = self._cursor(txn, "digests")
            if not cursor.set_key(digest):
                return []
            return sorted(photo_records.decode_slot(digest, v, "an entry of digests") for v in cursor.iternext_dup())

    def scan(self) -> Iterator[tuple[int, Record]]:
        """All photos by slot, read some thousand at a time (in `snapshot()`, of one state)."""
        start: int | None = 0
        while start is not None:
            rows, start = self._rows_from(start)
            yield from rows

    def search(self, packed: Packed, k: int | None, radius: int | None = None) -> list[tuple[Ints, Ints]]:
        """Per query (q, n_bits // 8): (slots, Hamming distances), by distance, then slot.

        The `k` nearest, all within `radius`, or the `k` nearest within it. Every block is compared with its
        checksum while it is searched; raises DamagedError.
        """
        codes.check_packed(packed, self._n_bits)
        top = TopK(codes.to_words(packed), k, radius)
        with self._read() as txn:
            for number in range(-(-self._slots(txn) // self._capacity)):
                block = self._block(txn, number)
                block.check(top.block(block.first_slot, block.words, block.live()))
        return top.result()

    def _rows_from(self, start: int) -> tuple[list[tuple[int, Record]], int | None]:
        rows: list[tuple[int, Record]] = []
        with self._read() as txn:
            cursor = self._cursor(txn, "records")
            if cursor.set_range(photo_records.slot_key(start)):
                for key, value in cursor:
                    if len(rows) == _ROWS_AT_ONCE:
                        return rows, rows[-1][0] + 1
                    slot = int.from_bytes(key, "big")
                    rows.append((slot, photo_records.decode_record(slot, value)))
        return rows, None

    def _append_words(self, txn: Transaction, first: int, words: Words) -> None:
        done, n = 0, words.shape[1]
        while done < n:
            number, used = divmod(first + done, self._capacity)
            taken = min(n - done, self._capacity - used)
            block = self._block(txn, number) if used else blocks.empty(number, self._capacity, len(words))
            block = blocks.extended(block, words[:, done : done + taken])
            txn.put(blocks.key(number), blocks.encode(block), db=self._db("blocks"))
            done += taken

    def _remove(self, txn: Transaction, slots: Sequence[int]) -> None:
        by_block: dict[int, list[int]] = defaultdict(list)
        for slot in slots:
            self._forget(txn, slot)
            txn.delete(photo_records.slot_key(slot), db=self._db("records"))
            by_block[slot // self._capacity].append(slot)
        for number, removed in by_block.items():
            block = blocks.without(self._block(txn, number), np.array(removed))
            txn.put(blocks.key(number), blocks.encode(block), db=self._db("blocks"))

    def _forget(self, txn: Transaction, slot: int) -> None:
        """Delete what leads to a slot."""
        record = self._record(txn, slot)
        key = photo_records.path_key(record.root, record.path)
        txn.delete(key, db=self._db("paths"))
        txn.delete(record.digest, photo_records.encode_slot(slot, record.digest), db=self._db("digests"))

    def _record(self, txn: Transaction, slot: int) -> Record:
        value = txn.get(photo_records.slot_key(slot), db=self._db("records")) if slot >= 0 else None
        if value is None:
            raise ValueError(f"slot {slot} holds no photo")
        return photo_records.decode_record(slot, value)

    def _slots_at(self, txn: Transaction, keys: Sequence[bytes]) -> Iterator[int | None]:
        for key in keys:
            value = txn.get(key, db=self._db("paths"))
            yield None if value is None else photo_records.decode_slot(key, value, "an entry of paths")

    def _block(self, txn: Transaction, number: int) -> blocks.Block:
        value = txn.get(blocks.key(number), db=self._db("blocks"))
        if value is None:
            raise damaged(f"block {number} of the gallery", "it is missing")
        block = blocks.decode(number, value, self._capacity, codes.n_words(self._n_bits))
        if block.count != min(self._slots(txn) - block.first_slot, self._capacity):
            raise damaged(f"block {number} of the gallery", f"it has {block.count} slots")
        return block

    def _slots(self, txn: Transaction) -> int:
        value = txn.get(b"slots", db=self._db("meta"))
        return 0 if value is None else photo_records.decode_slot(b"slots", value, "the gallery's count of slots")

    def _entries(self, txn: Transaction, name: str) -> int:
        return int(txn.stat(self._db(name))["entries"])

    def _cursor(self, txn: Transaction, name: str) -> Any:
        return txn.cursor(self._db(name))

    def _db(self, name: str) -> Any:
        return self._environment.databases[name]

    @contextmanager
    def _read(self) -> Iterator[Transaction]:
        if self._pinned is not None:
            yield self._pinned
            return
        with self._environment.read() as txn:
            yield txn

    def _commit(self, work: Callable[[Transaction], Any], room: int = 0) -> Any:
        if not self._write:
            raise ValueError("this gallery was opened for reading")
        return self._environment.commit(work, room)


def _path_keys(records: Sequence[Record]) -> list[bytes]:
    keys = [photo_records.path_key(record.root, record.path) for record in records]
    if len(set(keys)) < len(keys):
        raise ValueError("a path comes twice in one batch")
    return keys


def _header(value: bytes | memoryview | None, folder: Path) -> dict[str, Any]:
    """The format's own description, checked. Raises DamagedError, NewerFormatError."""
    what = f"the format of the gallery in {folder}"
    if value is None:
        raise damaged(what, "it is missing")
    try:
        header = json.loads(unseal(b"format", value, what))
    except ValueError:
        raise damaged(what, "it is no JSON") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT or type(header.get("version")) is not int:
        raise damaged(what, f"it is not {FORMAT}")
    if header["version"] > VERSION:
        raise NewerFormatError(
            f"{folder} has {FORMAT} {header['version']}; this hashcli reads up to {VERSION}", "upgrade hashcli"
        )
    kinds = {"n_bits": int, "hasher_digest": str, "block_slots": int}
    wrong = any(type(header.get(name)) is not kind for name, kind in kinds.items())
    if wrong or header["block_slots"] < 8 or header["block_slots"] % 8 or not 16 <= header["n_bits"] <= 1024:
        raise damaged(what, "its values cannot be")
    return header
