"""The rivals of the adaptive methods: what each is by definition, and what it is for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hashcli_plugins.cca_itq import CCAITQ
from hashcli_plugins.coral_itq import CORALITQ
from hashcli_plugins.dah import DAH
from hashcli_plugins.peace import PEACE, class_means_off, divergence, sure_probabilities
from hashcli_plugins.sdh import SDH, discrete_step, mean_distance, regressed
from hashcli_plugins.self_training import SelfTraining
from hashcli_plugins.sh import SH, slowest_waves
from hashcli_plugins.source_only import SourceOnly

from hashcli.data import SourceData, TargetData, TrainingData
from hashcli.errors import UsageError
from hashcli.heads import Kernel
from hashcli.method import Run, Task
from hashcli.progress import Silent
from hashcli.settings import declared

DIM, BITS, CLASSES = 24, 16, 4
SHORT = {"epochs": 4, "steps_per_epoch": 5, "batch_size": 32, "hidden": 32, "discriminator": 32}
LEARNERS = [DAH, PEACE, SelfTraining]


def clouds(seed=0, n_source=64, n_target=48, shift=1.0, spread=1.0):
    """Two domains of the same classes, the target moved. Gives the data and the target's labels."""
    rng = np.random.default_rng(seed)
    centers = 2 * rng.normal(size=(CLASSES, DIM))
    labels, hidden = np.arange(n_source) % CLASSES, np.arange(n_target) % CLASSES
    source = centers[labels] + spread * rng.normal(size=(n_source, DIM))
    target = centers[hidden] + shift * rng.normal(size=DIM) + spread * rng.normal(size=(n_target, DIM))

    def scaled(x):
        x = x - x.mean(0)
        return (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) * np.sqrt(DIM)).astype(np.float32)

    return TrainingData(SourceData(scaled(source), labels), TargetData(scaled(target)), CLASSES), hidden


def fitted(method, data, *, seed=3, n_bits=BITS, **settings):
    """Relaxed codes of source and target after a short fit, and the log."""
    known = {s.name for s in declared(method.Settings)}
    run = Run(seed, progress=Silent())
    chosen = method.Settings(**({k: v for k, v in SHORT.items() if k in known} | settings))
    made = method(Task(n_bits, DIM, data.n_classes, seed), chosen)
    made.check(data)
    head = made.fit(data, run).image
    with torch.no_grad():
        codes = [head(torch.from_numpy(d.features)).numpy() for d in (data.source, data.target)]
    return *codes, run.progress.events


def found(codes, labels, queries, query_labels):
    """Share of queries whose nearest code is of their class."""
    nearest = (np.sign(queries) @ np.sign(codes).T).argmax(1)
    return np.mean(labels[nearest] == query_labels)


@pytest.mark.parametrize(("method", "least"), [(CCAITQ, 0.95), (CORALITQ, 0.8), (SDH, 0.95), (SH, 0.5)])
def test_closed_form_codes_find_photos_of_the_same_class(method, least):
    data, hidden = clouds()
    source, target, _ = fitted(method, data)
    assert found(source, data.source.labels, target, hidden) >= least
    again, _, _ = fitted(method, data)
    np.testing.assert_array_equal(source, again)


@pytest.mark.parametrize("method", [CCAITQ, SDH])
def test_closed_form_codes_of_several_labels_differ_from_those_of_one(method):
    data, hidden = clouds()
    rows = np.eye(CLASSES, dtype=np.int64)[data.source.labels]
    one = TrainingData(SourceData(data.source.features, rows), data.target, CLASSES, multi_label=True)
    np.testing.assert_array_equal(fitted(method, one)[1], fitted(method, data)[1])
    rows = rows.copy()
    rows[::3, 0] = 1
    several = TrainingData(SourceData(data.source.features, rows), data.target, CLASSES, multi_label=True)
    source, target, _ = fitted(method, several)
    assert not np.array_equal(target, fitted(method, data)[1])
    assert found(source[1::3], data.source.labels[1::3], target, hidden) > 0.7


