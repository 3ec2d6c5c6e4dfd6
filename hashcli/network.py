"""The trained part of a hasher: input normalization and head, and their ONNX file."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hashcli import onnx_check
from hashcli.errors import MachineError
from hashcli.onnx_export import TOLERANCE, captured, export, run, traced

Floats = NDArray[np.float32]
Features = NDArray[np.float16] | NDArray[np.float32]
_CHUNK = 8192


class InputNorm(nn.Module):
    """x = f/||f||, minus the mean of its domain, x/||x||, times sqrt(d): rows of length sqrt(d) around the origin.

    `means` (2, d) are those of unit-length features: row 0 source, row 1 target. A zero feature stays finite.
    """

    means: Tensor

    def __init__(self, means: Tensor | Floats) -> None:
        super().__init__()
        means = torch.as_tensor(means)
        if means.ndim != 2 or means.shape[0] != 2:
            raise ValueError(f"means must be (2, d), got {tuple(means.shape)}")
        self.register_buffer("means", means.detach().clone().to(torch.float32))

    def forward(self, features: Tensor, domains: Tensor) -> Tensor:
        """features (n, d) of any float type, domains (n,) int64 of 0 and 1 -> float32 (n, d)."""
        return self._scaled(features, self.means[domains])

    def mixed(self, features: Tensor, source_share: Tensor) -> Tensor:
        """As `forward`, with the two means mixed: source_share (n,) in 0..1, 1 being all source."""
        share = source_share.to(torch.float32)[:, None]
        return self._scaled(features, share * self.means[0] + (1 - share) * self.means[1])

    def _scaled(self, features: Tensor, means: Tensor) -> Tensor:
        centered = F.normalize(features.to(torch.float32), dim=1) - means
        scaled: Tensor = F.normalize(centered, dim=1) * self.means.shape[1] ** 0.5
        return scaled


def fit_input_norm(source: Features | None, target: Features | None, centering: str) -> Floats:
    """Means (2, d) float32 for `InputNorm` from the training rows (n, d) of each domain.

    none: zeros; pooled: one mean of all rows; per_domain: each its own, and a domain without rows takes the other's.
    Raises ValueError for another centering, or when there are no rows at all.
    """
    domains = [f for f in (source, target) if f is not None and len(f)]
    if not domains:
        raise ValueError("there are no features to normalize")
    dim = domains[0].shape[1]
    if centering == "none":
        return np.zeros((2, dim), np.float32)
    if centering == "pooled":
        total = sum((_sum_of_units(f) for f in domains), np.zeros(dim))
        return _stacked([total / sum(len(f) for f in domains)] * 2)
    if centering != "per_domain":
        raise ValueError(f"centering must be none, pooled or per_domain, got {centering!r}")
    means = [_sum_of_units(f) / len(f) for f in domains]
    return _stacked([means[0], means[-1]])


def _sum_of_units(features: Features) -> NDArray[np.float64]:
    total = np.zeros(features.shape[1])
    for start in range(0, len(features), _CHUNK):
        block = features[start : start + _CHUNK].astype(np.float64)
        total += (block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12)).sum(0)
    return total


def _stacked(rows: Sequence[NDArray[np.float64]]) -> Floats:
    return np.stack(rows).astype(np.float32)


def mlp(sizes: Sequence[int], n_bits: int) -> nn.Sequential:
    """The usual head: linear layers of `sizes` (the first is d) with ReLU between, then a linear one to n_bits.

    Drawn from torch's current random state.
    """
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], n_bits))


class _Hash(nn.Module):
    """feature float16 (n, d), domain int64 (n,) -> relaxed float32 (n, n_bits)."""

    def __init__(self, means: Tensor | Floats, head: nn.Module) -> None:
        super().__init__()
        self.norm, self.head = InputNorm(means), head

    def forward(self, feature: Tensor, domain: Tensor) -> Any:
        return self.head(self.norm(feature, domain))


def export_head(means: Tensor | Floats, head: nn.Module, path: Path, dim: int, n_bits: int) -> None:
    """Write head.onnx: input normalization by `means` (2, dim), then `head`, a module from (n, dim) to (n, n_bits).

    Raises MachineError when the head does not export, gives another shape, or ONNX Runtime and torch disagree by
    more than 1e-4 of the largest relaxed value (checked for 1, 7 and 64 rows).
    """
    whole = _Hash(means, head).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn((64, dim), generator=generator).to(torch.float16)
    domain = torch.arange(64) % 2
    with torch.inference_mode():
        expected = whole(feature, domain)
    if not isinstance(expected, Tensor) or expected.shape != (64, n_bits) or expected.dtype != torch.float32:
        shape = f"{expected.dtype} {tuple(expected.shape)}" if isinstance(expected, Tensor) else type(expected).__name__
        raise MachineError(f"{type(head).__name__} gives {shape} for 64 photos, not float32 (64, {n_bits})")
    # tracing takes 0.7 s where capturing takes 5 s, and a head's graph runs as fast
    inputs = {"feature": feature[:2], "domain": domain[:2]}
    export(whole, inputs, path, onnx_check.head_ports(dim, n_bits), (traced, captured), type(head).__name__)
    for n in (1, 7, 64):
        with torch.inference_mode():
            expected = whole(feature[:n], domain[:n])
        (relaxed,) = run(path.read_bytes(), {"feature": feature[:n], "domain": domain[:n]})
        difference = float((relaxed - expected).abs().max())
        if not difference <= TOLERANCE * float(expected.abs().max().clamp(min=1)):
            path.unlink()
            raise MachineError(f"ONNX Runtime and torch disagree on {type(head).__name__} by {difference:.2g}")


def check_exportable(head: nn.Module, dim: int, n_bits: int) -> None:
    """Try `export_head` on an untrained head, so that a method that cannot be saved fails before it is trained.

    Raises MachineError.
    """
    was_training = head.training
    with tempfile.TemporaryDirectory(prefix="hashcli-") as folder:
        export_head(torch.zeros(2, dim), head, Path(folder, "head.onnx"), dim, n_bits)
    head.train(was_training)
