"""The feature cache: what is put comes back, or is known to be damaged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from hashcli import features
from hashcli.errors import DamagedError, MachineError, NewerFormatError
from hashcli.features import DamagedRows, FeatureCache
from hashcli.library import Library
from hashcli.ranking import cached_features
from tests import tiny

DIM = 6


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(features, "SHARD_ROWS", 8)


@pytest.fixture
def cache(tmp_path):
    with FeatureCache(tmp_path / "f", DIM) as cache:
        yield cache


def digests(*numbers: int) -> list[bytes]:
    return [n.to_bytes(16, "big") for n in numbers]


def rows_of(*numbers: int) -> np.ndarray:
    """A feature that tells which photo it belongs to."""
    return (np.array(numbers)[:, None] + np.arange(DIM) / 8).astype(np.float16)


def put(cache: FeatureCache, *numbers: int) -> np.ndarray:
    return cache.append(digests(*numbers), rows_of(*numbers))


def test_features_come_back_in_any_order_and_across_shards(cache):
    put(cache, *range(5))
    put(cache, *range(5, 30))
    asked = [29, 0, 8, 7, 7, 15, 16]

    rows = cache.rows(digests(*asked))

    assert (cache.take(rows) == rows_of(*asked)).all()
    assert cache.take(rows).dtype == np.float16
    assert cache.count() == 30
    assert cache.size_bytes() > 30 * (DIM * 2 + 24)
    assert cache.take(np.empty(0, np.int64)).shape == (0, DIM)


def test_unknown_digests_have_no_row(cache):
    put(cache, 1)
    assert cache.rows(digests(2, 1, 3)).tolist() == [-1, 0, -1]
    assert cache.rows([]).dtype == np.int64


def test_photos_that_are_here_keep_their_feature(cache):
    first = put(cache, 1, 2)
    again = cache.append(digests(2, 3, 3), rows_of(50, 3, 60))

    assert again.tolist() == [first[1], 2, 2]
    assert (cache.take(again) == rows_of(2, 3, 3)).all()
    assert cache.count() == 3


def test_another_opening_sees_all(tmp_path):
    with FeatureCache(tmp_path / "f", DIM) as cache:
        put(cache, *range(20))
    with FeatureCache(tmp_path / "f", DIM, write=False) as cache:
        assert (cache.take(cache.rows(digests(*range(20)))) == rows_of(*range(20))).all()
        assert cache.verify() == []


def test_wrong_shapes_are_the_callers_mistake(cache):
    with pytest.raises(ValueError, match=r"\(2, 6\), got float16 \(2, 5\)"):
        cache.append(digests(1, 2), np.zeros((2, 5), np.float16))
    with pytest.raises(ValueError, match="float32"):
        cache.append(digests(1), np.zeros((1, DIM), np.float32))


def test_every_flipped_byte_of_a_row_is_noticed_and_named(cache, tmp_path):
    rows = put(cache, *range(10))
    shard = tmp_path / "f" / "shard-00001.bin"
    whole = shard.read_bytes()
    size = len(whole) // 2
    for place in range(size, 2 * size):  # the second row of the second shard: photo 9
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        shard.write_bytes(damaged)
        with pytest.raises(DamagedRows, match=digests(9)[0].hex()) as caught:
            cache.take(rows)
        assert caught.value.rows == [9]
        assert cache.verify() == [9]
    assert (cache.take(rows[:9]) == rows_of(*range(9))).all()


def test_forgotten_rows_can_be_made_again(cache, tmp_path):
    rows = put(cache, *range(10))
    shard = tmp_path / "f" / "shard-00000.bin"
    shard.write_bytes(bytes(100) + shard.read_bytes()[100:])
    bad = cache.verify()
    assert bad == [0, 1, 2]

    cache.forget(bad)

    assert cache.rows(digests(0, 1, 2, 3)).tolist() == [-1, -1, -1, 3]
    assert cache.count() == 7
    assert put(cache, 0, 1, 2).tolist() == [10, 11, 12]
    assert (cache.take(cache.rows(digests(*range(10)))) == rows_of(*range(10))).all()
    assert rows[3] == 3


def test_damaged_rows_of_given_contents_are_dropped_and_no_others(cache, tmp_path):
    put(cache, *range(20))
    for number in (0, 2):
        os.truncate(tmp_path / "f" / f"shard-{number:05d}.bin", 50)
    assert cache.drop_damaged(digests(9, 3, 3, 4, 77)) == 2
    assert cache.rows(digests(3, 4, 5, 9)).tolist() == [-1, -1, 5, 9]
    assert cache.drop_damaged(digests(3, 4, 9)) == 0


@pytest.mark.parametrize("left", [0, 50])
def test_cut_off_and_missing_shards_are_damage_not_a_crash(cache, tmp_path, left):
    rows = put(cache, *range(10))
    shard = tmp_path / "f" / "shard-00000.bin"
    if left:
        os.truncate(shard, left)
    else:
        shard.unlink()
    with pytest.raises(DamagedRows):
        cache.take(rows)
    assert cache.verify() == list(range(1 if left else 0, 8))


def test_a_damaged_or_hidden_index_entry_is_damage_and_not_absence(cache):
    put(cache, 1, 2)
    (key,) = digests(1)
    for spoil in (lambda t: t.put(key, b"\x01" + bytes(11)), lambda t: t.delete(key)):
        cache._env.write(spoil)
        with pytest.raises(DamagedError, match="index of cached features"):
            cache.rows(digests(1))
        with pytest.raises(DamagedError, match="index of cached features"):
            cache.verify()


def test_what_a_crash_left_behind_the_last_row_is_overwritten(cache, tmp_path):
    put(cache, 1, 2, 3)
    with open(tmp_path / "f" / "shard-00000.bin", "ab") as shard:
        shard.write(b"torn" * 9)

    put(cache, 4, 5)

    assert (cache.take(cache.rows(digests(1, 2, 3, 4, 5))) == rows_of(1, 2, 3, 4, 5)).all()
    assert cache.verify() == []


def test_a_commit_that_fails_leaves_the_cache_as_it_was(cache, monkeypatch):
    put(cache, 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="No space left"):
        put(cache, 2, 3)
    monkeypatch.undo()

    assert cache.rows(digests(1, 2, 3)).tolist() == [0, -1, -1]
    assert put(cache, 3).tolist() == [1]


WRITER = """
import sys
from pathlib import Path
import numpy as np
from hashcli import features
features.SHARD_ROWS = 8
with features.FeatureCache(Path(sys.argv[1]), 6) as cache:
    for n in range(100000):
        feature = (np.array([[n % 1000]]) + np.arange(6) / 8).astype(np.float16)
        cache.append([n.to_bytes(16, "big")], feature)
        print(n, flush=True)
