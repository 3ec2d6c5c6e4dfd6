"""Which targets are reliable: ranked, and taken."""

from __future__ import annotations

import numpy as np
import pytest

from hashcli import diffusion, graphs
from hashcli.selection import by_flow, margins, select


@pytest.mark.parametrize("n_classes", [1, 2, 5])
def test_the_margin_is_that_of_the_two_likeliest_classes(n_classes):
    guess = np.random.default_rng(0).dirichlet(np.ones(n_classes), 30)

    for row, margin in zip(guess, margins(guess), strict=True):
        first, *rest = sorted(row, reverse=True)
        assert margin == first - (rest[0] if rest else 0)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("by_class", [False, True])
def test_select_takes_the_largest_positive_scores(alpha, by_class):
    rng = np.random.default_rng(1)
    score = np.maximum(rng.normal(size=40), 0)
    classes = rng.integers(0, 3, 40)

    chosen = select(score, alpha, classes if by_class else None)

    for group in range(3) if by_class else [None]:
        rows = [i for i in range(40) if group is None or classes[i] == group]
        best = sorted(rows, key=lambda i: -score[i])[: int(alpha * len(rows))]
        assert {i for i in rows if chosen[i]} == {i for i in best if score[i] > 0}


@pytest.mark.parametrize("k", [2, 4, 8])
def test_the_flow_that_may_take_all_targets_takes_those_that_any_mass_reaches(k):
    rng = np.random.default_rng(k)
    source, target = (graphs.unit_rows(rng.normal(size=(n, 8))) for n in (60, 50))
    labels, codes = rng.integers(0, 5, 60), np.zeros((60, 0), np.float32)
    graph = graphs.MutualNeighbors(source, labels, target, k=k, k_source=2).graph(codes, codes[:50])
    capacity = np.full(110, graph.degrees.mean() / 2)
    mass = np.where(np.arange(110) < 60, graph.degrees, 0.0)

    score, counts = by_flow(graph, fill=True, alpha=1.0, rho=0.5, sources_hold=True)

    reached = diffusion.fill(graph, mass, capacity, 1.0, rounds=12)[0].score[60:] > 0
    assert (select(score, 1.0) == reached).all()
    assert counts["reached"] == reached.sum() > 0
