"""DCGH: every step is the best one, the objective falls, and photos and captions meet in one code."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hashcli_plugins.dcgh import CONFUSION_RIDGE, DCGH, FOLDS, Problem, State

from hashcli.data import SourceData, TargetData, TrainingData
from hashcli.errors import UsageError
from hashcli.kernels import Kernel, regress
from hashcli.method import Fitted, Run, Task
from hashcli.network import export_head
from hashcli.orthogonal import balanced, polar, whiten
from hashcli.settings import parse

N, CLASSES = 60, 4
lengths = pytest.mark.parametrize("n_bits", [8, 3], ids=["more bits than classes", "fewer bits than classes"])


def collection(rng: np.random.Generator, n: int = N, noise: float = 0.5) -> TrainingData:
    """Images (n, 20) and words (n, 12) around class centers of their own."""
    labels = rng.permutation(np.resize(np.arange(CLASSES), n))
    image, text = (rng.standard_normal((CLASSES, d))[labels] + noise * rng.standard_normal((n, d)) for d in (20, 12))
    source = SourceData(image.astype(np.float32), labels, tuple("words" for _ in labels), text.astype(np.float32))
    return TrainingData(source, None, CLASSES)


def fit(data: TrainingData, n_bits: int = 8, *words: str, seed: int = 0, run: Run | None = None) -> Fitted:
    method = DCGH(Task(n_bits, data.feature_dim, data.n_classes, seed), parse(DCGH.Settings, words, "dcgh"))
    method.check(data)
    return method.fit(data, run or Run(seed))


def bits(head: torch.nn.Module, rows: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return (head(torch.from_numpy(rows)).numpy() >= 0).astype(np.uint8)


def problem(rng: np.random.Generator, n_bits: int, *words: str, anchors: int = 15) -> Problem:
    data = collection(rng, N)
    several = np.eye(CLASSES)[data.source.labels].T
    several[0, ::5] = 1
    kernels = [Kernel.fit(rows, anchors, rng)(rows) for rows in (data.source.features, data.source.text)]
    return Problem(kernels, several, n_bits, parse(DCGH.Settings, words, "dcgh"))


def objective(p: Problem, s: State) -> float:
    """Eq. 4 as it is written, with its n x n matrices."""
    a, beta = p.settings.alpha, p.settings.beta
    total = a * np.linalg.norm(s.h - s.u @ s.e) ** 2
    for b, w, f, x in zip(s.b, s.w, s.f, p.x, strict=True):
        total += np.linalg.norm(b - w @ x) ** 2 + a * np.linalg.norm(b - s.u @ f) ** 2
        total += beta * np.linalg.norm(s.h.T @ b - p.r * p.y.T @ p.y) ** 2
    return float(total)


def semi_orthogonal(rng: np.random.Generator, like: np.ndarray, near: bool) -> np.ndarray:
    """A random matrix of the shape with orthonormal rows or columns, anywhere or near the given one."""
    noise = rng.standard_normal(like.shape)
    return polar(like + 0.03 * noise if near else noise)


def centered_orthogonal(rng: np.random.Generator, like: np.ndarray, near: bool) -> np.ndarray:
    """A random B with B 1 = 0 and B B^T = n I."""
    noise = rng.standard_normal(like.shape)
    m = like + 0.03 * noise if near else noise
    return like.shape[1] ** 0.5 * polar(m - m.mean(1, keepdims=True))


def some_state(p: Problem, rng: np.random.Generator) -> State:
    """A state in which every unknown has been updated, that no step has reached its end from."""
    state = p.start(rng)
    for step in p.steps(rng):
        step(state)
    return state


@lengths
@pytest.mark.parametrize("unknown", ["b", "h", "w", "u", "f", "e"])
def test_each_step_reaches_what_no_other_feasible_choice_exceeds(
    rng: np.random.Generator, unknown: str, n_bits: int
) -> None:
    p = problem(rng, n_bits, "alpha=3", "beta=0.01")
    state = some_state(p, rng)
    dict(zip("bhwufe", p.steps(rng), strict=True))[unknown](state)
    best = objective(p, state)
    assert best == pytest.approx(p.objective(state), rel=1e-9)
    for near in [True, False] * 100:
        other = dataclasses.replace(state, b=list(state.b), w=list(state.w), f=list(state.f))
        v = int(rng.integers(2))
        if unknown == "b":
            other.b[v] = centered_orthogonal(rng, state.b[v], near)
        elif unknown == "h":
            flips = rng.random(state.h.shape) < (0.01 if near else 0.5)
            other.h = np.where(flips, -state.h, state.h)
        elif unknown == "w":
            other.w[v] = semi_orthogonal(rng, state.w[v], near)
        elif unknown == "u":
            other.u = semi_orthogonal(rng, state.u, near)
        elif unknown == "f":
            other.f[v] = N**0.5 * semi_orthogonal(rng, state.f[v] / N**0.5, near)
        else:
            other.e = N**0.5 * semi_orthogonal(rng, state.e / N**0.5, near)
        assert objective(p, other) >= best * (1 - 1e-9)


@lengths
def test_the_unknowns_keep_their_constraints(rng: np.random.Generator, n_bits: int) -> None:
    p = problem(rng, n_bits)
    s = some_state(p, rng)
    for b in s.b:
        np.testing.assert_allclose(b.sum(1), 0, atol=1e-9)
        np.testing.assert_allclose(b @ b.T, N * np.eye(n_bits), atol=1e-8)
    for f in [*s.f, s.e]:
        np.testing.assert_allclose(f @ f.T, N * np.eye(CLASSES), atol=1e-8)
    for m in [s.u, *s.w]:
        small = m @ m.T if m.shape[0] <= m.shape[1] else m.T @ m
        np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-9)
    assert set(np.unique(s.h)) == {-1.0, 1.0}


@lengths
@pytest.mark.parametrize("words", [(), ("alpha=0",), ("alpha=5", "beta=0.01")], ids=["default", "dcgh-d", "other"])
def test_no_step_raises_the_objective_with_whitened_kernels(
    rng: np.random.Generator, n_bits: int, words: tuple[str, ...]
) -> None:
    p = problem(rng, n_bits, *words)
    state = some_state(p, rng)
    values = [objective(p, state)]
    for _ in range(8):
        for step in p.steps(rng):
            step(state)
            values.append(objective(p, state))
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(values))
    assert values[-1] < values[0]


def test_classes_that_are_taken_for_each_other_start_with_codes_that_are_alike(rng: np.random.Generator) -> None:
    labels = np.arange(160) % CLASSES
    modalities = []
    for d in (20, 12):
        centers = rng.standard_normal((CLASSES, d))
        centers[1] = centers[0] + 0.1 * rng.standard_normal(d)
        modalities.append((centers[labels] + 0.3 * rng.standard_normal((160, d))).astype(np.float32))
    kernels = [Kernel.fit(rows, 40, rng)(rows) for rows in modalities]
    p = Problem(kernels, np.eye(CLASSES)[labels].T, 64, DCGH.Settings())
    codes = p.start(rng).h[:, :CLASSES]  # the first of each class
    agreed = codes.T @ codes / 64
    others = agreed[~np.eye(CLASSES, dtype=bool)].reshape(CLASSES, -1)
    assert agreed[0, 1] < 1 and agreed[0, 1] == others.max() > others[2:].max() + 0.4


def test_how_alike_classes_are_is_told_from_scores_of_photos_that_regressions_did_not_see(
    rng: np.random.Generator,
) -> None:
    p = problem(rng, 8)
    root = p.confusions(np.random.default_rng(1))
    folds, expected = np.random.default_rng(1).permutation(N) % FOLDS, np.zeros((CLASSES, CLASSES))
    for x in p.kernels:
        means = np.zeros((CLASSES, CLASSES))
        for i in range(N):
            seen = folds != folds[i]
            score = regress(p.y[:, seen], x[:, seen], CONFUSION_RIDGE) @ x[:, i]
            means += np.outer(score, p.y[:, i] / p.y.sum(1))
        means -= means.mean(1, keepdims=True)
        means /= np.linalg.norm(means)
        expected += means.T @ means
    np.testing.assert_allclose(root.T @ root, expected, atol=1e-8)


def test_the_published_projection_step_is_not_the_best_one(rng: np.random.Generator) -> None:
    risen = []
    for _ in range(10):
        p = problem(rng, 8, "w_step=paper", "beta=0")
        state = some_state(p, rng)
        p.update_b(state, rng)
        before = objective(p, state)
        p.update_w(state)
        risen.append(objective(p, state) > before)
    assert any(risen), "then `whitened` would be needless"


def test_balanced_reaches_the_bound_where_rows_depend_on_each_other(rng: np.random.Generator) -> None:
    m = rng.standard_normal((6, 2)) @ rng.standard_normal((2, 40)) + 5
    b = balanced(m, rng)
    bound = 40**0.5 * np.linalg.svd(m - m.mean(1, keepdims=True), compute_uv=False).sum()
    assert (b * m).sum() == pytest.approx(bound)
    np.testing.assert_allclose(b @ b.T, 40 * np.eye(6), atol=1e-9)
    np.testing.assert_allclose(b.sum(1), 0, atol=1e-9)


def test_whitened_rows_span_the_same_and_are_orthogonal(rng: np.random.Generator) -> None:
    x = rng.standard_normal((7, 3)) @ rng.standard_normal((3, 30))
    white = whiten(x)
    np.testing.assert_allclose(white @ white.T, 30 * np.eye(3), atol=1e-8)
    np.testing.assert_allclose(x @ white.T @ white / 30, x, atol=1e-8)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian"])
def test_the_network_computes_the_kernel_and_the_regression(rng: np.random.Generator, kernel: str) -> None:
    data = collection(rng, 60)
    fitted = fit(data, 8, f"kernel={kernel}", "width=0.7", "n_anchors=60")
    x = Kernel.fit(data.source.features, 60, rng, 0.7, laplacian=kernel == "laplacian")(data.source.features)
    wanted = regress(2.0 * fitted.training_codes.T - 1, x, DCGH.Settings().lam)
    with torch.inference_mode():
        relaxed = fitted.image(torch.from_numpy(data.source.features)).numpy()
    np.testing.assert_allclose(relaxed.T, wanted @ x, atol=2e-2)


def test_new_photos_and_new_captions_of_a_class_get_the_codes_of_its_photos(rng: np.random.Generator) -> None:
    data = collection(rng, 300)
    known, new = np.arange(200), np.arange(200, 300)
    source = data.source
    part = SourceData(source.features[known], source.labels[known], source.captions, source.text[known])
    fitted = fit(TrainingData(part, None, CLASSES), 16)
    learned = fitted.training_codes
    assert learned.dtype == np.uint8 and learned.shape == (200, 16) and set(np.unique(learned)) == {0, 1}
    for head, rows in ((fitted.image, source.features), (fitted.text, source.text)):
        distances = (bits(head, rows[new])[:, None] != learned[None]).sum(2)
        nearest = source.labels[known][distances.argmin(1)]
        assert (nearest == source.labels[new]).mean() > 0.9


def test_photos_and_captions_that_are_not_of_each_other_still_teach_both(rng: np.random.Generator) -> None:
    data = collection(rng, 300)
    features, text = data.source.features.copy(), data.source.text.copy()
    features[:75] = features[rng.permutation(75)]
    text[225:] = text[225 + rng.permutation(75)]
    mixed = dataclasses.replace(data.source, features=features, text=text)
    fitted = fit(TrainingData(mixed, None, CLASSES), 16)
    codes = bits(fitted.text, data.source.text)
    distances = (codes[:, None] != bits(fitted.image, data.source.features)[None]).sum(2)
    assert (data.source.labels[distances.argmin(1)] == data.source.labels).mean() > 0.85


@pytest.mark.parametrize("words", [("alpha=0",), ("lam=0",), ("w_step=paper",)], ids=["dcgh-d", "dcgh-r", "paper"])
def test_the_ablations_run_and_change_what_they_should(rng: np.random.Generator, words: tuple[str, ...]) -> None:
    data = collection(rng, 120)
    full, other = fit(data, 8, "alpha=20", "beta=0.001"), fit(data, 8, "alpha=20", "beta=0.001", *words)
    same_codes = (full.training_codes == other.training_codes).all()
    assert same_codes == (words == ("lam=0",))
    assert not torch.equal(full.image[1].weight, other.image[1].weight)


def test_the_log_has_the_objective_of_each_round(rng: np.random.Generator) -> None:
    run = Run(0)
    fit(collection(rng), 8, "iterations=4", run=run)
    logged = [counts["objective"] for event, counts in run.progress.events if event == "iteration"]
    assert len(logged) == 4 and all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(logged))


def test_rows_without_caption_or_label_take_no_part(rng: np.random.Generator) -> None:
    data = collection(rng, 80)
    labels = np.eye(CLASSES, dtype=np.int64)[data.source.labels]
    labels[5] = 0
    text = data.source.text.copy()
    text[:3] = 0
    source = dataclasses.replace(data.source, labels=labels, text=text)
    whole = fit(TrainingData(source, None, CLASSES, multi_label=True))
    rest = np.setdiff1d(np.arange(80), [0, 1, 2, 5])
    alone = SourceData(source.features[rest], labels[rest], source.captions, text[rest])
    part = fit(TrainingData(alone, None, CLASSES, multi_label=True))
    torch.testing.assert_close(whole.image[1].weight, part.image[1].weight)
    np.testing.assert_array_equal(whole.training_codes[rest], part.training_codes)
    np.testing.assert_array_equal(whole.training_codes[:3], bits(whole.image, source.features[:3]))


def test_what_it_cannot_learn_from_is_refused_in_words(rng: np.random.Generator) -> None:
    data = collection(rng)
    source = data.source

    def refused(match: str, **changes: object) -> None:
        n_classes = changes.pop("n_classes", CLASSES)
        with pytest.raises(UsageError, match=match) as caught:
            fit(TrainingData(dataclasses.replace(source, **changes), None, n_classes))
        assert caught.value.hint

    refused("learns from labels, and there are none", labels=None)
    refused("at least 2 classes, found 1", labels=np.zeros(N, np.int64), n_classes=1)
    refused("with captions, and there are none", captions=None, text=None)
    only_one = np.where((source.labels == 2)[:, None], source.text, 0)
    refused("captions in at least 2 classes: 15 of 60 labeled photos have one, in 1 classes", text=only_one)
    few = np.where(np.arange(N)[:, None] < 8, source.text, 0)
    refused("at least 9 labeled photos with captions for 8 bits and 4 classes, found 8", text=few)


def test_both_hash_functions_export(rng: np.random.Generator, tmp_path: Path) -> None:
    data = collection(rng)
    fitted = fit(dataclasses.replace(data, target=TargetData(data.source.features)), 16)
    assert fitted.text is not None
    for head, d in ((fitted.image, 20), (fitted.text, 12)):
        path = tmp_path / "head.onnx"
        export_head(torch.zeros(2, d), head, path, d, 16)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        rows = rng.standard_normal((5, d)).astype(np.float16)
        (relaxed,) = session.run(None, {"feature": rows, "domain": np.zeros(5, np.int64)})
        scaled = rows.astype(np.float32)
        scaled *= d**0.5 / np.linalg.norm(scaled, axis=1, keepdims=True)
        with torch.inference_mode():
            np.testing.assert_allclose(relaxed, head(torch.from_numpy(scaled)).numpy(), atol=1e-4)
