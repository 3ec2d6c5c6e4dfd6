"""Exact Hamming search over blocks of planar words: one pass per block serves all queries and sums the block.

The pass is made by `_scan.c` where it was built, else by numpy, with equal answers.
"""

from __future__ import annotations

import itertools
import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashcli.codes import Words

_compiled: Any
try:
    from hashcli import _scan as _compiled  # type: ignore[attr-defined, no-redef, unused-ignore]
except ImportError:
    _compiled = None

Ints = NDArray[np.int64]

# An odd lane count: words that LMDB pages or sectors could exchange never share a lane.
LANES = 1023


def _multipliers() -> Words:
    """One odd number below 2**32 per lane, no two alike, without pattern (a 31-bit integer hash of the lane)."""
    x = np.arange(1, LANES + 1, dtype=np.uint64)
    for factor in (0x9E3779B1, 0x2C1B3C6D, 0x297A2D39):
        x = (x ^ (x >> np.uint64(15))) * np.uint64(factor) & np.uint64(0x7FFFFFFF)
    return (x ^ (x >> np.uint64(16))) << np.uint64(1) | np.uint64(1)


MULTIPLIERS = _multipliers()
_FIND = np.dtype([("slot", np.int64), ("query", np.int32), ("distance", np.int32)])


def kernels() -> list[str]:
    """The kernels that work here, the fastest first, "numpy" last."""
    compiled: list[str] = _compiled.names() if _compiled is not None and sys.byteorder == "little" else []
    return [*compiled, "numpy"]


def kernel() -> str:
    """The kernel in use: the fastest, or the one that HASHCLI_KERNEL names."""
    known = kernels()
    wanted = os.environ.get("HASHCLI_KERNEL", "")
    return wanted if wanted in known else known[0]


def plane_sums(words: Words) -> bytes:
    """Checksums of planar words (n_words, n): 16 bytes per plane, two little-endian 64-bit sums.

    Per plane, word i is added to lane i mod 1023; the lanes, and their upper halves, are multiplied by odd
    numbers and added, all modulo 2**64. A single flipped bit always shows, as do garbage and exchanged pages
    but for a chance of about 2**-64. The lanes are there because adding is the cheapest thing that a
    processor does with a word: multiplying each would double the time of a search.
    """
    n_words, n = words.shape
    whole = n - n % LANES
    lanes = np.add.reduce(words[:, :whole].reshape(n_words, -1, LANES), axis=1)
    lanes[:, : n - whole] += words[:, whole:]
    sums = np.empty((n_words, 2), "<u8")
    sums[:, 0] = np.dot(lanes, MULTIPLIERS)
    sums[:, 1] = np.dot(lanes >> np.uint64(32), MULTIPLIERS)
    return sums.tobytes()


