"""Networks and loss terms that methods share: label codes, classification in Hamming space, contrast, mixing."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn


def hash_head(feature_dim: int, hidden: int, n_bits: int, dropout: float = 0.0) -> nn.Sequential:
    """Features (n, feature_dim) -> relaxed codes (n, n_bits) in (-1, 1): a two-layer perceptron with tanh."""
    return nn.Sequential(
        nn.Linear(feature_dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, n_bits), nn.Tanh()
    )


def hadamard_codes(n_classes: int, n_bits: int, draws: int = 32) -> NDArray[np.float32]:
    """Class codes (n_classes, n_bits) of -1 and +1: rows and columns of a Hadamard matrix.

    Leading columns alone would give two classes one code when there are more classes than bits, so the columns
    are those with the largest least distance of `draws` random choices. Deterministic.
    """
    order = 2 ** int(np.ceil(np.log2(max(n_bits, n_classes, 2))))
    place = np.arange(order)
    matrix = 1.0 - 2.0 * (np.bitwise_count(place[:, None] & place[None, :]) % 2)
    rng = np.random.default_rng(0)
    best, least = matrix[:n_classes, :n_bits], -1.0
    for _ in range(draws):
        codes = matrix[rng.permutation(order)[:n_classes]][:, rng.permutation(order)[:n_bits]]
        distance = (n_bits - codes @ codes.T) / 2 + n_bits * np.eye(n_classes)
        if distance.min() > least:
            best, least = codes, distance.min()
    return best.astype(np.float32)


class LabelCodes(nn.Module):
    """One code per class, (n_classes, n_bits) in [-1, 1].

    kind "learned": tanh of a free table, trained with the head. "hadamard": `hadamard_codes`, fixed.
    """

    def __init__(self, n_classes: int, n_bits: int, kind: str = "learned") -> None:
        super().__init__()
        if kind == "hadamard":
            self.register_buffer("fixed", torch.from_numpy(hadamard_codes(n_classes, n_bits)))
            self.table = None
        elif kind == "learned":
            self.table = nn.Linear(n_classes, n_bits)
        else:
            raise ValueError(f"label codes are learned or hadamard, not {kind!r}")

    def forward(self) -> Tensor:
        """The codes of all classes (n_classes, n_bits)."""
        if self.table is None:
            fixed: Tensor = self.get_buffer("fixed")
            return fixed
        return torch.tanh(self.table.weight.T + self.table.bias)


def code_logits(relaxed: Tensor, codes: Tensor, scale: float) -> Tensor:
    """Class logits (n, n_classes): scale * <relaxed, code> / n_bits (COUPLE, Eq. 12)."""
    return scale * relaxed @ codes.T / codes.shape[1]


def margin_logits(logits: Tensor, labels: Tensor, margin: float) -> Tensor:
    """`logits` with `margin` taken off the true class (Hoe et al., OrthoHash, NeurIPS 2021); labels (n,)."""
    return logits - margin * F.one_hot(labels, logits.shape[1])


def soft_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of logits (n, c) to class probabilities (n, c), weighted by weights (n,); 0 without weight."""
    each = -(targets * F.log_softmax(logits, dim=1)).sum(1)
    if weights is None:
        return each.mean()
    return (weights * each).sum() / weights.sum().clamp_min(1e-12)


def quantization(relaxed: Tensor) -> Tensor:
    """Mean squared distance of relaxed codes from -1 or +1, whichever is nearer."""
    return (relaxed.abs() - 1).square().mean()


def separation(codes: Tensor) -> Tensor:
    """Mean over pairs of classes of relu(cosine of their codes); 0 for a single class (Eq. 13's margin term)."""
    n = len(codes)
    if n < 2:
        return codes.sum() * 0
    unit = F.normalize(codes, dim=1)
    cosine = torch.relu(unit @ unit.T)
    return (cosine.sum() - cosine.diagonal().sum()) / (n * (n - 1))


def consistency(
    target: Tensor, target_labels: Tensor, source: Tensor, source_labels: Tensor, temperature: float
) -> Tensor:
    """Supervised contrast of target codes against the source batch (COUPLE, Eq. 16).

    target (m, n_bits) with pseudo-labels (m,), source (n, n_bits) with labels (n,). Each target is drawn to the
    sources of its label and away from the others; targets without such a source are left out; 0 if all are.
    """
    similarity = F.normalize(target, dim=1) @ F.normalize(source, dim=1).T / temperature
    same = (target_labels[:, None] == source_labels[None, :]).to(similarity.dtype)
    partners = same.sum(1)
    log_share = similarity - similarity.logsumexp(1, keepdim=True) if len(source) else similarity
    each = -(same * log_share).sum(1) / partners.clamp_min(1)
    return (each * (partners > 0)).sum() / (partners > 0).sum().clamp_min(1)


def mix(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Convex combination of rows (n, d): share (n,) of `first`, the rest of `second` (Eqs. 20, 21, 23)."""
    share = share[:, None]
    return share * first + (1 - share) * second
