"""Measures against every order of the ties, against shuffles, and against cases worked out by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashcli import codes, metrics
from hashcli.metrics import Levels, Measures, count_levels, expected_found, measure, precision_recall_by_radius

N_LEVELS = 6
NAMES = ("map", "map_at_k", "map_at_k_found", "precision_at_k", "recall_at_k", "map_radius_2", "precision_radius_2")

Item = tuple[int, bool]


def levels_of(*queries: list[Item], n_levels: int = N_LEVELS) -> Levels:
    total = np.zeros((len(queries), n_levels), np.int64)
    relevant = np.zeros_like(total)
    for row, items in enumerate(queries):
        for distance, hit in items:
            total[row, distance] += 1
            relevant[row, distance] += hit
    return Levels(total, relevant)


def measures_of_order(ranking: list[Item], k: int) -> dict[str, float]:
    """One definite ranking, measured by the definitions."""
    n_relevant = sum(hit for _, hit in ranking)
    precisions, found = [], 0
    for place, (_, hit) in enumerate(ranking, 1):
        found += hit
        precisions.append(found / place if hit else 0.0)
    found_at_k = sum(hit for _, hit in ranking[:k])
    ball = [hit for distance, hit in ranking if distance <= 2]
    return {
        "map": sum(precisions) / n_relevant,
        "map_at_k": sum(precisions[:k]) / min(k, n_relevant),
        "map_at_k_found": sum(precisions[:k]) / found_at_k if found_at_k else 0.0,
        "precision_at_k": found_at_k / k,
        "recall_at_k": found_at_k / n_relevant,
        "map_radius_2": sum(precisions[: len(ball)]) / sum(ball) if any(ball) else 0.0,
        "precision_radius_2": sum(ball) / len(ball) if ball else 0.0,
    }


def mean_over_all_orders(items: list[Item], k: int) -> dict[str, float]:
    """The exact expectation: every order of the items that keeps the distances ascending, once."""
    ties = [list(group) for _, group in itertools.groupby(sorted(items), key=lambda item: item[0])]
    orders = [
        measures_of_order(list(itertools.chain(*parts)), k)
        for parts in itertools.product(*(itertools.permutations(tie) for tie in ties))
    ]
    return {name: math.fsum(order[name] for order in orders) / len(orders) for name in NAMES}


def only(measures: Measures) -> dict[str, float]:
    return {name: value for name, value in asdict(measures).items() if name in NAMES}


some_items = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6).filter(
    lambda items: any(hit for _, hit in items)
)


@settings(max_examples=150, deadline=None)
@given(items=some_items, k=st.integers(1, 8))
def test_every_measure_is_the_mean_over_all_orders_of_the_ties(items: list[Item], k: int) -> None:
    assert only(measure(levels_of(items), k)) == pytest.approx(mean_over_all_orders(items, k), abs=1e-12)


@pytest.mark.parametrize("k", [1, 7, 40, 55, 60, 100])
def test_large_ties_agree_with_random_shuffles(k: int) -> None:
    rng = np.random.default_rng(k)
    items = [(int(d), bool(h)) for d, h in zip(rng.integers(1, 4, 60), rng.random(60) < 0.3, strict=True)]
    sums = dict.fromkeys(NAMES, 0.0)
    n_shuffles = 4000
    for _ in range(n_shuffles):
        shuffled = [items[i] for i in rng.permutation(len(items))]
        for name, value in measures_of_order(sorted(shuffled, key=lambda item: item[0]), k).items():
            sums[name] += value / n_shuffles
    assert only(measure(levels_of(items), k)) == pytest.approx(sums, abs=0.01)


def test_a_ranking_without_ties_is_measured_as_it_stands() -> None:
    items = [(0, True), (1, False), (2, True), (3, False), (4, True)]
    found = measure(levels_of(items), k=4)
    assert found.map == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert found.map_at_k == pytest.approx((1 + 2 / 3) / 3)
    assert found.map_at_k_found == pytest.approx((1 + 2 / 3) / 2)
    assert found.precision_at_k == pytest.approx(2 / 4)
    assert found.recall_at_k == pytest.approx(2 / 3)
    assert found.map_radius_2 == pytest.approx((1 + 2 / 3) / 2)
    assert found.precision_radius_2 == pytest.approx(2 / 3)


def test_constant_codes_are_measured_as_chance_and_not_by_the_order_of_the_gallery() -> None:
    n, g = 1000, 100
    levels = Levels(np.array([[n, 0]]), np.array([[g, 0]]))
    found = measure(levels, k=50)
    assert found.precision_at_k == pytest.approx(g / n)
    assert found.recall_at_k == pytest.approx(50 / n)
    assert g / n < found.map < g / n + 0.01


def test_means_leave_out_and_count_queries_without_a_relevant_item() -> None:
    levels = levels_of([(0, True), (3, False)], [(0, False), (4, False)], [(4, False), (5, True)])
    found = measure(levels, k=1)
    assert (found.n_queries, found.n_excluded) == (3, 1)
    assert found.map == pytest.approx((1 + 1 / 2) / 2)
    assert found.share_of_empty_balls == pytest.approx(1 / 2)
    assert found.map_radius_2 == pytest.approx(1 / 2)
    as_papers_do = measure(levels, k=1, paper_counting=True)
    assert (as_papers_do.n_queries, as_papers_do.n_excluded) == (3, 1)
    assert as_papers_do.map == pytest.approx((1 + 1 / 2) / 3)
    assert as_papers_do.share_of_empty_balls == pytest.approx(1 / 3)


def test_means_over_no_answerable_query_are_nan() -> None:
    found = measure(levels_of([(0, False)]), k=3)
    assert found.n_excluded == 1
    assert math.isnan(found.map) and math.isnan(found.precision_at_k)


def test_a_million_items_keep_their_precision() -> None:
    n_levels, per_level = 65, 16_000
    total = np.full((1, n_levels), per_level)
    relevant = np.zeros_like(total)
    relevant[0, ::8] = 900
    exact = math.fsum(
        (g / t) * (found + 1 + i * (g - 1) / (t - 1)) / (before + 1 + i)
        for t, g, before, found in zip(
            total[0].tolist(),
            relevant[0].tolist(),
            (total.cumsum() - per_level).tolist(),
            (relevant.cumsum() - relevant[0]).tolist(),
            strict=True,
        )
        if g
        for i in range(t)
    )
    assert measure(Levels(total, relevant)).map == pytest.approx(exact / relevant.sum(), rel=1e-11)


def slow_levels(q: np.ndarray, g: np.ndarray, relevant: np.ndarray, skip: set[tuple[int, int]]) -> Levels:
    n_bits = q.shape[1]
    total, hits = np.zeros((len(q), n_bits + 1), np.int64), np.zeros((len(q), n_bits + 1), np.int64)
    for i, j in itertools.product(range(len(q)), range(len(g))):
        if (i, j) not in skip:
            distance = int((q[i] != g[j]).sum())
            total[i, distance] += 1
            hits[i, distance] += relevant[i, j]
    return Levels(total, hits)


def test_levels_are_the_same_counted_one_by_one_and_in_blocks(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, g = rng.integers(0, 2, (23, 16)).astype(np.uint8), rng.integers(0, 2, (40, 16)).astype(np.uint8)
    q_labels, g_labels = rng.integers(-1, 4, 23), rng.integers(-1, 4, 40)
    relevant = np.array([[a == b and a >= 0 for b in g_labels] for a in q_labels])
    slow = slow_levels(q, g, relevant, set())
    for block_pairs in (1, 100, 1 << 20):
        monkeypatch.setattr(metrics, "BLOCK_PAIRS", block_pairs)
        fast = count_levels(codes.pack(q), q_labels, codes.pack(g), g_labels)
        np.testing.assert_array_equal(fast.total, slow.total)
        np.testing.assert_array_equal(fast.relevant, slow.relevant)


def test_multi_label_photos_are_relevant_when_they_share_a_label(rng: np.random.Generator) -> None:
    q, g = rng.integers(0, 2, (9, 16)).astype(np.uint8), rng.integers(0, 2, (30, 16)).astype(np.uint8)
    q_labels, g_labels = (rng.random((9, 5)) < 0.3).astype(np.int64), (rng.random((30, 5)) < 0.3).astype(np.int64)
    relevant = np.array([[bool(set(np.flatnonzero(a)) & set(np.flatnonzero(b))) for b in g_labels] for a in q_labels])
    assert relevant.any() and not relevant.all()
    fast = count_levels(codes.pack(q), q_labels, codes.pack(g), g_labels)
    np.testing.assert_array_equal(fast.relevant, slow_levels(q, g, relevant, set()).relevant)


def test_a_query_never_meets_itself_however_often_the_gallery_holds_it(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "BLOCK_PAIRS", 30)
    g = rng.integers(0, 2, (12, 16)).astype(np.uint8)
    g[7] = g[3]
    g_ids = np.array([10, 11, 12, 13, 14, 15, 16, 13, 18, 19, 20, 21])
    rows = [3, 0, 5]
    q, q_ids = np.concatenate([g[rows], g[:1]]), np.array([13, 10, 15, 99])
    labels = np.zeros(12, np.int64)
    fast = count_levels(codes.pack(q), labels[:4], codes.pack(g), labels, q_ids, g_ids)
    slow = slow_levels(q, g, np.ones((4, 12), bool), {(0, 3), (0, 7), (1, 0), (2, 5)})
    np.testing.assert_array_equal(fast.total, slow.total)
    np.testing.assert_array_equal(fast.relevant, slow.relevant)


def test_top_k_curves_and_radius_curves_follow_the_definitions() -> None:
    levels = levels_of([(0, True), (1, False), (1, True), (4, False)], [(2, True), (2, False), (3, False)])
    np.testing.assert_allclose(expected_found(levels, [1, 2, 3, 9]), [[1, 1.5, 2, 2], [0.5, 1, 1, 1]])
    precision, recall = precision_recall_by_radius(levels)
    np.testing.assert_allclose(precision, [1, 2 / 3, (2 / 3 + 1 / 2) / 2, (2 / 3 + 1 / 3) / 2, 5 / 12, 5 / 12])
    np.testing.assert_allclose(recall, [0.25, 0.5, 1, 1, 1, 1])


def test_shapes_that_do_not_fit_are_named() -> None:
    packed, labels = np.zeros((3, 2), np.uint8), np.zeros(3, np.int64)
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 4\)"):
        count_levels(packed, labels, np.zeros((3, 4), np.uint8), labels)
    with pytest.raises(ValueError, match=r"labels \(3,\) and \(3, 2\)"):
        count_levels(packed, labels, packed, np.zeros((3, 2), np.int64))
    with pytest.raises(ValueError, match=r"labels \(2,\)"):
        count_levels(packed, labels[:2], packed, labels)
    with pytest.raises(ValueError, match="k must be at least 1"):
        measure(levels_of([(0, True)]), k=0)
    with pytest.raises(ValueError, match="between 0 and"):
        Levels(np.zeros((1, 3), np.int64), np.ones((1, 3), np.int64))
