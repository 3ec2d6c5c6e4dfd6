"""METAH on small shifted clouds: its terms against slow loops, every switch, several labels, what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hashcli_plugins.metah import METAH

from hashcli import losses
from hashcli.data import SourceData, TargetData, TrainingData
from hashcli.errors import UsageError
from hashcli.method import Run, Task
from hashcli.progress import Silent

DIM, BITS, CLASSES = 24, 16, 4
SHORT = {"epochs": 4, "steps_per_epoch": 5, "batch_size": 32, "hidden": 32, "discriminator": 32}
TAH = {"classification": 0.0, "entropy": 0.0}


def clouds(seed=0, n_source=64, n_target=48, shift=1.0, spread=1.0):
    """Two domains of the same classes, the target moved. Gives the data and the target's labels."""
    rng = np.random.default_rng(seed)
    centers = 2 * rng.normal(size=(CLASSES, DIM))
    labels, hidden = np.arange(n_source) % CLASSES, np.arange(n_target) % CLASSES
    source = centers[labels] + spread * rng.normal(size=(n_source, DIM))
    target = centers[hidden] + shift * rng.normal(size=DIM) + spread * rng.normal(size=(n_target, DIM))

    def scaled(x):
        return (x / np.linalg.norm(x, axis=1, keepdims=True) * np.sqrt(DIM)).astype(np.float32)

    return TrainingData(SourceData(scaled(source), labels), TargetData(scaled(target)), CLASSES), hidden


def several(data):
    """The same photos with a second label on every third."""
    rows = np.eye(CLASSES, dtype=np.int64)[data.source.labels]
    rows[::3, 0] = 1
    return TrainingData(SourceData(data.source.features, rows), data.target, CLASSES, multi_label=True)


def fitted(data, *, seed=3, **settings):
    """Relaxed codes of source and target after a short fit, and the logged terms of each epoch."""
    run = Run(seed, progress=Silent())
    made = METAH(Task(BITS, DIM, data.n_classes, seed), METAH.Settings(**(SHORT | settings)))
    made.check(data)
    head = made.fit(data, run).image
    with torch.no_grad():
        codes = [head(torch.from_numpy(d.features)).numpy() for d in (data.source, data.target)]
    return *codes, [values for event, values in run.progress.events if event == "losses"]


def distance(a, b):
    return sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True))


def test_pairs_are_similar_when_they_share_a_label():
    rows = [{0, 1}, {1}, {2}, set(), {0, 2}]
    labels = torch.tensor([[int(c in row) for c in range(3)] for row in rows])
    wanted = torch.tensor([[float(bool(a & b)) for b in rows] for a in rows])
    torch.testing.assert_close(losses.shared_labels(labels, 3), wanted)
    numbers = torch.tensor([2, 0, 2])
    torch.testing.assert_close(losses.shared_labels(numbers, 3), (numbers[:, None] == numbers).float())


