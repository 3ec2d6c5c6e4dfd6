"""CCA-ITQ: the directions that tell the classes apart, rotated so that rounding them to bits loses least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from hashcli import projections
from hashcli.data import TrainingData
from hashcli.errors import UsageError
from hashcli.method import Fitted, HashMethod, Run
from hashcli.settings import Param


@dataclass(frozen=True)
class Settings:
    """How far directions of little variance are held back, and for how long the directions are rotated."""

    ridge: Annotated[float, Param("added to each direction's variance, in units of their mean", ge=1e-6, le=1e6)] = 1.0
    iterations: Annotated[int, Param("rounds of the rotation", ge=0, le=10000)] = 50
    centering: Annotated[str, Param("mean taken off the features", choices=("none", "pooled", "per_domain"))] = (
        "per_domain"
    )


class CCAITQ(HashMethod):
    """Canonical directions of source features and labels, rotated on the photos of both domains.

    C classes correlate with the features in at most C - 1 directions; more bits than that are made by turning these
    few into the larger space, where the rotation still loses least.
    """

    summary = "supervised; canonical correlation with the labels, in closed form; takes several labels"
    paper = "Gong & Lazebnik, Iterative Quantization: A Procrustean Approach to Learning Binary Codes, CVPR 2011"
    needs = frozenset({"source_labels"})
    multi_label = True
    Settings = Settings

    def fit(self, data: TrainingData, run: Run) -> Fitted:
        """Raises UsageError when features or labels are the same for all photos."""
        from hashcli import heads

        assert data.source is not None and data.source.labels is not None
        labels = data.source.labels
        y = (np.eye(data.n_classes)[labels] if labels.ndim == 1 else labels).astype(np.float64)
        x = data.source.features.astype(np.float64)
        if not np.ptp(y, axis=0).any() or not np.ptp(x, axis=0).any():
            raise UsageError("CCA-ITQ finds nothing that tells the classes apart: all photos or their labels are alike")
        directions = projections.canonical_directions(
            x - x.mean(0), y - y.mean(0), self.task.n_bits, self.settings.ridge
        )
        rows = np.concatenate([d.features for d in (data.source, data.target) if d is not None]).astype(np.float64)
        mean = rows.mean(0)
        projected = (rows - mean) @ directions
        rotation = projections.rotate(projected, self.task.n_bits, self.settings.iterations, self.task.seed)
        directions = directions @ rotation
        return Fitted(image=heads.linear(directions, -mean @ directions))
