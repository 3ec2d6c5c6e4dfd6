"""Closed-form projections, against their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hashcli.errors import UsageError
from hashcli.projections import (
    canonical_directions,
    enough_components,
    principal_components,
    recoloring,
    rotate,
)


def centered(rng: np.random.Generator, n: int = 200, d: int = 12) -> np.ndarray:
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d))
    return x - x.mean(0)


def test_principal_components_are_the_singular_vectors_in_order(rng: np.random.Generator) -> None:
    x = centered(rng)
    variances, directions = principal_components(x, 5)
    _, sizes, right = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(variances, sizes[:5] ** 2 / len(x))
    np.testing.assert_allclose(np.abs(np.sum(directions * right[:5].T, axis=0)), 1)


def test_directions_without_variance_are_left_out_and_missed_in_words(rng: np.random.Generator) -> None:
    x = centered(rng, d=9) @ rng.standard_normal((9, 20))
    assert principal_components(x, 20)[1].shape == (20, 9)
    with pytest.raises(UsageError, match="SOME cannot make 16 bits: 200 photos with 20 features vary in 9 directions"):
        enough_components(x, 16, "SOME")
    assert enough_components(x, 8, "SOME").shape == (20, 8)


def test_a_rotation_into_more_bits_keeps_lengths_and_loses_less_with_every_round(rng: np.random.Generator) -> None:
    v = 3 * rng.laplace(size=(300, 5))
    errors = []
    for n in (0, 1, 2, 5, 20):
        r = rotate(v, 16, n, seed=2)
        np.testing.assert_allclose(r @ r.T, np.eye(5), atol=1e-10)
        errors.append(np.square(np.where(v @ r >= 0, 1, -1) - v @ r).sum())
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    with pytest.raises(ValueError, match=r"\(300, 5\) cannot be rotated into 4 bits"):
        rotate(v, 4, 1, seed=0)


def test_canonical_directions_have_the_largest_correlations(rng: np.random.Generator) -> None:
    x = centered(rng, d=6)
    y = x[:, :2] @ rng.standard_normal((2, 3)) + rng.standard_normal((200, 3))
    y -= y.mean(0)
    directions = canonical_directions(x, y, 16, ridge=1e-12)
    assert directions.shape == (6, 3)
    # the definition: eigenvalues of Cxx^-1 Cxy Cyy^-1 Cyx are the squared correlations
    product = np.linalg.inv(x.T @ x) @ x.T @ y @ np.linalg.inv(y.T @ y) @ y.T @ x
    wanted = np.sqrt(np.sort(np.linalg.eigvals(product).real)[::-1][:3])
    projected = x @ directions
    np.testing.assert_allclose(projected.std(0), wanted, rtol=1e-6)
    for k in range(3):
        fit = y @ np.linalg.lstsq(y, projected[:, k], rcond=None)[0]
        assert np.corrcoef(fit, projected[:, k])[0, 1] == pytest.approx(wanted[k], rel=1e-6)
    off = np.corrcoef(projected.T) - np.eye(3)
    np.testing.assert_allclose(off, 0, atol=1e-8)


def test_canonical_directions_are_no_more_than_labels_tell_apart(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 4, 100)
    y = np.eye(4)[labels] - np.eye(4)[labels].mean(0)
    few = centered(rng, n=100, d=150)  # more features than rows
    directions = canonical_directions(few, y, 16, ridge=1.0)
    assert directions.shape == (150, 3) and np.isfinite(directions).all()
    assert canonical_directions(few, y, 2, ridge=1.0).shape == (150, 2)


def test_recoloring_gives_the_source_the_covariance_of_the_target(rng: np.random.Generator) -> None:
    source, target = centered(rng), centered(rng, n=300)
    moved = source @ recoloring(source, target, 0.0)
    np.testing.assert_allclose(moved.T @ moved / 200, target.T @ target / 300, atol=1e-8)
    np.testing.assert_allclose(recoloring(target, target, 0.3), np.eye(12), atol=1e-10)
    scale = np.sqrt(np.trace(target.T @ target) / 300 / (np.trace(source.T @ source) / 200))
    np.testing.assert_allclose(recoloring(source, target, 1.0), scale * np.eye(12), atol=1e-10)


def test_recoloring_stays_finite_with_fewer_rows_than_features(rng: np.random.Generator) -> None:
    source, target = centered(rng, n=5), centered(rng, n=6)
    assert np.abs(recoloring(source, target, 0.1)).max() < 100
