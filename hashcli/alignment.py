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
