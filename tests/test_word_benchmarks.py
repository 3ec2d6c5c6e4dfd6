"""The benchmarks of words and of DSAH: tables are those of the committed results, rivals are what they are called."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from tests.conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))  # where its scripts find each other when they are run
import captions
import fashion
import wiki


@pytest.mark.parametrize("script", [captions, fashion, wiki], ids=lambda script: script.__name__)
def test_the_table_is_that_of_the_committed_results(script) -> None:
    path = script.RESULTS / f"{script.__name__}.json"
    assert path.with_suffix(".md").read_text() == script.document(json.loads(path.read_text()))


def test_pairs_are_torn_apart_at_both_ends_and_nowhere_else() -> None:
    image, text = (np.arange(80, dtype=np.float32).reshape(40, 2) + shift for shift in (0, 100))
    torn_image, torn_text = wiki.torn_apart(image, text, 0.5, 3)
    assert (torn_image[10:] == image[10:]).all() and (torn_text[:30] == text[:30]).all()
    for torn, rows in ((torn_image[:10], image[:10]), (torn_text[30:], text[30:])):
        assert (torn != rows).any() and sorted(torn.tolist()) == sorted(rows.tolist())


def test_canonical_directions_of_two_views_correlate_most_first() -> None:
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((400, 2))
    views = [
        np.concatenate([shared * (1.0, 0.3), rng.standard_normal((400, 2))], 1) @ rng.standard_normal((4, 4))
        for _ in range(2)
    ]
    views[0][:, :] += 0.3 * rng.standard_normal((400, 4))
    x, y = (view - view.mean(0) for view in views)
    left, right = captions._canonical(x, y, 3, 1e-9)
    correlations = [np.corrcoef(x @ a, y @ b)[0, 1] for a, b in zip(left.T, right.T, strict=True)]
    assert correlations == sorted(correlations, reverse=True)
    roots = [np.linalg.cholesky(np.linalg.inv(view.T @ view)) for view in (x, y)]
    wanted = np.linalg.svd(roots[0].T @ x.T @ y @ roots[1], compute_uv=False)
    np.testing.assert_allclose(correlations, wanted[:3], atol=1e-6)
    np.testing.assert_allclose((x @ left).std(0), wanted[:3], atol=1e-6)


def test_rivals_hash_photos_and_words_of_a_class_alike() -> None:
    rng = np.random.default_rng(1)
    labels = np.resize(np.arange(4), 120)
    rows = [np.eye(4)[labels] @ rng.standard_normal((4, d)) + 0.1 * rng.standard_normal((120, d)) for d in (9, 7)]
    train, asked = (
        captions.Pairs(*(x[part].astype(np.float32) for x in rows), labels[part])
        for part in (slice(0, 100), slice(100, 120))
    )
    for method in ("cca-itq", "label-itq"):
        scores = captions.run(method, train, asked, 16, 0, ["ridge=0.001"])
        assert min(scores.values()) > 95, method
