"""The nearest rows by inner product: exact among few, nearly exact among many, and never an n x n matrix.

Many means more than EXACT_ROWS queries and as many rows to find (or more of the one and fewer of the other), in more
than twice REDUCED dimensions. Then all similarities are estimated in REDUCED dimensions, and the likeliest
OVERSAMPLING * k rows of each query, k + MOST_EXTRA at most, are compared exactly. On features of photos that finds
97 % of the true neighbors and more (the least across two domains of digits; inside a domain 99 %). Where the same rows
are searched again because a small part of them has changed, candidates can be kept (`Renewed`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

EXACT_ROWS = 20_000
REDUCED = 128
OVERSAMPLING = 8
RENEWED = 12  # the same where candidates are chosen by the columns that stay alone
MOST_EXTRA = 500
BLOCK_BYTES = 2**27
GATHERED_BYTES = 2**25  # half the time of BLOCK_BYTES: larger arrays are new, empty pages each time
_SAMPLE = 8192  # rows from which the directions are learned
_RIDGE = 1e-6  # of the mean variance: keeps directions without any variance invertible


def nearest(
    queries: Floats, gallery: Floats, k: int, *, within: bool = False, compared: int | None = None
) -> tuple[Ints, Floats]:
    """The k rows of `gallery` with the largest inner product for each query: rows (n, k), similarities (n, k).

    In no order within a row; the similarities are exact also where the choice of rows is not. `within`: both are the
    same array, and a row is not its own neighbor. k is cut to what there is. `compared`: how many rows are compared
    exactly where not all are; None: OVERSAMPLING * k, k + MOST_EXTRA at most. Raises ValueError for shapes that differ.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries {queries.shape} and gallery {gallery.shape} must be matrices of one width")
    k = max(0, min(k, len(gallery) - within))
    if k == 0:
        return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    if are_many(len(queries), len(gallery)) and queries.shape[1] > 2 * REDUCED:
        return _nearly(queries, gallery, k, compared or min(OVERSAMPLING * k, k + MOST_EXTRA), within=within)
    return _exactly(queries, gallery, k, within=within)


def are_many(n_queries: int, n_gallery: int) -> bool:
    """Whether there are too many pairs of rows to compare them all."""
    return n_queries * n_gallery > EXACT_ROWS**2


class Anew:
    """`nearest` again and again, of rows whose first columns, queries (n, d) and gallery (m, d), stay the same."""

    def __init__(self, queries: Floats, gallery: Floats, k: int, *, within: bool = False) -> None:
        self._queries, self._gallery, self._k, self._within = queries, gallery, k, within

    @property
    def n_candidates(self) -> int:
        """How many rows are compared with each query."""
        return len(self._gallery) - self._within

    def nearest(self, queries: Floats, gallery: Floats) -> tuple[Ints, Floats]:
        """As `nearest` of all columns, from the last ones, queries (n, e) and gallery (m, e)."""
        joined = np.concatenate([self._queries, queries], axis=1)
        other = joined if self._within else np.concatenate([self._gallery, gallery], axis=1)
        return nearest(joined, other, self._k, within=self._within)


class Renewed:
    """As `Anew`, among many rows whose last columns count for little.

    The first columns choose RENEWED * k candidates for each query, k + MOST_EXTRA at most, once, and each call compares
    only these. Keeps (n, candidates) numbers of what it was given.
    """

    def __init__(self, queries: Floats, gallery: Floats, k: int, *, within: bool = False) -> None:
        self._k = max(0, min(k, len(gallery) - within))
        n = min(RENEWED * self._k, self._k + MOST_EXTRA)
        rows, values = nearest(queries, gallery, n, within=within, compared=n)
        self._rows, self._values = torch.from_numpy(rows.astype(np.int32)), torch.from_numpy(values)

    @property
    def n_candidates(self) -> int:
        """How many rows are compared with each query."""
        return int(self._rows.shape[1])

    def nearest(self, queries: Floats, gallery: Floats) -> tuple[Ints, Floats]:
        """As `nearest` of all columns, from the last ones, queries (n, e) and gallery (m, e)."""
        rows = np.empty((len(queries), self._k), np.int64)
        values = np.empty((len(queries), self._k), np.float32)
        changed, asked = torch.from_numpy(gallery), torch.from_numpy(queries)
        for block in _blocks(len(queries), 4 * gallery.shape[1] * self.n_candidates, GATHERED_BYTES):
            candidates = self._rows[block]
            similarity = _compared(candidates, asked[block], changed).add_(self._values[block])
            best = similarity.topk(self._k, sorted=False)
            rows[block] = candidates.gather(1, best.indices).numpy()
            values[block] = best.values.numpy()
        return rows, values


def _exactly(queries: Floats, gallery: Floats, k: int, *, within: bool) -> tuple[Ints, Floats]:
    rows = np.empty((len(queries), k), np.int64)
    values = np.empty((len(queries), k), np.float32)
    for block in _blocks(len(queries), 4 * len(gallery), BLOCK_BYTES):
        similarity = queries[block] @ gallery.T
        if within:
            _leave_out_self(similarity, block.start)
        best = np.argpartition(similarity, -k, axis=1)[:, -k:]
        rows[block] = best
        values[block] = np.take_along_axis(similarity, best, axis=1)
    return rows, values


