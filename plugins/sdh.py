"""Supervised discrete hashing: codes from which the labels are read linearly, learned bit by bit, without relaxing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from hashcli.data import TrainingData
from hashcli.method import Fitted, HashMethod, Run
from hashcli.settings import Param

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """lam, nu and the number of anchors are the paper's."""

    iterations: Annotated[int, Param("rounds of all updates", ge=1, le=1000)] = 5
    sweeps: Annotated[int, Param("times that a round goes over the bits, at most", ge=1, le=1000)] = 10
    n_anchors: Annotated[int, Param("training photos that the kernel compares with", ge=1, le=20000)] = 1000
    width: Annotated[float, Param("the kernel's, in units of the mean distance to anchors", ge=0.01, le=100)] = 0.5
    lam: Annotated[float, Param("ridge of the classifier", ge=0, le=1e6)] = 1.0
    nu: Annotated[float, Param("weight of codes being predictable from the photo", ge=0, le=1e6)] = 1e-5
    ridge: Annotated[float, Param("ridge of the hash function", ge=1e-8, le=1e6)] = 0.1
    centering: Annotated[str, Param("mean taken off the features", choices=("none", "pooled", "per_domain"))] = (
        "per_domain"
    )


class SDH(HashMethod):
    """min ||Y - B W||^2 + lam ||W||^2 + nu (||B - Phi F - c||^2 + ridge ||F||^2) over codes B in {-1, 1} (n, n_bits).

    Y (n, C) are the labels, Phi (n, m) a Gaussian kernel on anchors. Intercept c and ridge, which the paper has not,
    keep F from learning by heart where nearly every photo is an anchor.
    """

    summary = "supervised; discrete codes from which the labels are read, in closed form; takes several labels"
    paper = "Shen, Shen, Liu & Shen, Supervised Discrete Hashing, CVPR 2015"
    needs = frozenset({"source_labels"})
    multi_label = True
    Settings = Settings
    settings: Settings

    def fit(self, data: TrainingData, run: Run) -> Fitted:
        """Learn from the labeled photos alone."""
        from torch import nn

        from hashcli import heads

        s = self.settings
        assert data.source is not None and data.source.labels is not None
        x, labels = data.source.features, data.source.labels
        y = (np.eye(data.n_classes)[labels] if labels.ndim == 1 else labels).astype(np.float64)
        rng = np.random.default_rng(self.task.seed)
        anchors = x[rng.permutation(len(x))[: s.n_anchors]]
        kernel = heads.Kernel(anchors, s.width * mean_distance(x, anchors))
        phi = kernel.rows(x)
        middle = phi.mean(0)
        phi -= middle
        gram = phi.T @ phi + s.ridge * np.eye(len(anchors))
        codes = np.where(rng.random((len(x), self.task.n_bits)) < 0.5, -1.0, 1.0)
        with run.progress.task("learning codes", s.iterations) as task:
            for _ in range(s.iterations):
                classifier = np.linalg.solve(codes.T @ codes + s.lam * np.eye(codes.shape[1]), codes.T @ y)
                predicted, _, _ = regressed(phi, gram, codes)
                codes = discrete_step(codes, y, classifier, s.nu * predicted, s.sweeps)
                task.advance()
        _, function, intercept = regressed(phi, gram, codes)
        return Fitted(image=nn.Sequential(kernel, heads.linear(function, intercept - middle @ function)))


def mean_distance(x: NDArray[np.float32], anchors: NDArray[np.float32]) -> float:
    """Root mean squared distance of rows x (n, d) from anchors (m, d); 1 where all are alike."""
    squares = np.square(x, dtype=np.float64).sum(1).mean() + np.square(anchors, dtype=np.float64).sum(1).mean()
    squares -= 2 * float(x.mean(0, dtype=np.float64) @ anchors.mean(0, dtype=np.float64))
    return float(np.sqrt(squares)) if squares > 1e-9 else 1.0


def regressed(phi: Array, gram: Array, codes: Array) -> tuple[Array, Array, Array]:
    """Ridge regression of codes (n, n_bits) on centered phi (n, m): predictions, F (m, n_bits), intercept (n_bits,)."""
    intercept = codes.mean(0)
    function = np.linalg.solve(gram, phi.T @ (codes - intercept))
    return phi @ function + intercept, function, intercept


def discrete_step(codes: Array, y: Array, classifier: Array, pull: Array, sweeps: int) -> Array:
    """Cyclic coordinate descent of the codes: each column in turn takes its best value given the others (Eq. 12).

    codes (n, n_bits), y (n, C), classifier W (n_bits, C), pull (n, n_bits) = nu times the predicted codes. Stops when
    a sweep changes nothing, or after `sweeps`.
    """
    codes = codes.copy()
    wanted = y @ classifier.T + pull
    overlap = classifier @ classifier.T
    for _ in range(sweeps):
        before = codes.copy()
        for bit in range(codes.shape[1]):
            others = codes @ overlap[:, bit] - codes[:, bit] * overlap[bit, bit]
            codes[:, bit] = np.where(wanted[:, bit] >= others, 1.0, -1.0)
        if np.array_equal(codes, before):
            break
    return codes