@pytest.mark.parametrize("n_bits", [16, 33])
def test_pairwise_similarity_by_sigmoid_is_the_mean_over_all_ordered_pairs(n_bits):
    torch.manual_seed(1)
    codes = torch.tanh(torch.randn(6, n_bits))
    codes[1] = codes[0] + 0.01
    similar = losses.shared_labels(torch.tensor([0, 0, 1, 1, 2, 0]), 3)
    total = 0.0
    for i in range(6):
        for j in range(6):
            phi = (n_bits // 2) / (1 + distance(codes[i], codes[j]))
            s = float(similar[i, j])
            total += phi * (1 - s) if phi >= 15 else math.log(1 + math.exp(phi)) - s * phi
    assert float(losses.pairwise_similarity(codes, similar)) == pytest.approx(total / 36, rel=1e-4)


def test_pairwise_similarity_by_tanh_is_the_mean_over_all_ordered_pairs():
    torch.manual_seed(2)
    codes = torch.tanh(torch.randn(5, 16))
    similar = losses.shared_labels(torch.tensor([0, 0, 1, 1, 2]), 3)
    total = 0.0
    for i in range(5):
        for j in range(5):
            p = math.tanh(2 / (1 + distance(codes[i], codes[j])))
            total -= math.log(p if similar[i, j] else 1 - p)
    assert float(losses.pairwise_similarity(codes, similar, "tanh")) == pytest.approx(total / 25, rel=1e-4)


@pytest.mark.parametrize("likelihood", ["sigmoid", "tanh"])
def test_balanced_pairs_count_half_each(likelihood):
    torch.manual_seed(5)
    codes = torch.tanh(torch.randn(5, 16))
    similar = losses.shared_labels(torch.tensor([0, 0, 1, 1, 2]), 3)
    halves = {0.0: [], 1.0: []}
    for i in range(5):
        for j in range(5):
            if i != j:
                d = distance(codes[i], codes[j])
                p = math.tanh(2 / (1 + d)) if likelihood == "tanh" else 1 / (1 + math.exp(-8 / (1 + d)))
                halves[float(similar[i, j])].append(-math.log(p if similar[i, j] else 1 - p))
    wanted = sum(sum(half) / len(half) for half in halves.values()) / 2
    found = losses.pairwise_similarity(codes, similar, likelihood, balanced=True)
    assert float(found) == pytest.approx(wanted, rel=1e-4)
    assert torch.isfinite(losses.pairwise_similarity(codes, torch.eye(5), likelihood, balanced=True))


@pytest.mark.parametrize("likelihood", ["sigmoid", "tanh"])
def test_pairwise_similarity_stays_finite_for_equal_codes_and_long_ones(likelihood):
    codes = torch.ones(4, 1024, requires_grad=True)
    loss = losses.pairwise_similarity(codes, torch.zeros(4, 4), likelihood)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(codes.grad).all()


def test_pairwise_similarity_has_two_forms_only():
    with pytest.raises(ValueError, match="sigmoid or tanh, not 'cosh'"):
        losses.pairwise_similarity(torch.ones(2, 16), torch.ones(2, 2), "cosh")


def test_quantization_is_least_at_the_corners():
    codes = torch.tensor([[0.5, -1.0], [0.0, 0.9]])
    wanted = sum(math.log(math.cosh(abs(h) - 1)) for h in (0.5, -1.0, 0.0, 0.9)) / 4
    assert float(losses.log_cosh_quantization(codes)) == pytest.approx(wanted, rel=1e-5)
    assert float(losses.log_cosh_quantization(codes.sign() + (codes == 0))) == 0


def test_entropy_and_one_sidedness_of_one_label_predictions():
    torch.manual_seed(3)
    logits = 2 * torch.randn(7, 3)
    p = torch.softmax(logits, 1).tolist()
    wanted = -sum(q * math.log(q) for row in p for q in row) / 7
    assert float(losses.entropy(logits, False)) == pytest.approx(wanted, rel=1e-5)
    mean = [sum(row[k] for row in p) / 7 for k in range(3)]
    assert float(losses.one_sidedness(logits, False)) == pytest.approx(sum(q * math.log(q) for q in mean), rel=1e-5)


def test_entropy_and_one_sidedness_of_several_label_predictions():
    torch.manual_seed(4)
    logits = 2 * torch.randn(7, 3)
    p = torch.sigmoid(logits).tolist()

    def binary(q):
        return -q * math.log(q) - (1 - q) * math.log(1 - q)

    wanted = sum(binary(q) for row in p for q in row) / 21
    assert float(losses.entropy(logits, True)) == pytest.approx(wanted, rel=1e-5)
    mean = [sum(row[k] for row in p) / 7 for k in range(3)]
    assert float(losses.one_sidedness(logits, True)) == pytest.approx(-sum(map(binary, mean)) / 3, rel=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_entropy_of_sure_predictions_has_a_finite_gradient(multi_label):
    logits = torch.tensor([[300.0, -300.0], [-300.0, 300.0]], requires_grad=True)
    (losses.entropy(logits, multi_label) + losses.one_sidedness(logits, multi_label)).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    "change",
    [
        {"pairwise": 0.0},
        {"quantization": 0.0},
        {"domain": 0.0},
        {"reversal": 0.0},
        {"classification": 0.0},
        {"entropy": 0.0},
        {"entropy_start": 0.9},
        {"diversity": 0.0},
        {"likelihood": "sigmoid"},
        {"balanced": False},
        {"dropout": 0.5},
    ],
    ids=str,
)
def test_each_part_changes_the_codes(change):
    data, _ = clouds()
    full, less = ({"entropy": 0.5} | c for c in ({}, change))
    assert not np.array_equal(fitted(data, **full)[1], fitted(data, **less)[1])


def test_tah_has_no_use_for_the_classifier_nor_metah_e_for_the_entropy():
    data, _ = clouds()
    source, _, log = fitted(data, **TAH)
    assert all(epoch["classification"] == epoch["entropy"] == epoch["diversity"] == 0 for epoch in log[1:])
    np.testing.assert_array_equal(source, fitted(data, **TAH, entropy_start=1.0)[0])
    e, _, log = fitted(data, entropy=0.0)
    assert all(epoch["classification"] > 0 and epoch["entropy"] == epoch["diversity"] == 0 for epoch in log[1:])
    assert not np.array_equal(e, source)


def test_the_discriminator_is_fooled_more_with_reversal_than_without():
    data, _ = clouds(shift=2.0)
    alone = {"pairwise": 0.0, "quantization": 0.0, "domain": 1.0, "epochs": 20}
    told, fooled = (fitted(data, reversal=r, **alone)[2][-1]["domain"] for r in (0.0, 3.0))
    assert told < 0.9 * fooled


def test_entropy_makes_target_predictions_surer():
    data, _ = clouds(spread=2.0)
    weak, strong = (fitted(data, entropy=w, epochs=10)[2][-1]["entropy"] / w for w in (1e-6, 1.0))
    assert strong < weak


def nearest_is_of_its_class(codes, labels, queries, query_labels):
    nearest = (np.sign(queries) @ np.sign(codes).T).argmax(1)
    return np.mean(labels[nearest] == query_labels)


@pytest.mark.parametrize("form", [{}, {"entropy": 0.0}, TAH], ids=["metah", "metah-e", "tah"])
def test_target_photos_find_source_photos_of_their_class(form):
    data, hidden = clouds()
    source, target, _ = fitted(data, **form, epochs=16)
    assert nearest_is_of_its_class(source, data.source.labels, target, hidden) > 0.8


def test_several_labels_are_learned_from():
    data, hidden = clouds()
    source, target, log = fitted(several(data), epochs=16)
    assert nearest_is_of_its_class(source[1::3], data.source.labels[1::3], target, hidden) > 0.6
    one, _, _ = fitted(data, epochs=16)
    assert not np.array_equal(source, one)
    assert 0 < log[-1]["entropy"] < 0.3 * math.log(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": None}, "metah adapts to a second, unlabeled folder"),
        ({"source": None}, "metah learns from labels, and there are none"),
        ({"n_classes": 1}, "metah needs photos of at least 2 classes, found 1"),
    ],
    ids=["no target", "no labels", "one class"],
)
def test_what_it_cannot_learn_from_is_refused_in_words(change, message):
    data, _ = clouds()
    given = {"source": data.source, "target": data.target, "n_classes": CLASSES} | change
    made = METAH(Task(BITS, DIM, given["n_classes"], 0, "metah"), METAH.Settings())
    with pytest.raises(UsageError, match=message):
        made.check(TrainingData(**given))


def test_a_tiny_target_is_enough_to_train_on():
    data, _ = clouds(n_target=1)
    _, target, _ = fitted(data)
    assert np.isfinite(target).all()
