"""Matrices with orthonormal rows or columns: the ones nearest to what is wanted, and whitening."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Directions whose eigen- or singular value is a smaller share of the largest are rounding, not data.
NOISE = 1e-8


def polar(m: Array) -> Array:
    """P Q^T of the thin SVD m = P S Q^T, which of all semi-orthogonal matrices of this shape maximizes <., m>."""
    left, _, right = np.linalg.svd(m, full_matrices=False)
    return np.asarray(left @ right)


def balanced(m: Array, rng: np.random.Generator) -> Array:
    """The B (r, n) that maximizes <B, m> under B 1 = 0 and B B^T = n I (DCGH, Eqs. 6-8); n must exceed r.

    What m leaves open, as its rows depend on each other, is filled at random.
    """
    n = m.shape[1]
    left, values, right = np.linalg.svd(m - m.mean(1, keepdims=True), full_matrices=False)
    kept = values > NOISE * values[0]
    fixed, free = right[kept].T, rng.standard_normal((n, int((~kept).sum())))
    # orthogonal to ones means that the sum is 0
    basis = np.linalg.qr(np.concatenate([np.ones((n, 1)), fixed, free], 1))[0]
    filled = basis[:, 1 + fixed.shape[1] :]
    found: Array = n**0.5 * (left[:, kept] @ fixed.T + left[:, ~kept] @ filled.T)
    return found


def whiten(x: Array) -> Array:
    """x (d, n) -> (d', n) with rows of the same span and x x^T = n I; directions of rounding noise are dropped."""
    values, vectors = np.linalg.eigh(x @ x.T)
    kept = values > NOISE * values[-1]
    white: Array = x.shape[1] ** 0.5 * ((vectors[:, kept] / np.sqrt(values[kept])).T @ x)
    return white
