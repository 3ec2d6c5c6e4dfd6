"""What COUPLE makes anew before an epoch: the graph, pseudo-labels, the reliable set, and pairs of photos to mix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hashcli import graphs, selection

if TYPE_CHECKING:
    from hashcli_plugins.couple import Settings
    from torch import Tensor

    from hashcli.data import Bank, TrainingData
    from hashcli.graphs import Graph, MutualNeighbors, Pairs
    from hashcli.method import Run

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Mixture:
    """Pairs to mix, on the training device: rows in each domain (p,), and the share of the source (p,)."""

    source: Tensor
    target: Tensor
    share: Tensor


@dataclass(frozen=True)
class Stage:
    """What one epoch trains on beside the source.

    labels    (n_t, n_classes) label probabilities of all targets
    selected  (n_t,) which targets are reliable
    pairs     what to mix; pool: features and label probabilities of photos that were mixed for all of the epoch
    """

    labels: Tensor
    selected: Tensor
    pairs: Mixture
    bank: Bank
    pool: tuple[Tensor, Tensor] | None = None


class Stages:
    """Makes them for one set of features; neighbors among these are looked for once where there are many photos."""

    def __init__(self, settings: Settings, data: TrainingData) -> None:
        assert data.source is not None and data.target is not None
        self._settings, self._n_classes = settings, data.n_classes
        x = graphs.unit_rows(np.concatenate([data.source.features, data.target.features]))
        self._whitening = graphs.whitening(x, settings.whitening) if settings.whitening else None
        self._neighbors: MutualNeighbors | None = None

    def new(self, epoch: int, bank: Bank, target_relaxed: Tensor, guess: Floats, run: Run) -> Stage:
        """The stage of an epoch, from relaxed codes (n_t, n_bits) and class probabilities (n_t, C) of the targets."""
        import torch

        s = self._settings
        assert bank.source_relaxed is not None and bank.target_features is not None and bank.source_labels is not None
        labels = bank.source_labels.cpu().numpy()
        if self._neighbors is None:
            self._neighbors = self._found_neighbors(bank, labels)
            run.progress.log("neighbors", candidates=self._neighbors.n_candidates)
        codes = [graphs.unit_rows(relaxed.cpu().numpy()) for relaxed in (bank.source_relaxed, target_relaxed)]
        graph = self._neighbors.graph(*codes)
        believed, covered = self._pseudo_labels(graph, labels, guess)
        alpha = self._alpha(epoch)
        score, counts = self._score(graph, guess, alpha)
        selected = selection.select(score, alpha, believed.argmax(1) if s.quota else None)
        rng = np.random.default_rng([run.seed, epoch])
        inside, outside = graphs.walk_pairs(graph, selected, s.walks, s.walk_length, rng)
        early = epoch < s.warmup + s.progressive * (s.epochs - s.warmup)
        run.progress.log(
            "selection",
            epoch=epoch,
            edges=int(graph.weights.nnz // 2),
            covered=int(covered.sum()),
            wanted=int(alpha * len(selected)),
            selected=int(selected.sum()),
            intra=len(inside),
            inter=len(outside),
            mixed=len(inside) + (0 if early else len(outside)),
            **counts,
        )
        if not s.soft_labels:
            hard = np.eye(self._n_classes)[believed.argmax(1)]
            believed = np.where(selected[:, None], hard, believed)
        device = bank.target_features.device
        q, reliable = (torch.from_numpy(a).to(device) for a in (believed.astype(np.float32), selected))
        return Stage(q, reliable, self._mixture([inside] if early else [inside, outside], device), bank)

    def _alpha(self, epoch: int) -> float:
        """Share of the targets to select in an epoch: from `alpha` in the first that selects to `alpha_end`."""
        s = self._settings
        steps = s.epochs - 1 - s.warmup
        return s.alpha + (s.alpha_end - s.alpha) * ((epoch - s.warmup) / steps if steps > 0 else 0.0)

    def _found_neighbors(self, bank: Bank, labels: NDArray[np.int64]) -> MutualNeighbors:
        s, w = self._settings, self._whitening
        assert bank.source_features is not None and bank.target_features is not None
        features = (given.cpu().numpy() for given in (bank.source_features, bank.target_features))
        x, y = (graphs.unit_rows(f if w is None else f @ w) for f in features)
        return graphs.MutualNeighbors(
            x,
            labels,
            y,
            k=s.neighbors,
            k_source=s.source_neighbors,
            code_share=s.code_share,
            sharpness=s.sharpness,
        )

    def _pseudo_labels(self, graph: Graph, labels: NDArray[np.int64], guess: Floats) -> tuple[Floats, Bools]:
        """Label probabilities of the targets (n_t, C), and which of them the graph gave."""
        s = self._settings
        if s.pseudo_labels == "head":
            believed, covered = guess, np.zeros(len(guess), np.bool_)
        else:
            known = np.zeros((graph.n_source + graph.n_target, self._n_classes))
            known[np.arange(graph.n_source), labels] = 1
            arrived = graphs.propagate(graph, known, follow=s.reach)[graph.n_source :]
            covered = arrived.sum(1) > 0
            believed = np.where(covered[:, None], arrived, guess)
        believed = (believed / believed.max(axis=1, keepdims=True)) ** s.certainty
        return believed / believed.sum(axis=1, keepdims=True), covered

    def _score(self, graph: Graph, guess: Floats, alpha: float) -> tuple[NDArray[Any], dict[str, Any]]:
        """Reliability of the targets (n_t,), positive where there is any, and counts for the log."""
        s = self._settings
        if s.selector == "flow":
            return selection.by_flow(
                graph, fill=s.capacity == "fill", alpha=alpha, rho=s.rho, sources_hold=s.source_capacity == "same"
            )
        if s.selector == "pagerank":
            return selection.by_pagerank(graph), {}
        return selection.margins(guess) if s.selector == "margin" else np.ones(graph.n_target), {}

    def _mixture(self, groups: list[Pairs], device: Any) -> Mixture:
        import torch

        s = self._settings
        source, target = (np.concatenate([getattr(p, n) for p in groups]) for n in ("source", "target"))
        share = np.clip(np.concatenate([p.weight for p in groups]), s.least_mix, s.most_mix).astype(np.float32)
        return Mixture(*(torch.from_numpy(a).to(device) for a in (source, target, share)))