class TopK:
    """The nearest slots of each query, kept while blocks pass by in slot order.

    queries: planar words (n_words, n_queries). `k` nearest, or all within `radius` (inclusive), or the `k`
    nearest within it; equal distances go to the lowest slots.
    """

    def __init__(self, queries: Words, k: int | None, radius: int | None = None) -> None:
        if k is None and radius is None:
            raise ValueError("a search needs k, a radius or both")
        if (k is not None and k < 1) or (radius is not None and radius < 0):
            raise ValueError(f"k must be at least 1 and the radius at least 0, not {k} and {radius}")
        n_words, n_queries = queries.shape
        self._queries, self._k = queries, k
        bins = 64 * n_words + 1
        # a slot counts for query q only below _limits[q]: the radius at first, then the k-th distance so far
        self._limits = np.full(n_queries, bins if radius is None else min(radius + 1, bins), np.int64)
        self._next_slot = 0
        self._kernel = kernel() if n_queries else "numpy"
        if self._kernel != "numpy":
            rows, few = np.ascontiguousarray(queries.T), MULTIPLIERS.astype(np.uint32)
            self._search = _compiled.start(self._kernel, n_words, rows, self._limits, k or 0, few)
            return
        self._histogram = np.zeros((n_queries, bins), np.int64)
        self._found: list[NDArray[Any]] = [np.empty(0, _FIND)]
        self._buffers: tuple[NDArray[Any], ...] = (np.empty(0),) * 3

    def block(self, first_slot: int, planes: memoryview | bytes, live: NDArray[np.bool_] | None = None) -> bytes:
        """Take in slots first_slot, first_slot + 1, ...: planar words (n_words, n); live (n,) False leaves out.

        Returns `plane_sums` of the words, for the caller to compare. Blocks must come in slot order.
        """
        if first_slot < self._next_slot:
            raise ValueError(f"slot {first_slot} comes after slot {self._next_slot - 1}")
        n_words = len(self._queries)
        n, rest = divmod(len(planes), 8 * n_words)
        if rest:
            raise ValueError(f"queries of {n_words} words met a block of {len(planes)} bytes")
        self._next_slot = first_slot + n
        if self._kernel != "numpy":
            sums: bytes = _compiled.block(self._search, planes, first_slot, live)
            return sums
        words: Words = np.ndarray((n_words, n), "<u8", planes)
        if n:
            self._scan(first_slot, words, live)
        return plane_sums(words)

    def _scan(self, first_slot: int, words: Words, live: NDArray[np.bool_] | None) -> None:
        differing, ones, total = self._sized_buffers(len(words), words.shape[1])
        for number in range(self._queries.shape[1]):
            for w, plane in enumerate(words):
                np.bitwise_xor(plane, self._queries[w, number], out=differing)
                np.bitwise_count(differing, out=ones if w else total)
                if w:
                    np.add(total, ones, out=total)
            limit = int(self._limits[number])
            if total[total.argmin()] >= limit:  # `min` takes twice as long
                continue
            near = np.flatnonzero(total < limit)
            if live is not None:
                near = near[live[near]]
            self._take(number, first_slot + near, total[near].astype(np.int64))

    def _sized_buffers(self, n_words: int, n: int) -> tuple[Words, NDArray[np.uint8], NDArray[Any]]:
        """Kept from block to block: at this size, allocating and clearing them costs as much as the arithmetic."""
        if len(self._buffers[0]) < n:
            # four words may differ in 256 bits
            kinds = (np.uint64, np.uint8, np.uint8 if n_words < 4 else np.uint16)
            self._buffers = tuple(np.empty(n, kind) for kind in kinds)
        differing, ones, total = self._buffers
        return differing[:n], ones[:n], total[:n]

    def _take(self, number: int, slots: Ints, distances: Ints) -> None:
        if self._k is not None:
            histogram = self._histogram[number]
            histogram += np.bincount(distances, minlength=len(histogram))
            kth = int(np.searchsorted(histogram.cumsum(), self._k))
            if kth < self._limits[number]:
                self._limits[number] = kth
                kept = distances <= kth
                slots, distances = slots[kept], distances[kept]
        found = np.empty(len(slots), _FIND)
        found["slot"], found["query"], found["distance"] = slots, number, distances
        self._found.append(found)

    def result(self) -> list[tuple[Ints, Ints]]:
        """Per query (slots, distances), ordered by distance, then slot."""
        if self._kernel != "numpy":
            found, lowered = _compiled.finds(self._search)
            finds, limits = np.frombuffer(found, _FIND), np.frombuffer(lowered, np.int64)
        else:
            finds, limits = np.concatenate(self._found), self._limits
        finds = finds[finds["distance"] <= limits[finds["query"]]]  # others were near only until nearer ones came
        finds = finds[np.lexsort((finds["distance"], finds["query"]))]  # stable, and found in the order of slots
        slots, distances = finds["slot"], finds["distance"].astype(np.int64)
        bounds = np.searchsorted(finds["query"], np.arange(self._queries.shape[1] + 1)).tolist()
        ranges = [slice(a, b if self._k is None else min(b, a + self._k)) for a, b in itertools.pairwise(bounds)]
        return [(slots[r], distances[r]) for r in ranges]
