"""Iterative quantization: principal components, rotated so that rounding them to bits loses least."""

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
        from hashcli import heads

        rows = np.concatenate(self._rows(data)).astype(np.float64)
        mean = rows.mean(0)
        rows -= mean
        components = projections.enough_components(rows, self.task.n_bits, "ITQ")
        rotation = projections.rotate(rows @ components, self.task.n_bits, self.settings.iterations, self.task.seed)
        directions = components @ rotation
        return Fitted(image=heads.linear(directions, -mean @ directions))

    def _rows(self, data: TrainingData) -> list[NDArray[np.float32]]:
        domains = {"source": data.source, "target": data.target}
        wanted = domains if self.settings.fit_on == "both" else (self.settings.fit_on,)
        return [domain.features for name in wanted if (domain := domains[name]) is not None]
