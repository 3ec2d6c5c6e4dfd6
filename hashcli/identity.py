"""What files contain, known from their stat alone, so that a second run over a collection reads no photo.

An LMDB in one folder; every value ends in a checksum, and a value that fails it counts as unknown.

    b"p" + BLAKE2b-16 of the path   size, mtime_ns, ctime_ns, inode, digest
    b"f" + digest + BLAKE2b-8 of the rule   why this content cannot be decoded by that rule, UTF-8
    b"d" + BLAKE2b-16 of a folder's path    what its photos gave when the gallery held them all as they were (`survey`)
    b"s"                                    the state of gallery and features in which that was so
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Self

import lmdb

from hashcli.lmdb_env import get, open_env
from hashcli.photos import PhotoFile

# A file that was written this shortly before it was read may change again without a visible trace: the clocks of
# file systems tick as slowly as every 2 s. Git calls such files "racily clean".
RACY_NS = 2_000_000_000

_STAT = struct.Struct("<QqqQ")
_CHECK = 8
_STATE_KEY = b"s"


class IdentityCache:
    """Path and stat -> digest of the contents; digest -> why it cannot be decoded."""

    def __init__(self, folder: Path, write: bool = True) -> None:
        self._env = open_env(folder, write)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files; the cache cannot be used any more."""
        del self._env

    def get(self, files: Sequence[PhotoFile]) -> list[bytes | None]:
        """The digest of each file that has not changed since it was put, else None."""
        found: list[bytes | None] = []
        with self._env.reading() as transaction:
            for file in files:
                key = _path_key(file)
                value = _unsealed(key, get(transaction, key))
                stat = _stat(file)
                found.append(value[_STAT.size :] if value is not None and value[: _STAT.size] == stat else None)
        return found

    def put(self, entries: Iterable[tuple[PhotoFile, bytes]], read_ns: int | None = None) -> None:
        """Remember digests of files that were read at `read_ns` (time.time_ns) or later; default: now.

        Files that changed within RACY_NS before that are left out, to be read again next time.
        """
        now = time.time_ns() if read_ns is None else read_ns
        pairs = [(_path_key(file), _stat(file) + digest) for file, digest in entries if not _racy(file, now)]
        self._put(pairs)

    def failures(self, digests: Sequence[bytes | None], rule: str) -> list[str | None]:
        """For each digest why `rule` could not decode it; None where it did not fail so far."""
        with self._env.reading() as transaction:
            keys = [None if digest is None else _failure_key(digest, rule) for digest in digests]
            reasons = [None if key is None else _unsealed(key, get(transaction, key)) for key in keys]
        return [None if reason is None else reason.decode() for reason in reasons]

    def put_failures(self, entries: Iterable[tuple[bytes, str]], rule: str) -> None:
        """Remember for digests why `rule` could not decode them."""
        self._put([(_failure_key(digest, rule), reason.encode("utf-8", "replace")) for digest, reason in entries])

    def settled(self, folders: Sequence[bytes], state: bytes) -> list[bytes | None]:
        """What was kept of each folder, if `state` is still the one it was kept in; else None."""
        keys = [_folder_key(folder) for folder in folders]
        with self._env.reading() as transaction:
            if _unsealed(_STATE_KEY, get(transaction, _STATE_KEY)) != state:
                return [None] * len(keys)
            return [_unsealed(key, get(transaction, key)) for key in keys]

    def put_settled(self, folders: Mapping[bytes, bytes | None], before: bytes, after: bytes) -> None:
        """Keep these of folders (None: forget it) for the state `after`; all others hold if they did in `before`."""

        def work(transaction: lmdb.Transaction) -> None:
            if _unsealed(_STATE_KEY, get(transaction, _STATE_KEY)) != before:
                cursor = transaction.cursor()
                while cursor.set_range(b"d") and bytes(cursor.key()[:1]) == b"d":
                    cursor.delete()
            for folder, digest in folders.items():
                key = _folder_key(folder)
                if digest is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, digest + _seal(key, digest))
            transaction.put(_STATE_KEY, after + _seal(_STATE_KEY, after))

        self._env.write(work)

    def _put(self, pairs: list[tuple[bytes, bytes]]) -> None:
        if pairs:
            sealed = [(key, value + _seal(key, value)) for key, value in pairs]
            self._env.write(lambda transaction: transaction.cursor().putmulti(sealed))


def _path_key(file: PhotoFile) -> bytes:
    return b"p" + blake2b(file.full, digest_size=16).digest()  # LMDB's keys end at 511 bytes, paths do not


def _folder_key(folder: bytes) -> bytes:
    return b"d" + blake2b(folder, digest_size=16).digest()


def _failure_key(digest: bytes, rule: str) -> bytes:
    return b"f" + digest + blake2b(rule.encode(), digest_size=8).digest()


def _stat(file: PhotoFile) -> bytes:
    return _STAT.pack(file.size, file.mtime_ns, file.ctime_ns, file.inode)


def _racy(file: PhotoFile, read_ns: int) -> bool:
    # mtime can be set to any date, also to a future one; ctime, which tells of that, cannot
    return file.ctime_ns > read_ns - RACY_NS or abs(file.mtime_ns - read_ns) < RACY_NS


def _seal(key: bytes, value: bytes) -> bytes:
    return blake2b(key + value, digest_size=_CHECK).digest()


def _unsealed(key: bytes, value: bytes | None) -> bytes | None:
    if value is None or len(value) < _CHECK or _seal(key, value[:-_CHECK]) != value[-_CHECK:]:
        return None
    return value[:-_CHECK]
