"""Exact Hamming search over blocks of planar words: one pass per block serves all queries and sums the block.

The pass is made by `_scan.c` where it was built, else by `scan_numpy`, with equal answers.
"""

from __future__ import annotations

import itertools
import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashcli.checksums import Mismatch
from hashcli.codes import Words
from hashcli.scan_numpy import Ints, NumpyScan

__all__ = ["Ints", "Mismatch", "TopK", "kernel", "kernels"]

_compiled: Any
try:
    from hashcli import _scan as _compiled  # type: ignore[attr-defined, no-redef, unused-ignore]
except ImportError:
    _compiled = None


def kernels() -> list[str]:
    """The kernels that work here, the fastest first, "numpy" last."""
    compiled: list[str] = _compiled.names() if _compiled is not None and sys.byteorder == "little" else []
    return [*compiled, "numpy"]


def kernel() -> str:
    """The kernel in use: the fastest, or the one that HASHCLI_KERNEL names."""
    known = kernels()
    wanted = os.environ.get("HASHCLI_KERNEL", "")
    return wanted if wanted in known else known[0]


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
        self._n_words, n_queries = queries.shape
        bins = 64 * self._n_words + 1
        # a slot counts for a query only below its limit: the radius at first, then the k-th distance so far
        limit = bins if radius is None else min(radius + 1, bins)
        self._next_slot = 0
        chosen = kernel() if n_queries else "numpy"
        self._scan: _CompiledScan | NumpyScan
        self._scan = NumpyScan(queries, limit, k) if chosen == "numpy" else _CompiledScan(chosen, queries, limit, k)

    def block(
        self,
        first_slot: int,
        planes: memoryview | bytes,
        live: NDArray[np.bool_] | None = None,
        sums: bytes | None = None,
    ) -> None:
        """Take in slots first_slot, first_slot + 1, ...: planar words (n_words, n); live (n,) False leaves out.

        Where the words do not have the checksums `sums` (`checksums.plane_sums`), this or a later call, `result` at
        the latest, raises Mismatch. Blocks must come in slot order.
        """
        if first_slot < self._next_slot:
            raise ValueError(f"slot {first_slot} comes after slot {self._next_slot - 1}")
        n, rest = divmod(len(planes), 8 * self._n_words)
        if rest:
            raise ValueError(f"queries of {self._n_words} words met a block of {len(planes)} bytes")
        self._next_slot = first_slot + n
        words: Words = np.ndarray((self._n_words, n), "<u8", planes)
        self._scan.block(first_slot, words, live, sums)

    def stored(self, number: int, first_slot: int, slots: int, value: memoryview, header: int) -> bool:
        """Take in a whole value of the database, if the kernel can and it is the block `number` without removed slots.

        header: its size. Otherwise False: `blocks.decode` can tell why, and `block` takes in what is sound. Raises
        Mismatch.
        """
        taken = self._scan.stored(number, first_slot, slots, value, header)
        if taken:
            self._next_slot = first_slot + slots
        return taken

    def result(self) -> list[tuple[Ints, Ints]]:
        """Per query (slots, distances), ordered by distance, then slot. Raises Mismatch."""
        return self._scan.result()


class _CompiledScan:
    """As `NumpyScan`, by a kernel of `_scan.c`."""

    def __init__(self, name: str, queries: Words, limit: int, k: int | None) -> None:
        self._search = _compiled.start(name, len(queries), np.ascontiguousarray(queries.T), limit, k or 0)

    def block(self, first_slot: int, words: Words, live: NDArray[np.bool_] | None, sums: bytes | None) -> None:
        if _compiled.block(self._search, words, first_slot, live) != sums and sums is not None:
            raise Mismatch(first_slot)

    def stored(self, number: int, first_slot: int, slots: int, value: memoryview, header: int) -> bool:
        same: bool | None = _compiled.stored(self._search, number, first_slot, slots, value, header)
        if same is False:
            raise Mismatch(first_slot)
        return same is True

    def result(self) -> list[tuple[Ints, Ints]]:
        slots, distances, ends = (np.frombuffer(words, np.int64) for words in _compiled.result(self._search))
        return [(slots[a:b], distances[a:b]) for a, b in itertools.pairwise([0, *ends.tolist()])]
