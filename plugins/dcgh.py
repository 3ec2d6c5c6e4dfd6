"""DCGH: one code for photos and words, learned in closed form from labeled photos with captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray

from hashcli.data import TrainingData
from hashcli.errors import UsageError
from hashcli.kernels import Kernel, regress, unseen
from hashcli.method import Fitted, HashMethod, Run
from hashcli.orthogonal import balanced, polar, whiten
from hashcli.settings import Param

if TYPE_CHECKING:
    from torch import nn

Array = NDArray[np.float64]
# The regressions that say which classes are alike keep a ridge even where the hash functions have none (DCGH-r).
FOLDS, CONFUSION_RIDGE, DRAWS = 5, 0.1, 10


@dataclass(frozen=True)
class Settings:
    """alpha=0 gives DCGH-d, lam=0 DCGH-r. alpha is the paper's divided by the square root of the number of photos.

    alpha and beta are the paper's for WIKI; width and lam, of which it leaves open one and calls the other harmless,
    found images and texts best among 500 training pairs of WIKI that were held out. There, the laplacian kernel of
    width 1 with the paper's lam of 0.01 found still more, but on emoji with their names less; it also learns wrong
    pairs by heart.
    """

    iterations: Annotated[int, Param("rounds of updates", ge=1, le=1000)] = 10
    alpha: Annotated[float, Param("weight of the class centers", ge=0, le=1e6)] = 0.2
    beta: Annotated[float, Param("weight of shared labels", ge=0, le=1e6)] = 10.0
    lam: Annotated[float, Param("ridge of the hash functions", ge=0, le=1e6)] = 0.1
    width: Annotated[float, Param("width of the kernels, in mean distances between photos", ge=0.01, le=100)] = 0.5
    kernel: Annotated[
        str, Param("how kernels fall with distance: exp(-d^2 / 2), or exp(-d)", choices=("gaussian", "laplacian"))
    ] = "gaussian"
    n_anchors: Annotated[int, Param("training rows that the kernels compare with", ge=1, le=20000)] = 1500
    text: Annotated[
        str,
        Param("captions: words counted, the backbone's text tower, or auto", choices=("auto", "words", "tower")),
    ] = "auto"
    w_step: Annotated[str, Param("projection step: exact, or as published", choices=("whitened", "paper"))] = "whitened"
    centering: Annotated[str, Param("mean taken off the features", choices=("none", "pooled", "per_domain"))] = (
        "per_domain"
    )


class DCGH(HashMethod):
    """Distribution consistency guided hashing: learned codes H of the photos, then a kernel regression to them.

    Rows without a label or without a caption take no part. `training_codes` are the learned H where a row took
    part, the image's hash function elsewhere.
    """

    summary = "supervised; photos and captions share codes, so that words find photos; takes several labels"
    paper = "DCGH: Distribution Consistency Guided Hashing for cross-modal retrieval"
    needs = frozenset({"source_labels", "captions"})
    multi_label = True
    Settings = Settings
    settings: Settings

    def check(self, data: TrainingData) -> None:
        """Refuse, beyond the common reasons, fewer classes, captions or photos than the equations need."""
        super().check(data)
        assert data.source is not None and data.source.text is not None
        labels = _label_columns(data)
        used = _used_rows(labels, data.source.text)
        n_photos, n_classes = int(used.sum()), int(labels[:, used].any(1).sum())
        if n_classes < 2:
            raise UsageError(
                f"DCGH needs captions in at least 2 classes: {n_photos} of {len(used)} labeled photos have one, "
                f"in {n_classes} classes",
                "give more photos a caption: a text file beside each (photo.jpg.txt), or --captions-file FILE.csv",
            )
        least = max(self.task.n_bits, n_classes) + 1
        if n_photos < least:
            raise UsageError(
                f"DCGH needs at least {least} labeled photos with captions for {self.task.n_bits} bits and "
                f"{n_classes} classes, found {n_photos}",
                "give more photos, or fewer bits with --bits",
            )

    def fit(self, data: TrainingData, run: Run) -> Fitted:
        """The hash functions of both modalities. `check` must have passed."""
        s = self.settings
        assert data.source is not None and data.source.text is not None
        labels = _label_columns(data)
        used = _used_rows(labels, data.source.text)
        rng = np.random.default_rng(self.task.seed)
        modalities = (data.source.features, data.source.text)
        laplacian = s.kernel == "laplacian"
        kernels = [Kernel.fit(rows[used], s.n_anchors, rng, s.width, laplacian=laplacian) for rows in modalities]
        mapped = [kernel(rows[used]) for kernel, rows in zip(kernels, modalities, strict=True)]
        codes = learn_codes(mapped, labels[:, used], self.task.n_bits, s, rng, run)
        image, text = (_head(kernel, regress(codes, x, s.lam)) for kernel, x in zip(kernels, mapped, strict=True))
        return Fitted(image=image, text=text, training_codes=self._training_codes(image, data, codes, used))

    def _training_codes(
        self, image: nn.Module, data: TrainingData, codes: Array, used: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        import torch

        assert data.source is not None
        out = np.empty((len(used), self.task.n_bits), np.uint8)
        out[used] = codes.T > 0
        if not used.all():
            with torch.inference_mode():
                out[~used] = image(torch.from_numpy(data.source.features[~used])).numpy() >= 0
        return out


@dataclass
class State:
    """The unknowns of Eq. 4, a column for each photo; lists are by modality.

    b (r, n) modality codes with b 1 = 0, b b^T = n I;  w (r, d), u (r, c), semi-orthogonal;
    f, e (c, n) with f f^T = e e^T = n I;  h (r, n) codes of -1 and 1

    The paper has f f^T = I. With n I the entries of u f are of the size of those of b and h for any n, and its alpha
    is ours times sqrt(n); every update is the same.
    """

    b: list[Array]
    w: list[Array]
    f: list[Array]
    u: Array
    e: Array
    h: Array


def learn_codes(
    kernels: list[Array], labels: Array, n_bits: int, settings: Settings, rng: np.random.Generator, run: Run
) -> Array:
    """H (n_bits, n) of -1 and 1, from each modality's kernel features (d, n) and 0/1 labels (c, n) (Algorithm 1)."""
    problem = Problem(kernels, labels, n_bits, settings)
    state = problem.start(rng)
    with run.progress.task("learning codes", settings.iterations) as task:
        for iteration in range(settings.iterations):
            for step in problem.steps(rng):
                step(state)
            run.progress.log("iteration", number=iteration, objective=problem.objective(state))
            task.advance()
    return state.h


