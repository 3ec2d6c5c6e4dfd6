"""Heads that closed-form methods fill in: normalized features (n, d) -> relaxed codes (n, n_bits), all exportable."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]


def linear(directions: Array, offset: Array) -> nn.Linear:
    """x (n, d) -> x D + offset, of directions D (d, n_bits) and offset (n_bits,)."""
    head = nn.Linear(*directions.shape)
    head.weight.data = torch.from_numpy(np.ascontiguousarray(directions.T)).float()
    head.bias.data = torch.from_numpy(offset).float()
    return head


class Sine(nn.Module):
    """The sine of every element."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the same shape."""
        return torch.sin(x)


class Kernel(nn.Module):
    """x (n, d) -> exp(-||x - a||^2 / (2 width^2)), or exp(-||x - a|| / width), for every anchor a: (n, n_anchors)."""

    anchors: Tensor
    squares: Tensor

    def __init__(self, anchors: NDArray[np.float32], width: float, *, laplacian: bool = False) -> None:
        super().__init__()
        self.register_buffer("anchors", torch.from_numpy(anchors.copy()))
        self.register_buffer("squares", self.anchors.square().sum(1))
        self.width, self.laplacian = width, laplacian

    def forward(self, x: Tensor) -> Tensor:
        """x (n, d) -> (n, n_anchors), each from 0 to 1."""
        squared = (x.square().sum(1, keepdim=True) - 2 * x @ self.anchors.T + self.squares).clamp(min=0)
        return torch.exp(squared.sqrt() / -self.width if self.laplacian else squared / (-2 * self.width**2))

    def rows(self, features: NDArray[np.float32], block: int = 8192) -> Array:
        """The same for features (n, d) float32, as (n, n_anchors) float64."""
        with torch.no_grad():
            blocks: Iterable[Tensor] = torch.split(torch.from_numpy(features), block)
            return torch.cat([self(x) for x in blocks]).double().numpy()
