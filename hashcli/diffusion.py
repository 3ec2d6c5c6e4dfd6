"""Flow diffusion on a graph of two domains: mass put on the sources spreads until no node is over its capacity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # type: ignore[import-untyped]
from scipy.sparse.linalg import cg  # type: ignore[import-untyped]

from hashcli.graphs import Graph

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Flow:
    """An (approximate) optimum of the diffusion's dual.

    height (n,) the dual variable x, mass (n,) what came to rest, capacity (n,), sweeps over all nodes, residual
    the largest mass above capacity, in units of the mean capacity.
    """

    height: Floats
    mass: Floats
    capacity: Floats
    sweeps: int
    residual: float

    @property
    def score(self) -> Floats:
        """Mass; on saturated nodes, where it is tied at the capacity, capacity + height (n,)."""
        return np.where(self.height > 0, self.capacity + self.height, self.mass)


def diffuse(
    graph: Graph,
    mass: Floats,
    capacity: Floats,
    *,
    tolerance: float = 1e-3,
    max_sweeps: int = 2000,
    start: Floats | None = None,
) -> Flow:
    """Spread `mass` along the edges until no node holds more than its `capacity`, at the least cost of flow.

    Solves min over x >= 0 of x'Lx/2 + x'(capacity - mass) (Eq. 4), L the graph Laplacian, by pushing the excess of
    all nodes at once. Pushes never go beyond the optimum, and between them the heights of the nodes already
    saturated are solved for exactly, which keeps that property and makes nearly full graphs converge. `start`:
    heights known to lie below the optimum. Stops when no node exceeds its capacity by more than `tolerance`
    times the mean capacity; mass that no component can hold would move for ever, so look at `residual`.
    """
    degrees = graph.degrees
    live = degrees > 0
    unit = max(float(capacity[live].mean()), 1e-300) if live.any() else 1.0
    laplacian = (sparse.diags_array(degrees) - graph.weights).tocsr()
    x = np.zeros(len(degrees)) if start is None else start.copy()
    solvable = bool((_component_load(graph, mass, capacity) < 1).all())
    divisor = np.where(live, degrees, 1.0)
    sweeps = 0
    while True:
        m = mass - laplacian @ x
        excess = np.where(live, np.maximum(m - capacity, 0.0), 0.0)
        residual = float(excess.max(initial=0.0)) / unit
        if residual <= tolerance or sweeps >= max_sweeps:
            return Flow(x, m, capacity, sweeps, residual)
        sweeps += 1
        x += excess / divisor
        if solvable and sweeps % 8 == 0:
            on = np.flatnonzero(x > 0)
            exact, _ = cg(laplacian[on][:, on], (mass - capacity)[on], x0=x[on], rtol=1e-8, maxiter=500)
            x[on] = np.maximum(x[on], exact)


def _component_load(graph: Graph, mass: Floats, capacity: Floats) -> Floats:
    """Mass over capacity of each connected component; 0 where there is no mass."""
    part = graph.components()
    total = np.bincount(part, mass)
    room = np.bincount(part, capacity)
    return np.divide(total, room, out=np.where(total > 0, np.inf, 0.0), where=room > 0)


def limited(graph: Graph, mass: Floats, capacity: Floats, rho: float) -> Floats:
    """`mass` (n,), scaled down in each connected component that it would fill beyond the share `rho` < 1."""
    load = _component_load(graph, mass, capacity)
    scale = np.divide(rho, load, out=np.ones_like(load), where=load > rho)
    return mass * scale[graph.components()]


def fill(
    graph: Graph, mass: Floats, capacity: Floats, share: float, *, most: float = 0.95, rounds: int = 8
) -> tuple[Flow, Floats]:
    """The least mass in each connected component that reaches the `share` of its target nodes; the flow and the mass.

    Bisects the load of all components at once, up to `most` of their capacity and to `most` / 2^rounds; each
    solution starts from the one below it.
    """
    part = graph.components()
    load = _component_load(graph, mass, capacity)
    unit = np.divide(1.0, load, out=np.zeros_like(load), where=(load > 0) & np.isfinite(load))[part] * mass
    is_target = np.arange(len(mass)) >= graph.n_source
    wanted = np.floor(share * np.bincount(part, is_target))
    low, high = np.zeros(len(load)), np.full(len(load), most)
    below = np.zeros(len(mass))
    for _ in range(rounds):
        middle = (low + high) / 2
        flow = diffuse(graph, unit * middle[part], capacity, start=below)
        enough = np.bincount(part, is_target & (flow.score > 0)) >= wanted
        high, low = np.where(enough, middle, high), np.where(enough, low, middle)
        below = np.where(enough[part], below, flow.height)
    least = unit * high[part]
    return diffuse(graph, least, capacity, start=below), least
