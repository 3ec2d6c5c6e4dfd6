"""The nearest rows by inner product: exactly as a loop finds them, and among many rows nearly so."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hashcli import graphs, nearest


def clustered(rng: np.random.Generator, n: int, shift: float = 0.0) -> np.ndarray:
    """Unit rows (n, 600) around 30 centers, on an uneven spectrum as features of photos have, moved by `shift`."""
    draw = np.random.default_rng(3)
    centers = draw.normal(size=(30, 600))
    x = centers[rng.integers(30, size=n)] + shift * draw.normal(size=600) + 1.5 * rng.normal(size=(n, 600))
    return graphs.unit_rows(x * np.arange(1, 601) ** -0.4)


def recall(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([len(set(one) & set(other)) / len(other) for one, other in zip(found, true, strict=True)]))


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "EXACT_ROWS", 10)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_nearest_are_the_largest_inner_products(rng, monkeypatch, k):
    monkeypatch.setattr(nearest, "BLOCK_BYTES", 4 * 23 * 7)  # blocks of seven queries
    queries, gallery = (rng.normal(size=(n, 5)).astype(np.float32) for n in (20, 23))

    rows, values = nearest.nearest(queries, gallery, k)

    similarity = queries @ gallery.T
    for i in range(20):
        assert set(rows[i]) == set(np.argsort(-similarity[i])[:k])
        assert_allclose(values[i], similarity[i, rows[i]], rtol=1e-5)


def test_a_row_is_not_its_own_neighbor_even_among_duplicates(rng):
    x = graphs.unit_rows(np.repeat(rng.normal(size=(4, 6)), 3, axis=0))

    rows, values = nearest.nearest(x, x, 2, within=True)

    for i in range(12):
        assert set(rows[i]) == set(range(i // 3 * 3, i // 3 * 3 + 3)) - {i}
    assert_allclose(values, 1, atol=1e-6)


def test_nearest_names_the_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(3, 5\)"):
        nearest.nearest(np.zeros((3, 4), np.float32), np.zeros((3, 5), np.float32), 1)


@pytest.mark.parametrize("k", [10, 100])
@pytest.mark.parametrize("within", [True, False])
def test_among_many_rows_nearly_all_of_the_true_neighbors_are_found(rng, monkeypatch, k, within):
    gallery = clustered(rng, 1500)
    queries = gallery if within else clustered(rng, 400, shift=1.0)
    true, _ = nearest.nearest(queries, gallery, k, within=within)
    monkeypatch.setattr(nearest, "EXACT_ROWS", 500)
    monkeypatch.setattr(nearest, "BLOCK_BYTES", 2**22)
    monkeypatch.setattr(nearest, "GATHERED_BYTES", 2**21)

    rows, values = nearest.nearest(queries, gallery, k, within=within)

    assert recall(rows, true) >= 0.95
    assert (np.sort(rows)[:, 1:] > np.sort(rows)[:, :-1]).all(), "no row is found twice"
    assert_allclose(values, np.einsum("ikd,id->ik", gallery[rows], queries), atol=1e-5)
    if within:
        assert (rows != np.arange(len(rows))[:, None]).all()


@pytest.mark.usefixtures("few_are_many")
@pytest.mark.parametrize("n", [11, 12, 40])
def test_more_neighbors_than_there_are_give_all_rows(rng, n):
    x = clustered(rng, n)

    rows, _ = nearest.nearest(x, x, 100, within=True)

    assert [set(row) | {i} for i, row in enumerate(rows.tolist())] == [set(range(n))] * n


@pytest.mark.usefixtures("few_are_many")
def test_features_that_do_not_vary_are_no_obstacle(rng):
    x = np.zeros((60, 600), np.float32)
    x[:, :3] = graphs.unit_rows(rng.normal(size=(60, 3)))
    exact = np.argsort(-(x @ x.T - 2 * np.eye(60)), axis=1)[:, :5]

    assert recall(nearest.nearest(x, x, 5, within=True)[0], exact) == 1.0
    assert nearest.nearest(np.zeros((60, 600), np.float32), x, 5)[0].shape == (60, 5)


def test_narrow_rows_and_few_rows_are_compared_exactly(rng, monkeypatch):
    def nearly(*_, **__):
        raise AssertionError("approximated")

    monkeypatch.setattr(nearest, "_nearly", nearly)
    nearest.nearest(np.ones((200, 600), np.float32), np.ones((300, 600), np.float32), 3)
    monkeypatch.setattr(nearest, "EXACT_ROWS", 10)
    nearest.nearest(np.ones((200, 2 * nearest.REDUCED), np.float32), np.ones((300, 2 * nearest.REDUCED), np.float32), 3)


@pytest.mark.parametrize("within", [True, False])
def test_candidates_are_compared_by_all_columns(rng, monkeypatch, within):
    monkeypatch.setattr(nearest, "RENEWED", 3)
    monkeypatch.setattr(nearest, "GATHERED_BYTES", 4 * 4 * 12 * 7)  # blocks of seven queries
    stay, moving = (rng.normal(size=(40, d)).astype(np.float32) for d in (6, 4))
    queries, asked = (stay, moving) if within else (rng.normal(size=(30, d)).astype(np.float32) for d in (6, 4))
    search = nearest.Renewed(queries, stay, 4, within=within)

    rows, values = search.nearest(asked, moving)

    assert search.n_candidates == 12
    for i in range(len(queries)):
        first = [queries[i] @ stay[j] if not (within and i == j) else -np.inf for j in range(40)]
        candidates = sorted(range(40), key=lambda j: -first[j])[:12]
        whole = {j: first[j] + asked[i] @ moving[j] for j in candidates}
        assert set(rows[i]) == set(sorted(candidates, key=lambda j: -whole[j])[:4])
        assert_allclose(values[i], [whole[j] for j in rows[i]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("within", [True, False])
def test_anew_is_nearest_of_the_joined_columns(rng, within):
    stay, moving = (rng.normal(size=(20, d)).astype(np.float32) for d in (6, 4))
    queries, asked = (stay, moving) if within else (rng.normal(size=(9, d)).astype(np.float32) for d in (6, 4))
    joined, gallery = np.hstack([queries, asked]), np.hstack([stay, moving])
    search = nearest.Anew(queries, stay, 3, within=within)

    found = search.nearest(asked, moving)

    assert search.n_candidates == 20 - within
    for mine, expected in zip(found, nearest.nearest(joined, gallery, 3, within=within), strict=True):
        assert_array_equal(mine, expected)


@pytest.mark.usefixtures("few_are_many")
@pytest.mark.parametrize("within", [True, False])
def test_candidates_hold_nearly_all_neighbors_when_the_last_columns_count_for_little(rng, within):
    gallery = clustered(rng, 1500)
    queries = gallery if within else clustered(rng, 400, shift=1.0)
    codes, asked = (graphs.unit_rows(np.sign(x[:, :64] + 0.01)) for x in (gallery, queries))
    columns = [np.sqrt(share, dtype=np.float32) * x for share, x in ((0.9, queries), (0.9, gallery))]
    last = [np.sqrt(0.1, dtype=np.float32) * x for x in (asked, codes)]
    similarity = columns[0] @ columns[1].T + last[0] @ last[1].T
    if within:
        np.fill_diagonal(similarity, -np.inf)

    rows, _ = nearest.Renewed(*columns, 10, within=within).nearest(*last)

    assert recall(rows, np.argsort(-similarity, axis=1)[:, :10]) >= 0.95


@pytest.mark.parametrize("kind", [nearest.Anew, nearest.Renewed])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_searches_among_hardly_any_rows_find_what_there_is(kind, n):
    x, codes = np.ones((n, 3), np.float32), np.ones((n, 2), np.float32)

    rows, values = kind(x, x, 5, within=True).nearest(codes, codes)

    assert rows.shape == values.shape == (n, max(0, n - 1))
