"""Spectral hashing: sine waves along the principal components, the slowest ones first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from hashcli import projections
from hashcli.data import TrainingData
from hashcli.errors import UsageError
from hashcli.method import Fitted, HashMethod, Run
from hashcli.settings import Param


@dataclass(frozen=True)
class Settings:
    """How the features are centered."""

    centering: Annotated[str, Param("mean taken off the features", choices=("none", "pooled", "per_domain"))] = (
        "per_domain"
    )


class SH(HashMethod):
    """b = sgn sin(pi/2 + k pi (v_j - min_j) / range_j) along component v_j; nothing in it is drawn at random."""

    summary = "unsupervised; sine waves along the principal components, in closed form"
    paper = "Weiss, Torralba & Fergus, Spectral Hashing, NIPS 2008"
    multi_label = True
    Settings = Settings

    def fit(self, data: TrainingData, run: Run) -> Fitted:
        """Fit on the photos of all domains. Raises UsageError when all photos are alike."""
        from torch import nn

        from hashcli import heads

        rows = np.concatenate([d.features for d in (data.source, data.target) if d is not None]).astype(np.float64)
        mean = rows.mean(0)
        rows -= mean
        components = projections.principal_components(rows, self.task.n_bits)[1]
        if not components.shape[1]:
            raise UsageError("SH cannot tell the photos apart: their features are all alike")
        projected = rows @ components
        low, span = projected.min(0), np.ptp(projected, axis=0)
        along, waves = slowest_waves(span, self.task.n_bits)
        frequency = waves * np.pi / span[along]
        directions = components[:, along] * frequency
        offset = np.pi / 2 - low[along] * frequency - mean @ directions
        return Fitted(image=nn.Sequential(heads.linear(directions, offset), heads.Sine()))


def slowest_waves(span: NDArray[np.float64], n_bits: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Component j and wave number k >= 1 (n_bits,) each, of the n_bits smallest eigenvalues (k pi / span_j)^2."""
    components, waves = np.meshgrid(np.arange(len(span)), np.arange(1, n_bits + 1), indexing="ij")
    order = np.argsort((waves / span[:, None]).ravel(), kind="stable")[:n_bits]
    return components.ravel()[order], waves.ravel()[order]
