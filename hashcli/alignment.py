"""Terms that make two domains look alike to a network: an adversary whose gradient is turned round."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse(x: Tensor, strength: float) -> Tensor:
    """x itself; its gradient comes back times -strength (Ganin & Lempitsky, ICML 2015)."""
    reversed_: Tensor = _Reverse.apply(x, strength)  # type: ignore[no-untyped-call]
    return reversed_


def reversal_strength(progress: float) -> float:
    """Strength of the reversal after a share `progress` of the training: 2 / (1 + exp(-10 p)) - 1, from 0 to 1."""
    return 2 / (1 + math.exp(-10 * min(max(progress, 0.0), 1.0))) - 1


def discriminator(dim: int, hidden: int) -> nn.Sequential:
    """Rows (n, dim) -> one logit each (n, 1), positive for the target; dropout keeps it from learning rows by heart."""
    return nn.Sequential(
        *(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(hidden, 1),
    )


def domain_loss(judge: nn.Module, source: Tensor, target: Tensor, strength: float) -> Tensor:
    """Cross-entropy of telling source (n, d) from target (m, d), each domain with half the weight.

    `judge` learns to tell them apart; what made the rows is taught the opposite, `strength` times as much.
    """
    rows = reverse(torch.cat([source, target]), strength)
    logits = judge(rows)
    # -log(1 - D) = softplus(logit), -log D = softplus(-logit)
    return (F.softplus(logits[: len(source)]).mean() + F.softplus(-logits[len(source) :]).mean()) / 2


class RandomOuter(nn.Module):
    """Two inputs (n, a) and (n, b) -> (n, width), whose inner products are near those of the outer products (n, a b).

    Fixed Gaussian maps of both, multiplied (Long et al., Conditional Adversarial Domain Adaptation, 2018, Eq. 6).
    """

    first: Tensor
    second: Tensor

    def __init__(self, first: int, second: int, width: int) -> None:
        super().__init__()
        self.register_buffer("first", torch.randn(first, width))
        self.register_buffer("second", torch.randn(second, width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (n, a), y (n, b) -> (n, width)."""
        return (x @ self.first) * (y @ self.second) / math.sqrt(self.first.shape[1])


def mean_discrepancy(source: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the kernel means of source (n, d) and target (m, d): 0 for equal rows.

    The sum of 5 Gaussian kernels exp(-||x - y||^2 / w), w from a quarter of the mean squared distance of all pairs to
    4 times that (Long et al., Learning Transferable Features with Deep Adaptation Networks, ICML 2015, in their code).
    """
    rows = torch.cat([source, target])
    squares = rows.square().sum(1)
    distance = (squares[:, None] + squares[None, :] - 2 * rows @ rows.T).clamp_min(0)
    n = len(rows)
    mean = (distance.detach().sum() / max(n * n - n, 1)).clamp_min(1e-12)
    kernel = torch.stack([torch.exp(-distance / (mean * 2.0**power)) for power in range(-2, 3)]).sum(0)
    k = len(source)
    return kernel[:k, :k].mean() + kernel[k:, k:].mean() - 2 * kernel[:k, k:].mean()
