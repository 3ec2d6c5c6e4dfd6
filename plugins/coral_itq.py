"""CORAL-ITQ: iterative quantization of both domains after the source was given the target's covariance."""

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
    """How the covariances are estimated, and for how long the components are rotated."""

    shrinkage: Annotated[float, Param("how far covariances are drawn to a sphere; 1: no alignment", ge=0, le=1)] = 0.1
    iterations: Annotated[int, Param("rounds of the rotation", ge=0, le=10000)] = 50
    centering: Annotated[str, Param("mean taken off the features", choices=("none", "pooled", "per_domain"))] = (
        "per_domain"
    )


class CORALITQ(HashMethod):
    """Source features are recolored, x Cs^-1/2 Ct^1/2, then ITQ is fitted on them and the target's together.

    A hasher has one head for both domains, so the recoloring shapes components and rotation but is not applied when
    photos are encoded: target photos pass as they are, and source photos keep the covariance they came with (their
    mean is taken off, as in every method). A gallery of target photos gets all of CORAL; one of source photos gets
    codes that are less aligned with those of target queries than in CORAL proper.
    """

    summary = "unsupervised; ITQ of the source made like the target, in closed form"
    paper = "Sun, Feng & Saenko, Return of Frustratingly Easy Domain Adaptation, AAAI 2016; Gong & Lazebnik, CVPR 2011"
    needs = frozenset({"target_images"})
    multi_label = True
    Settings = Settings

    def check(self, data: TrainingData) -> None:
        """Refuse, beyond the common reasons, to align with a source that is not there."""
        super().check(data)
        if data.source is None:
            raise UsageError("CORAL-ITQ aligns a source folder with a target, and there is no source", "give --src")

    def fit(self, data: TrainingData, run: Run) -> Fitted:
        """Raises UsageError when the features have fewer directions of variance than n_bits."""
        from hashcli import heads

        assert data.source is not None and data.target is not None
        source, target = (d.features.astype(np.float64) for d in (data.source, data.target))
        mean = target.mean(0)
        source -= source.mean(0)
        target -= mean
        rows = np.concatenate([source @ projections.recoloring(source, target, self.settings.shrinkage), target])
        components = projections.enough_components(rows, self.task.n_bits, "CORAL-ITQ")
        rotation = projections.rotate(rows @ components, self.task.n_bits, self.settings.iterations, self.task.seed)
        directions = components @ rotation
        return Fitted(image=heads.linear(directions, -mean @ directions))
