"""Blocks as they are stored, taken in by each kernel at once or after their headers were read."""

from __future__ import annotations

import numpy as np
import pytest

from hashcli import blocks, codes, scan
from hashcli.errors import DamagedError, HashcliError

CAPACITY, NUMBER = 16, 3


@pytest.fixture(params=sorted({scan.kernels()[0], "numpy"}), autouse=True)
def kernel(request, monkeypatch):
    """The fastest, and the one that is always there."""
    monkeypatch.setenv("HASHCLI_KERNEL", request.param)


@pytest.fixture
def packed(rng):
    return rng.integers(0, 256, (11, 9), dtype=np.uint8)


def stored(packed, removed=()):
    block = blocks.extended(blocks.empty(NUMBER, CAPACITY, 2), codes.to_words(packed))
    if removed:
        block = blocks.without(block, np.array(removed) + NUMBER * CAPACITY)
    return blocks.encode(block)


def found(value, packed):
    """As `block_search.search` does with one block."""
    top = scan.TopK(codes.to_words(packed[:1]), 4)
    first = NUMBER * CAPACITY
    if not top.stored(NUMBER, first, len(packed), memoryview(value), blocks.header_size(CAPACITY)):
        block = blocks.decode(NUMBER, value, CAPACITY, 2)
        if block.slots != len(packed):
            raise DamagedError("so many slots cannot be in it")
        top.block(first, block.planes, block.live(), block.sums)
    ((slots, _),) = top.result()
    return (slots - first).tolist()


def test_stored_blocks_are_found_in_with_and_without_tombstones(packed):
    order = np.argsort(codes.distances(packed[:1], packed)[0], kind="stable").tolist()
    assert found(stored(packed), packed) == order[:4]
    assert found(stored(packed, order[:2]), packed) == order[2:6]


@pytest.mark.parametrize("removed", [(), (2, 10)])
def test_no_flipped_bit_of_a_stored_block_passes(packed, removed):
    value = stored(packed, removed)
    for place in range(len(value)):
        for bit in range(8):
            flipped = bytearray(value)
            flipped[place] ^= 1 << bit
            with pytest.raises((HashcliError, scan.Mismatch)):
                found(bytes(flipped), packed)


def test_blocks_that_are_cut_lengthened_or_in_another_ones_place_do_not_pass(packed):
    value = stored(packed)
    elsewhere = blocks.encode(blocks.decode(NUMBER, value, CAPACITY, 2)._replace(number=NUMBER + 1))
    for wrong in (value[:-8], value[:-1], value + bytes(16), value[:100], value[:3], b"", elsewhere):
        with pytest.raises(DamagedError):
            found(wrong, packed)
