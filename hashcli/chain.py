"""A table of LMDB in which every entry names the one before it, so that what is not there is provably not there.

LMDB's own pages carry no checksum: a flipped bit in one can hide an entry from a lookup without a word. Here the
entry behind the place that was looked for tells which one comes before that place; if another one does, the pages
are damaged. The same holds, entry by entry, while a range is read.

A value is payload, CRC-32 of the key before it (of nothing for the first), CRC-32 of its own key and all that.
The last entry is `END`, which no other key reaches; a table without it is damaged.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from hashcli.seals import LARGEST, SOUND, damaged, seal, unseal

END = b"\xff" * 25
_LINK = 4


class Chain:
    """One table inside one transaction; `what` it holds, for errors. `cursor` makes cursors of the table."""

    def __init__(self, transaction: Any, database: Any, what: str) -> None:
        self._transaction, self._database, self._what = transaction, database, what
        self._cursor = transaction.cursor(database)

    def create(self) -> None:
        """Make the empty table."""
        self._cursor.put(END, seal(END, _link(b"")))

    def get(self, key: bytes) -> bytes | None:
        """The payload of `key`; None where there is none. Raises DamagedError, also when that cannot be told."""
        self._seek(key)
        if self._cursor.key() == key:
            return self._split(key, self._cursor.value())[0]
        self._gap(key)
        return None

    def range(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All entries with keys that begin with `prefix`, in order: (key, payload). Raises DamagedError."""
        cursor = self._transaction.cursor(self._database)
        if not cursor.set_range(prefix):
            raise self._hidden()
        before = bytes(cursor.key()) if cursor.prev() else b""
        if (before and before >= prefix) or not (cursor.next() if before else cursor.first()):
            raise self._hidden()
        link = zlib.crc32(before)
        for key, value in cursor:  # `_split` in place: over millions of entries, calls are what costs
            key = bytes(key)
            own = zlib.crc32(key)
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

    def insert(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Add (key, payload) pairs, which come in order and are not in the table yet."""
        fresh: list[tuple[bytes, bytes]] = []
        place = 0
        while place < len(rows):
            before, after, payload = self._gap(rows[place][0])
            while place < len(rows) and rows[place][0] < after:
                key, own = rows[place]
                fresh.append((key, seal(key, own + _link(before))))
                before, place = key, place + 1
            fresh.append((after, seal(after, payload + _link(before))))
        self._cursor.putmulti(fresh)

    def replace(self, key: bytes, payload: bytes) -> None:
        """Give an entry another payload. Raises DamagedError when it is not there."""
        self._seek(key)
        if self._cursor.key() != key:
            raise self._hidden()
        _, link = self._split(key, self._cursor.value())
        self._cursor.put(key, seal(key, payload + link))

    def delete(self, key: bytes) -> None:
        """Take out an entry. Raises DamagedError when it is not there."""
        self._seek(key)
        if self._cursor.key() != key:
            raise self._hidden()
        _, link = self._split(key, self._cursor.value())
        if not self._cursor.next():
            raise self._hidden()
        after = bytes(self._cursor.key())
        payload, behind = self._split(after, self._cursor.value())
        if behind != _link(key):
            raise self._hidden()
        self._cursor.put(after, seal(after, payload + link))
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
        if link != _link(before) or not before < key < after:
            raise self._hidden()
        return before, after, payload

    def _split(self, key: bytes, value: bytes | memoryview) -> tuple[bytes, bytes]:
        """Payload and link of a value. Raises DamagedError."""
        content = unseal(key, value, f"an entry of {self._what}")
        if len(content) < _LINK:
            raise damaged(f"an entry of {self._what}", "its lengths do not fit")
        return content[:-_LINK], content[-_LINK:]

    def _hidden(self) -> Exception:
        return damaged(self._what, "an entry is missing, or out of its place")


def _link(before: bytes) -> bytes:
    return zlib.crc32(before).to_bytes(_LINK, "little")
