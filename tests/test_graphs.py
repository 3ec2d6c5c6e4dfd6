"""Graphs and what runs on them, against slow loops and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize

from hashcli import diffusion, graphs, nearest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def small(rng, n_source=30, n_target=25, n_classes=3, k=6, k_source=4, d=8):
    source, target = (graphs.unit_rows(rng.normal(size=(n, d))) for n in (n_source, n_target))
    labels = rng.integers(0, n_classes, n_source)
    return source, labels, target, featured(source, labels, target, k=k, k_source=k_source)


def featured(source, labels, target, **settings):
    """The graph of features alone, without codes."""
    none = np.zeros((max(len(source), len(target)), 0), np.float32)
    return graphs.MutualNeighbors(source, labels, target, **settings).graph(none[: len(source)], none[: len(target)])


def source_mass(graph):
    return np.where(np.arange(len(graph.degrees)) < graph.n_source, graph.degrees, 0.0)


def half_degree(graph):
    return np.full(len(graph.degrees), graph.degrees.mean() / 2)


def top(similarity, i, k, without=None):
    order = [j for j in np.argsort(-similarity[i], kind="stable") if j != without]
    return set(order[:k])


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_whitening_divides_principal_deviations_to_the_strength(rng, strength):
    x = (rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6))).astype(np.float32)

    white = x @ graphs.whitening(x, strength)

    deviations = np.linalg.svd(x, compute_uv=False) / np.sqrt(200)
    assert_allclose(white.T @ white / 200, np.diag(deviations[::-1] ** (2 - 2 * strength)), atol=1e-3)


def test_whitening_of_fewer_rows_than_columns_stays_finite(rng):
    x = rng.normal(size=(3, 10)).astype(np.float32)

    assert np.isfinite(x @ graphs.whitening(x, 1.0)).all()


def test_sharpness_is_a_power_of_the_cosine(rng):
    source, labels, target, graph = small(rng)

    sharp = featured(source, labels, target, k=6, k_source=4, sharpness=3.0)

    plain = graph.weights.toarray()
    expected = np.where(plain > 0, np.maximum(plain**3, graphs.MIN_WEIGHT), 0)
    assert_allclose(sharp.weights.toarray(), expected, atol=1e-6)


def test_graph_has_the_edges_of_the_definition(rng):
    source, labels, target, graph = small(rng)

    expected = defined(labels, source @ target.T, target @ target.T, source @ source.T)

    assert_allclose(graph.weights.toarray(), expected, atol=1e-6)
    assert_allclose(graph.degrees, expected.sum(1), atol=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.7])
@pytest.mark.parametrize("many", [False, True])
def test_graphs_follow_the_codes(rng, monkeypatch, share, many):
    monkeypatch.setattr(nearest, "EXACT_ROWS", 0 if many else 100)  # either way all rows are candidates here
    source, labels, target, _ = small(rng)
    made = graphs.MutualNeighbors(source, labels, target, k=6, k_source=4, code_share=share)

    for _ in range(2):
        codes, others = (graphs.unit_rows(rng.normal(size=(len(x), 5))) for x in (source, target))
        pairs = ((source, target, codes, others), (target, target, others, others), (source, source, codes, codes))
        cosines = [(1 - share) * x @ y.T + share * b @ c.T for x, y, b, c in pairs]

        assert_allclose(made.graph(codes, others).weights.toarray(), defined(labels, *cosines), atol=1e-6)


def test_codes_with_a_small_share_alone_are_compared_with_candidates(rng, monkeypatch):
    source, labels, target, _ = small(rng, 300, 250)

    def compared(share):
        return graphs.MutualNeighbors(source, labels, target, k=6, k_source=4, code_share=share).n_candidates

    assert compared(0.1) == 300
    monkeypatch.setattr(nearest, "EXACT_ROWS", 100)
    assert compared(0.1) < 300
    assert compared(0.9) == 300


def defined(labels, cross, inside, own):
    """The graph (55, 55) with k 6 and k_source 4, from cosines across, inside the target and inside the source."""
    expected = np.zeros((55, 55))
    for i in range(30):
        for j in range(25):
            if j in top(cross, i, 6) and i in top(cross.T, j, 6):
                expected[i, 30 + j] = expected[30 + j, i] = np.clip(cross[i, j], 1e-3, 1)
    for i in range(25):
        for j in range(25):
            if i != j and j in top(inside, i, 6, i) and i in top(inside, j, 6, j):
                expected[30 + i, 30 + j] = np.clip(inside[i, j], 1e-3, 1)
    for i in range(30):
        same = np.where(labels == labels[i], own[i], -np.inf)[None]
        for j in top(same, 0, min(4, (labels == labels[i]).sum() - 1), i):
            expected[i, j] = expected[j, i] = np.clip(own[i, j], 1e-3, 1)
    return expected


@pytest.mark.parametrize(("n_source", "n_target", "n_classes"), [(1, 1, 1), (9, 1, 2), (9, 3, 1), (4, 2, 4)])
def test_tiny_domains_make_a_symmetric_graph_without_loops(rng, n_source, n_target, n_classes):
    *_, graph = small(rng, n_source, n_target, n_classes, k=10, k_source=10)

    w = graph.weights.toarray()
    assert w.shape == (n_source + n_target,) * 2
    assert_array_equal(w, w.T)
    assert (np.diagonal(w) == 0).all()
    flow = diffusion.diffuse(
        graph, diffusion.limited(graph, source_mass(graph), half_degree(graph), 0.5), half_degree(graph)
    )
    assert np.isfinite(flow.score).all()


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("sources_keep", [True, False])
def test_diffusion_reaches_the_optimum_of_the_dual_that_scipy_finds(rng, rho, sources_keep):
    *_, graph = small(rng)
    capacity = half_degree(graph)
    if not sources_keep:
        capacity[: graph.n_source] = 0
    mass = diffusion.limited(graph, source_mass(graph), capacity, rho)
    laplacian = np.diag(graph.degrees) - graph.weights.toarray()

    def dual(x):
        return x @ laplacian @ x / 2 + x @ (capacity - mass), laplacian @ x + capacity - mass

    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 20000, "maxfun": 200000}
    best = minimize(dual, np.zeros(55), jac=True, bounds=[(0, None)] * 55, method="L-BFGS-B", options=options)
    flow = diffusion.diffuse(graph, mass, capacity, tolerance=1e-8)

    assert flow.residual <= 1e-8
    assert dual(flow.height)[0] == pytest.approx(best.fun, abs=1e-9)
    assert_allclose(flow.height, best.x, atol=1e-4)


def test_diffusion_agrees_with_pushing_one_node_at_a_time(rng):
    *_, graph = small(rng)
    capacity = half_degree(graph)
    mass = diffusion.limited(graph, source_mass(graph), capacity, 0.8)
    w, m, x = graph.weights.toarray(), mass.copy(), np.zeros(55)
    while (m - capacity).max() > 1e-9:
        i = int(np.argmax(m - capacity))
        step = (m[i] - capacity[i]) / graph.degrees[i]
        x[i] += step
        m += w[i] * step
        m[i] = capacity[i]

    flow = diffusion.diffuse(graph, mass, capacity, tolerance=1e-9)

    assert_allclose(flow.height, x, atol=1e-5)
    assert_allclose(flow.mass, m, atol=1e-5)
    assert flow.mass.sum() == pytest.approx(mass.sum())
    assert ((flow.score > capacity + 1e-9) <= (flow.height > 0)).all()


def test_mass_that_does_not_fit_leaves_a_residual_and_ends(rng):
    *_, graph = small(rng)
    capacity = half_degree(graph)

    flow = diffusion.diffuse(graph, 3 * source_mass(graph), capacity, max_sweeps=50)

    assert flow.sweeps == 50
    assert flow.residual > 0.1


def test_limited_mass_fits_every_component(rng):
    *_, graph = small(rng, k=1, k_source=1)
    capacity, part = half_degree(graph), graph.components()

    mass = diffusion.limited(graph, source_mass(graph), capacity, 0.5)

    assert len(np.unique(part)) > 5
    for c in np.unique(part):
        before, after = source_mass(graph)[part == c].sum(), mass[part == c].sum()
        assert after == pytest.approx(min(before, 0.5 * capacity[part == c].sum()))


def test_isolated_nodes_get_nothing(rng):
    *_, graph = small(rng, k=1, k_source=1)
    alone = graph.degrees == 0
    assert alone.any()

    flow, _ = diffusion.fill(graph, source_mass(graph), half_degree(graph), 0.5)

    assert (flow.score[alone] == 0).all()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_fill_reaches_the_share_with_no_more_mass_than_needed(rng, share):
    *_, graph = small(rng, 60, 50, k=5)
    capacity = half_degree(graph)
    reached = {}

    flow, mass = diffusion.fill(graph, source_mass(graph), capacity, share)
    for name, m in (("found", mass), ("less", 0.9 * mass)):
        score = diffusion.diffuse(graph, m, capacity).score
        reached[name] = int((score[graph.n_source :] > 0).sum())

    assert len(np.unique(graph.components())) == 1
    assert reached["found"] >= int(share * 50) > reached["less"]
    assert flow.residual <= 1e-3


def test_pagerank_is_the_fixed_point_of_its_equation(rng):
    *_, graph = small(rng)
    restart = source_mass(graph) / source_mass(graph).sum()

    rank = graphs.pagerank(graph, source_mass(graph))

    steps = graph.weights.toarray() / np.maximum(graph.degrees, 1e-12)
    expected = np.linalg.solve(np.eye(55) - 0.85 * steps, restart)
    assert_allclose(rank, expected / expected.sum(), atol=1e-6)


def test_propagation_agrees_with_its_closed_form_and_leaves_the_unreached_empty(rng):
    _, labels, _, graph = small(rng, k=2)
    known = np.zeros((55, 3))
    known[np.arange(30), labels] = 1

    scores = graphs.propagate(graph, known, follow=0.5, sweeps=60)

    w = graph.weights.toarray()
    root = 1 / np.sqrt(np.maximum(graph.degrees, 1e-12))
    expected = np.linalg.solve(np.eye(55) - 0.5 * root[:, None] * w * root, known)
    total = expected.sum(1)
    lonely = total < 1e-12
    assert lonely.any()
    assert_allclose(scores[~lonely], expected[~lonely] / total[~lonely, None], atol=1e-6)
    assert (scores[lonely] == 0).all()


def test_walks_follow_edges_and_split_pairs_by_reliability(rng):
    *_, graph = small(rng)
    selected = np.arange(25) < 10

    inside, outside = graphs.walk_pairs(graph, selected, 500, 3, rng)

    w = graph.weights.toarray()
    for pairs in (inside, outside):
        assert len(pairs) > 20
        assert_allclose(w[pairs.source, 30 + pairs.target], pairs.weight)
        assert (pairs.weight > 0).all()
    assert selected[inside.target].all()
    assert not selected[outside.target].any()


def test_walks_choose_steps_in_proportion_to_weights(rng):
    *_, graph = small(rng, 1, 6, 1, k=6)
    inside, outside = graphs.walk_pairs(graph, np.zeros(6, bool), 20000, 1, rng)

    share = np.bincount(outside.target, minlength=6) / len(outside)

    expected = graph.weights.toarray()[0, 1:]
    assert len(inside) == 0
    assert_allclose(share, expected / expected.sum(), atol=0.02)
