"""A table of LMDB in which every entry names the one before it, so that what is not there is provably not there.

LMDB's own pages carry no checksum: a flipped bit in one can hide an entry from a lookup without a word. Here the
entry behind the place that was looked for tells which one comes before that place; if another one does, the pages
are damaged. The same holds, entry by entry, while a range is read.

A value is payload, CRC-32 of the key before it (of nothing for the first), CRC-32 of its own key and all that; each
begins with the table's name, as a page of another table may have come in. The last entry is `END`, which no other
key reaches; a table without it is damaged.

A whole page of the past shows nothing of this within itself. Where that matters, `relinked` lets the payload of an
entry change whenever the entry before it does, so that another place can tell which one is the latest.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hashcli.seals import LARGEST, SOUND, damaged, seal, unseal

Relinked = Callable[[bytes], bytes]  # payload of an entry that gets another one before it -> its new payload

END = b"\xff" * 25
_LINK = 4


def _as_before(payload: bytes) -> bytes:
    return payload


class Chain:
    """One table inside one transaction; `what` it holds, for errors."""

    def __init__(self, transaction: Any, database: Any, name: bytes, what: str) -> None:
        self._transaction, self._database, self._name, self._what = transaction, database, name, what
        self._cursor = transaction.cursor(database)

    def create(self, end: bytes = b"") -> None:
        """Make the empty table. `end`: the payload of `END`."""
        self._cursor.put(END, self._sealed(END, end, b""))

    def get(self, key: bytes) -> bytes | None:
        """The payload of `key`; None where there is none. Raises DamagedError, also when that cannot be told."""
        found, payload = self.at(key)
        return payload if found == key else None

    def at(self, key: bytes) -> tuple[bytes, bytes]:
        """Key and payload of the entry at `key`; where there is none, of the one behind it. Raises DamagedError."""
        self._seek(key)
        if self._cursor.key() == key:
            return key, self._split(key, self._cursor.value())[0]
        _, after, payload = self._gap(key)
        return after, payload

    def range(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All entries with keys that begin with `prefix`, in order: (key, payload). Raises DamagedError."""
        cursor = self._transaction.cursor(self._database)
        if not cursor.set_range(prefix):
            raise self._hidden()
        before = bytes(cursor.key()) if cursor.prev() else b""
        if (before and before >= prefix) or not (cursor.next() if before else cursor.first()):
            raise self._hidden()
        salt = zlib.crc32(self._name)
        link = zlib.crc32(before, salt)
        for key, value in cursor:  # `_split` in place: over millions of entries, calls are what costs
            key = bytes(key)
            own = zlib.crc32(key, salt)
            if not 2 * _LINK <= len(value) <= LARGEST or zlib.crc32(value, own) != SOUND:
                raise damaged(f"an entry of {self._what}", "it is not what was written")
            found = int.from_bytes(value[-8:-4], "little")
            if found != link or key <= before or key < prefix:
                raise self._hidden()
            if key == END or not key.startswith(prefix):
                return
            yield key, bytes(value[:-8])
            before, link = key, own
        raise self._hidden()

    def insert(self, rows: Sequence[tuple[bytes, bytes]], relinked: Relinked = _as_before) -> None:
        """Add (key, payload) pairs, which come in order and are not in the table yet."""
        fresh: list[tuple[bytes, bytes]] = []
        place = 0
        while place < len(rows):
            before, after, payload = self._gap(rows[place][0])
            while place < len(rows) and rows[place][0] < after:
                key, own = rows[place]
                fresh.append((key, self._sealed(key, own, before)))
                before, place = key, place + 1
            fresh.append((after, self._sealed(after, relinked(payload), before)))
        self._cursor.putmulti(fresh)

    def replace(self, key: bytes, payload: bytes) -> None:
        """Give an entry another payload. Raises DamagedError when it is not there."""
        self._seek(key)
        if self._cursor.key() != key:
            raise self._hidden()
        _, link = self._split(key, self._cursor.value())
        self._cursor.put(key, seal(self._name + key, payload + link))

    def delete(self, key: bytes, relinked: Relinked = _as_before) -> None:
        """Take out an entry. Raises DamagedError when it is not there."""
        self._seek(key)
        if self._cursor.key() != key:
            raise self._hidden()
        _, link = self._split(key, self._cursor.value())
        if not self._cursor.next():
            raise self._hidden()
        after = bytes(self._cursor.key())
        payload, behind = self._split(after, self._cursor.value())
        if behind != self._link(key):
            raise self._hidden()
        self._cursor.put(after, seal(self._name + after, relinked(payload) + link))
        self._transaction.delete(key, db=self._database)

    def _seek(self, key: bytes) -> None:
        if not self._cursor.set_range(key):
            raise self._hidden()

    def _gap(self, key: bytes) -> tuple[bytes, bytes, bytes]:
        """The keys around the place of `key`, which is not in the table, and the payload of the one behind it."""
        self._seek(key)
        after = bytes(self._cursor.key())
        payload, link = self._split(after, self._cursor.value())
        before = bytes(self._cursor.key()) if self._cursor.prev() else b""
        if link != self._link(before) or not before < key < after:
            raise self._hidden()
        return before, after, payload

    def _split(self, key: bytes, value: bytes | memoryview) -> tuple[bytes, bytes]:
        """Payload and link of a value. Raises DamagedError."""
        content = unseal(self._name + key, value, f"an entry of {self._what}")
        if len(content) < _LINK:
            raise damaged(f"an entry of {self._what}", "its lengths do not fit")
        return content[:-_LINK], content[-_LINK:]

    def _sealed(self, key: bytes, payload: bytes, before: bytes) -> bytes:
        return seal(self._name + key, payload + self._link(before))

    def _link(self, before: bytes) -> bytes:
        return zlib.crc32(self._name + before).to_bytes(_LINK, "little")

    def _hidden(self) -> Exception:
        return damaged(self._what, "an entry is missing, or out of its place")