def test_cca_itq_makes_more_bits_than_classes_from_what_tells_the_classes_apart():
    data, _ = clouds()
    source, _, _ = fitted(CCAITQ, data, n_bits=64)
    centered = source - source.mean(0)
    assert np.linalg.matrix_rank(centered, tol=1e-3 * np.linalg.norm(centered, 2)) == CLASSES - 1
    within = np.mean([source[data.source.labels == c].std(0) for c in range(CLASSES)])
    assert within < 0.5 * source.std(0).mean()


def test_cca_itq_refuses_labels_that_are_all_alike():
    data, _ = clouds()
    rows = np.ones((64, CLASSES), np.int64)
    with pytest.raises(UsageError, match="nothing that tells the classes apart"):
        fitted(CCAITQ, TrainingData(SourceData(data.source.features, rows), None, CLASSES, multi_label=True))


def test_coral_itq_is_the_itq_of_both_once_the_source_looks_like_the_target(rng):
    data, _ = clouds()
    stretched = (data.source.features * np.linspace(0.2, 3, DIM)).astype(np.float32)
    moved = TrainingData(SourceData(stretched, data.source.labels), data.target, CLASSES)
    plain, aligned = (fitted(CORALITQ, moved, shrinkage=s)[1] for s in (1.0, 0.0))
    assert not np.array_equal(plain, aligned)
    # fully aligned, the components are the target's own
    x = data.target.features.astype(np.float64)
    x -= x.mean(0)
    best = np.linalg.svd(x, full_matrices=False)[2][:BITS]
    np.testing.assert_allclose(np.square(aligned).sum(), np.square(x @ best.T).sum(), rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"), [({"source": None}, "no source"), ({"target": None}, "second, unlabeled folder")]
)
def test_coral_itq_refuses_one_domain_alone(change, message):
    data, _ = clouds()
    with pytest.raises(UsageError, match=message):
        fitted(CORALITQ, TrainingData(**({"source": data.source, "target": data.target} | change)))


def test_waves_are_the_slowest_of_all_components():
    span = np.array([10.0, 4.0, 1.0])
    eigenvalues = sorted((np.pi * k / span[j]) ** 2 for j in range(3) for k in range(1, 9))[:8]
    along, waves = slowest_waves(span, 8)
    np.testing.assert_allclose((np.pi * waves / span[along]) ** 2, eigenvalues)
    assert list(zip(along[:3], waves[:3], strict=True)) == [(0, 1), (0, 2), (1, 1)]


def test_sh_is_a_sine_along_each_component_and_draws_nothing_at_random():
    data, _ = clouds()
    source, target, _ = fitted(SH, data)
    x = np.concatenate([data.source.features, data.target.features]).astype(np.float64)
    v = (x - x.mean(0)) @ np.linalg.svd(x - x.mean(0), full_matrices=False)[2].T
    along, waves = slowest_waves(np.ptp(v[:, :BITS], axis=0), BITS)
    relaxed = np.concatenate([source, target])
    for bit, (j, k) in enumerate(zip(along, waves, strict=True)):
        low, high = v[:, j].min(), v[:, j].max()
        waved = [np.sin(np.pi / 2 + k * np.pi * (way - low) / (high - low)) for way in (v[:, j], low + high - v[:, j])]
        # a component's sign is the solver's choice
        assert min(np.abs(relaxed[:, bit] - w).max() for w in waved) < 1e-3
    np.testing.assert_array_equal(fitted(SH, data, seed=9)[0], source)


def test_sh_makes_more_bits_than_there_are_components_and_refuses_photos_that_are_all_alike():
    data, _ = clouds()
    assert len(np.unique(np.sign(fitted(SH, data, n_bits=64)[0]), axis=0)) > 32
    alike = TrainingData(None, TargetData(np.ones((40, DIM), np.float32)))
    with pytest.raises(UsageError, match="features are all alike"):
        SH(Task(BITS, DIM, 0, 0), SH.Settings()).fit(alike, Run(0))


