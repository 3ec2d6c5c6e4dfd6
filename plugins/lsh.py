"""Random projections: no training at all, the floor that every learned method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from hashcli.data import TrainingData
from hashcli.method import Fitted, HashMethod, Run
from hashcli.settings import Param


@dataclass(frozen=True)
class LSHSettings:
    """How the features are centered before they are projected."""

    centering: Annotated[str, Param("mean taken off the features", choices=("none", "pooled", "per_domain"))] = (
        "per_domain"
    )


class LSH(HashMethod):
    """b = sgn(G x), G Gaussian: two photos differ in each bit with probability angle / pi (Charikar, Section 3)."""

    summary = "random projections; learns nothing"
    paper = "Charikar, Similarity Estimation Techniques from Rounding Algorithms, STOC 2002"
    multi_label = True
    Settings = LSHSettings

    def fit(self, data: TrainingData, run: Run) -> Fitted:
        """Draw the projections (n_bits, d) from the seed."""
        import torch

        shape = (self.task.n_bits, self.task.feature_dim)
        directions = np.random.default_rng(self.task.seed).standard_normal(shape)
        head = torch.nn.Linear(shape[1], shape[0], bias=False)
        head.weight.data = torch.from_numpy(directions).float()
        return Fitted(image=head)
