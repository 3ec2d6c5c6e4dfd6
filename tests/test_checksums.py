"""What damage the checksum of a block's codes tells."""

from __future__ import annotations

import numpy as np
import pytest

from hashcli import checksums


@pytest.mark.parametrize("n", [0, 1, 2, 127, 128, 129, 1000, 1024])
def test_sums_are_what_their_definition_says(n):
    words = np.random.default_rng(n).integers(0, 2**64, (2, n), dtype=np.uint64)
    expected = []
    for plane in words.tolist():
        total, factor = 0, 1
        for start in range(0, n, 128):
            x = sum(plane[start : start + 128]) % 2**64
            total += (x ^ x >> 32) * factor
            factor *= 0x9E3779B97F4A7C15
        expected.append(total % 2**64)
    assert np.frombuffer(checksums.plane_sums(words), "<u8").tolist() == expected


def test_flipped_bits_of_one_word_change_the_sums_however_many():
    rng = np.random.default_rng(3)
    words = rng.integers(0, 2**64, (1, 1100), dtype=np.uint64)
    good = checksums.plane_sums(words)
    flips = [*(1 << np.arange(64, dtype=np.uint64)), *rng.integers(1, 2**64, 50, dtype=np.uint64)]
    for place in [*range(0, 1100, 13), 1023, 1099]:
        for flip in flips:
            words[0, place] ^= flip
            assert checksums.plane_sums(words) != good
            words[0, place] ^= flip


def test_the_highest_bits_of_two_segments_do_not_make_up_for_each_other():
    words = np.random.default_rng(5).integers(0, 2**64, (1, 1024), dtype=np.uint64)
    good = checksums.plane_sums(words)
    words[0, [0, 1000]] ^= np.uint64(1 << 63)
    assert checksums.plane_sums(words) != good


def test_exchanged_zeroed_and_repeated_pages_change_the_sums():
    rng = np.random.default_rng(4)
    words = rng.integers(0, 2**64, (1, 16384), dtype=np.uint64)
    good = checksums.plane_sums(words)
    for offset in (0, 226):  # where pages begin in a block, in words, is no multiple of anything
        for _ in range(25):
            a, b = rng.choice(31, 2, replace=False) * 512 + offset
            exchanged, zeroed, repeated = words.copy(), words.copy(), words.copy()
            exchanged[0, a : a + 512], exchanged[0, b : b + 512] = words[0, b : b + 512], words[0, a : a + 512]
            zeroed[0, a : a + 512] = 0
            repeated[0, a : a + 512] = words[0, b : b + 512]
            for wrong in (exchanged, zeroed, repeated):
                assert checksums.plane_sums(wrong) != good
