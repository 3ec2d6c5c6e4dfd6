"""A gallery's counts and roots, and what its transaction marks its changes with."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from hashcli.environment import Transaction
from hashcli.records import Root, decode_root, encode_root, root_key
from hashcli.seals import damaged, seal, unseal

_COUNTS_KEY = b"counts"
_COUNTS = struct.Struct("<QQQ4sI")
_STAMP = struct.Struct("<I")
UNSTAMPED = bytes(_STAMP.size)


class Counts(NamedTuple):
    """How many there are, as it was written.

    slots     given so far, removed ones included
    end       stamp of the end of the index of paths
    root_sum  CRC-32 of all roots
    """

    slots: int
    photos: int
    roots: int
    end: bytes
    root_sum: int


class Ledger:
    """One state of the databases "meta" and "roots", of a gallery with blocks of `capacity` slots."""

    def __init__(self, txn: Transaction, databases: Mapping[str, Any], capacity: int) -> None:
        self._txn, self._databases, self._capacity = txn, databases, capacity

    def entries(self, name: str) -> int:
        """How many entries LMDB believes a database to have."""
        return int(self._txn.stat(self._databases[name])["entries"])

    def counts(self) -> Counts:
        """How much the gallery holds. Raises DamagedError."""
        value = self._get("meta", _COUNTS_KEY)
        what = "the gallery's count of its photos"
        payload = unseal(_COUNTS_KEY, value or b"", what)
        if len(payload) != _COUNTS.size:
            raise damaged(what, "its lengths do not fit")
        counts = Counts(*_COUNTS.unpack(payload))
        if counts.slots > 2 * self._capacity * (self.entries("blocks") + 1):  # so much is never allocated on its word
            raise damaged(what, f"{counts.slots} slots cannot be in {self.entries('blocks')} blocks")
        return counts

    def slots(self) -> int:
        """Slots given so far."""
        return self.counts().slots

    def roots(self) -> list[Root]:
        """All roots by id. Raises DamagedError."""
        found = [decode_root(bytes(key), value) for key, value in self._cursor("roots")]
        counts = self.counts()
        if len(found) != counts.roots:
            raise damaged("the list of roots", f"it has {len(found)} of {counts.roots}")
        if self._root_sum() != counts.root_sum:
            raise damaged("the list of roots", "it is not the latest one")
        return found

    def root(self, number: int) -> list[Root]:
        """The root with this id, if there is one. Raises DamagedError."""
        value = self._get("roots", root_key(number))
        return [] if value is None else [decode_root(root_key(number), value)]

    def set_root(self, root: Root) -> None:
        """Write a root under its id."""
        is_new = root.id not in {known.id for known in self.roots()}
        self._put("roots", root_key(root.id), encode_root(root))
        counts = self.counts()
        self._set_counts(counts._replace(roots=counts.roots + is_new, root_sum=self._root_sum()))

    def _stamp(self) -> bytes:
        """What this transaction marks its changes with; it comes again only after four billion others."""
        return _STAMP.pack(self._txn.id() & 0xFFFFFFFF)

    def _root_sum(self) -> int:
        total = 0
        for key, value in self._cursor("roots"):
            total = zlib.crc32(value[:-4], zlib.crc32(key, total))  # behind all of it, its own CRC would cancel it out
        return total

    def _count(self, slots: int = 0, photos: int = 0) -> None:
        """Add to the counts."""
        now = self.counts()
        self._set_counts(now._replace(slots=now.slots + slots, photos=now.photos + photos))

    def _set_counts(self, counts: Counts) -> None:
        self._put("meta", _COUNTS_KEY, seal(_COUNTS_KEY, _COUNTS.pack(*counts)))

    def _get(self, name: str, key: bytes) -> Any:
        return self._txn.get(key, db=self._databases[name])

    def _put(self, name: str, key: bytes, value: bytes) -> None:
        self._txn.put(key, value, db=self._databases[name])

    def _cursor(self, name: str) -> Any:
        return self._txn.cursor(self._databases[name])
