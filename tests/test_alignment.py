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
