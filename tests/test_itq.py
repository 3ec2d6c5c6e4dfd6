"""Iterative quantization: the objective falls, the head is what the equations say, too many bits are refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hashcli_plugins.itq import ITQ

from hashcli.data import SourceData, TargetData, TrainingData
from hashcli.errors import UsageError
from hashcli.method import Run, Task
from hashcli.projections import rotate
from hashcli.settings import parse


def two_domains(rng: np.random.Generator, n: int = 200, d: int = 24) -> TrainingData:
    mixing = rng.standard_normal((d, d)) * np.linspace(0.2, 2, d)
    source, target = ((rng.standard_normal((n, d)) @ mixing).astype(np.float32) for _ in range(2))
    return TrainingData(SourceData(source), TargetData(target + np.float32(0.5)))


def fit(data: TrainingData, n_bits: int, *words: str, seed: int = 0) -> torch.nn.Linear:
    method = ITQ(Task(n_bits, data.feature_dim, 0, seed), parse(ITQ.Settings, words, "itq"))
    method.check(data)
    head = method.fit(data, Run(seed)).image
    assert isinstance(head, torch.nn.Linear)
    return head


def quantization_error(projected: np.ndarray, rotation: np.ndarray) -> float:
    rotated = projected @ rotation
    return float(np.square(np.where(rotated >= 0, 1, -1) - rotated).sum())


def test_every_round_lowers_the_quantization_error_and_keeps_a_rotation(rng: np.random.Generator) -> None:
    projected = rng.laplace(size=(300, 16))
    rotations = [rotate(projected, 16, n, seed=5) for n in (0, 1, 2, 5, 20, 50)]
    errors = [quantization_error(projected, r) for r in rotations]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    for rotation in rotations:
        np.testing.assert_allclose(rotation.T @ rotation, np.eye(16), atol=1e-10)


def test_the_procrustes_step_is_the_best_rotation_for_its_codes(rng: np.random.Generator) -> None:
    projected = rng.standard_normal((100, 8))
    start = rotate(projected, 8, 0, seed=1)
    bits = np.where(projected @ start >= 0, 1.0, -1.0)
    best = rotate(projected, 8, 1, seed=1)
    error = np.square(bits - projected @ best).sum()
    for seed in range(200):
        nudge = np.linalg.qr(np.eye(8) + 0.05 * np.random.default_rng(seed).standard_normal((8, 8)))[0]
        nudge *= np.sign(np.diag(nudge))
        assert np.square(bits - projected @ best @ nudge).sum() >= error - 1e-9


def test_the_head_projects_on_the_largest_components_of_the_centered_features(rng: np.random.Generator) -> None:
    data = two_domains(rng)
    head = fit(data, 16)
    rows = np.concatenate([data.source.features, data.target.features]).astype(np.float64)
    _, _, components = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    weight = head.weight.detach().numpy().astype(np.float64)
    np.testing.assert_allclose(weight @ weight.T, np.eye(16), atol=1e-5)
    np.testing.assert_allclose(weight @ components[:16].T @ components[:16], weight, atol=1e-4)
    with torch.no_grad():
        relaxed = head(torch.from_numpy(rows).float()).numpy()
    np.testing.assert_allclose(relaxed.mean(0), 0, atol=1e-4)


def test_fit_on_chooses_the_photos_that_the_components_come_from(rng: np.random.Generator) -> None:
    data = two_domains(rng)
    only_source = fit(TrainingData(data.source, None), 16)
    torch.testing.assert_close(fit(data, 16, "fit_on=source").weight, only_source.weight)
    assert not torch.allclose(fit(data, 16, "fit_on=target").weight, only_source.weight)
    with pytest.raises(UsageError, match="target photos: there are none"):
        fit(TrainingData(data.source, None), 16, "fit_on=target")


def test_more_bits_than_directions_of_variance_are_refused_with_the_most_there_can_be(
    rng: np.random.Generator,
) -> None:
    few = rng.standard_normal((30, 64)).astype(np.float32)
    with pytest.raises(
        UsageError, match=r"30 photos with 64 features vary in 29 directions.* at most 24 bits"
    ) as caught:
        fit(TrainingData(None, TargetData(few)), 32)
    assert "--bits 24" in caught.value.hint
    fit(TrainingData(None, TargetData(few)), 24)
    narrow = rng.standard_normal((100, 10)).astype(np.float32)
    with pytest.raises(UsageError) as caught:
        fit(TrainingData(None, TargetData(narrow)), 16)
    assert "--bits" not in caught.value.hint


def test_photos_that_are_all_alike_are_refused() -> None:
    with pytest.raises(UsageError, match="vary in 0 directions"):
        fit(TrainingData(None, TargetData(np.ones((40, 32), np.float32))), 16)
