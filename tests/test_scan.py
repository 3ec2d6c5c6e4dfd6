"""Search over blocks, against all distances sorted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashcli import checksums, codes, scan


@pytest.fixture(params=scan.kernels(), scope="module", autouse=True)
def kernel(request):
    """Every test runs with every kernel that this machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HASHCLI_KERNEL", request.param)
        assert scan.kernel() == request.param
        yield request.param


def brute_force(queries, gallery, k, radius, live):
    answers = []
    for row in codes.distances(queries, gallery).astype(int):
        pairs = sorted((d, s) for s, d in enumerate(row) if live[s] and (radius is None or d <= radius))[:k]
        answers.append(([s for _, s in pairs], [d for d, _ in pairs]))
    return answers


def search(queries, gallery, k, radius, live, block):
    top = scan.TopK(codes.to_words(queries), k, radius)
    words = codes.to_words(gallery)
    for start in range(0, len(gallery), block):
        piece = slice(start, start + block)
        mask = None if live[piece].all() else live[piece]
        top.block(start, words[:, piece].tobytes(), mask, checksums.plane_sums(words[:, piece]))
    return [(slots.tolist(), distances.tolist()) for slots, distances in top.result()]


def clustered(rng, n, n_bits, n_centers=3):
    """Codes a few bits off a few centers: many ties, as learned codes have."""
    centers = rng.integers(0, 2, (n_centers, n_bits), dtype=np.uint8)
    return codes.pack(centers[rng.integers(0, n_centers, n)] ^ (rng.random((n, n_bits)) < 1.5 / n_bits))


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_bits=st.one_of(
        st.sampled_from([16, 64, 128, 192, 248, 256, 264, 1024]), st.integers(2, 128).map(lambda b: 8 * b)
    ),
    n=st.integers(0, 300),
    q=st.integers(0, 5),
    k=st.one_of(st.none(), st.integers(1, 320)),
    radius=st.one_of(st.none(), st.integers(0, 40), st.integers(0, 1100)),
    block=st.integers(1, 130),
    dead=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
)
def test_search_equals_brute_force(seed, n_bits, n, q, k, radius, block, dead):
    rng = np.random.default_rng(seed)
    gallery, queries = clustered(rng, n, n_bits), clustered(rng, q, n_bits)
    if n and q:
        queries[0] = gallery[rng.integers(n)]
    live = rng.random(n) >= dead
    if k is None and radius is None:
        radius = n_bits

    found = search(queries, gallery, k, radius, live, block)

    assert found == brute_force(queries, gallery, k, radius, live)


def test_long_blocks_and_many_queries_equal_brute_force():
    rng = np.random.default_rng(5)
    for n_bits in (64, 136):
        gallery, queries = clustered(rng, 9000, n_bits, 40), clustered(rng, 30, n_bits, 40)
        live = rng.random(9000) > 0.01

        assert search(queries, gallery, 10, None, live, 4096) == brute_force(queries, gallery, 10, None, live)


def test_opposite_codes_are_found_at_every_width():
    for n_bits in range(16, 1025, 8):
        zeros = codes.pack(np.zeros((1, n_bits), np.uint8))
        assert search(zeros, ~zeros, 1, None, np.ones(1, bool), 8) == [([0], [n_bits])]


def test_among_equal_distances_the_lowest_slots_win():
    gallery = codes.pack(np.zeros((50, 64), np.uint8))

    assert search(gallery[:1], gallery, 7, None, np.ones(50, bool), 3) == [(list(range(7)), [0] * 7)]


def test_more_finds_than_the_kernel_hands_over_at_once_are_all_there():
    n = 3 * 1024 + 5
    gallery = codes.pack(np.zeros((n, 16), np.uint8))
    live = np.arange(n) % 2 == 0
    expected = np.flatnonzero(live).tolist()

    for slots, distances in search(np.concatenate([gallery[:9], ~gallery[:1]]), gallery, None, 16, live, 2500)[:9]:
        assert slots == expected
        assert set(distances) == {0}


@pytest.mark.parametrize("offset", [1, 2, 4, 7])
def test_words_may_start_at_any_address(offset):
    words = np.random.default_rng(offset).integers(0, 2**64, (2, 3000), dtype=np.uint64)
    answers = []
    for gallery in (words.tobytes(), memoryview(bytes(offset) + words.tobytes())[offset:]):
        top = scan.TopK(words[:, :3].copy(), 20)
        top.block(0, gallery, sums=checksums.plane_sums(words))
        answers.append([(slots.tolist(), distances.tolist()) for slots, distances in top.result()])
    assert answers[0] == answers[1]


def test_an_unknown_kernel_is_the_default_one(monkeypatch):
    monkeypatch.setenv("HASHCLI_KERNEL", "abacus")
    assert scan.kernel() == scan.kernels()[0]
    assert scan.kernels()[-1] == "numpy"


def test_results_are_int64_even_when_nothing_is_found():
    for slots, distances in scan.TopK(np.zeros((1, 2), np.uint64), 3).result():
        assert slots.dtype == distances.dtype == np.int64
        assert len(slots) == len(distances) == 0


@pytest.mark.parametrize("k, radius", [(None, None), (0, None), (-1, 3), (None, -1)])
def test_a_search_for_nothing_is_a_value_error(k, radius):
    with pytest.raises(ValueError, match="k"):
        scan.TopK(np.zeros((1, 2), np.uint64), k, radius)


def test_blocks_out_of_order_or_of_another_width_are_value_errors():
    top = scan.TopK(np.zeros((1, 2), np.uint64), 3)
    top.block(4, bytes(32))
    with pytest.raises(ValueError, match="slot 7 comes after slot 7"):
        top.block(7, bytes(32))
    with pytest.raises(ValueError, match="1 words met a block of 12 bytes"):
        top.block(8, bytes(12))


@pytest.mark.parametrize("n_words", [1, 3])
@pytest.mark.parametrize("n", [1, 127, 128, 129, 1100, 1300])
def test_words_that_do_not_have_their_sums_are_told_by_their_first_slot(n_words, n):
    words = np.random.default_rng(n).integers(0, 2**64, (n_words, n), dtype=np.uint64)
    sums = checksums.plane_sums(words)
    wrong = words.copy()
    wrong[-1, -1] ^= np.uint64(1 << 63)
    for planes in (words, wrong):
        top = scan.TopK(words[:, :2].copy(), 3)
        top.block(0, words.tobytes(), sums=sums)
        with pytest.raises(scan.Mismatch) as caught:  # whichever of them finds it
            top.block(n, planes.tobytes(), sums=sums if planes is wrong else bytes(len(sums)))
            for i in range(2, 40):
                top.block(n * i, words.tobytes(), sums=sums)
            top.result()
        assert caught.value.slot == n


def test_blocks_of_different_lengths_are_each_compared_with_their_own_sums():
    rng = np.random.default_rng(6)
    pieces = [rng.integers(0, 2**64, (2, n), dtype=np.uint64) for n in (300, 300, 0, 5, 700, 128)]
    for damaged in [None, *range(len(pieces))]:
        top = scan.TopK(pieces[0][:, :1].copy(), 3)
        start, expected = 0, None
        try:
            for number, words in enumerate(pieces):
                sums = checksums.plane_sums(words)
                if number == damaged:
                    sums, expected = sums[:-1] + bytes([sums[-1] ^ 128]), start
                top.block(start, words.tobytes(), sums=sums)
                start += words.shape[1]
            top.result()
        except scan.Mismatch as mismatch:
            assert mismatch.slot == expected
        else:
            assert damaged is None
