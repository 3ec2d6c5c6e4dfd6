"""The kernel of `scan` that is always there: each block in a few passes of numpy over what the caches hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashcli.block_header import usual_sums
from hashcli.checksums import Mismatch, folded, segment_starts
from hashcli.codes import Words

Ints = NDArray[np.int64]

_WORD = np.dtype("<u8")
_COMPARED_AT_ONCE = 64  # folding the sums of one block takes nearly as long


class NumpyScan:
    """A search under way. Only distances below `limit` count, of them the `k` least (None: all).

    A block takes as long as a hundred calls of numpy on nothing at all, so each of them counts.
    """

    def __init__(self, queries: Words, limit: int, k: int | None) -> None:
        n_words, n_queries = queries.shape
        self._k, self._n_words, self._unlimited = k, n_words, 64 * n_words + 1
        self._queries = [[np.array(word) for word in query] for query in queries.T]  # numpy is quicker with arrays
        self._limits = [limit] * n_queries
        self._nearest: list[list[int]] = [[]] * n_queries  # the k least distances so far, ascending
        self._found: list[list[tuple[int, Ints, NDArray[Any]]]] = [[] for _ in range(n_queries)]
        self._unchecked: list[tuple[int, bytes]] = []  # their sums are in self._segments
        self._size = -1  # buffers come with the first block

    def block(self, first_slot: int, words: Words, live: NDArray[np.bool_] | None, sums: bytes | None) -> None:
        """Take in planar words (n_words, n). Raises Mismatch, perhaps only some blocks later."""
        self._take_in(first_slot, words.reshape(-1), words.shape[1], live, sums)

    def stored(self, number: int, first_slot: int, slots: int, value: memoryview, header: int) -> bool:
        """As `scan.TopK.stored`."""
        sums = usual_sums(number, bytes(value[:header]), self._n_words, slots)
        n = self._n_words * slots
        if sums is None or len(value) != header + 8 * n:
            return False
        self._take_in(first_slot, np.ndarray(n, _WORD, value, header), slots, None, sums)
        return True

    def _take_in(
        self, first_slot: int, words: Words, n: int, live: NDArray[np.bool_] | None, sums: bytes | None
    ) -> None:
        """The planes behind each other, n words each."""
        if n != self._size:
            self._check()
            self._resize(n)
        differing, ones, total = self._differing, self._ones, self._total
        for number, query in enumerate(self._queries if n else ()):
            out = total
            for plane, word in zip(self._planes, query, strict=True):
                np.bitwise_xor(words[plane], word, out=differing)
                np.bitwise_count(differing, out=out)
                if out is ones:
                    np.add(total, ones, out=total)
                out = ones
            limit = self._limits[number]
            if limit == self._unlimited and self._k is not None:  # nothing is known yet, and all would be near
                counts = np.bincount(total if live is None else total[live])
                limit = min(limit, 1 + int(counts.cumsum().searchsorted(self._k)))
            if total.item(total.argmin()) < limit:  # `min` takes twice as long
                self._take(number, first_slot, (total < limit).nonzero()[0], live)
        if sums is not None:
            np.add.reduceat(words, self._starts, out=self._rows[len(self._unchecked)])
            self._unchecked.append((first_slot, sums))
            if len(self._unchecked) == _COMPARED_AT_ONCE:
                self._check()

    def result(self) -> list[tuple[Ints, Ints]]:
        """As `scan.TopK.result`."""
        self._check()
        return [self._nearest_of(pieces) for pieces in self._found]

    def _nearest_of(self, pieces: list[tuple[int, Ints, NDArray[Any]]]) -> tuple[Ints, Ints]:
        slots = np.concatenate([np.empty(0, np.int64), *(first + near for first, near, _ in pieces)])
        distances = np.concatenate([np.empty(0, np.int64), *(distances for *_, distances in pieces)])
        order = distances.argsort(kind="stable")[: self._k]  # some were near only until nearer ones came
        return slots[order], distances[order]

    def _take(self, number: int, first_slot: int, near: Ints, live: NDArray[np.bool_] | None) -> None:
        if live is not None:
            near = near[live[near]]
        distances = self._total[near]
        if self._k is not None:
            nearer = distances if len(near) <= self._k else np.sort(distances, kind="stable")[: self._k]
            self._nearest[number] = nearest = sorted(self._nearest[number] + nearer.tolist())[: self._k]
            if len(nearest) == self._k:
                self._limits[number] = nearest[-1]
        self._found[number].append((first_slot, near, distances))

    def _check(self) -> None:
        if self._unchecked:
            slots, sums = zip(*self._unchecked, strict=True)
            self._unchecked.clear()
            expected = np.frombuffer(b"".join(sums), _WORD).reshape(len(slots), -1)
            wrong = (folded(self._segments[: len(slots)]) != expected).any(axis=1)
            if wrong.any():
                raise Mismatch(slots[int(wrong.argmax())])

    def _resize(self, n: int) -> None:
        """Buffers for blocks of n slots: to allocate and clear them each time would cost as much as the arithmetic."""
        self._size = n
        counts: type[np.uint8 | np.uint16] = np.uint8 if self._n_words < 4 else np.uint16  # four may differ in 256 bits
        self._differing, self._ones, self._total = np.empty(n, np.uint64), np.empty(n, np.uint8), np.empty(n, counts)
        self._planes = [slice(n * plane, n * (plane + 1)) for plane in range(self._n_words)]
        self._starts = segment_starts(self._n_words, n)
        self._segments = np.empty((_COMPARED_AT_ONCE, self._n_words, len(self._starts) // self._n_words), np.uint64)
        self._rows = list(self._segments.reshape(_COMPARED_AT_ONCE, len(self._starts)))