class Problem:
    """Eq. 4 of the paper: the objective, and the update of each unknown with the others fixed.

    J = sum_v ||B - W X||^2 + alpha ||B - U F||^2 + beta ||H^T B - r Y^T Y||^2, plus alpha ||H - U E||^2.
    Under the constraints all squared norms but ||W X||^2 are constant, so each step maximizes an inner product.
    """

    def __init__(self, kernels: list[Array], labels: Array, n_bits: int, settings: Settings) -> None:
        """kernels (d, n) by modality, labels (c, n) 0/1 with a label in each column."""
        self.r, self.settings = n_bits, settings
        self.y = labels[labels.any(1)] / np.linalg.norm(labels, axis=0)
        self.kernels = kernels
        whitened = settings.w_step == "whitened"
        self.x = [whiten(x) for x in kernels] if whitened else kernels

    def start(self, rng: np.random.Generator) -> State:
        """Random semi-orthogonal matrices; codes of classes that are alike are alike.

        The authors' code starts from codes of all ones, which leaves few codes. Random ones end as codes that are all
        equally far from each other, and photos that are mistaken for another class are then as far from their own as
        from any. Hence random directions among which classes are taken for each other, of some draws those that leave
        most classes a code of their own.
        """
        (c, n), r = self.y.shape, self.r
        root = self.confusions(rng)
        draws = (polar(rng.standard_normal((r, c))) @ root for _ in range(DRAWS))
        directions = max(draws, key=lambda drawn: len(np.unique(drawn >= 0, axis=1).T))
        f = [n**0.5 * polar(rng.standard_normal((c, n))) for _ in self.x]
        w = [polar(rng.standard_normal((r, len(x)))) for x in self.x]
        e = n**0.5 * polar(rng.standard_normal((c, n)))
        h = np.where(directions @ self.y >= 0, 1.0, -1.0)
        return State(b=[np.zeros((r, n)) for _ in self.x], w=w, f=f, u=polar(rng.standard_normal((r, c))), e=e, h=h)

    def confusions(self, rng: np.random.Generator) -> Array:
        """A root R (c, c) of the similarity of classes: R^T R says how alike each two are.

        Alike are classes whose photos and captions get the same scores of all classes, from regressions that did not
        see them; both modalities count the same.
        """
        n = self.y.shape[1]
        folds = rng.permutation(n) % FOLDS
        means = []
        for x in self.kernels:
            scores = unseen(self.y, x, CONFUSION_RIDGE, folds) @ self.y.T / self.y.sum(1)
            centered = scores - scores.mean(1, keepdims=True)
            means.append(centered / (np.linalg.norm(centered) or 1.0))
        _, sizes, right = np.linalg.svd(np.concatenate(means), full_matrices=False)
        return np.asarray(sizes[:, None] * right)

    def steps(self, rng: np.random.Generator) -> tuple[Callable[[State], None], ...]:
        """The updates in the paper's order, each a function that changes a State."""
        update_b = partial(self.update_b, rng=rng)
        return update_b, self.update_h, self.update_w, self.update_u, self.update_f, self.update_e

    def update_b(self, s: State, rng: np.random.Generator) -> None:
        """Eqs. 5-8."""
        a, beta = self.settings.alpha, self.settings.beta
        agreed = beta * self.r * (s.h @ self.y.T) @ self.y  # in this order nothing is n x n
        for v, x in enumerate(self.x):
            s.b[v] = balanced(s.w[v] @ x + a * s.u @ s.f[v] + agreed, rng)

    def update_h(self, s: State) -> None:
        """Eqs. 9-11, with the term of the class centers counted once, as in Eq. 3."""
        total = self.settings.beta * self.r * (sum(b @ self.y.T for b in s.b) @ self.y)
        s.h = np.where(self.settings.alpha * s.u @ s.e + total >= 0, 1.0, -1.0)

    def update_w(self, s: State) -> None:
        """Eqs. 12-13. Exact for whitened features alone: for others ||W X||^2 is not constant, and J may rise."""
        s.w = [polar(b @ x.T) for b, x in zip(s.b, self.x, strict=True)]

    def update_u(self, s: State) -> None:
        """Eqs. 14-15."""
        s.u = polar(sum((b @ f.T for b, f in zip(s.b, s.f, strict=True)), s.h @ s.e.T))

    def update_f(self, s: State) -> None:
        """Eqs. 16-17."""
        s.f = [b.shape[1] ** 0.5 * polar(s.u.T @ b) for b in s.b]

    def update_e(self, s: State) -> None:
        """Eq. 18."""
        s.e = s.h.shape[1] ** 0.5 * polar(s.u.T @ s.h)

    def objective(self, s: State) -> float:
        """J, without a matrix of n x n."""
        a, beta, r = self.settings.alpha, self.settings.beta, self.r
        total = a * np.square(s.h - s.u @ s.e).sum()
        same = np.square(self.y @ self.y.T).sum()  # ||Y^T Y||^2
        for b, w, f, x in zip(s.b, s.w, s.f, self.x, strict=True):
            agreement = ((s.h @ s.h.T) * (b @ b.T)).sum() - 2 * r * ((s.h @ self.y.T) * (b @ self.y.T)).sum()
            total += np.square(b - w @ x).sum() + a * np.square(b - s.u @ f).sum() + beta * (agreement + r * r * same)
        return float(total)


def _label_columns(data: TrainingData) -> Array:
    """0/1 labels (c, n)."""
    assert data.source is not None and data.source.labels is not None
    labels = data.source.labels
    if labels.ndim == 1:
        labels = np.eye(data.n_classes, dtype=np.int64)[labels]
    return labels.T.astype(np.float64)


def _used_rows(labels: Array, text: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Photos with a label and a caption (n,); a caption of no known word is a row of zeros."""
    used: NDArray[np.bool_] = labels.any(0) & text.any(1)
    return used


def _head(kernel: Kernel, weight: Array) -> nn.Module:
    """The hash function as a network: rows (n, h) -> relaxed codes (n, r) float32."""
    from torch import nn

    from hashcli import heads

    anchors = kernel.anchors.astype(np.float32)
    return nn.Sequential(
        heads.Kernel(anchors, kernel.sigma, laplacian=kernel.laplacian), heads.linear(weight.T, np.zeros(len(weight)))
    )
