"""The gallery on disk: what any store must do, what damage must show, and what LMDB must not do to us."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading

import lmdb
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hashcli import blocks, codes, environment, gallery, mounts, seals
from hashcli.errors import DamagedError, LibraryError, MachineError, NewerFormatError, UsageError
from hashcli.gallery import Gallery, Record, Root

N_BITS = 72


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks from a handful of photos."""
    monkeypatch.setattr(gallery, "BLOCK_SLOTS", 16)


@pytest.fixture(params=[Gallery])
def store(request, tmp_path):
    """An empty store of codes of N_BITS bits; another engine would join the list."""
    made = request.param.create(tmp_path / "store", N_BITS, "digest of the hasher")
    yield made
    made.close()


def record(number, root=0, **changes):
    plain = Record(root, b"%05d.jpg" % number, 1000 + number, -number, number.to_bytes(16, "big"), None, "tgt")
    return dataclasses.replace(plain, **changes)


def random_codes(rng, n, n_bits=N_BITS):
    return rng.integers(0, 256, (n, n_bits // 8), dtype=np.uint8)


# ---- what any store must do


def test_an_empty_store_finds_nothing_and_says_what_it_is(store, rng):
    assert store.count() == 0
    assert store.n_bits == N_BITS
    assert store.hasher_digest == "digest of the hasher"
    assert list(store.scan()) == store.roots() == store.slots_of_digest(bytes(16)) == []
    assert store.slot_of(0, b"a") is None
    assert [len(slots) for slots, _ in store.search(random_codes(rng, 2), 5)] == [0, 0]
    assert store.append([], random_codes(rng, 0)).tolist() == []


def test_what_went_in_comes_out(store, rng):
    odd = [
        record(0, path=b"\xff\xfe odd \n bytes.jpg", label="\udcff label é", domain="src"),
        record(1, path=b"d/" * 2000 + b"deep.jpg", label=""),
        record(2, size=2**40, mtime_ns=-(2**62)),
        record(3, path=b"d/" * 2000 + b"deeq.jpg", root=7),
    ]
    packed = random_codes(rng, 4)

    slots = store.append(odd, packed)

    assert slots.tolist() == [0, 1, 2, 3]
    assert store.records(slots) == odd
    assert list(store.scan()) == list(enumerate(odd))
    assert [store.slot_of(r.root, r.path) for r in odd] == [0, 1, 2, 3]
    assert_array_equal(store.codes([2, 0, 2]), packed[[2, 0, 2]])


def test_slots_are_never_given_twice(store, rng):
    store.append([record(i) for i in range(20)], random_codes(rng, 20))
    store.remove(range(20))

    slots = store.append([record(0)], random_codes(rng, 1))

    assert slots.tolist() == [20]
    assert store.info().slots == 21
    assert store.count() == 1


def test_a_path_appended_again_passes_to_its_new_slot(store, rng):
    packed = random_codes(rng, 3)
    store.append([record(0), record(1)], packed[:2])
    store.append([record(0, size=5)], packed[2:])

    assert store.slot_of(0, record(0).path) == 2
    assert [slot for slot, _ in store.scan()] == [1, 2]
    assert 0 not in store.search(packed[:1], 9)[0][0]
    assert store.slots_of_digest(record(0).digest) == [2]


def test_photos_that_move_keep_slot_and_code_and_may_trade_places(store, rng):
    packed = random_codes(rng, 3)
    store.append([record(0), record(1), record(2)], packed)

    store.replace_records([(0, record(1, digest=record(0).digest)), (1, record(0, digest=record(1).digest))])
    store.replace_records([(0, record(2, digest=record(0).digest))])

    assert [store.slot_of(0, record(i).path) for i in range(3)] == [1, None, 0]
    assert store.count() == 2, "the photo that was there has gone"
    assert_array_equal(store.codes([0, 1]), packed[:2])
    assert store.search(packed[:1], 1)[0][0].tolist() == [0]
    assert store.slots_of_digest(record(0).digest) == [0]
    assert store.slots_of_digest(record(2).digest) == []


def test_roots_keep_their_ids(store):
    assert store.add_root(b"/photos/a", "src") == 0
    assert store.add_root(b"/photos/\xff", "tgt") == 1
    assert store.add_root(b"/photos/a", "tgt") == 0
    assert store.roots() == [Root(0, b"/photos/a", "tgt"), Root(1, b"/photos/\xff", "tgt")]


@pytest.mark.parametrize(
    "misuse",
    [
        lambda store, packed: store.append([record(0)], packed),
        lambda store, packed: store.append([record(0), record(0)], packed),
        lambda store, packed: store.append([record(0), record(1, digest=b"short")], packed),
        lambda store, packed: store.append([record(0), record(1, path=b"")], packed),
        lambda store, packed: store.append([record(0), record(1)], packed[:, :4]),
        lambda store, packed: store.remove([5, 99]),
        lambda store, packed: store.remove([-1]),
        lambda store, packed: store.replace_records([(99, record(0))]),
        lambda store, packed: store.records([99]),
        lambda store, packed: store.codes([99]),
        lambda store, packed: store.codes([-1]),
        lambda store, packed: store.search(packed[:, :4], 1),
        lambda store, packed: store.search(packed, None, None),
    ],
)
def test_misuse_is_a_value_error_and_changes_nothing(store, rng, misuse):
    before = [record(i) for i in range(5, 15)]
    store.append(before, random_codes(rng, 10))

    with pytest.raises(ValueError, match=r".+"):
        misuse(store, random_codes(rng, 2))

    assert [r for _, r in store.scan()] == before
    assert store.info().slots == 10


@pytest.mark.parametrize("seed", range(4))
def test_any_sequence_of_changes_leaves_what_a_dict_would_hold(store, seed):
    draw, rng = random.Random(seed), np.random.default_rng(seed)
    model: dict[int, tuple[Record, bytes]] = {}
    given = 0
    names = range(60)  # few enough to meet again
    for _ in range(60):
        action = draw.choice(["append", "append", "remove", "move", "search"])
        if action == "append":
            fresh = [
                record(i, digest=bytes(15) + bytes([draw.randrange(9)]))
                for i in draw.sample(names, draw.randrange(1, 25))
            ]
            packed = random_codes(rng, len(fresh)) & 3
            paths = {r.path for r in fresh}
            model = {s: kept for s, kept in model.items() if kept[0].path not in paths}
            model |= {given + i: (r, packed[i].tobytes()) for i, r in enumerate(fresh)}
            assert store.append(fresh, packed).tolist() == list(range(given, given + len(fresh)))
            given += len(fresh)
        elif action == "remove" and model:
            gone = draw.sample(sorted(model), draw.randrange(1, len(model) + 1) // 2)
            model = {s: kept for s, kept in model.items() if s not in gone}
            store.remove(gone)
        elif action == "move" and model:
            moving = draw.sample(sorted(model), min(3, len(model)))
            changes = [
                (s, dataclasses.replace(model[s][0], path=record(i).path))
                for s, i in zip(moving, draw.sample(names, len(moving)), strict=True)
            ]
            paths = {r.path for _, r in changes}
            model = {s: kept for s, kept in model.items() if s in moving or kept[0].path not in paths}
            model |= {s: (r, model[s][1]) for s, r in changes}
            store.replace_records(changes)
        check_against(store, model, rng, draw)


def check_against(store, model, rng, draw):
    slots = sorted(model)
    assert store.count() == len(model)
    assert list(store.scan()) == [(s, model[s][0]) for s in slots]
    assert b"".join(model[s][1] for s in slots) == store.codes(slots).tobytes()
    assert all(store.slot_of(0, model[s][0].path) == s for s in slots)
    for digest in (bytes(15) + bytes([i]) for i in range(9)):
        assert store.slots_of_digest(digest) == [s for s in slots if model[s][0].digest == digest]
    queries = random_codes(rng, 2) & 3
    k, radius = draw.choice([(3, None), (None, 8), (5, 8), (1000, None)])
    held = np.frombuffer(b"".join(model[s][1] for s in slots), np.uint8).reshape(-1, N_BITS // 8)
    for (found, distances), row in zip(store.search(queries, k, radius), codes.distances(queries, held), strict=True):
        pairs = sorted((d, s) for s, d in zip(slots, row.tolist(), strict=True) if radius is None or d <= radius)[:k]
        assert list(zip(distances.tolist(), found.tolist(), strict=True)) == pairs