def test_kernel_compares_with_every_anchor(rng):
    x, anchors = (rng.standard_normal((n, DIM)).astype(np.float32) for n in (7, 3))
    wanted = [[np.exp(-np.square(a - b).sum() / (2 * 4.0**2)) for b in anchors] for a in x]
    np.testing.assert_allclose(Kernel(anchors, 4.0).rows(x, block=3), wanted, rtol=1e-4)
    distances = [np.square(a.astype(np.float64) - b).sum() for a in x for b in anchors]
    assert mean_distance(x, anchors) == pytest.approx(np.sqrt(np.mean(distances)), rel=1e-5)
    assert mean_distance(anchors[:1], anchors[:1]) == 1


def sdh_objective(codes, y, classifier, phi, function, intercept, lam=1.0, nu=0.3, ridge=0.1):
    fit = np.square(y - codes @ classifier).sum() + lam * np.square(classifier).sum()
    return fit + nu * (np.square(codes - phi @ function - intercept).sum() + ridge * np.square(function).sum())


def test_every_update_of_sdh_lowers_its_objective(rng):
    y = np.eye(3)[rng.integers(0, 3, 30)]
    phi = rng.standard_normal((30, 6))
    phi -= phi.mean(0)
    gram = phi.T @ phi + 0.1 * np.eye(6)
    codes = np.where(rng.random((30, 8)) < 0.5, -1.0, 1.0)
    classifier, (_, function, intercept) = rng.standard_normal((8, 3)), regressed(phi, gram, codes)
    values = [sdh_objective(codes, y, classifier, phi, function, intercept)]
    for _ in range(3):
        classifier = np.linalg.solve(codes.T @ codes + np.eye(8), codes.T @ y)
        values.append(sdh_objective(codes, y, classifier, phi, function, intercept))
        predicted, function, intercept = regressed(phi, gram, codes)
        values.append(sdh_objective(codes, y, classifier, phi, function, intercept))
        codes = discrete_step(codes, y, classifier, 0.3 * predicted, sweeps=10)
        values.append(sdh_objective(codes, y, classifier, phi, function, intercept))
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(values))
    assert values[-1] < 0.5 * values[0]
    # and no single bit could still lower it
    for i, j in itertools.product(range(30), range(8)):
        flipped = codes.copy()
        flipped[i, j] *= -1
        assert sdh_objective(flipped, y, classifier, phi, function, intercept) >= values[-1] - 1e-9


def test_sdh_compares_with_no_more_anchors_than_asked_for():
    data, _ = clouds()
    method = SDH(Task(BITS, DIM, CLASSES, 0), SDH.Settings(n_anchors=10))
    kernel = method.fit(data, Run(0, progress=Silent())).image[0]
    assert kernel.anchors.shape == (10, DIM)
    assert all((data.source.features == a).all(1).any() for a in kernel.anchors.numpy())


@pytest.mark.parametrize("method", LEARNERS)
def test_a_learning_rival_has_the_head_steps_and_losses_of_source_only(method):
    theirs = {s.name: s.default for s in declared(method.Settings)}
    ours = {s.name: s.default for s in declared(SourceOnly.Settings)}
    assert theirs.items() >= ours.items()
    data, _ = clouds()
    for alone, rival in zip(fitted(SourceOnly, data)[:2], fitted(method, data, warmup=4)[:2], strict=True):
        np.testing.assert_array_equal(alone, rival)


@pytest.mark.parametrize("method", LEARNERS)
def test_codes_of_a_learning_rival_find_photos_of_the_same_class(method):
    data, hidden = clouds(shift=1.5)
    source, target, _ = fitted(method, data, epochs=12)
    assert found(source, data.source.labels, target, hidden) > 0.9


