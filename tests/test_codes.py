"""Codes in memory, against bits compared one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from hashcli import codes
from hashcli.errors import UsageError

WIDTHS = st.integers(2, 128).map(lambda n: 8 * n)
SEEDS = st.integers(0, 2**32 - 1)


def random_bits(seed, n, n_bits):
    return np.random.default_rng(seed).integers(0, 2, (n, n_bits), dtype=np.uint8)


@given(SEEDS, st.integers(0, 40), WIDTHS)
def test_packing_and_words_lose_no_bit(seed, n, n_bits):
    bits = random_bits(seed, n, n_bits)

    packed = codes.pack(bits)
    words = codes.to_words(packed)

    assert packed.shape == (n, n_bits // 8)
    assert words.shape == (-(-n_bits // 64), n)
    assert_array_equal(codes.unpack(packed, n_bits), bits)
    assert_array_equal(codes.from_words(words, n_bits), packed)


def test_bit_i_is_bit_i_modulo_8_of_byte_i_over_8_and_bit_i_modulo_64_of_word_i_over_64():
    for i in range(80):
        bits = np.zeros((1, 80), np.uint8)
        bits[0, i] = 1
        packed = codes.pack(bits)
        words = codes.to_words(packed)
        assert packed[0, i // 8] == 1 << i % 8
        assert packed.sum() == 1 << i % 8
        assert words[i // 64, 0] == 1 << i % 64
        assert words[1 - i // 64, 0] == 0


@given(SEEDS, st.integers(0, 6), st.integers(0, 30), WIDTHS)
def test_distance_is_the_number_of_differing_bits(seed, q, n, n_bits):
    queries, gallery = random_bits(seed, q, n_bits), random_bits(seed + 1, n, n_bits)

    found = codes.distances(codes.pack(queries), codes.pack(gallery))

    assert found.dtype == np.uint16
    assert_array_equal(found, (queries[:, None] != gallery[None]).sum(-1))


def test_distances_in_pieces_equal_distances_at_once(monkeypatch):
    queries, gallery = codes.pack(random_bits(1, 23, 96)), codes.pack(random_bits(2, 50, 96))
    at_once = codes.distances(queries, gallery)

    monkeypatch.setattr(codes, "_PAIRS_AT_ONCE", 120)

    assert_array_equal(codes.distances(queries, gallery), at_once)


def test_opposite_codes_of_1024_bits_are_1024_apart():
    zeros = codes.pack(np.zeros((1, 1024), np.uint8))

    assert codes.distances(zeros, ~zeros).item() == 1024


def test_a_bit_is_set_where_the_relaxed_code_is_not_negative():
    relaxed = np.zeros((1, 16), np.float32)
    relaxed[0, :5] = [0.0, -0.0, 1e-30, -1e-30, np.inf]

    bits = codes.unpack(codes.from_relaxed(relaxed), 16)

    assert bits[0, :6].tolist() == [1, 1, 1, 0, 1, 1]


def test_nan_has_no_sign():
    relaxed = np.ones((3, 16))
    relaxed[1, 2] = np.nan
    with pytest.raises(ValueError, match="1 of 3 relaxed codes hold NaN"):
        codes.from_relaxed(relaxed)


@pytest.mark.parametrize("n_bits", [0, 8, 12, 63, 1032, -64])
def test_impossible_code_lengths_are_usage_errors_naming_the_number(n_bits):
    with pytest.raises(UsageError, match=f"cannot have {n_bits} bits") as caught:
        codes.check_n_bits(n_bits)
    assert "--bits" in caught.value.hint


@pytest.mark.parametrize("n_bits", [16, 24, 64, 1024])
def test_possible_code_lengths_pass(n_bits):
    codes.check_n_bits(n_bits)


@pytest.mark.parametrize(
    "call",
    [
        lambda: codes.pack(np.zeros((2, 12), np.uint8)),
        lambda: codes.pack(np.zeros(16, np.uint8)),
        lambda: codes.pack(np.full((2, 16), 2, np.uint8)),
        lambda: codes.pack(np.full((2, 16), -1, np.int8)),
        lambda: codes.unpack(np.zeros((2, 3), np.uint8), 16),
        lambda: codes.to_words(np.zeros((2, 3), np.int64)),
        lambda: codes.from_words(np.zeros((2, 3), np.uint64), 64),
        lambda: codes.distances(np.zeros((2, 3), np.uint8), np.zeros((2, 4), np.uint8)),
    ],
)
def test_wrong_shapes_and_types_are_value_errors(call):
    with pytest.raises(ValueError, match=r"\(|must be"):
        call()
