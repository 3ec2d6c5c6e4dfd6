"""The checksum of planar words: cheap enough to be taken of every block that is searched.

A plane's words are added up in segments of 128. Each of these sums x, mixed (x ^ x >> 32), is multiplied by its own
power of an odd constant, and the products are added, all modulo 2**64. Mixing and multiplying lose nothing, so damage
that changes the sum of one segment alone always shows: flipped bits of one word, however many, in particular. So do
zeroed, repeated and exchanged pages, and garbage, but for a chance of 2**-64. What can pass is damage within a segment
that leaves its sum as it was: of two bits flipped at random in a block of 16,384, one pair in 16,000.

Adding is the cheapest thing that a processor does with a word, for numpy as for C; multiplying each would take as long
as the search.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hashcli.codes import Words

SEGMENT = 128
FACTOR = 0x9E3779B97F4A7C15  # also in _scan.c


class Mismatch(Exception):
    """The block whose first slot is `slot` does not have the checksums that were recorded."""

    def __init__(self, slot: int) -> None:
        super().__init__(slot)
        self.slot = slot


def plane_sums(words: Words) -> bytes:
    """Checksums of planar words (n_words, n): 8 bytes per plane, little-endian."""
    n_words, n = words.shape
    segments = np.empty((n_words, -(-n // SEGMENT)), np.uint64)
    if n:  # one call for all planes: where one ends, the next starts
        np.add.reduceat(words.reshape(-1), segment_starts(n_words, n), out=segments.reshape(-1))
    return folded(segments).astype("<u8").tobytes()


@lru_cache(4)  # full blocks, and the last one
def segment_starts(n_words: int, n: int) -> NDArray[np.intp]:
    """Where the segments of planar words (n_words, n) start, plane by plane; each plane's last takes what is left."""
    return (np.arange(n_words)[:, None] * n + np.arange(0, n, SEGMENT)).reshape(-1)


def folded(segments: Words) -> Words:
    """Checksums (...) from the sums of all segments (..., segments)."""
    mixed: Words = segments ^ segments >> np.uint64(32)
    return mixed @ _powers(segments.shape[-1])


@lru_cache(4)
def _powers(n: int) -> Words:
    powers = np.full(n, FACTOR, np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)
