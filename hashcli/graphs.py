"""Neighbor graphs over two domains, and what runs on them: PageRank, label propagation, random walks.

Nodes are the source photos, then the target photos. Graphs are sparse; flow diffusion on them is in `diffusion`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # type: ignore[import-untyped]
from scipy.sparse import csgraph  # type: ignore[import-untyped]

from hashcli.nearest import Anew, Renewed, are_many

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MOST_WHITENED = 40_000
MOST_OF_CODES = 0.25  # share up to which candidates are chosen without codes; 98 % of the neighbors with 0.1
MIN_WEIGHT = 1e-3  # diffusion needs positive weights; cosines may be negative


def unit_rows(x: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows of length one, float32; rows of zeros stay zero."""
    single = x.astype(np.float32, copy=False)
    unit: NDArray[np.float32] = single / np.maximum(np.linalg.norm(single, axis=1, keepdims=True), 1e-12)
    return unit


def whitening(x: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """The matrix (d, d) that divides the principal directions of x (n, d) by their deviation to the `strength`.

    0 only turns, 1 whitens fully. Between them the few directions in which all photos vary, and in which domains
    differ most, stop deciding who is whose neighbor. Of more than MOST_WHITENED rows every so manieth is looked at.
    """
    x = x[:: max(1, -(-len(x) // MOST_WHITENED))]
    variances, directions = np.linalg.eigh(x.T.astype(np.float64) @ x / max(len(x), 1))
    variances = np.maximum(variances, max(1e-6 * float(variances[-1]), 1e-300))
    scaled: NDArray[np.float32] = (directions * variances ** (-strength / 2)).astype(np.float32)
    return scaled


def _lists(rows: Ints, values: NDArray[np.float32], width: int, sharpness: float) -> sparse.csr_array:
    """Neighbor lists as a sparse matrix (n, width) of weights."""
    n, k = rows.shape
    weights = np.clip(np.maximum(values.astype(np.float64), 0.0) ** sharpness, MIN_WEIGHT, 1.0).ravel()
    return sparse.csr_array((weights, rows.ravel(), np.arange(n + 1) * k), shape=(n, width))


def _both(a: sparse.csr_array, b: sparse.csr_array) -> sparse.csr_array:
    """Entries present in both matrices, with the weights of `a`."""
    return (a * (b != 0)).tocsr()


@dataclass(frozen=True)
class Graph:
    """Symmetric weights (n, n) over n_source source nodes, then the target nodes."""

    weights: sparse.csr_array
    n_source: int

    @property
    def n_target(self) -> int:
        """Number of target nodes."""
        return int(self.weights.shape[0]) - self.n_source

    @property
    def degrees(self) -> Floats:
        """Weighted degree of every node (n,)."""
        return np.asarray(self.weights.sum(axis=1), np.float64)

    def components(self) -> Ints:
        """Number of the connected component of every node (n,)."""
        part: Ints = csgraph.connected_components(self.weights, directed=False)[1].astype(np.int64)
        return part


class MutualNeighbors:
    """The mutual-neighbor graph of COUPLE, section "graph construction", made anew whenever codes have changed.

    source (n_s, d) and target (n_t, d) are features with unit rows, labels (n_s,) of the source. Compared is the cosine
    of feature and code joined, of whose square the code has the share `code_share`. Edges: source and target that are
    among each other's k nearest; targets that are among each other's k nearest; each source and its `k_source`
    nearest of its own class (the paper links whole classes, whose n_s^2 / n_classes edges would hold all mass back in
    the source). Weights are cosines to the power `sharpness`, clipped to [MIN_WEIGHT, 1].

    Among many photos the features alone choose candidates, once, and each graph compares only these: a code with a
    small share moves photos by few places (`nearest.Renewed`). With more than MOST_OF_CODES all are compared anew.
    """

    def __init__(
        self,
        source: NDArray[np.float32],
        labels: Ints,
        target: NDArray[np.float32],
        *,
        k: int,
        k_source: int,
        code_share: float = 0.0,
        sharpness: float = 1.0,
    ) -> None:
        if len(source) != len(labels):
            raise ValueError(f"{len(source)} sources, but labels {labels.shape}")
        self._n_source, self._n_target = len(source), len(target)
        self._code_share, self._sharpness = code_share, sharpness
        once = code_share <= MOST_OF_CODES and are_many(max(len(source), len(target)), len(target))
        kind = Renewed if once else Anew
        source, target = (np.sqrt(1 - code_share, dtype=np.float32) * x for x in (source, target))
        self._there, self._back = kind(source, target, k), kind(target, source, k)
        self._inside = kind(target, target, k, within=True)
        classes = [np.flatnonzero(labels == c) for c in np.unique(labels)]
        self._same = [(rows, kind(source[rows], source[rows], k_source, within=True)) for rows in classes]

    @property
    def n_candidates(self) -> int:
        """How many sources each target is compared with."""
        return self._back.n_candidates

    def graph(self, source: NDArray[np.float32], target: NDArray[np.float32]) -> Graph:
        """The graph for codes of the source (n_s, n_bits) and the target (n_t, n_bits), with unit rows."""
        source, target = (np.sqrt(self._code_share, dtype=np.float32) * x for x in (source, target))
        there = _lists(*self._there.nearest(source, target), self._n_target, self._sharpness)
        back = _lists(*self._back.nearest(target, source), self._n_source, self._sharpness)
        cross = _both(there, back.T.tocsr())
        inside = _lists(*self._inside.nearest(target, target), self._n_target, self._sharpness)
        inside = _both(inside, inside.T.tocsr())
        weights = sparse.block_array([[self._same_class(source), cross], [cross.T, inside]], format="csr")
        return Graph(weights.maximum(weights.T).tocsr(), self._n_source)

    def _same_class(self, codes: NDArray[np.float32]) -> sparse.csr_array:
        total = sparse.coo_array((self._n_source, self._n_source), dtype=np.float64)
        heads, tails, values = [total.row], [total.col], [total.data]
        for members, search in self._same:
            mine = codes[members]
            lists = _lists(*search.nearest(mine, mine), len(members), self._sharpness).tocoo()
            heads.append(members[lists.row])
            tails.append(members[lists.col])
            values.append(lists.data)
        entries = (np.concatenate(values), (np.concatenate(heads), np.concatenate(tails)))
        directed = sparse.coo_array(entries, shape=total.shape).tocsr()
        return directed.maximum(directed.T).tocsr()


def pagerank(graph: Graph, restart: Floats, *, damping: float = 0.85, sweeps: int = 100) -> Floats:
    """Personalized PageRank (n,) with the restart distribution `restart` (n,), by power iteration."""
    degrees = graph.degrees
    steps = graph.weights * np.divide(1.0, degrees, out=np.zeros_like(degrees), where=degrees > 0)[None, :]
    steps = steps.tocsr()
    restart = restart / max(float(restart.sum()), 1e-300)
    rank = restart
    for _ in range(sweeps):
        moved = damping * (steps @ rank)
        rank = moved + (1 - moved.sum()) * restart
    return rank


def propagate(graph: Graph, known: Floats, *, follow: float = 0.8, sweeps: int = 40) -> Floats:
    """Label propagation (Zhou et al., 2004): scores (n, C) from `known` (n, C), one-hot where known, else zero.

    `follow`: share that a node takes from its neighbors in a sweep; the nearer to 1, the further labels reach.
    Rows of the result sum to one, or to zero where no label arrives.
    """
    degrees = graph.degrees
    root = np.divide(1.0, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
    steps = (graph.weights * root[:, None] * root[None, :]).tocsr()
    scores = known
    for _ in range(sweeps):
        scores = follow * (steps @ scores) + (1 - follow) * known
    total = scores.sum(axis=1, keepdims=True)
    shares: Floats = np.divide(scores, total, out=np.zeros_like(scores), where=total > 0)
    return shares


@dataclass(frozen=True)
class Pairs:
    """Edges between a source and a target that walks went along: rows in each domain (p,), weights (p,)."""

    source: Ints
    target: Ints
    weight: Floats

    def __len__(self) -> int:
        return len(self.source)


def walk_pairs(
    graph: Graph, selected: Bools, n_walks: int, length: int, rng: np.random.Generator
) -> tuple[Pairs, Pairs]:
    """Random walks from the reliable nodes (Eqs. 18, 19): pairs inside the reliable set, and pairs that leave it.

    The reliable nodes are all sources and the `selected` targets (n_t,). Each of `n_walks` walks starts at one,
    uniformly, and takes `length` steps with probability proportional to the weights. A step within one domain
    passes the walk on and makes no pair.
    """
    w = graph.weights
    n_source = graph.n_source
    reliable = np.concatenate([np.arange(n_source), n_source + np.flatnonzero(selected)])
    place = rng.choice(reliable, n_walks) if len(reliable) else np.empty(0, np.int64)
    ends = np.concatenate([[0.0], np.cumsum(w.data)])
    taken = []
    for _ in range(length):
        first, last = w.indptr[place], w.indptr[place + 1]
        place, first, last = (a[last > first] for a in (place, first, last))
        drawn = ends[first] + rng.random(len(place)) * (ends[last] - ends[first])
        edge = np.clip(np.searchsorted(ends, drawn, side="right") - 1, first, last - 1)
        after = w.indices[edge].astype(np.int64)
        crosses = (place < n_source) != (after < n_source)
        taken.append(
            (np.minimum(place, after)[crosses], np.maximum(place, after)[crosses] - n_source, w.data[edge][crosses])
        )
        place = after
    source, target, weight = (np.concatenate(column) for column in zip(*taken, strict=True))
    inside = selected[target]
    return (
        Pairs(source[inside], target[inside], weight[inside]),
        Pairs(source[~inside], target[~inside], weight[~inside]),
    )