@pytest.mark.parametrize(
    ("method", "change"),
    [
        (SelfTraining, {"target_weight": 0.0}),
        (SelfTraining, {"alpha": 0.2}),
        (SelfTraining, {"alpha": 0.0}),
        (SelfTraining, {"soft_labels": True}),
        (SelfTraining, {"warmup": 2}),
        (DAH, {"discrepancy": 0.0}),
        (DAH, {"entropy": 0.0}),
        (DAH, {"warmup": 2}),
        (PEACE, {"adversary": 0.0}),
        (PEACE, {"alignment": 0.0}),
        (PEACE, {"target_weight": 0.0}),
        (PEACE, {"sharpness": 5.0}),
        (PEACE, {"warmup": 2}),
    ],
    ids=str,
)
def test_each_part_of_a_learning_rival_changes_the_codes(method, change):
    data, _ = clouds()
    assert not np.array_equal(fitted(method, data)[1], fitted(method, data, **change)[1])


@pytest.mark.parametrize("method", LEARNERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": None}, "adapts to a second, unlabeled folder"),
        ({"source": None}, "learns from labels, and there are none"),
        ({"multi_label": True}, "takes one label per photo, and some have several"),
    ],
    ids=["no target", "no labels", "several labels"],
)
def test_what_a_learning_rival_cannot_learn_from_is_refused_in_words(method, change, message):
    data, _ = clouds()
    given = {"source": data.source, "target": data.target, "n_classes": CLASSES} | change
    with pytest.raises(UsageError, match=message):
        method(Task(BITS, DIM, CLASSES, 0), method.Settings()).check(TrainingData(**given))


@pytest.mark.parametrize("method", LEARNERS)
def test_a_learning_rival_takes_a_single_target_photo(method):
    data, _ = clouds(n_target=1)
    assert np.isfinite(fitted(method, data)[1]).all()


def test_self_training_trusts_the_surest_share_after_the_warm_up():
    data, _ = clouds()
    events = fitted(SelfTraining, data, alpha=0.25, warmup=1)[2]
    assert [e for name, e in events if name == "selection"] == [{"epoch": k, "selected": 12} for k in (1, 2, 3)]


def test_dah_brings_the_domains_closer_than_source_only():
    data, _ = clouds(shift=3.0)
    apart = []
    for weight in (0.0, 3.0):
        source, target, _ = fitted(DAH, data, discrepancy=weight, entropy=0.0, epochs=10)
        apart.append(np.square(source.mean(0) - target.mean(0)).sum())
    assert apart[1] < apart[0]


def test_sure_probabilities_keep_the_largest_and_spread_the_rest():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    torch.testing.assert_close(sure_probabilities(p), torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))


def test_divergence_is_jensen_and_shannons():
    torch.manual_seed(0)
    p, q = (torch.softmax(torch.randn(5, 3), 1) for _ in range(2))
    total = 0.0
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        middle = [(x + y) / 2 for x, y in zip(a, b, strict=True)]
        total += sum(x * math.log(x / m) for row in (a, b) for x, m in zip(row, middle, strict=True)) / 2
    assert float(divergence(p, q)) == pytest.approx(total / 5, rel=1e-4)
    assert float(divergence(p, p)) == pytest.approx(0, abs=1e-6)


def test_class_means_count_less_when_few_are_guessed_and_empty_classes_not_at_all():
    torch.manual_seed(0)
    target, codes, guess = torch.randn(4, 8), torch.randn(3, 8).sign(), [0, 2, 2, 2]
    wanted = []
    for c in (0, 2):
        mean = sum(target[i] for i in range(4) if guess[i] == c) / (guess.count(c) + 1)
        wanted += ((mean - codes[c]) ** 2).tolist()
    assert float(class_means_off(target, torch.tensor(guess), codes)) == pytest.approx(np.mean(wanted), rel=1e-5)
