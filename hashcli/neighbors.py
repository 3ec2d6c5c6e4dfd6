"""Which pairs of unlabeled photos are alike: shared neighbors among features, and pairs that learned codes bring near.

Pairs are a symmetric boolean sparse matrix (n, n) without its diagonal, columns in order. Similarities and counts are
made in blocks of rows, so that no n x n matrix ever stands in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # type: ignore[import-untyped]

from hashcli.nearest import nearest

Floats = NDArray[np.float32]
Rows = NDArray[np.int32]
T = TypeVar("T")

_BLOCK_BYTES = 2**27


def neighborhood_size(n: int) -> int:
    """How many neighbors to look at among n photos: 5 %, which is the paper's 500 of 10,000, between 5 and 500."""
    return int(np.clip(round(0.05 * n), 5, 500))


def neighbor_lists(unit: Floats, k: int) -> Rows:
    """The k nearest other rows of each row of `unit` (n, d; unit length), nearest first: (n, min(k, n - 1))."""
    rows, cosines = nearest(unit, unit, k, within=True)
    lists = np.empty(rows.shape, np.int32)
    for block in _blocks(len(rows), 32 * max(rows.shape[1], 1)):
        order = np.lexsort((rows[block], -cosines[block]), axis=1)
        lists[block] = np.take_along_axis(rows[block], order, axis=1)
    return lists


def shared_neighbor_pairs(lists: Rows, k: int) -> sparse.csr_array:
    """The first pairs W0 of DSAH, from neighbor lists (n, k1), nearest first.

    Row i keeps those of its neighbors that are also among the k rows with the most neighbors in common with it;
    of equal counts the nearer counts for more. That is the paper's similarity 1 / (1 + ||w_i - w_j||) of rows of the
    neighbor matrix w in {-1, 1}, because ||w_i - w_j||^2 = 8 (k1 - common). A pair kept by either row is a pair.
    """
    n, width = lists.shape
    k = min(k, n - 1)
    if not width or k < 1:
        return sparse.csr_array((n, n), dtype=np.bool_)
    ones = np.ones(lists.size, np.int32)
    members = sparse.csr_array((ones, lists.ravel(), np.arange(n + 1) * width), shape=(n, n))
    reverse = members.T.tocsr()
    kept = np.empty(lists.shape, np.bool_)

    def keep(rows: slice) -> None:
        common = (members[rows] @ reverse).toarray()
        common[np.arange(len(common)), np.arange(rows.start, rows.stop)] = -1
        least = np.partition(common, n - k, axis=1)[:, n - k, None]
        room = k - (common > least).sum(1, keepdims=True)
        mine = np.take_along_axis(common, lists[rows], axis=1)
        # no row outside the list is nearer than those in it, so that ties go to the list, in its order
        tied = mine == least
        kept[rows] = (mine > least) | (tied & (tied.cumsum(1) <= room))

    _for_blocks(keep, n, 16 * n)
    first, place = np.nonzero(kept)
    return _pairs(first, lists[first, place], n)


def mutual_pairs(source: Floats, target: Floats, k: int) -> sparse.csr_array:
    """Rows of two domains that are among each other's k nearest of the other domain, over the source rows, then
    the target rows: (n_s + n_t, n_s + n_t). Rows have unit length.
    """
    there = nearest(source, target, k)[0]
    back = nearest(target, source, k)[0]
    n_source, n = len(source), len(source) + len(target)
    first = _directed(np.arange(n_source).repeat(there.shape[1]), n_source + there.ravel(), n)
    second = _directed(back.ravel(), (n_source + np.arange(len(target))).repeat(back.shape[1]), n)
    both = (first * second).tocoo()
    return _pairs(both.row, both.col, n)


def union(first: sparse.csr_array, second: sparse.csr_array) -> sparse.csr_array:
    """The pairs of either."""
    either = first.maximum(second).tocsr()
    either.sort_indices()
    return either


def similarity_of(unit: Floats, pairs: sparse.csr_array) -> tuple[float, float]:
    """Mean and standard deviation of the cosine over `pairs` of rows of `unit` (n, n_bits); 0, 0 without pairs."""
    if pairs.nnz == 0:
        return 0.0, 0.0
    total = squares = 0.0
    for rows in _blocks(len(unit), 8 * unit.shape[1] * max(1, pairs.nnz // len(unit))):
        block = pairs[rows].tocoo()
        cosines = np.einsum("ij,ij->i", unit[rows][block.row], unit[block.col], dtype=np.float64)
        total += float(cosines.sum())
        squares += float(np.square(cosines).sum())
    mean = total / pairs.nnz
    return mean, max(squares / pairs.nnz - mean * mean, 0.0) ** 0.5


def discover(unit: Floats, pairs: sparse.csr_array, threshold: float, k: int) -> sparse.csr_array:
    """New pairs: rows of `unit` (n, n_bits; unit length) whose cosine is at least `threshold` (DSAH, AND update).

    Those in `pairs` are left out. A row brings in its k most alike at most, so that codes that are all alike
    cannot flood memory; a pair that either row brings in is a pair.
    """
    n = len(unit)
    multiplying = Lock()  # the product has threads of its own, and who shares them should not decide its last digits

    def found(rows: slice) -> tuple[Rows, Rows]:
        with multiplying:
            cosines = unit[rows] @ unit.T
        known = pairs[rows].tocoo()
        cosines[known.row, known.col] = -np.inf
        cosines[np.arange(len(cosines)), np.arange(rows.start, rows.stop)] = -np.inf
        alike = cosines >= threshold
        crowded = np.flatnonzero(alike.sum(1) > k)
        best = np.argpartition(-cosines[crowded], k - 1, axis=1)[:, :k] if k else np.empty((len(crowded), 0), np.intp)
        alike[crowded] = False
        alike[crowded[:, None], best] = True
        first, second = np.nonzero(alike)
        return (first + rows.start).astype(np.int32), second.astype(np.int32)

    first, second = (np.concatenate(ends) for ends in zip(*_for_blocks(found, n, 16 * n), strict=True))
    return _pairs(first, second, n)


def _blocks(n: int, row_bytes: int) -> Iterator[slice]:
    """Slices over n rows, of _BLOCK_BYTES each at most."""
    step = max(1, _BLOCK_BYTES // max(row_bytes, 1))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def _for_blocks(work: Callable[[slice], T], n: int, row_bytes: int) -> list[T]:
    """What `work` makes of each block of rows, in their order; on two threads, where torch may use as many."""
    import torch

    with ThreadPoolExecutor(min(2, torch.get_num_threads())) as threads:
        return list(threads.map(work, _blocks(n, row_bytes)))


def _directed(first: NDArray[np.integer], second: NDArray[np.integer], n: int) -> sparse.csr_array:
    ones = np.ones(len(first), np.bool_)
    return sparse.coo_array((ones, (first, second)), shape=(n, n)).tocsr()


def _pairs(first: NDArray[np.integer], second: NDArray[np.integer], n: int) -> sparse.csr_array:
    directed = _directed(first, second, n)
    return union(directed, directed.T.tocsr())
