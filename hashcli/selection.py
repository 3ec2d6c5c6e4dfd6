"""Which target photos are reliable: what ranks them, and how many of them are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashcli import diffusion, graphs
from hashcli.graphs import Graph

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def margins(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """How far the likeliest of the classes is above the next (n,), from class probabilities (n, C)."""
    two = np.sort(probabilities, axis=1)[:, -2:]
    return two[:, -1] - (two[:, 0] if two.shape[1] > 1 else 0)


def by_pagerank(graph: Graph) -> Floats:
    """Rank of the targets (n_t,) where walks begin at sources, in proportion to their degrees."""
    return graphs.pagerank(graph, _poured(graph))[graph.n_source :]


def by_flow(
    graph: Graph, *, fill: bool, alpha: float, rho: float, sources_hold: bool
) -> tuple[Floats, dict[str, int | float]]:
    """What arrives at the targets (n_t,) when sources pour in mass, and counts for the log (COUPLE, Eqs. 1-5).

    fill          pour in as little as reaches the share `alpha` of the targets, and as much as `diffusion.fill`
                  ever does where that is all of them; else `rho` of the capacity, at most
    sources_hold  whether sources can hold mass back as targets can, half of the mean degree each
    """
    capacity = np.full(graph.n_source + graph.n_target, graph.degrees.mean() / 2)
    if not sources_hold:
        capacity[: graph.n_source] = 0.0
    mass = _poured(graph)
    if fill and alpha < 1:
        flow, _ = diffusion.fill(graph, mass, capacity, alpha)
    elif fill:  # all that can be reached is reached with the most, so no less is tried
        flow, _ = diffusion.fill(graph, mass, capacity, alpha, rounds=0)
    else:
        flow = diffusion.diffuse(graph, diffusion.limited(graph, mass, capacity, rho), capacity)
    score = flow.score[graph.n_source :]
    return score, {
        "reached": int((score > 0).sum()),
        "saturated": int((flow.height[graph.n_source :] > 0).sum()),
        "sweeps": flow.sweeps,
        "residual": round(flow.residual, 6),
    }


def select(score: NDArray[np.floating[Any]], alpha: float, classes: NDArray[np.int64] | None = None) -> Bools:
    """The floor(alpha n) largest positive scores, as a mask (n,) (COUPLE, Eq. 5); with `classes`, alpha of each."""
    chosen = np.zeros(len(score), np.bool_)
    groups = [np.arange(len(score))] if classes is None else [np.flatnonzero(classes == c) for c in np.unique(classes)]
    for rows in groups:
        best = rows[np.argsort(-score[rows], kind="stable")[: int(alpha * len(rows))]]
        chosen[best] = score[best] > 0
    return chosen


def _poured(graph: Graph) -> Floats:
    """Mass (n,) of the nodes before it spreads: the degrees of sources, nothing of targets."""
    return np.where(np.arange(graph.n_source + graph.n_target) < graph.n_source, graph.degrees, 0.0)
