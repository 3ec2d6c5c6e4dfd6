"""Random projections: the collision law, and what the seed decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hashcli_plugins.lsh import LSH

from hashcli.data import TargetData, TrainingData
from hashcli.method import Run, Task
from hashcli.settings import parse


def relaxed(x: np.ndarray, n_bits: int, seed: int) -> np.ndarray:
    method = LSH(Task(n_bits, x.shape[1], 0, seed), parse(LSH.Settings, [], "lsh"))
    data = TrainingData(None, TargetData(x))
    method.check(data)
    with torch.no_grad():
        return method.fit(data, Run(seed)).image(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("degrees", [10, 60, 90, 150])
def test_bits_differ_with_probability_angle_over_pi(degrees: float) -> None:
    angle = np.deg2rad(degrees)
    x = np.zeros((2, 40), np.float32)
    x[0, 0], x[1, 0], x[1, 1] = 1, np.cos(angle), np.sin(angle)
    bits = relaxed(x, 16384, seed=1) >= 0
    assert (bits[0] != bits[1]).mean() == pytest.approx(degrees / 180, abs=0.02)


def test_one_seed_gives_one_projection_and_another_seed_another(rng: np.random.Generator) -> None:
    x = rng.standard_normal((20, 8)).astype(np.float32)
    np.testing.assert_array_equal(relaxed(x, 16, seed=3), relaxed(x, 16, seed=3))
    assert (relaxed(x, 16, seed=3) != relaxed(x, 16, seed=4)).all()


def test_more_bits_than_features_are_no_obstacle(rng: np.random.Generator) -> None:
    assert relaxed(rng.standard_normal((2, 8)).astype(np.float32), 1024, seed=0).shape == (2, 1024)
