"""Kernel features of rows against anchors, and ridge regression on them, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Kernel:
    """Rows (n, h) -> x (m, n), a column for each row and a line for each anchor.

    With o a row's distance to an anchor: exp(-o^2 / (2 sigma^2)), or `laplacian`, exp(-o / sigma). sigma is stored:
    were it taken from the rows at hand, a query's code would depend on the queries beside it.
    """

    anchors: Array
    sigma: float
    laplacian: bool = False

    @classmethod
    def fit(
        cls,
        rows: NDArray[np.float32],
        n_anchors: int,
        rng: np.random.Generator,
        width: float = 1.0,
        *,
        laplacian: bool = False,
    ) -> Kernel:
        """Anchors drawn from the rows (n, h), at most n; sigma is `width` times the mean distance of row and anchor."""
        rows64 = rows.astype(np.float64)
        anchors = rows64[np.sort(rng.permutation(len(rows))[:n_anchors])]
        sigma = width * float(np.sqrt(_squared_distances(anchors, rows64)).mean())
        return cls(anchors, sigma or 1.0, laplacian)  # rows that are all alike have no distance

    def __call__(self, rows: NDArray[np.float32]) -> Array:
        squared = _squared_distances(self.anchors, rows.astype(np.float64)) / self.sigma**2
        return np.exp(-np.sqrt(squared) if self.laplacian else squared / -2)


def regress(wanted: Array, x: Array, lam: float) -> Array:
    """P = Z X^T (X X^T + lam I)^-1 (r, m) of wanted Z (r, n) and X (m, n); lam = 0: least squares of least norm."""
    if lam == 0:
        return np.asarray(np.linalg.lstsq(x.T, wanted.T, rcond=None)[0].T)
    return _ridge(x @ x.T, wanted @ x.T, lam)


def unseen(wanted: Array, x: Array, lam: float, folds: NDArray[np.int64]) -> Array:
    """What `regress` predicts of wanted (r, n) for each column of x (m, n), learned from the other folds: (r, n).

    folds (n,) says which columns are left out together.
    """
    parts = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    grams, crosses = [x[:, part] @ x[:, part].T for part in parts], [wanted[:, p] @ x[:, p].T for p in parts]
    gram, cross = np.sum(grams, 0), np.sum(crosses, 0)
    out = np.empty(wanted.shape)
    for part, own, own_cross in zip(parts, grams, crosses, strict=True):
        out[:, part] = _ridge(gram - own, cross - own_cross, lam) @ x[:, part]
    return out


def _ridge(gram: Array, cross: Array, lam: float) -> Array:
    from scipy.linalg import cho_factor, cho_solve  # type: ignore[import-untyped]

    gram[np.diag_indices_from(gram)] += lam
    solution: Array = cho_solve(cho_factor(gram, overwrite_a=True), cross.T).T
    return solution


def _squared_distances(anchors: Array, rows: Array) -> Array:
    squared: Array = np.square(anchors).sum(1)[:, None] + np.square(rows).sum(1) - 2 * anchors @ rows.T
    return np.maximum(squared, 0)
