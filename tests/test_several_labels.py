"""Photos with several labels: canvases of two to four digits, written twice as brightly and blurred in the target."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from sklearn.datasets import load_digits

from hashcli import registry
from hashcli.errors import UsageError
from hashcli.fitting import SOURCE, TARGET, Labeled, Unlabeled, fit_method
from hashcli.metrics import count_levels, measure
from hashcli.progress import Silent

N, CELL, CLASSES = 400, 8, 10


def canvases(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 16, 16) of two to four digits, each in a quarter of its own, and which digits (N, 10) of 0 and 1."""
    rng = np.random.default_rng(seed)
    digits = load_digits()
    pixels, labels = np.zeros((N, 2 * CELL, 2 * CELL)), np.zeros((N, CLASSES), np.int64)
    for canvas, label in zip(pixels, labels, strict=True):
        for quarter in rng.permutation(4)[: rng.integers(2, 5)]:
            row, column = CELL * (quarter // 2), CELL * (quarter % 2)
            chosen = rng.integers(len(digits.target))
            canvas[row : row + CELL, column : column + CELL] = digits.images[chosen]
            label[digits.target[chosen]] = 1
    return pixels, labels


@pytest.fixture(scope="module")
def domains():
    """Source canvases; target canvases that look otherwise; the labels of both."""
    source, source_labels = canvases(0)
    target, target_labels = canvases(1)
    target = 2 * uniform_filter(target, (0, 2, 2)) + 4
    return (
        Labeled(source.reshape(N, -1).astype(np.float16), source_labels),
        Unlabeled(target.reshape(N, -1).astype(np.float16)),
        target_labels,
    )


def cross_domain_map(method: str, words: list[str], domains) -> float:
    source, target, target_labels = domains
    hasher = fit_method(
        method,
        words,
        source,
        target,
        n_classes=CLASSES,
        n_bits=32,
        seed=0,
        progress=Silent(),
        check_export=False,
    )
    queries, gallery = hasher.codes(target.features, TARGET), hasher.codes(source.features, SOURCE)
    return measure(count_levels(queries, target_labels, gallery, source.labels)).map


def test_metah_learns_which_canvases_share_a_digit(domains):
    chance = float((domains[2] @ domains[0].labels.T > 0).mean())
    itq = cross_domain_map("itq", [], domains)
    learned = cross_domain_map("metah", ["epochs=6", "steps_per_epoch=30", "hidden=256", "batch_size=64"], domains)
    assert learned > itq + 0.05 > chance


@pytest.mark.parametrize("name", [n for n in registry.installed() if not registry.load(n).multi_label])
def test_who_cannot_learn_from_several_labels_names_one_that_can(name, domains):
    source, target, _ = domains
    captioned = Labeled(source.features, source.labels, captions=["a digit"] * N)
    with pytest.raises(UsageError, match=r"one label per photo") as error:
        fit_method(
            name, [], captioned, target, n_classes=CLASSES, n_bits=16, seed=0, progress=Silent(), check_export=False
        )
    assert any(f"--method {n}`" in error.value.hint for n in registry.installed() if registry.load(n).multi_label)
