"""A gallery's databases inside one transaction: what is read and written there, each value in its own encoding.

A photo's record and its entry in the index of paths carry the same stamp, the number of the transaction in which
either changed last, and an entry changes with the one before it: so a page of the past in either of them contradicts
the other, whether it names a photo or hides one. The end of the index has its twin in the counts (`ledger`).

blocks   number -> block of codes (`blocks`)        records  slot -> record (`records`)
paths    root and path -> slot, stamp (`chain`)     digests  digest and slot -> nothing (`chain`)
roots    id -> root                                 meta     format, counts, transaction counter
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hashcli import blocks
from hashcli.blocks import Block
from hashcli.chain import END, Chain
from hashcli.codes import Words
from hashcli.environment import Transaction
from hashcli.ledger import UNSTAMPED, Counts, Ledger
from hashcli.records import (
    Record,
    decode_path,
    decode_record,
    encode_record,
    path_key,
    restamped,
    root_key,
    slot_key,
    stamp_of,
)
from hashcli.seals import damaged

DATABASES = ("blocks", "records", "paths", "digests", "roots", "meta")
_SLOT = 8  # bytes of a slot in an index


class Tables(Ledger):
    """One state of a gallery with blocks of `capacity` slots and codes of `n_words` words."""

    def __init__(self, txn: Transaction, databases: Mapping[str, Any], capacity: int, n_words: int) -> None:
        super().__init__(txn, databases, capacity)
        self._n_words = n_words
        self._paths = Chain(txn, databases["paths"], b"paths", "the gallery's index of paths")
        self._digests = Chain(txn, databases["digests"], b"digests", "the gallery's index of contents")

    def create(self) -> None:
        """Make them all, empty."""
        self._set_counts(Counts(0, 0, 0, UNSTAMPED, 0))
        self._paths.create(UNSTAMPED)
        self._digests.create()

    def record(self, slot: int) -> Record:
        """The record of a slot. Raises ValueError when it holds no photo, DamagedError when it should.

        Also when the index of paths says otherwise: then one of them is from the past.
        """
        record = self.record_alone(slot)
        self.confirm(slot, record)
        return record

    def confirm(self, slot: int, record: Record) -> None:
        """Compare a record with the index of paths. Raises DamagedError where these are not of the same time."""
        payload = self._paths.get(path_key(record.root, record.path))
        if payload != slot_key(slot) + stamp_of(self._record_value(slot)):
            raise _past()

    def record_alone(self, slot: int) -> Record:
        """As `record`, whatever the index of paths says."""
        return decode_record(slot, self._record_value(slot))

    def path(self, slot: int) -> tuple[int, bytes]:
        """Root and path of a slot's photo, as `record_alone`; much quicker than its record."""
        return decode_path(slot, self._record_value(slot))

    def records_of(self, block: Block) -> list[tuple[int, Record]]:
        """The photos of one block by slot. Raises DamagedError unless they are those that the block calls live.

        As `record_alone`; `confirm` compares them with the index of paths.
        """
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
        """The slot of a `path_key`. Raises DamagedError, also when it cannot be told whether there is one."""
        found, payload = self._paths.at(key)
        if found == END:
            if payload != self.counts().end:
                raise _past()
            return None
        slot = self._held(int.from_bytes(payload[:_SLOT], "big"))
        value = self._record_value(slot)
        if path_key(*decode_path(slot, value)) != found or stamp_of(value) != payload[_SLOT:]:
            raise _past()
        return slot if found == key else None

    def slots_by_path(self, root: int) -> Iterator[int]:
        """The slots of a root's photos in the order of their keys, which but for very long paths is that of paths."""
        for _, payload in self._paths.range(root_key(root)):
            yield int.from_bytes(payload[:_SLOT], "big")

    def slots_of(self, digest: bytes) -> list[int]:
        """The slots of a content, in order."""
        return [self._held(int.from_bytes(key[len(digest) :], "big")) for key, _ in self._digests.range(digest)]

    def indexed(self) -> dict[str, int]:
        """How many photos each index holds, after reading all of it. Raises DamagedError."""
        return {
            "paths": sum(1 for _ in self._paths.range(b"")),
            "contents": sum(1 for _ in self._digests.range(b"")),
        }

    def block(self, number: int, total: int) -> Block:
        """Block `number` of a gallery of `total` slots, its words unread. Raises DamagedError."""
        return self.decoded(number, self._get("blocks", blocks.key(number)), total)

    def block_values(self, total: int) -> Iterator[memoryview | None]:
        """All blocks of a gallery of `total` slots as they lie in the map, for `decoded`; None for what is missing.

        A lost one in between shows in the key that the next one's header was sealed with.
        """
        values = self._cursor("blocks").iternext(keys=False)
        return itertools.islice(itertools.chain(values, itertools.repeat(None)), -(-total // self._capacity))

    def decoded(self, number: int, value: memoryview | None, total: int) -> Block:
        """The value of block `number` as a block, its words unread. Raises DamagedError."""
        if value is None:
            raise damaged(f"block {number} of the gallery", "it is missing")
        block = blocks.decode(number, value, self._capacity, self._n_words)
        if block.slots != min(total - number * self._capacity, self._capacity):
            raise damaged(f"block {number} of the gallery", f"it has {block.slots} slots")
        return block

    def append(self, records: Sequence[Record], words: Words) -> int:
        """Put photos behind all others -> their first slot. Their paths must be free (`free_paths`)."""
        first = self.slots()
        numbered = list(enumerate(records, first))
        rows = [(slot_key(slot), encode_record(slot, record, self._stamp())) for slot, record in numbered]
        if self._cursor("records").putmulti(rows, overwrite=False, append=True)[1] < len(rows):
            raise damaged("the gallery", f"there are records behind its last slot, {first - 1}")
        self._index(numbered)
        self._count(slots=len(rows), photos=len(rows))
        self._append_words(first, words)
        return first

    def replace(self, changes: Sequence[tuple[int, Record]]) -> None:
        """Give slots new records; whatever else is at the new paths is removed."""
        for slot, _ in changes:
            self._unlink(slot)
        self.free_paths(path_key(record.root, record.path) for _, record in changes)
        for slot, record in changes:
            self._put("records", slot_key(slot), encode_record(slot, record, self._stamp()))
        self._index(changes)

    def free_paths(self, keys: Iterable[bytes]) -> None:
        """Remove the photos at these paths."""
        if self.counts().photos:
            self.remove([slot for slot in map(self.slot_at, keys) if slot is not None])

    def remove(self, slots: Sequence[int]) -> None:
        """Delete records and all that leads to them, and mark the slots. Raises ValueError where there is none."""
        by_block: dict[int, list[int]] = defaultdict(list)
        for slot in slots:
            self._unlink(slot)
            self._txn.delete(slot_key(slot), db=self._databases["records"])
            by_block[slot // self._capacity].append(slot)
        self._count(photos=-len(slots))
        total = self.slots()
        for number, removed in by_block.items():
            block = blocks.without(self.block(number, total), np.array(removed))
            self._put("blocks", blocks.key(number), blocks.encode(block))

    def _record_value(self, slot: int) -> memoryview | bytes:
        value: memoryview | bytes | None = self._get("records", slot_key(slot)) if slot >= 0 else None
        if value is None:
            if self._is_live(slot):
                raise damaged(f"the record of slot {slot}", "it is missing")
            raise ValueError(f"slot {slot} holds no photo")
        return value

    def _held(self, slot: int) -> int:
        """The slot, which an index names. Raises DamagedError unless it holds a photo."""
        if slot >= self.slots() or self._get("records", slot_key(slot)) is None:
            raise damaged("the gallery", f"an index names slot {slot}, which holds no photo")
        return slot

    def _is_live(self, slot: int) -> bool:
        total = self.slots()
        if not 0 <= slot < total:
            return False
        block = self.block(slot // self._capacity, total)
        live = block.live()
        return live is None or bool(live[slot - block.first_slot])

    def _unlink(self, slot: int) -> None:
        record = self.record(slot)
        self._paths.delete(path_key(record.root, record.path), self._restamp)
        self._digests.delete(record.digest + slot_key(slot))

    def _index(self, photos: Sequence[tuple[int, Record]]) -> None:
        stamp = self._stamp()
        entries = sorted((path_key(r.root, r.path), slot_key(slot) + stamp) for slot, r in photos)
        self._paths.insert(entries, self._restamp)
        self._digests.insert(sorted((record.digest + slot_key(slot), b"") for slot, record in photos))

    def _restamp(self, payload: bytes) -> bytes:
        """The entry of a path gets another one before it: its record (of the end: the counts) must tell of that."""
        if len(payload) == len(UNSTAMPED):
            self._set_counts(self.counts()._replace(end=self._stamp()))
            return self._stamp()
        slot = self._held(int.from_bytes(payload[:_SLOT], "big"))
        self._put("records", slot_key(slot), restamped(slot, self._record_value(slot), self._stamp()))
        return payload[:_SLOT] + self._stamp()

    def _append_words(self, first: int, words: Words) -> None:
        done, n = 0, words.shape[1]
        while done < n:
            number, used = divmod(first + done, self._capacity)
            piece = words[:, done : done + self._capacity - used]
            old = self.block(number, first) if used else blocks.empty(number, self._capacity, self._n_words)
            self._put("blocks", blocks.key(number), blocks.encode(blocks.extended(old, piece)))
            done += piece.shape[1]


def _past() -> Exception:
    return damaged("the gallery", "its records and its index of paths are not of the same time")
