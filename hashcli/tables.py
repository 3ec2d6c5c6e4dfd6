"""A gallery's databases inside one transaction: what is read and written there, each value in its own encoding.

blocks   number -> block of codes (`blocks`)        records  slot -> record (`records`)
paths    root and path -> slot                      digests  digest -> its slots
roots    id -> root                                 meta     format, slots given so far, transaction counter
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hashcli import blocks
from hashcli.blocks import Block
from hashcli.codes import Words
from hashcli.environment import Transaction
from hashcli.records import (
    Record,
    Root,
    decode_record,
    decode_root,
    decode_slot,
    encode_record,
    encode_root,
    encode_slot,
    path_key,
    root_key,
    slot_key,
)
from hashcli.seals import damaged

# name -> may one key have several values?
DATABASES = {"blocks": False, "records": False, "paths": False, "digests": True, "roots": False, "meta": False}
_SLOTS = b"slots"


class Tables:
    """One state of a gallery with blocks of `capacity` slots and codes of `n_words` words."""

    def __init__(self, txn: Transaction, databases: Mapping[str, Any], capacity: int, n_words: int) -> None:
        self._txn, self._databases, self._capacity, self._n_words = txn, databases, capacity, n_words

    def entries(self, name: str) -> int:
        """How many entries a database has."""
        return int(self._txn.stat(self._databases[name])["entries"])

    def slots(self) -> int:
        """Slots given so far."""
        value = self._get("meta", _SLOTS)
        return 0 if value is None else decode_slot(_SLOTS, value, "the gallery's count of slots")

    def roots(self) -> list[Root]:
        """All roots by id."""
        return [decode_root(bytes(key), value) for key, value in self._cursor("roots")]

    def root(self, number: int) -> list[Root]:
        """The root with this id, if there is one. Raises DamagedError."""
        value = self._get("roots", root_key(number))
        return [] if value is None else [decode_root(root_key(number), value)]

    def set_root(self, root: Root) -> None:
        """Write a root under its id."""
        self._put("roots", root_key(root.id), encode_root(root))

    def record(self, slot: int) -> Record:
        """The record of a slot. Raises ValueError when it holds no photo, DamagedError when it should."""
        value = self._get("records", slot_key(slot)) if slot >= 0 else None
        if value is None:
            if self._is_live(slot):
                raise damaged(f"the record of slot {slot}", "it is missing")
            raise ValueError(f"slot {slot} holds no photo")
        return decode_record(slot, value)

    def records_of(self, block: Block) -> list[tuple[int, Record]]:
        """The photos of one block by slot. Raises DamagedError unless they are those that the block calls live."""
        rows = []
        cursor = self._cursor("records")
        if cursor.set_range(slot_key(block.first_slot)):
            for key, value in cursor:
                slot = int.from_bytes(key, "big")
                if slot >= block.first_slot + block.slots:
                    break
                rows.append((slot, decode_record(slot, value)))
        live = block.live()
        expected = range(block.slots) if live is None else np.flatnonzero(live).tolist()
        if [slot - block.first_slot for slot, _ in rows] != list(expected):
            raise damaged(f"block {block.number} of the gallery", "the records are not those of its photos")
        return rows

    def slot_at(self, key: bytes) -> int | None:
        """The slot of a `path_key`."""
        value = self._get("paths", key)
        return None if value is None else decode_slot(key, value, "an entry of the gallery's paths")

    def slots_by_path(self, root: int) -> Iterator[int]:
        """The slots of a root's photos in the order of their keys, which but for very long paths is that of paths."""
        cursor, prefix = self._cursor("paths"), root_key(root)
        if cursor.set_range(prefix):
            for key, value in cursor:
                if key[: len(prefix)] != prefix:
                    return
                yield decode_slot(bytes(key), value, "an entry of the gallery's paths")

    def slots_of(self, digest: bytes) -> list[int]:
        """The slots of a content, in order."""
        cursor = self._cursor("digests")
        values = cursor.iternext_dup() if cursor.set_key(digest) else ()
        return sorted(decode_slot(digest, value, "an entry of the gallery's digests") for value in values)

    def block(self, number: int, total: int) -> Block:
        """Block `number` of a gallery of `total` slots, its words unread. Raises DamagedError."""
        value = self._get("blocks", blocks.key(number))
        if value is None:
            raise damaged(f"block {number} of the gallery", "it is missing")
        block = blocks.decode(number, value, self._capacity, self._n_words)
        if block.slots != min(total - block.first_slot, self._capacity):
            raise damaged(f"block {number} of the gallery", f"it has {block.slots} slots")
        return block

    def append(self, records: Sequence[Record], words: Words) -> int:
        """Put photos behind all others -> their first slot. Their paths must be free (`free_paths`)."""
        first = self.slots()
        numbered = list(enumerate(records, first))
        rows = [(slot_key(slot), encode_record(slot, record)) for slot, record in numbered]
        if self._cursor("records").putmulti(rows, overwrite=False, append=True)[1] < len(rows):
            raise damaged("the gallery", f"there are records behind its last slot, {first - 1}")
        # sorted, because a tree is filled fastest in the order of its keys
        keys = [(path_key(record.root, record.path), slot) for slot, record in numbered]
        self._cursor("paths").putmulti(sorted((key, encode_slot(slot, key)) for key, slot in keys))
        digests = sorted((record.digest, encode_slot(slot, record.digest)) for slot, record in numbered)
        self._cursor("digests").putmulti(digests)
        self._append_words(first, words)
        self._put("meta", _SLOTS, encode_slot(first + len(rows), _SLOTS))
        return first

    def replace(self, changes: Sequence[tuple[int, Record]]) -> None:
        """Give slots new records; whatever else is at the new paths is removed."""
        for slot, _ in changes:
            self._unlink(slot)
        self.free_paths(path_key(record.root, record.path) for _, record in changes)
        for slot, record in changes:
            key = path_key(record.root, record.path)
            self._put("records", slot_key(slot), encode_record(slot, record))
            self._put("paths", key, encode_slot(slot, key))
            self._put("digests", record.digest, encode_slot(slot, record.digest))

    def free_paths(self, keys: Iterable[bytes]) -> None:
        """Remove the photos at these paths."""
        if self.entries("paths"):
            self.remove([slot for slot in map(self.slot_at, keys) if slot is not None])

    def remove(self, slots: Sequence[int]) -> None:
        """Delete records and all that leads to them, and mark the slots. Raises ValueError where there is none."""
        by_block: dict[int, list[int]] = defaultdict(list)
        for slot in slots:
            self._unlink(slot)
            self._txn.delete(slot_key(slot), db=self._databases["records"])
            by_block[slot // self._capacity].append(slot)
        total = self.slots()
        for number, removed in by_block.items():
            block = blocks.without(self.block(number, total), np.array(removed))
            self._put("blocks", blocks.key(number), blocks.encode(block))

    def _is_live(self, slot: int) -> bool:
        total = self.slots()
        if not 0 <= slot < total:
            return False
        block = self.block(slot // self._capacity, total)
        live = block.live()
        return live is None or bool(live[slot - block.first_slot])

    def _unlink(self, slot: int) -> None:
        record = self.record(slot)
        self._txn.delete(path_key(record.root, record.path), db=self._databases["paths"])
        self._txn.delete(record.digest, encode_slot(slot, record.digest), db=self._databases["digests"])

    def _append_words(self, first: int, words: Words) -> None:
        done, n = 0, words.shape[1]
        while done < n:
            number, used = divmod(first + done, self._capacity)
            piece = words[:, done : done + self._capacity - used]
            old = self.block(number, first) if used else blocks.empty(number, self._capacity, self._n_words)
            self._put("blocks", blocks.key(number), blocks.encode(blocks.extended(old, piece)))
            done += piece.shape[1]

    def _get(self, name: str, key: bytes) -> Any:
        return self._txn.get(key, db=self._databases[name])

    def _put(self, name: str, key: bytes, value: bytes) -> None:
        self._txn.put(key, value, db=self._databases[name])

    def _cursor(self, name: str) -> Any:
        return self._txn.cursor(self._databases[name])
