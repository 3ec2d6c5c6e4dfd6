"""Retrieval measures of Hamming rankings, exact expectations over random order within equal distances.

A code of n_bits has only n_bits + 1 distances, so everything follows from two histograms per query: how many
gallery items, and how many relevant ones, lie at each distance. Nothing here depends on the order of the gallery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hashcli import codes

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

RADIUS = 2
BLOCK_PAIRS = 1 << 22


@dataclass(frozen=True)
class Levels:
    """Gallery items by distance from each query: total and relevant, both (q, n_bits + 1) int64."""

    total: Ints
    relevant: Ints

    def __post_init__(self) -> None:
        if self.total.ndim != 2 or self.total.shape != self.relevant.shape:
            raise ValueError(
                f"total {self.total.shape} and relevant {self.relevant.shape} must be one (q, levels) shape"
            )
        if np.any(self.relevant < 0) or np.any(self.relevant > self.total):
            raise ValueError("each level must hold between 0 and `total` relevant items")


@dataclass(frozen=True)
class Measures:
    """Means over queries, each from 0 to 1.

    n_queries, n_excluded   all queries; those without any relevant item
    k                       the cut of the measures named at_k
    map                     mean average precision over the full ranking
    map_at_k                its sum cut at k, divided by min(k, relevant)
    map_at_k_found          its sum cut at k, divided by the relevant found within k (DSAH's); 0 if none
    precision_at_k          relevant within k, divided by k
    recall_at_k             relevant within k, divided by all relevant
    map_radius_2            average precision inside the ball of radius 2, divided by the relevant inside; 0 if none
    precision_radius_2      relevant inside that ball, divided by all inside; 0 if the ball is empty
    share_of_empty_balls    queries with no item at all inside that ball
    """

    n_queries: int
    n_excluded: int
    k: int
    map: float
    map_at_k: float
    map_at_k_found: float
    precision_at_k: float
    recall_at_k: float
    map_radius_2: float
    precision_radius_2: float
    share_of_empty_balls: float


def count_levels(
    query_codes: NDArray[np.uint8],
    query_labels: Ints,
    gallery_codes: NDArray[np.uint8],
    gallery_labels: Ints,
    query_ids: Ints | None = None,
    gallery_ids: Ints | None = None,
) -> Levels:
    """Histograms of distances from queries (q, n_bits/8) to a gallery (n, n_bits/8), both packed.

    Labels are class numbers (n,), negative for none, or 0/1 rows (n, n_classes); relevant means sharing a label.
    A gallery item with the query's own id is left out. Works in blocks of queries: memory does not grow with q * n.
    Raises ValueError when shapes do not fit.
    """
    _check(query_codes, query_labels, gallery_codes, gallery_labels)
    n_levels = 8 * query_codes.shape[1] + 1
    own = None if query_ids is None or gallery_ids is None else _SameId(query_ids, gallery_ids)
    n_queries = len(query_codes)
    total = np.zeros((n_queries, n_levels), np.int64)
    relevant = np.zeros_like(total)
    step = max(1, BLOCK_PAIRS // max(1, len(gallery_codes)))
    for start in range(0, n_queries, step):
        block = slice(start, min(start + step, n_queries))
        distances = codes.distances(query_codes[block], gallery_codes).astype(np.int64)
        match = share_label(query_labels[block], gallery_labels)
        total[block] = _histogram(distances, n_levels)
        relevant[block] = _histogram(distances, n_levels, match)
        if own is not None:
            for row, columns in own.pairs(block):
                np.subtract.at(total[row], distances[row - start, columns], 1)
                np.subtract.at(relevant[row], distances[row - start, columns], match[row - start, columns])
    return Levels(total, relevant)


def share_label(query_labels: Ints, gallery_labels: Ints) -> NDArray[np.bool_]:
    """Which pairs share a label: (q, n) from (q,) and (n,) class numbers or (q, c) and (n, c) 0/1 rows."""
    if query_labels.ndim == 1:
        same: NDArray[np.bool_] = (query_labels[:, None] == gallery_labels) & (query_labels[:, None] >= 0)
        return same
    shared: NDArray[np.bool_] = np.greater(query_labels.astype(np.float32) @ gallery_labels.astype(np.float32).T, 0)
    return shared


def measure(levels: Levels, k: int = 100, paper_counting: bool = False) -> Measures:
    """All measures of a set of queries.

    Queries without a relevant item are left out of the means; `paper_counting` counts them as 0, as published
    code does. Means over no query at all are nan. Raises ValueError when k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    all_relevant = levels.relevant.sum(1)
    answerable = all_relevant > 0
    counted = np.ones_like(answerable) if paper_counting else answerable
    precision_sums = _precision_sums(levels, int(levels.total.sum(1).max(initial=0)))
    cut_sums = _precision_sums(levels, k).sum(1)
    found = expected_found(levels, [k])[:, 0]
    inside = levels.total[:, : RADIUS + 1].sum(1)
    relevant_inside = levels.relevant[:, : RADIUS + 1].sum(1)

    def mean(values: Floats) -> float:
        return float(values[counted].mean()) if counted.any() else float("nan")

    return Measures(
        n_queries=len(all_relevant),
        n_excluded=int((~answerable).sum()),
        k=k,
        map=mean(_ratio(precision_sums.sum(1), all_relevant)),
        map_at_k=mean(_ratio(cut_sums, np.minimum(k, all_relevant))),
        map_at_k_found=mean(average_precision_found(levels, k)),
        precision_at_k=mean(found / k),
        recall_at_k=mean(_ratio(found, all_relevant)),
        map_radius_2=mean(_ratio(precision_sums[:, : RADIUS + 1].sum(1), relevant_inside)),
        precision_radius_2=mean(_ratio(relevant_inside, inside)),
        share_of_empty_balls=mean((inside == 0).astype(np.float64)),
    )


def expected_found(levels: Levels, cuts: Sequence[int]) -> Floats:
    """Relevant items expected within the first k, for each k of `cuts`: (q, len(cuts)).

    Divided by k it is the precision, divided by all relevant the recall of top-k curves.
    """
    share = _ratio(levels.relevant, levels.total)
    return np.stack([(_taken(levels, k) * share).sum(1) for k in cuts], 1)


def precision_recall_by_radius(levels: Levels) -> tuple[Floats, Floats]:
    """Precision and recall of the balls of radius 0..n_bits, each (n_bits + 1,), means over answerable queries.

    The precision at a radius is the mean over the queries whose ball is not empty; nan where all balls are.
    """
    answerable = levels.relevant.sum(1) > 0
    inside = levels.total[answerable].cumsum(1)
    relevant = levels.relevant[answerable].cumsum(1)
    precision = _ratio(_ratio(relevant, inside).sum(0), (inside > 0).sum(0), empty=np.nan)
    recall = _ratio(relevant, relevant[:, -1:]).mean(0) if answerable.any() else np.full(inside.shape[1], np.nan)
    return precision, recall


def average_precision_found(levels: Levels, k: int) -> Floats:
    """Average precision cut at k and divided by the relevant found within k: (q,), expectation over ties.

    The divisor is random when k cuts a tie of t items, g relevant, of which r are taken: G + X with X
    hypergeometric (t, g, r). Given X = x, the x relevant ones lie uniformly on the r places, so that the tie adds
    the sum of a whole tie of r items, x relevant; the expectation over x follows.
    """
    sums = _precision_sums(levels, k)
    taken = _taken(levels, k)
    before, relevant_before = _before(levels.total), _before(levels.relevant)
    harmonic = _harmonic(int((before + taken)[taken > 0].max(initial=0)))
    values = np.zeros(len(taken))
    for row in np.flatnonzero(((taken > 0) & (levels.relevant > 0)).any(1)):
        cut = np.flatnonzero(taken[row])[-1]
        t, g, r = (int(a[row, cut]) for a in (levels.total, levels.relevant, taken))
        x, probability = _hypergeometric(t, g, r)
        n, found = int(before[row, cut]), int(relevant_before[row, cut])
        tie = _tie_sum(np.asarray(r), np.asarray(r), x, np.asarray(n), np.asarray(found), harmonic)
        values[row] = (probability * _ratio(sums[row, :cut].sum() + tie, found + x)).sum()
    return values


def _precision_sums(levels: Levels, k: int) -> Floats:
    """Expected sum, per level, of the precisions at its relevant items among the first k: (q, levels)."""
    before, found = _before(levels.total), _before(levels.relevant)
    taken = _taken(levels, k)
    harmonic = _harmonic(int((before + taken)[taken > 0].max(initial=0)))
    return _tie_sum(levels.total, taken, levels.relevant, before, found, harmonic)


def _tie_sum(t: Ints, r: Ints, g: Ints, before: Ints, found: Ints, harmonic: Floats) -> Floats:
    """Expected sum of precisions at the relevant items on the first r places of a tie of t items, g relevant.

    Place i (from 1) holds a relevant item with probability g/t; then found + 1 + (i-1)(g-1)/(t-1) of the
    before + i items so far are relevant in expectation. Summed over i with harmonic numbers.
    """
    last = np.where(r > 0, before + r, 0)
    first = np.where(r > 0, before, 0)
    reciprocals = harmonic[last] - harmonic[first]
    others = _ratio(np.maximum(g - 1, 0), t - 1)
    return _ratio(g, t) * ((found + 1) * reciprocals + others * (r - (before + 1) * reciprocals))


def _hypergeometric(t: int, g: int, r: int) -> tuple[Ints, Floats]:
    """Counts x of relevant among r drawn from t items, g relevant, with their probabilities."""
    x = np.arange(max(0, r - (t - g)), min(r, g) + 1)
    up, down = (g - x[:-1]) * (r - x[:-1]), x[1:] * (t - g - r + x[1:])
    log_ratio = np.concatenate([[0.0], np.cumsum(np.log(up / down))])
    weights = np.exp(log_ratio - log_ratio.max())
    return x, weights / weights.sum()


def _harmonic(n: int) -> Floats:
    """Harmonic numbers H_0..H_n; summed in extended precision because differences of them are multiplied by n."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1, dtype=np.longdouble))]).astype(np.float64)


def _before(counts: Ints) -> Ints:
    return counts.cumsum(1) - counts


def _taken(levels: Levels, k: int) -> Ints:
    """Items of each level among the first k."""
    return np.clip(k - _before(levels.total), 0, levels.total)


def _ratio(a: Floats | Ints, b: Floats | Ints, empty: float = 0.0) -> Floats:
    """a / b, and `empty` where b is not positive."""
    a, b = np.broadcast_arrays(a, b)
    ratio: Floats = np.divide(a, b, out=np.full(a.shape, empty), where=b > 0)
    return ratio


def _histogram(distances: Ints, n_levels: int, mask: NDArray[np.bool_] | None = None) -> Ints:
    keys = distances + n_levels * np.arange(len(distances))[:, None]
    flat = keys.ravel() if mask is None else keys[mask]
    return np.bincount(flat, minlength=len(distances) * n_levels).reshape(len(distances), n_levels)


class _SameId:
    """Finds the gallery items that are a query itself."""

    def __init__(self, query_ids: Ints, gallery_ids: Ints) -> None:
        self._order = np.argsort(gallery_ids, kind="stable")
        ordered = gallery_ids[self._order]
        self._low = np.searchsorted(ordered, query_ids, "left")
        self._high = np.searchsorted(ordered, query_ids, "right")

    def pairs(self, block: slice) -> list[tuple[int, Ints]]:
        rows = np.flatnonzero(self._high[block] > self._low[block]) + block.start
        return [(int(row), self._order[self._low[row] : self._high[row]]) for row in rows]


def _check(
    query_codes: NDArray[np.uint8], query_labels: Ints, gallery_codes: NDArray[np.uint8], gallery_labels: Ints
) -> None:
    if query_codes.ndim != 2 or gallery_codes.ndim != 2 or query_codes.shape[1] != gallery_codes.shape[1]:
        raise ValueError(f"packed codes {query_codes.shape} and {gallery_codes.shape} do not fit")
    if query_labels.shape[1:] != gallery_labels.shape[1:] or query_labels.ndim > 2:
        raise ValueError(f"labels {query_labels.shape} and {gallery_labels.shape} do not fit")
    if len(query_labels) != len(query_codes) or len(gallery_labels) != len(gallery_codes):
        raise ValueError(
            f"labels {query_labels.shape} and {gallery_labels.shape} do not fit "
            f"codes {query_codes.shape} and {gallery_codes.shape}"
        )
