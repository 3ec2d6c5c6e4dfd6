"""Signs of means: a bit says whether the mean of some features, drawn at random, is above its middle value."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from hashcli.data import TrainingData
from hashcli.errors import UsageError
from hashcli.method import Fitted, HashMethod, Run
from hashcli.settings import Param


@dataclass(frozen=True)
class SignOfMeanSettings:
    middle: Annotated[str, Param("what a mean is compared with", choices=("median", "zero"))] = "median"


class SignOfMean(HashMethod):
    """The features are dealt to n_bits hands; bit i is 1 where the mean of hand i is at least its middle value."""

    summary = "signs of means of random features; an example of a plugin"
    paper = "none: made up to show what a plugin looks like"
    multi_label = True
    Settings = SignOfMeanSettings

    def fit(self, data: TrainingData, run: Run) -> Fitted:
        import torch

        n_bits, dim = self.task.n_bits, self.task.feature_dim
        if dim < n_bits:
            raise UsageError(f"sign-of-mean makes at most {dim} bits of {dim} features", f"use --bits {dim // 8 * 8}")
        rows = np.concatenate([domain.features for domain in (data.source, data.target) if domain is not None])

        hand = np.random.default_rng(self.task.seed).permutation(np.arange(dim) % n_bits)  # (dim,) the bit it goes to
        weight = np.zeros((n_bits, dim), np.float32)
        weight[hand, np.arange(dim)] = 1
        weight /= weight.sum(1, keepdims=True)
        middle = np.median(rows @ weight.T, axis=0) if self.settings.middle == "median" else np.zeros(n_bits)

        head = torch.nn.Linear(dim, n_bits)  # the host exports it, together with the normalization before it
        head.weight.data = torch.from_numpy(weight)
        head.bias.data = torch.from_numpy(-middle.astype(np.float32))
        return Fitted(image=head)
