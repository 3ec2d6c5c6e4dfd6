"""Files known by their stat, and contents known to fail."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from hashcli import photos
from hashcli.identity import RACY_NS, IdentityCache
from hashcli.photos import PhotoFile

NOW = 1_700_000_000_000_000_000
OLD = NOW - 3600 * 10**9


def file(name: bytes = b"a.jpg", **changes) -> PhotoFile:
    return replace(PhotoFile(b"/photos", name, 1000, OLD, OLD, 7), **changes)


@pytest.fixture
def cache(tmp_path):
    with IdentityCache(tmp_path / "identity") as cache:
        yield cache


def digest(n: int) -> bytes:
    return bytes([n]) * photos.DIGEST_SIZE


def test_a_file_is_known_until_its_stat_changes(cache):
    cache.put([(file(), digest(1)), (file(b"b.jpg"), digest(2))], NOW)

    assert cache.get([file(b"b.jpg"), file(), file(b"c.jpg")]) == [digest(2), digest(1), None]
    changed = [file(size=1001), file(mtime_ns=OLD + 1), file(ctime_ns=OLD + 1), file(inode=8)]
    assert cache.get(changed) == [None] * 4
    assert cache.get([file(root=b"/", path=b"photos/a.jpg")]) == [digest(1)]


def test_a_file_put_again_is_known_as_it_is_now(cache):
    cache.put([(file(), digest(1))], NOW)
    cache.put([(file(size=5), digest(2))], NOW)
    assert cache.get([file(), file(size=5)]) == [None, digest(2)]


@pytest.mark.parametrize(
    ("mtime", "ctime", "trusted"),
    [
        (OLD, OLD, True),
        (NOW - RACY_NS - 1, NOW - RACY_NS - 1, True),
        (NOW - RACY_NS + 1, NOW - RACY_NS + 1, False),
        (OLD, NOW - 1, False),  # its date was set back
        (NOW - 1, OLD, False),
        (OLD, NOW + 10**9, False),  # changed after reading began
        (NOW + 10**18, OLD, True),  # dated 2055, long ago
        (-(2**31) * 10**9, OLD, True),  # dated 1901
    ],
)
def test_files_that_changed_just_before_they_were_read_are_not_trusted(cache, mtime, ctime, trusted):
    recent = file(mtime_ns=mtime, ctime_ns=ctime)
    cache.put([(recent, digest(1))], NOW)
    assert cache.get([recent]) == [digest(1) if trusted else None]


def test_an_edit_of_equal_size_in_the_same_second_is_seen(cache, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    before = photos.stat_photo(os.fsencode(path), b"")
    cache.put([(before, photos.digest(b"one"))], time.time_ns())
    path.write_bytes(b"two")
    os.utime(path, ns=(before.mtime_ns, before.mtime_ns))

    assert cache.get([photos.stat_photo(os.fsencode(path), b"")]) == [None]


def test_failures_belong_to_contents_and_a_rule(cache):
    cache.put_failures([(digest(1), "is empty"), (digest(2), "naïve \udcff")], "rule 1")

    assert cache.failures([digest(2), None, digest(1), digest(3)], "rule 1") == ["naïve ?", None, "is empty", None]
    assert cache.failures([digest(1)], "rule 2") == [None]


def test_any_flipped_byte_makes_a_value_unknown(cache):
    cache.put([(file(), digest(1))], NOW)
    with cache._env.reading() as transaction:
        ((key, value),) = [(bytes(k), bytes(v)) for k, v in transaction.cursor()]
    for place in range(len(value)):
        damaged = bytearray(value)
        damaged[place] ^= 1
        cache._env.write(lambda transaction, v=bytes(damaged): transaction.put(key, v))
        assert cache.get([file()]) == [None]
    cache._env.write(lambda transaction: transaction.put(key, value[:3]))
    assert cache.get([file()]) == [None]


def test_long_paths_and_another_opening(tmp_path):
    deep = file(b"d" * 200 + b"/" + b"\xff" * 4000)
    with IdentityCache(tmp_path / "i") as cache:
        cache.put([(deep, digest(9))], NOW)
    with IdentityCache(tmp_path / "i", write=False) as cache:
        assert cache.get([deep]) == [digest(9)]