def _nearly(queries: Floats, gallery: Floats, k: int, n_candidates: int, *, within: bool) -> tuple[Ints, Floats]:
    """As `nearest`: the k largest of the n_candidates whose similarity is largest in REDUCED dimensions."""
    n_candidates = min(n_candidates, len(gallery) - within)
    n_groups, size = _grouping(len(gallery), n_candidates)
    left, right = _reduction(queries, gallery)
    asked = torch.from_numpy(queries @ left)
    reduced = torch.zeros(REDUCED, size * n_groups)
    reduced[:, : len(gallery)] = torch.from_numpy((gallery @ right).T)
    rows = np.empty((len(queries), k), np.int64)
    values = np.empty((len(queries), k), np.float32)
    asking, all_rows = torch.from_numpy(queries), torch.from_numpy(gallery)
    blocks = _blocks(len(queries), 4 * reduced.shape[1], BLOCK_BYTES)
    room = torch.empty(blocks[0].stop, reduced.shape[1])  # new pages for each block take longer than the product
    for block in blocks:  # by PyTorch alone: threads of another library's products would wait in a loop beside it
        similarity = torch.mm(asked[block], reduced, out=room[: block.stop - block.start])
        similarity[:, len(gallery) :] = -torch.inf
        if within:
            _leave_out_self(similarity.numpy(), block.start)
        candidates = _largest(similarity, n_candidates, n_groups)
        for part in _blocks(len(candidates), 4 * gallery.shape[1] * n_candidates, GATHERED_BYTES):
            here = slice(block.start + part.start, block.start + part.stop)
            best = _compared(candidates[part], asking[here], all_rows).topk(k, sorted=False)
            rows[here] = candidates[part].gather(1, best.indices).numpy()
            values[here] = best.values.numpy()
    return rows, values


def _compared(candidates: Tensor, queries: Tensor, gallery: Tensor) -> Tensor:
    """Inner products (b, c) of each query (b, d) with its candidates (b, c), which are rows of the gallery."""
    return torch.bmm(functional.embedding(candidates, gallery), queries[:, :, None])[:, :, 0]


def _reduction(queries: Floats, gallery: Floats) -> tuple[Floats, Floats]:
    """Matrices L, R (d, REDUCED), so that queries L R' gallery' differs least from queries gallery'.

    Least in squares, among all matrices of that rank: with second moments A A' of queries and B B' of gallery (of a
    sample of rows) that is the truncated singular value decomposition U S V' of A'B (Eckart and Young), and
    L = B V S^-1/2, R = A U S^-1/2. Where both are one array, these are its principal directions; where they are two
    domains, principal directions of either alone miss much of what little they have in common.
    """
    a, b = (np.linalg.cholesky(_second_moment(x)) for x in (queries, gallery))
    product = a.T @ b
    last = len(product) - 1
    squares, v = eigh(product.T @ product, subset_by_index=(last - REDUCED + 1, last))
    s = np.sqrt(np.maximum(squares, _RIDGE**2 * squares[-1]))
    return (b @ v * s**-0.5).astype(np.float32), (a @ (product @ v) * s**-1.5).astype(np.float32)


def _second_moment(x: Floats) -> NDArray[np.float64]:
    sample = x[:: -(-len(x) // _SAMPLE)].astype(np.float64)
    moment: NDArray[np.float64] = sample.T @ sample / len(sample)
    moment[np.diag_indices_from(moment)] += max(_RIDGE * float(np.trace(moment)) / len(moment), 1e-12)
    return moment


def _grouping(n: int, k: int) -> tuple[int, int]:
    """Number and size of the groups of n columns for which `_largest` has the least to look at."""
    size = max(1, round((n / k) ** 0.5))
    return -(-n // size), size


def _largest(similarity: Tensor, k: int, n_groups: int) -> Tensor:
    """Columns of the k largest values of each row, (b, k) in no order; column c is in group c % n_groups.

    They lie in the k groups whose largest values are largest, so that few values need to be put in order.
    """
    groups = similarity.view(len(similarity), -1, n_groups)
    chosen = groups.amax(1).topk(min(k, n_groups), sorted=False).indices
    inside = groups.gather(2, chosen[:, None].expand(-1, groups.shape[1], -1)).flatten(1)
    place = inside.topk(k, sorted=False).indices
    width = chosen.shape[1]
    return place.div(width, rounding_mode="floor") * n_groups + chosen.gather(1, place % width)


def _leave_out_self(similarity: Floats, first: int) -> None:
    """Rows are those of the columns from `first` on."""
    n = len(similarity)
    similarity[np.arange(n), np.arange(first, first + n)] = -np.inf


def _blocks(n: int, row_bytes: int, most: int) -> list[slice]:
    """Slices over n rows, of `most` bytes each at most."""
    step = max(1, most // max(1, row_bytes))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
