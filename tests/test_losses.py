"""Every loss term against a slow loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hashcli import losses


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def normal(draw, *shape):
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def test_code_logits_are_scaled_inner_products(draw):
    relaxed, codes = normal(draw, 5, 16), normal(draw, 3, 16)

    logits = losses.code_logits(relaxed, codes, 8.0)

    for i in range(5):
        for k in range(3):
            assert logits[i, k] == pytest.approx(8 * sum(float(relaxed[i, b] * codes[k, b]) for b in range(16)) / 16)


def test_margin_lowers_the_true_class_alone(draw):
    logits, labels = normal(draw, 4, 3), torch.tensor([2, 0, 1, 1])

    lowered = losses.margin_logits(logits, labels, 0.2)

    for i in range(4):
        for k in range(3):
            assert lowered[i, k] == pytest.approx(float(logits[i, k]) - (0.2 if k == labels[i] else 0))


def test_soft_cross_entropy_is_the_weighted_mean_of_each_rows(draw):
    logits, targets, weights = normal(draw, 6, 4), normal(draw, 6, 4).softmax(1), normal(draw, 6).abs()
    each = []
    for i in range(6):
        total = sum(math.exp(v) for v in logits[i])
        each.append(-sum(float(targets[i, k]) * math.log(math.exp(logits[i, k]) / total) for k in range(4)))

    assert losses.soft_cross_entropy(logits, targets) == pytest.approx(np.mean(each))
    assert losses.soft_cross_entropy(logits, targets, weights) == pytest.approx(np.average(each, weights=weights))


def test_soft_cross_entropy_of_nothing_is_zero_and_has_a_gradient(draw):
    logits = normal(draw, 0, 4).requires_grad_()

    term = losses.soft_cross_entropy(logits, torch.zeros(0, 4, dtype=torch.float64), torch.zeros(0))

    assert term.item() == 0
    term.backward()


def test_quantization_is_the_distance_from_the_nearer_sign(draw):
    relaxed = normal(draw, 5, 8)

    by_hand = np.mean([min((float(v) - 1) ** 2, (float(v) + 1) ** 2) for v in relaxed.ravel()])

    assert losses.quantization(relaxed) == pytest.approx(by_hand)


def test_separation_is_the_mean_positive_cosine_of_pairs(draw):
    codes = normal(draw, 5, 8)
    pairs = [max(0.0, cosine(codes[i], codes[j])) for i in range(5) for j in range(5) if i != j]

    assert losses.separation(codes) == pytest.approx(np.mean(pairs))
    assert float(losses.separation(codes[:1])) == 0


def test_consistency_contrasts_each_target_with_the_source_batch(draw):
    target, source = normal(draw, 4, 8), normal(draw, 6, 8)
    target_labels, source_labels = torch.tensor([0, 1, 5, 0]), torch.tensor([0, 0, 1, 2, 2, 1])
    each = []
    for j in range(4):
        partners = [i for i in range(6) if source_labels[i] == target_labels[j]]
        if partners:
            total = sum(math.exp(cosine(target[j], s) / 0.5) for s in source)
            shares = [math.log(math.exp(cosine(target[j], source[i]) / 0.5) / total) for i in partners]
            each.append(-np.mean(shares))

    assert len(each) == 3
    term = losses.consistency(target, target_labels, source, source_labels, 0.5)
    assert term == pytest.approx(np.mean(each))


@pytest.mark.parametrize(("m", "label"), [(0, 0), (3, 9)])
def test_consistency_without_partners_is_zero(draw, m, label):
    target = normal(draw, m, 8).requires_grad_()

    term = losses.consistency(target, torch.full((m,), label), normal(draw, 5, 8), torch.zeros(5).long(), 0.5)

    assert term.item() == 0
    term.backward()
    assert target.grad is not None and bool(torch.isfinite(target.grad).all())


def test_mix_keeps_the_share_of_the_first(draw):
    a, b, share = normal(draw, 3, 4), normal(draw, 3, 4), torch.tensor([0.0, 0.25, 1.0])

    mixed = losses.mix(a, b, share)

    for i in range(3):
        for k in range(4):
            assert mixed[i, k] == pytest.approx(float(share[i] * a[i, k] + (1 - share[i]) * b[i, k]))


@pytest.mark.parametrize(("n_classes", "n_bits"), [(1, 16), (10, 16), (55, 64), (100, 64), (200, 16), (10, 24)])
def test_hadamard_codes_differ_for_every_pair_of_classes(n_classes, n_bits):
    codes = losses.hadamard_codes(n_classes, n_bits)

    assert codes.shape == (n_classes, n_bits)
    assert set(np.unique(codes)) <= {-1.0, 1.0}
    assert len(np.unique(codes, axis=0)) == n_classes


def test_hadamard_codes_of_few_classes_differ_in_half_of_the_bits():
    codes = losses.hadamard_codes(55, 64)

    assert ((codes @ codes.T)[~np.eye(55, dtype=bool)] == 0).all()


def test_learned_label_codes_learn_and_fixed_ones_do_not():
    learned, fixed = losses.LabelCodes(5, 16), losses.LabelCodes(5, 16, "hadamard")

    assert len(list(learned.parameters())) > 0
    assert list(fixed.parameters()) == []
    assert learned().shape == fixed().shape == (5, 16)
    assert learned().abs().max().item() < 1


def test_unknown_label_codes_are_refused():
    with pytest.raises(ValueError, match="learned or hadamard, not 'random'"):
        losses.LabelCodes(5, 16, "random")


def test_head_gives_relaxed_codes_and_drops_nothing_when_it_serves(draw):
    head = losses.hash_head(12, 32, 16, dropout=0.5).double().eval()
    x = normal(draw, 7, 12)

    first = head(x)

    assert first.shape == (7, 16)
    assert first.abs().max().item() < 1
    assert torch.equal(first, head(x))
