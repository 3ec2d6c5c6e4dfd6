"""Pairs of like photos against dense oracles that follow the paper's formulas, and what keeps their memory small."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from hashcli import graphs, nearest, neighbors


def unit(rng: np.random.Generator, n: int, d: int, groups: int = 0) -> np.ndarray:
    """Rows of length one; with `groups`, around that many centers."""
    x = rng.standard_normal((n, d))
    if groups:
        x = 0.6 * x + rng.standard_normal((groups, d))[rng.integers(0, groups, n)]
    return graphs.unit_rows(x)


def nearest_by_hand(cosine: np.ndarray, i: int, k: int) -> list[int]:
    others = [j for j in range(len(cosine)) if j != i]
    return sorted(others, key=lambda j: -cosine[i, j])[:k]


def first_pairs_by_hand(x: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """W0: low order (nearest by cosine) and high order (nearest by distance of the low order's rows)."""
    n = len(x)
    cosine = x.astype(np.float64) @ x.T.astype(np.float64)
    low = -np.ones((n, n))
    for i in range(n):
        low[i, nearest_by_hand(cosine, i, k1)] = 1
    similarity = np.array([[1 / (1 + np.linalg.norm(low[i] - low[j])) for j in range(n)] for i in range(n)])
    pairs = np.zeros((n, n), bool)
    for i in range(n):
        # equal similarities are told apart by the cosine
        others = sorted((j for j in range(n) if j != i), key=lambda j: (-similarity[i, j].round(9), -cosine[i, j]))
        for j in others[:k2]:
            pairs[i, j] = low[i, j] == 1
    return pairs | pairs.T


def discovered_by_hand(x: np.ndarray, pairs: np.ndarray, threshold: float, k: int) -> np.ndarray:
    n = len(x)
    new = np.zeros((n, n), bool)
    for i in range(n):
        alike = [(x[i] @ x[j], j) for j in range(n) if j != i and not pairs[i, j] and x[i] @ x[j] >= threshold]
        for _, j in sorted(alike, reverse=True)[:k]:
            new[i, j] = True
    return new | new.T


def assert_well_formed(pairs) -> None:
    dense = pairs.toarray()
    assert pairs.dtype == np.bool_ and pairs.has_sorted_indices and pairs.data.all()
    assert (dense == dense.T).all() and not dense.diagonal().any()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, so that results are put together from many."""
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", 4000)
    monkeypatch.setattr(nearest, "BLOCK_BYTES", 4000)
    monkeypatch.setattr(nearest, "GATHERED_BYTES", 1000)


@pytest.mark.parametrize(("n", "k"), [(8, 5), (60, 5), (100, 5), (110, 6), (600, 30), (10_000, 500), (10**6, 500)])
def test_neighborhoods_are_a_twentieth_of_all_photos_within_bounds(n: int, k: int) -> None:
    assert neighbors.neighborhood_size(n) == k


def test_neighbor_lists_are_the_nearest_others_in_order(rng: np.random.Generator) -> None:
    x = unit(rng, 50, 6)
    lists = neighbors.neighbor_lists(x, 7)
    cosine = x.astype(np.float64) @ x.T
    assert lists.tolist() == [nearest_by_hand(cosine, i, 7) for i in range(50)]
    assert neighbors.neighbor_lists(x[:4], 7).shape == (4, 3)


@pytest.mark.parametrize("groups", [0, 4])
@pytest.mark.parametrize(("k1", "k2"), [(6, 6), (12, 4), (3, 20), (39, 10), (1, 1), (6, 100)])
@pytest.mark.usefixtures("small_blocks")
def test_first_pairs_are_those_of_the_papers_formulas(rng: np.random.Generator, k1: int, k2: int, groups: int) -> None:
    x = unit(rng, 40, 5, groups)
    pairs = neighbors.shared_neighbor_pairs(neighbors.neighbor_lists(x, k1), k2)
    assert_well_formed(pairs)
    np.testing.assert_array_equal(pairs.toarray(), first_pairs_by_hand(x, k1, k2))
    assert pairs.nnz > 0


def test_common_neighbors_turn_photos_away_that_are_near_by_chance(rng: np.random.Generator) -> None:
    x = unit(rng, 60, 5, 4)
    lists = neighbors.neighbor_lists(x, 10)
    every = neighbors.shared_neighbor_pairs(lists, 59).toarray()
    some = neighbors.shared_neighbor_pairs(lists, 10).toarray()
    assert some.sum() < every.sum() and not (some & ~every).any()


@pytest.mark.parametrize("k", [0, 1, 3, 40])
@pytest.mark.parametrize("threshold", [-2.0, 0.1, 0.6, 2.0])
@pytest.mark.usefixtures("small_blocks")
def test_discovered_pairs_are_new_alike_and_the_most_alike_of_each_row(
    rng: np.random.Generator, threshold: float, k: int
) -> None:
    x = unit(rng, 40, 6, 5)
    pairs = neighbors.shared_neighbor_pairs(neighbors.neighbor_lists(x, 4), 4)
    new = neighbors.discover(x, pairs, threshold, k)
    assert_well_formed(new)
    np.testing.assert_array_equal(new.toarray(), discovered_by_hand(x, pairs.toarray(), threshold, k))
    assert not (new.toarray() & pairs.toarray()).any()
    both = neighbors.union(pairs, new)
    assert_well_formed(both)
    assert both.nnz == pairs.nnz + new.nnz


@pytest.mark.usefixtures("small_blocks")
def test_codes_that_are_all_alike_bring_in_no_more_than_asked_for() -> None:
    none = neighbors.shared_neighbor_pairs(np.empty((30, 0), np.int32), 5)
    assert none.nnz == 0
    new = neighbors.discover(np.ones((30, 4), np.float32) / 2, none, 0.5, 3)
    assert 30 * 3 / 2 <= new.nnz / 2 <= 30 * 3
    assert (new.toarray().sum(1) >= 3).all()


@pytest.mark.usefixtures("small_blocks")
def test_mean_and_deviation_are_those_of_the_pairs_alone(rng: np.random.Generator) -> None:
    x = unit(rng, 40, 6, 5)
    pairs = neighbors.shared_neighbor_pairs(neighbors.neighbor_lists(x, 8), 5)
    cosines = [float(x[i] @ x[j]) for i in range(40) for j in range(40) if pairs.toarray()[i, j]]
    np.testing.assert_allclose(neighbors.similarity_of(x, pairs), (np.mean(cosines), np.std(cosines)), atol=1e-6)
    none = neighbors.shared_neighbor_pairs(np.empty((40, 0), np.int32), 5)
    assert neighbors.similarity_of(x, none) == (0.0, 0.0)


def test_mutual_pairs_are_each_others_nearest_across_the_domains(rng: np.random.Generator) -> None:
    source, target = unit(rng, 20, 5), unit(rng, 13, 5)
    pairs = neighbors.mutual_pairs(source, target, 3)
    assert_well_formed(pairs)
    cosine = source @ target.T
    wanted = np.zeros((33, 33), bool)
    for i in range(20):
        for j in range(13):
            near = j in np.argsort(-cosine[i])[:3] and i in np.argsort(-cosine[:, j])[:3]
            wanted[i, 20 + j] = wanted[20 + j, i] = near
    np.testing.assert_array_equal(pairs.toarray(), wanted)
    assert wanted.any()


def test_copies_of_one_photo_are_paired_and_a_photo_unlike_all_is_nobodys_choice(rng: np.random.Generator) -> None:
    copies = np.tile([[1.0, 0, 0, 0]], (6, 1))
    others = np.concatenate([np.zeros((6, 1)), 1 + 0.1 * rng.standard_normal((6, 3))], axis=1)
    outlier = [[-1.0, -1, -1, -1]]
    x = graphs.unit_rows(np.concatenate([copies, others, outlier]))
    pairs = neighbors.shared_neighbor_pairs(neighbors.neighbor_lists(x, 5), 5).toarray()
    assert (pairs[:6, :6] == ~np.eye(6, dtype=bool)).all()
    assert not pairs[:6, 6:12].any()
    np.testing.assert_array_equal(pairs, pairs.T)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_fewer_photos_than_neighbors_pair_what_there_is(rng: np.random.Generator, n: int) -> None:
    x = unit(rng, n, 3)
    pairs = neighbors.shared_neighbor_pairs(neighbors.neighbor_lists(x, 5), 5)
    np.testing.assert_array_equal(pairs.toarray(), ~np.eye(n, dtype=bool))
    assert neighbors.discover(x, pairs, -1.0, 5).nnz == 0


def test_rows_of_zeros_are_like_nothing(rng: np.random.Generator) -> None:
    x = unit(rng, 20, 4)
    x[3] = 0
    none = neighbors.shared_neighbor_pairs(np.empty((20, 0), np.int32), 5)
    assert not neighbors.discover(x, none, 0.01, 20).toarray()[3].any()


@pytest.mark.parametrize("n", [2000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_step_holds_a_matrix_of_all_photos_by_all_photos(
    rng: np.random.Generator, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = unit(rng, n, 16, 50)
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", n * n // 10)
    monkeypatch.setattr(nearest, "BLOCK_BYTES", n * n // 10)
    tracemalloc.start()
    try:
        pairs = neighbors.shared_neighbor_pairs(neighbors.neighbor_lists(x, 20), 20)
        mean, deviation = neighbors.similarity_of(x, pairs)
        more = neighbors.discover(x, pairs, mean + deviation, 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert pairs.nnz and more.nnz
    assert peak < 0.75 * n * n, "not even one byte for each of the n x n pairs"


@pytest.mark.usefixtures("small_blocks")
def test_pairs_do_not_depend_on_the_threads_that_find_them(rng: np.random.Generator) -> None:
    x = unit(rng, 200, 6, 12)
    threads, made = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            pairs = neighbors.shared_neighbor_pairs(neighbors.neighbor_lists(x, 9), 9)
            made.append((pairs, neighbors.discover(x, pairs, 0.3, 9)))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*made, strict=True):
        assert one.nnz and (one != two).nnz == 0
