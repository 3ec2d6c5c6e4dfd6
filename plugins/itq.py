"""Iterative quantization: principal components, rotated so that rounding them to bits loses least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from hashcli.data import TrainingData
from hashcli.errors import UsageError
from hashcli.method import Fitted, HashMethod, Run
from hashcli.settings import Param

# Features are float32: directions whose variance is below this share of the largest are rounding, not data.
NOISE = 1e-10


@dataclass(frozen=True)
class ITQSettings:
    """What the components are fitted on, and for how long they are rotated."""

    iterations: Annotated[int, Param("rounds of the rotation", ge=0, le=10000)] = 50
    fit_on: Annotated[str, Param("photos fitted on; labels are never used", choices=("both", "source", "target"))] = (
        "both"
    )
    centering: Annotated[str, Param("mean taken off the features", choices=("none", "pooled", "per_domain"))] = (
        "per_domain"
    )


class ITQ(HashMethod):
    """PCA-ITQ (Gong & Lazebnik, Section 3.1): b = sgn(R^T P^T (x - mu))."""

    summary = "unsupervised; rotated principal components, in closed form"
    paper = "Gong & Lazebnik, Iterative Quantization: A Procrustean Approach to Learning Binary Codes, CVPR 2011"
    multi_label = True
    Settings = ITQSettings

    def check(self, data: TrainingData) -> None:
        """Refuse, beyond the common reasons, to fit on a domain that is not there."""
        super().check(data)
        if not self._rows(data):
            raise UsageError(
                f"ITQ cannot fit on the {self.settings.fit_on} photos: there are none", "leave fit_on at both"
            )

    def fit(self, data: TrainingData, run: Run) -> Fitted:
        """Raises UsageError when the features have fewer directions of variance than n_bits."""
        import torch

        rows = np.concatenate(self._rows(data)).astype(np.float64)
        mean = rows.mean(0)
        rows -= mean
        components = self._components(rows)
        rotation = rotate(rows @ components, self.settings.iterations, self.task.seed)
        weight = (components @ rotation).T
        head = torch.nn.Linear(weight.shape[1], weight.shape[0])
        head.weight.data = torch.from_numpy(weight).float()
        head.bias.data = torch.from_numpy(-weight @ mean).float()
        return Fitted(image=head)

    def _rows(self, data: TrainingData) -> list[NDArray[np.float32]]:
        domains = {"source": data.source, "target": data.target}
        wanted = domains if self.settings.fit_on == "both" else (self.settings.fit_on,)
        return [domain.features for name in wanted if (domain := domains[name]) is not None]

    def _components(self, centered: NDArray[np.float64]) -> NDArray[np.float64]:
        """The n_bits directions of largest variance (d, n_bits), of centered rows (n, d)."""
        variances, directions = np.linalg.eigh(centered.T @ centered / len(centered))
        rank = int((variances > NOISE * variances[-1]).sum())
        if rank < self.task.n_bits:
            most = rank // 8 * 8
            raise UsageError(
                f"ITQ cannot make {self.task.n_bits} bits: {len(centered)} photos with {centered.shape[1]} features "
                f"vary in {rank} directions, which is enough for at most {most} bits",
                f"use --bits {most}, or --method lsh" if most >= 16 else "give more photos, or use --method lsh",
            )
        return directions[:, ::-1][:, : self.task.n_bits]


def rotate(projected: NDArray[np.float64], iterations: int, seed: int) -> NDArray[np.float64]:
    """The rotation R (c, c) that lowers ||sgn(V R) - V R||_F for V (n, c), from a random start.

    Alternates codes B = sgn(V R) and the orthogonal Procrustes solution: B^T V = A S C^T gives R = C A^T.
    """
    n_bits = projected.shape[1]
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((n_bits, n_bits)))[0]
    for _ in range(iterations):
        bits = np.where(projected @ rotation >= 0, 1.0, -1.0)
        left, _, right = np.linalg.svd(bits.T @ projected)
        rotation = right.T @ left.T
    return rotation
