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


def shared_labels(labels: Tensor, n_classes: int) -> Tensor:
    """Which rows share a label: (n, n) of 0 and 1, from class numbers (n,) or 0/1 rows (n, n_classes)."""
    rows = F.one_hot(labels, n_classes) if labels.ndim == 1 else labels
    rows = rows.to(torch.float32)
    return (rows @ rows.T > 0).to(torch.float32)


def pairwise_similarity(
    relaxed: Tensor, similar: Tensor, likelihood: str = "sigmoid", balanced: bool = False
) -> Tensor:
    """Mean negative log-likelihood of `similar` (n, n) given codes (n, n_bits), near codes being similar.

    All ordered pairs, a row with itself too: its distance is constant, so it adds nothing to learn.
    "sigmoid": P = sigmoid(phi), phi = floor(n_bits / 2) / (1 + ||h_i - h_j||^2), linear from phi = 15 on, where
    exp could overflow (the authors' code of TAH). "tanh": P = tanh(2 / (1 + ||h_i - h_j||^2)), which falls faster.
    `balanced`: the mean over similar pairs and that over the others count half each, rows with themselves left out
    (Cao et al., HashNet, ICCV 2017, weigh pairs so); with many classes few pairs of a batch are similar.
    """
    squares = relaxed.square().sum(1)
    distance = (squares[:, None] + squares[None, :] - 2 * relaxed @ relaxed.T).clamp_min(0)
    if likelihood == "tanh":
        probability = torch.tanh(2 / (1 + distance)).clamp(1e-6, 1 - 1e-6)
        each = F.binary_cross_entropy(probability, similar, reduction="none")
    elif likelihood == "sigmoid":
        phi = (relaxed.shape[1] // 2) / (1 + distance)
        each = F.softplus(phi, threshold=15) - similar * phi
    else:
        raise ValueError(f"the likelihood is sigmoid or tanh, not {likelihood!r}")
    if not balanced:
        return each.mean()
    others = 1 - torch.eye(len(relaxed), device=relaxed.device)
    halves = [(each * pairs).sum() / pairs.sum().clamp_min(1) for pairs in (similar * others, (1 - similar) * others)]
    return (halves[0] + halves[1]) / 2


def log_cosh_quantization(relaxed: Tensor) -> Tensor:
    """Mean log cosh(|h| - 1): a smooth pull of relaxed codes towards -1 and +1 (TAH)."""
    return (relaxed.abs() - 1).cosh().log().mean()


def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy for class numbers (n,), binary cross-entropy for 0/1 rows (n, n_classes)."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def entropy(logits: Tensor, multi_label: bool) -> Tensor:
    """Mean entropy of the predictions for rows of logits (n, n_classes), of every class apart with several labels."""
    if multi_label:
        each = torch.sigmoid(logits) * F.logsigmoid(logits) + torch.sigmoid(-logits) * F.logsigmoid(-logits)
        return -each.mean()
    return -(torch.softmax(logits, 1) * torch.log_softmax(logits, 1)).sum(1).mean()


def one_sidedness(logits: Tensor, multi_label: bool) -> Tensor:
    """Minus the entropy of the mean prediction: least where the rows (n, n_classes) are spread over the classes."""
    if multi_label:
        share = torch.sigmoid(logits).mean(0)
        shares = torch.stack([share, 1 - share])
        return (shares * shares.clamp_min(1e-12).log()).sum(0).mean()
    share = torch.softmax(logits, 1).mean(0)
    return (share * share.clamp_min(1e-12).log()).sum()