"""


def test_readers_beside_a_writer_that_is_killed_see_whole_rows(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "f"], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    with writer.stdout as out:
        assert out.readline() == "0\n"
        with FeatureCache(tmp_path / "f", DIM, write=False) as cache:
            while (n := cache.count()) < 40:
                numbers = range(n)
                assert (cache.take(cache.rows(digests(*numbers))) == rows_of(*numbers)).all()
        writer.send_signal(signal.SIGKILL)
        said = int(out.read().split()[-1])
        writer.wait(60)

    with FeatureCache(tmp_path / "f", DIM) as cache:
        assert cache.count() >= said + 1  # nothing that was told to be there is lost
        assert cache.verify() == []
        put(cache, 900)
        assert (cache.take(cache.rows(digests(900))) == rows_of(900)).all()


def test_formats_are_checked(tmp_path):
    FeatureCache(tmp_path / "f", DIM).close()
    path = tmp_path / "f" / "format.json"
    with pytest.raises(DamagedError):
        FeatureCache(tmp_path / "f", DIM + 1)
    path.write_text(json.dumps({"format": "hashcli-features", "version": 2, "dim": DIM, "more": 1}))
    with pytest.raises(NewerFormatError, match="version 2"):
        FeatureCache(tmp_path / "f", DIM)
    for text in ('{"format": "other", "version": 1}', "[]", "{", '"'):
        path.write_text(text)
        with pytest.raises(DamagedError, match=r"format\.json"):
            FeatureCache(tmp_path / "f", DIM)


def test_the_format_on_disk_is_version_1(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD_ROWS", 16384)
    with FeatureCache(tmp_path / "f", 2) as cache:
        cache.append([b"0123456789abcdef"], np.array([[1, -2]], np.float16))
    assert json.loads((tmp_path / "f" / "format.json").read_text()) == {
        "format": "hashcli-features",
        "version": 1,
        "dim": 2,
    }
    assert (tmp_path / "f" / "shard-00000.bin").read_bytes().hex() == (
        b"0123456789abcdef".hex() + "0ea09d662b5394e8" + np.array([1, -2], "<f2").tobytes().hex()
    )


def test_a_reader_of_a_cache_that_is_dropped_finds_nothing_and_no_damage(tmp_path):
    library = Library.create(tmp_path / "library")
    spec = tiny.backbone(tmp_path / "backbone").spec
    with library.features(spec) as cache:
        cache.append(digests(1, 2), np.ones((2, spec.dim), np.float16))
    reader, progress = library.kept_features(spec), tiny.Heard()
    assert all(feature is not None for feature in cached_features(reader, digests(1, 2), progress))

    library.drop_features()

    assert cached_features(reader, digests(1, 2), progress) == [None, None]
    assert progress.said == []
    assert library.kept_features(spec) is None


def test_a_cache_that_is_dropped_while_it_is_opened_is_none(tmp_path, monkeypatch):
    library = Library.create(tmp_path / "library")
    spec = tiny.backbone(tmp_path / "backbone").spec
    library.features(spec).close()
    read = features._read_format
    monkeypatch.setattr(features, "_read_format", lambda path: library.drop_features() or read(path))

    assert library.kept_features(spec) is None
