"""A library's galleries against plain dicts, through whatever sequence of changes hypothesis thinks of."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hashcli import codes, gallery
from hashcli.errors import LibraryError
from hashcli.gallery import Gallery, Record, Root
from hashcli.generation import Generation
from hashcli.library import Library

N_BITS, BLOCK_SLOTS = 64, 8
NAMES = [b"a", b"a/b", b"a/b/c.jpg", b"a0", b"\xff\n", b"b/" + b"long/" * 120 + b"1", b"b/" + b"long/" * 120 + b"2"]
NAMES += [b"c/%d.jpg" % i for i in range(20)]

names = st.sampled_from(NAMES)
roots = st.integers(0, 1)
contents = st.integers(0, 5)  # few enough that photos are copies of each other
picks = st.lists(st.integers(0, 10**6), min_size=1, max_size=6)  # of what there is, by place
photos = st.lists(
    st.tuples(roots, names, contents, st.sampled_from([None, "", "mug"])), max_size=20, unique_by=lambda p: p[:2]
)


def record(root: int, name: bytes, content: int, label: str | None = None) -> Record:
    return Record(root, name, content, -content, bytes(15) + bytes([content]), label, "tgt" if root else "src")


def code(content: int, generation: str) -> bytes:
    """Few bits differ, so that many photos are equally near; another generation has other codes."""
    return bytes([content & 3, content >> 2, 0, 0, 0, 0, 0, int(generation[1:]) & 1])


@dataclasses.dataclass
class Held:
    """What a gallery should hold: by slot its record and code, and how many slots were given."""

    photos: dict[int, tuple[Record, bytes]] = dataclasses.field(default_factory=dict)
    given: int = 0
    roots: dict[int, bytes] = dataclasses.field(default_factory=dict)

    def forget(self, root: int, path: bytes) -> None:
        self.photos = {s: held for s, held in self.photos.items() if (held[0].root, held[0].path) != (root, path)}

    def add(self, record: Record, code: bytes) -> None:
        self.forget(record.root, record.path)
        self.photos[self.given] = record, code
        self.given += 1


class StoreModel(RuleBasedStateMachine):
    """`held` is by generation; the one before the current one can come back."""

    @initialize()
    def begin(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="hashcli-model-")
        self.library = Library.create(Path(self._scratch.name, "library"))
        self.held: dict[str, Held] = {}
        self.opened: Gallery | None = None
        self.publish([])

    def teardown(self) -> None:
        if hasattr(self, "_scratch"):
            self.close()
            self._scratch.cleanup()

    def close(self) -> None:
        if self.opened:
            self.opened.close()
        self.opened = None

    @property
    def store(self) -> Gallery:
        if self.opened is None:
            self.opened = Gallery.open(folder(self.library.require()), write=True)
        return self.opened

    @property
    def model(self) -> Held:
        return self.held[self.library.require().name]

    def picked(self, places: list[int]) -> list[int]:
        slots = sorted(self.model.photos)
        return sorted({slots[place % len(slots)] for place in places})

    def publish(self, records: list[Record]) -> None:
        """A new generation with these photos, in the order of their paths, as training fills one."""
        with self.library.writing(), self.library.new_generation() as building:
            with Gallery.create(building.folder / "gallery", N_BITS, building.name) as made:
                held = Held(roots={0: b"/studio", 1: b"/phone"})
                for number, path in held.roots.items():
                    assert made.add_root(path, "tgt" if number else "src") == number
                for each in sorted(records, key=lambda r: (r.root, r.path)):
                    held.add(each, code(each.digest[-1], building.name))
                if records:
                    made.append([r for r, _ in held.photos.values()], packed(held))
            self.held[building.name] = held
            self.library.publish(building)

    @rule(batch=photos)
    def append(self, batch: list[tuple[int, bytes, int, str | None]]) -> None:
        fresh = [record(*each) for each in batch]
        given = self.model.given
        name = self.library.require().name
        rows = [code(each.digest[-1], name) for each in fresh]
        slots = self.store.append(fresh, np.frombuffer(b"".join(rows), np.uint8).reshape(-1, N_BITS // 8))
        assert slots.tolist() == list(range(given, given + len(fresh)))
        for each, row in zip(fresh, rows, strict=True):
            self.model.add(each, row)

    @precondition(lambda self: self.model.photos)
    @rule(places=picks, mtime=st.integers(-(2**62), 2**62))
    def touch(self, places: list[int], mtime: int) -> None:
        changes = [(s, dataclasses.replace(self.model.photos[s][0], mtime_ns=mtime)) for s in self.picked(places)]
        self.store.replace_records(changes)
        for slot, changed in changes:
            self.model.photos[slot] = changed, self.model.photos[slot][1]

    @precondition(lambda self: self.model.photos)
    @rule(places=picks, to=st.lists(st.tuples(roots, names), min_size=6, max_size=6, unique=True))
    def move(self, places: list[int], to: list[tuple[int, bytes]]) -> None:
        """Also to each other's place, and over others, which are then gone."""
        moving = {
            slot: (dataclasses.replace(self.model.photos[slot][0], root=root, path=path), self.model.photos[slot][1])
            for slot, (root, path) in zip(self.picked(places), to, strict=False)
        }
        self.store.replace_records([(slot, changed) for slot, (changed, _) in moving.items()])
        self.model.photos = {s: held for s, held in self.model.photos.items() if s not in moving}
        for changed, _ in moving.values():
            self.model.forget(changed.root, changed.path)
        self.model.photos |= moving

    @precondition(lambda self: self.model.photos)
    @rule(places=picks)
    def delete(self, places: list[int]) -> None:
        gone = self.picked(places)
        self.store.remove(gone)
        self.model.photos = {s: held for s, held in self.model.photos.items() if s not in gone}

    @rule(root=roots, below=st.sampled_from([b"", b"a", b"c/"]))
    def prune(self, root: int, below: bytes) -> None:
        gone = [s for s, (r, _) in self.model.photos.items() if r.root == root and r.path.startswith(below)]
        self.store.remove(gone)
        self.model.photos = {s: held for s, held in self.model.photos.items() if s not in gone}

    @rule(root=roots, path=st.sampled_from([b"/studio", b"/phone", b"/elsewhere"]))
    def relocate(self, root: int, path: bytes) -> None:
        self.store.set_root(Root(root, path, "tgt" if root else "src"))
        self.model.roots[root] = path

    @rule()
    def new_generation(self) -> None:
        self.close()
        self.publish([held for held, _ in self.model.photos.values()])

    @rule()
    def rollback(self) -> None:
        self.close()
        before = self.library.require()
        with self.library.writing():
            try:
                after = self.library.rollback()
            except LibraryError:
                assert before.parent is None and len(self.held) == 1
            else:
                assert after.name != before.name

    @rule()
    def reopen(self) -> None:
        self.close()
        self.library = Library.open(self.library.folder)

    @rule()
    def fail(self) -> None:
        """A transaction that cannot be is as if it had not been tried."""
        with pytest.raises(ValueError, match="no photo"):
            self.store.remove([*self.model.photos, self.model.given])

    @rule(
        query=st.binary(min_size=8, max_size=8),
        k=st.one_of(st.none(), st.integers(1, 60)),
        radius=st.one_of(st.none(), st.integers(0, 40)),
    )
    def search(self, query: bytes, k: int | None, radius: int | None) -> None:
        asked = np.frombuffer(query, np.uint8)[None] & 3
        ((slots, distances),) = self.store.search(asked, k, 64 if k is None and radius is None else radius)
        found = list(zip(distances.tolist(), slots.tolist(), strict=True))
        all_ = [
            (int(np.bitwise_count(asked[0] ^ np.frombuffer(row, np.uint8)).sum()), slot)
            for slot, (_, row) in self.model.photos.items()
        ]
        assert found == sorted(pair for pair in all_ if radius is None or pair[0] <= radius)[:k]

    @invariant()
    def holds_what_the_dict_holds(self) -> None:
        held = self.model
        slots = sorted(held.photos)
        info = self.store.info()
        assert (info.count, info.slots, self.store.count()) == (len(slots), held.given, len(slots))
        assert list(self.store.scan()) == [(slot, held.photos[slot][0]) for slot in slots]
        assert self.store.records(slots) == [held.photos[slot][0] for slot in slots]
        assert codes.to_words(self.store.codes(slots)).tobytes() == codes.to_words(packed(held)).tobytes()
        assert {root.id: root.path for root in self.store.roots()} == held.roots
        by_path = {(r.root, r.path): slot for slot, (r, _) in held.photos.items()}
        for root in held.roots:
            assert [self.store.slot_of(root, name) for name in NAMES] == [by_path.get((root, name)) for name in NAMES]
            assert set(self.store.slots_by_path(root)) == {s for (r, _), s in by_path.items() if r == root}
        for content in range(6):
            same = [slot for slot in slots if held.photos[slot][0].digest[-1] == content]
            assert self.store.slots_of_digest(bytes(15) + bytes([content])) == same


def packed(held: Held) -> codes.Packed:
    rows = b"".join(held.photos[slot][1] for slot in sorted(held.photos))
    return np.frombuffer(rows, np.uint8).reshape(-1, N_BITS // 8)


def folder(generation: Generation) -> Path:
    return generation.folder / "gallery"


@pytest.mark.parametrize("examples, steps", [(6, 30), pytest.param(150, 60, marks=pytest.mark.slow)])
def test_any_sequence_of_changes_leaves_what_dicts_would_hold(monkeypatch, examples, steps):
    monkeypatch.setattr(gallery, "BLOCK_SLOTS", BLOCK_SLOTS)
    run_state_machine_as_test(
        StoreModel,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
