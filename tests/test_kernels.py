"""Kernels with stored anchors and widths, and ridge regression on them, against slow loops."""

from __future__ import annotations

import numpy as np
import pytest

from hashcli.kernels import Kernel, regress, unseen


def test_the_kernel_compares_with_stored_anchors_and_width(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((30, 5)).astype(np.float32)
    kernel = Kernel.fit(rows, 12, rng)
    assert all((anchor == rows).all(1).any() for anchor in kernel.anchors)
    distances = [[np.linalg.norm(row - anchor) for row in rows] for anchor in kernel.anchors]
    assert kernel.sigma == pytest.approx(np.mean(distances), rel=1e-6)
    slow = [[np.exp(-(np.linalg.norm(row - a) ** 2) / (2 * kernel.sigma**2)) for row in rows] for a in kernel.anchors]
    np.testing.assert_allclose(kernel(rows), slow, atol=1e-9)
    np.testing.assert_allclose(kernel(rows[3:4]), np.array(slow)[:, 3:4], atol=1e-9)
    laplacian = Kernel(kernel.anchors, kernel.sigma, laplacian=True)
    slow = [[np.exp(-np.linalg.norm(row - a) / kernel.sigma) for row in rows] for a in kernel.anchors]
    np.testing.assert_allclose(laplacian(rows), slow, atol=1e-6)
    assert len(Kernel.fit(rows, 1500, rng).anchors) == 30
    whole, half = (Kernel.fit(rows, 30, rng, width).sigma for width in (1, 0.5))
    assert half == pytest.approx(whole / 2)


def test_the_hash_function_is_the_ridge_regression_on_the_learned_codes(rng: np.random.Generator) -> None:
    codes, x = np.sign(rng.standard_normal((4, 50))), rng.standard_normal((9, 50))
    wanted = codes @ x.T @ np.linalg.inv(x @ x.T + 0.3 * np.eye(9))
    np.testing.assert_allclose(regress(codes, x, 0.3), wanted, atol=1e-10)
    np.testing.assert_allclose(regress(codes, x, 0), codes @ np.linalg.pinv(x), atol=1e-10)


@pytest.mark.parametrize("lam", [0.3, 5.0])
def test_predictions_for_a_column_come_from_the_other_folds(rng: np.random.Generator, lam: float) -> None:
    wanted, x = rng.standard_normal((3, 40)), rng.standard_normal((6, 40))
    folds = rng.integers(0, 4, 40)
    predicted = unseen(wanted, x, lam, folds)
    for i in range(40):
        others = folds != folds[i]
        np.testing.assert_allclose(predicted[:, i], regress(wanted[:, others], x[:, others], lam) @ x[:, i], atol=1e-9)
