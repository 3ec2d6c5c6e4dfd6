"""Features of one backbone, kept by content digest: float16 rows in memory-mapped shards, found through an LMDB.

    format.json        {"format": "hashcli-features", "version": 1, "dim": d}
    shard-00000.bin    SHARD_ROWS rows each: digest (16), checksum (8), feature (d float16, little-endian)
    index/             LMDB: digest -> row, b"rows" -> number of rows written (`chain`)

A row's checksum covers its digest and feature. Rows are written and flushed before the index tells of them; what a
crash leaves behind the last row that the index knows is overwritten.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import lmdb
import numpy as np
from numpy.typing import NDArray

from hashcli import guard
from hashcli.chain import Chain
from hashcli.durable import replace_file, sync
from hashcli.errors import DamagedError, MachineError, NewerFormatError
from hashcli.lmdb_env import open_env
from hashcli.seals import REPAIR, unreadable

FORMAT, VERSION = "hashcli-features", 1
SHARD_ROWS = 16384

_ROWS_KEY = b"rows"
_COUNT = struct.Struct("<Q")


class DamagedRows(DamagedError):
    """Cached features are not what was written; `rows` can be handed to `FeatureCache.forget`."""

    def __init__(self, message: str, rows: list[int]) -> None:
        super().__init__(message, REPAIR)
        self.rows = rows


class FeatureCache:
    """The features (dim,) float16 of one backbone. One writer at a time, any number of readers beside it."""

    def __init__(self, folder: Path, dim: int, write: bool = True) -> None:
        self.folder, self.dim = folder, dim
        self._dtype = np.dtype([("digest", "V16"), ("check", "V8"), ("feature", "<f2", (dim,))])
        self._check_format(write)
        self._env = open_env(folder / "index", write)

    @classmethod
    def kept(cls, folder: Path, write: bool = False) -> Self:
        """The cache that is in `folder`, of whatever backbone. Raises DamagedError, NewerFormatError."""
        dim = _read_format(folder / "format.json").get("dim")
        if not isinstance(dim, int) or not 0 < dim < 1 << 20:
            raise DamagedError(f"{folder / 'format.json'} says features of {dim!r}", REPAIR)
        return cls(folder, dim, write)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files; the cache cannot be used any more."""
        del self._env

    def _check_format(self, write: bool) -> None:
        path = self.folder / "format.json"
        expected = {"format": FORMAT, "version": VERSION, "dim": self.dim}
        if write and not path.exists():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                replace_file(path, json.dumps(expected).encode())
            except OSError as error:
                raise MachineError(f"{path} cannot be written: {error}") from error
        found = _read_format(path)
        if found != expected:
            if found.get("format") == FORMAT and found.get("version", 0) > VERSION:
                raise NewerFormatError(f"{path} is of version {found['version']}", "upgrade hashcli")
            raise DamagedError(f"{path} says {found}, expected {expected}", REPAIR)

    def rows(self, digests: Sequence[bytes]) -> NDArray[np.int64]:
        """The row of each digest (n,) int64, -1 where there is none. Raises DamagedError where that cannot be told."""
        with self._env.reading() as transaction:
            index = _index(transaction)
            return np.array([_row(index, digest) for digest in digests], np.int64)

    def append(self, digests: Sequence[bytes], features: NDArray[np.float16]) -> NDArray[np.int64]:
        """Add features (n, dim) of photos that are not here yet; those that are keep theirs. Gives all rows (n,)."""
        if features.shape != (len(digests), self.dim) or features.dtype != np.float16:
            raise ValueError(
                f"features must be float16 ({len(digests)}, {self.dim}), got {features.dtype} {features.shape}"
            )

        def work(transaction: lmdb.Transaction) -> NDArray[np.int64]:
            index = _index(transaction)
            if index is None:
                index = _chain(transaction)
                index.create()
                index.insert([(_ROWS_KEY, _COUNT.pack(0))])
            first = _COUNT.unpack(index.get(_ROWS_KEY) or bytes(_COUNT.size))[0]
            new: dict[bytes, int] = {}
            places, rows = [], []
            for place, digest in enumerate(digests):
                row = new[digest] if digest in new else _row(index, digest)
                if row < 0:
                    row = new[digest] = first + len(new)
                    places.append(place)
                rows.append(row)
            self._write(first, list(new), features[places])
            index.insert(sorted((digest, _COUNT.pack(row)) for digest, row in new.items()))
            index.replace(_ROWS_KEY, _COUNT.pack(first + len(new)))
            return np.array(rows, np.int64)

        return self._env.write(work)

    def _write(self, first: int, digests: Sequence[bytes], features: NDArray[np.float16]) -> None:
        records = np.zeros(len(digests), self._dtype)
        records["feature"] = features
        for record, digest in zip(records, digests, strict=True):
            record["digest"] = digest
            record["check"] = _check(digest, record["feature"].tobytes())
        for shard, places in _by_shard(np.arange(first, first + len(records))):
            path = self._shard(shard)
            is_new = not path.exists()
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            with open(descriptor, "wb") as file:
                file.seek((first + places[0]) % SHARD_ROWS * self._dtype.itemsize)
                file.write(records[places].tobytes())
                file.flush()
                os.fsync(descriptor)
            if is_new:
                sync(self.folder)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """The features (n, dim) in these rows. Raises DamagedRows where one is not what was written."""
        features, damaged = self._take(rows)
        if damaged:
            names = [digest.hex() for digest in self.digests(damaged[:3])]
            raise DamagedRows(
                f"{self.folder}: {len(damaged)} cached features are damaged, of photos {', '.join(names)}...", damaged
            )
        return features

    def _take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float16], list[int]]:
        features = np.zeros((len(rows), self.dim), np.float16)
        damaged: list[int] = []
        for shard, places in _by_shard(rows):
            records = self._records(shard)
            with guard.reading(self.folder):
                for place in places:
                    offset = int(rows[place]) % SHARD_ROWS
                    record = records[offset].tobytes() if offset < len(records) else bytes(self._dtype.itemsize)
                    if record[16:24] != _check(record[:16], record[24:]):
                        damaged.append(int(rows[place]))
                    features[place] = np.frombuffer(record, "<f2", offset=24)
        return features, damaged

    def drop_damaged(self, digests: Sequence[bytes]) -> int:
        """Read the features of these contents, and forget those that are damaged; how many that were."""
        rows = self.rows(digests)
        damaged = self._damaged(np.unique(rows[rows >= 0]))
        if damaged:
            self.forget(damaged)
        return len(damaged)

    def forget(self, rows: Sequence[int]) -> None:
        """Drop these rows: their photos count as never seen, and are encoded again when they come."""
        digests = self.digests(rows)

        def work(transaction: lmdb.Transaction) -> None:
            if index := _index(transaction):
                for digest in digests:
                    index.delete(digest)

        self._env.write(work)

    def digests(self, rows: Sequence[int]) -> list[bytes]:
        """The digests whose features the index expects in these rows."""
        wanted = set(rows)
        with self._env.reading() as transaction:
            return [digest for digest, row in _indexed(transaction) if row in wanted]

    def verify(self) -> list[int]:
        """Read every row that the index knows; those that are damaged."""
        with self._env.reading() as transaction:
            rows = np.sort(np.array([row for _, row in _indexed(transaction)], np.int64))
        return self._damaged(rows)

    def _damaged(self, rows: NDArray[np.int64]) -> list[int]:
        parts = [rows[start : start + SHARD_ROWS] for start in range(0, len(rows), SHARD_ROWS)]
        return [row for part in parts for row in self._take(part)[1]]

    def count(self) -> int:
        """How many photos have their feature here."""
        with self._env.reading() as transaction:
            return max(0, transaction.stat()["entries"] - 2)  # END, and the number of rows

    def state(self) -> bytes:
        """Bytes that change with every change of the cache, and are another cache's never."""
        made = (self.folder / "format.json").stat()
        return _COUNT.pack(made.st_mtime_ns) + _COUNT.pack(made.st_ino) + _COUNT.pack(self._env.last_change())

    def size_bytes(self) -> int:
        """What the cache takes on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def _shard(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.bin"

    def _records(self, shard: int) -> NDArray[np.void]:
        """The whole rows of a shard, mapped. Mapped anew each time: the file grows, and may be gone."""
        path = self._shard(shard)
        try:
            n = path.stat().st_size // self._dtype.itemsize
            return np.memmap(path, self._dtype, "r", shape=(n,)) if n else np.zeros(0, self._dtype)
        except FileNotFoundError:
            return np.zeros(0, self._dtype)


def _read_format(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise unreadable(str(path), error) from error
    except ValueError as error:
        raise DamagedError(f"{path} is not what was written: {error}", REPAIR) from error
    if not isinstance(found, dict):
        raise DamagedError(f"{path} is not what was written", REPAIR)
    return found


def _index(transaction: lmdb.Transaction) -> Chain | None:
    """The index; None before its first entry."""
    return _chain(transaction) if transaction.stat()["entries"] else None


def _chain(transaction: lmdb.Transaction) -> Chain:
    return Chain(transaction, None, b"features", "the index of cached features")


def _indexed(transaction: lmdb.Transaction) -> Iterator[tuple[bytes, int]]:
    """All digests with their rows."""
    if index := _index(transaction):
        for key, payload in index.range(b""):
            if key != _ROWS_KEY:
                yield key, int.from_bytes(payload, "little")


def _by_shard(rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each shard that rows lie in, with the places in `rows` of those that do."""
    shards = rows // SHARD_ROWS
    for shard in sorted(set(shards.tolist())):  # np.unique would import masked arrays, a tenth of numpy's start
        yield shard, np.flatnonzero(shards == shard)


def _check(digest: bytes, feature: bytes) -> bytes:
    return blake2b(digest + feature, digest_size=8).digest()


def _row(index: Chain | None, digest: bytes) -> int:
    payload = index.get(digest) if index else None
    return -1 if payload is None else int.from_bytes(payload, "little")
