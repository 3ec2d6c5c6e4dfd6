"""Linear projections in closed form: principal components, and the rotation that rounds to bits with least loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hashcli.errors import UsageError

Array = NDArray[np.float64]

# Features are float32: directions whose variance is below this share of the largest are rounding, not data.
NOISE = 1e-10


def principal_components(centered: Array, most: int) -> tuple[Array, Array]:
    """Variances (r,), largest first, and directions (d, r) of centered rows (n, d); r <= most, without noise."""
    variances, directions = np.linalg.eigh(centered.T @ centered / len(centered))
    rank = min(most, int((variances > NOISE * variances[-1]).sum()))
    return variances[::-1][:rank], directions[:, ::-1][:, :rank]


def enough_components(centered: Array, n_bits: int, method: str) -> Array:
    """The n_bits directions of largest variance (d, n_bits) of centered rows (n, d).

    Raises UsageError, as `method`, when the rows vary in fewer directions.
    """
    directions = principal_components(centered, centered.shape[1])[1]
    rank = directions.shape[1]
    if rank < n_bits:
        most = rank // 8 * 8
        raise UsageError(
            f"{method} cannot make {n_bits} bits: {len(centered)} photos with {centered.shape[1]} features "
            f"vary in {rank} directions, which is enough for at most {most} bits",
            f"use --bits {most}, or --method lsh" if most >= 16 else "give more photos, or use --method lsh",
        )
    return directions[:, :n_bits]


def rotate(projected: Array, n_bits: int, iterations: int, seed: int) -> Array:
    """The R (c, n_bits), R R^T = I, that lowers ||sgn(V R) - V R||_F for V (n, c), c <= n_bits, from a random start.

    Alternates codes B = sgn(V R) and the orthogonal Procrustes solution: B^T V = A S C^T gives R = C A^T
    (Gong & Lazebnik, Section 3.2). With fewer columns than bits R turns V into the larger space, in which
    ||V R|| = ||V|| still holds and the same solution is the best.
    """
    if projected.shape[1] > n_bits:
        raise ValueError(f"{projected.shape} cannot be rotated into {n_bits} bits")
    start = np.linalg.qr(np.random.default_rng(seed).standard_normal((n_bits, n_bits)))[0]
    rotation: Array = start[: projected.shape[1]]
    for _ in range(iterations):
        bits = np.where(projected @ rotation >= 0, 1.0, -1.0)
        left, _, right = np.linalg.svd(bits.T @ projected, full_matrices=False)
        rotation = right.T @ left.T
    return rotation


def canonical_directions(x: Array, y: Array, most: int, ridge: float) -> Array:
    """Directions (d, r) of centered x (n, d) that correlate most with centered y (n, c), each times its correlation.

    Solves Cxy Cyy^-1 Cyx w = rho^2 Cxx w, with `ridge` times the mean variance added to Cxx, which without it is
    singular for fewer rows than features (Gong & Lazebnik, Section 4.1); r <= min(most, rank of y).
    """
    # an orthonormal basis of y's columns stands for Cyy^-1, also where they depend on each other
    left, sizes, _ = np.linalg.svd(y, full_matrices=False)
    basis = left[:, sizes > 1e-6 * sizes[0]]
    covariance = x.T @ x / len(x)
    covariance[np.diag_indices_from(covariance)] += ridge * np.trace(covariance) / len(covariance)
    root = np.linalg.cholesky(covariance)
    whitened = np.linalg.solve(root, x.T @ basis) / np.sqrt(len(x))
    directions, correlations, _ = np.linalg.svd(whitened, full_matrices=False)
    scaled: Array = np.linalg.solve(root.T, directions[:, :most]) * correlations[:most]
    return scaled


def recoloring(source: Array, target: Array, shrinkage: float) -> Array:
    """The matrix A (d, d) by which centered source rows x (n, d) get the target's covariance: x A = x Cs^-1/2 Ct^1/2.

    Each covariance is shrunk to its mean variance by the share `shrinkage` (Ledoit & Wolf's form), in place of the
    + I of Sun et al., Return of Frustratingly Easy Domain Adaptation (CORAL), AAAI 2016.
    """
    return _power(_shrunk(source, shrinkage), -0.5) @ _power(_shrunk(target, shrinkage), 0.5)


def _shrunk(centered: Array, shrinkage: float) -> Array:
    covariance: Array = centered.T @ centered / len(centered)
    mean = float(np.trace(covariance)) / len(covariance)
    return (1 - shrinkage) * covariance + shrinkage * mean * np.eye(len(covariance))


def _power(matrix: Array, exponent: float) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, NOISE * values[-1])
    result: Array = (vectors * values**exponent) @ vectors.T
    return result
