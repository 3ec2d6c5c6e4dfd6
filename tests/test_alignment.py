"""Terms between domains, against slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hashcli import alignment


def test_reversal_gives_rows_back_and_turns_their_gradient_round() -> None:
    x = torch.tensor([[1.0, -2.0], [3.0, 0.5]], requires_grad=True)
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    y = alignment.reverse(x, 0.25)
    torch.testing.assert_close(y, x)
    (weights * y).sum().backward()
    torch.testing.assert_close(x.grad, -0.25 * weights)


def test_reversal_grows_from_nothing_to_almost_one() -> None:
    strengths = [alignment.reversal_strength(p) for p in (0.0, 0.1, 0.5, 1.0, 2.0)]
    assert strengths[0] == 0 and strengths == sorted(strengths)
    assert strengths[1] == pytest.approx(2 / (1 + math.exp(-1)) - 1)
    assert strengths[3] == strengths[4] == pytest.approx(0.9999, abs=1e-4)


def test_domain_loss_weighs_domains_alike_and_calls_the_target_one() -> None:
    torch.manual_seed(0)
    judge = alignment.discriminator(4, 8).eval()
    source, target = torch.randn(5, 4), torch.randn(2, 4)
    share = torch.sigmoid(judge(torch.cat([source, target])).detach()).flatten().tolist()
    wanted = 0.5 * sum(-math.log(1 - p) for p in share[:5]) / 5 + 0.5 * sum(-math.log(p) for p in share[5:]) / 2
    assert float(alignment.domain_loss(judge, source, target, 1.0).detach()) == pytest.approx(wanted, rel=1e-5)


def test_a_step_teaches_the_discriminator_to_tell_and_the_codes_to_hide() -> None:
    torch.manual_seed(0)
    judge = nn.Linear(3, 1)
    source, target = torch.randn(20, 3, requires_grad=True), torch.randn(20, 3) + 1
    before = alignment.domain_loss(judge, source, target, 1.0)
    before.backward()
    with torch.no_grad():
        hidden = alignment.domain_loss(judge, source - 0.1 * source.grad, target, 1.0)
        for p in judge.parameters():
            p -= 0.1 * p.grad
        told = alignment.domain_loss(judge, source, target, 1.0)
    assert float(hidden) > float(before.detach()) > float(told)


def test_mean_discrepancy_compares_all_pairs_under_five_kernels() -> None:
    torch.manual_seed(0)
    source, target = torch.randn(4, 3), torch.randn(3, 3) + 1
    rows = torch.cat([source, target]).tolist()

    def squared(a, b):
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    mean = sum(squared(a, b) for a in rows for b in rows) / (7 * 6)

    def kernel(a, b):
        return sum(math.exp(-squared(a, b) / (mean * w)) for w in (0.25, 0.5, 1, 2, 4))

    def average(first, second):
        return sum(kernel(a, b) for a in first for b in second) / (len(first) * len(second))

    wanted = average(rows[:4], rows[:4]) + average(rows[4:], rows[4:]) - 2 * average(rows[:4], rows[4:])
    assert float(alignment.mean_discrepancy(source, target)) == pytest.approx(wanted, rel=1e-4)
    assert float(alignment.mean_discrepancy(source, source)) == pytest.approx(0, abs=1e-5)


def test_mean_discrepancy_of_rows_that_are_all_alike_is_nothing() -> None:
    alike = torch.ones(3, 4, requires_grad=True)
    apart = alignment.mean_discrepancy(alike, torch.ones(2, 4))
    apart.backward()
    assert float(apart.detach()) == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(alike.grad).all()


def test_random_outer_keeps_inner_products_of_outer_products() -> None:
    torch.manual_seed(0)
    outer = alignment.RandomOuter(4, 5, 20000)
    x, y = torch.randn(6, 4), torch.randn(6, 5)
    wanted = (x @ x.T) * (y @ y.T)
    found = outer(x, y) @ outer(x, y).T
    assert float((found - wanted).abs().max()) < 0.1 * float(wanted.abs().max())
