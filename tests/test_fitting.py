"""Fitting one method: what it is given, what is refused, and that the process is left as it was."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hashcli import fitting, registry
from hashcli.data import TrainingData
from hashcli.devices import resolve_device
from hashcli.errors import MachineError, UsageError
from hashcli.fitting import SOURCE, TARGET, FittedHasher, Labeled, Unlabeled, fit_method, normalized
from hashcli.method import Fitted, GradientMethod, HashMethod, Run
from hashcli.progress import Silent

N, DIM, N_BITS = 12, 20, 16


class Keeper(HashMethod):
    """Keeps what it is given; its head is the first features."""

    summary, paper, multi_label = "keeps", "none", True
    pixels = False
    given: list[tuple[TrainingData, Run]]

    @property
    def wants_pixels(self) -> bool:
        return self.pixels

    def fit(self, data: TrainingData, run: Run) -> Fitted:
        type(self).given.append((data, run))
        head = torch.nn.Linear(DIM, N_BITS, bias=False)
        head.weight.data = torch.eye(DIM)[:N_BITS]
        return Fitted(head)


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> type[Keeper]:
    kept = type("Kept", (Keeper,), {"given": []})
    monkeypatch.setattr(registry, "load", lambda name: kept)
    return kept


@pytest.fixture
def source(rng: np.random.Generator) -> Labeled:
    return Labeled((rng.standard_normal((N, DIM)) + 1).astype(np.float16), np.resize([0, 1, 2], N))


@pytest.fixture
def target(rng: np.random.Generator) -> Unlabeled:
    return Unlabeled((3 * rng.standard_normal((9, DIM)) - 2).astype(np.float16))


def fit(source: Labeled | None, target: Unlabeled | None, **options: Any) -> FittedHasher:
    usual = {"n_classes": 3, "n_bits": N_BITS, "seed": 5, "progress": Silent()}
    return fit_method("keeper", (), source, target, **(usual | options))


def slowly_normalized(features: np.ndarray, mean: np.ndarray) -> np.ndarray:
    rows = []
    for row in features.astype(np.float64):
        centered = row / np.linalg.norm(row) - mean
        rows.append(centered / np.linalg.norm(centered) * DIM**0.5)
    return np.array(rows)


def unit_mean(features: np.ndarray) -> np.ndarray:
    return np.mean([row / np.linalg.norm(row) for row in features.astype(np.float64)], 0)


def test_each_domain_is_centered_on_its_own_mean_in_training_and_in_codes(
    keeper: type[Keeper], source: Labeled, target: Unlabeled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "BLOCK_ROWS", 5)
    hasher = fit(source, target)
    data, run = keeper.given[0]
    assert data.source is not None and data.target is not None
    for given, raw, domain in ((data.source.features, source, SOURCE), (data.target.features, target, TARGET)):
        wanted = slowly_normalized(raw.features, unit_mean(raw.features))
        np.testing.assert_allclose(given, wanted, atol=1e-4)
        np.testing.assert_allclose(hasher.relaxed(raw.features, domain), wanted[:, :N_BITS], atol=1e-4)
    assert (data.n_classes, data.multi_label, data.encode, run.seed) == (3, False, None, 5)
    assert not hasattr(data.target, "labels")


def test_features_that_may_not_be_written_to_are_fine(keeper: type[Keeper], source: Labeled) -> None:
    source.features.setflags(write=False)
    assert fit(source, None).codes(source.features, SOURCE).shape == (N, N_BITS // 8)


def test_no_photos_to_encode_give_no_codes(keeper: type[Keeper], source: Labeled) -> None:
    assert fit(source, None).codes(source.features[:0], TARGET).shape == (0, N_BITS // 8)


def test_0_1_rows_make_a_method_multi_label(keeper: type[Keeper], source: Labeled, target: Unlabeled) -> None:
    fit(Labeled(source.features, np.eye(3, dtype=np.int64)[source.labels]), target)
    assert keeper.given[0][0].multi_label


def test_methods_that_mix_photos_get_pixels_and_the_backbone_and_others_do_not(
    keeper: type[Keeper], source: Labeled, target: Unlabeled
) -> None:
    def images(rows: np.ndarray) -> np.ndarray:
        return np.broadcast_to(rows[:, None, None, None].astype(np.uint8), (len(rows), 2, 2, 3))

    def backbone(pixels: np.ndarray) -> np.ndarray:
        return source.features[pixels[:, 0, 0, 0]]

    with_pixels = Labeled(source.features, source.labels, images), Unlabeled(target.features, images)
    fit(*with_pixels, encode=backbone)
    assert keeper.given[0][0].encode is None
    keeper.pixels = True
    with pytest.raises(UsageError, match="mixes photos"):
        fit(*with_pixels)
    hasher = fit(*with_pixels, encode=backbone)
    data = keeper.given[-1][0]
    assert data.source is not None and data.source.images is not None and data.encode is not None
    pixels = data.source.images(np.array([3, 3, 3]))
    encoded = data.encode(pixels, np.array([1, 0, 0.25], np.float32))
    means = [share * hasher.means[0] + (1 - share) * hasher.means[1] for share in (1, 0, 0.25)]
    wanted = np.concatenate([slowly_normalized(source.features[[3]], mean) for mean in means])
    np.testing.assert_allclose(encoded, wanted, atol=1e-4)
    np.testing.assert_allclose(encoded[:1], normalized(source.features[[3]], hasher.means, SOURCE), atol=1e-6)


class Gradient(GradientMethod):
    """Cannot be saved: the shape of its answer is wrong."""

    summary, paper = "wrong", "none"

    def build_head(self) -> torch.nn.Module:
        return torch.nn.Linear(DIM, N_BITS + 1)

    def loss(self, head: Any, helpers: Any, batch: Any) -> dict[str, torch.Tensor]:
        raise AssertionError("trained a head that cannot be saved")


def test_a_head_that_cannot_be_saved_fails_before_it_is_trained(
    monkeypatch: pytest.MonkeyPatch, source: Labeled
) -> None:
    monkeypatch.setattr(registry, "load", lambda name: Gradient)
    with pytest.raises(MachineError, match=r"not float32 \(64, 16\)"):
        fit(source, None)


def test_fitting_is_reproducible_and_leaves_torch_as_it_was(
    keeper: type[Keeper], source: Labeled, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[tuple[bool, int, float]] = []

    def look(self: Keeper, data: TrainingData, run: Run) -> Fitted:
        state = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), float(torch.rand(1))
        inside.append(state)
        return Fitted(torch.nn.Identity())

    monkeypatch.setattr(keeper, "fit", look)
    monkeypatch.setattr(fitting, "MOST_THREADS", 1)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    fit(source, None)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads
    torch.rand(7)
    fit(source, None)
    assert inside[0] == inside[1]
    assert inside[0][:2] == (True, 1)


def test_data_that_do_not_fit_are_named(keeper: type[Keeper], source: Labeled, target: Unlabeled) -> None:
    features, labels = source.features, source.labels
    with pytest.raises(UsageError, match="no photo to learn from"):
        fit(None, None)
    with pytest.raises(UsageError, match="no photo to learn from"):
        fit(source, Unlabeled(target.features[:0]))
    with pytest.raises(ValueError, match="one width"):
        fit(source, Unlabeled(target.features[:, :5]))
    with pytest.raises(ValueError, match=r"labels \(3,\) do not fit"):
        fit(Labeled(features, labels[:3]), None)
    with pytest.raises(ValueError, match=r"labels \(12, 3\) do not fit"):
        fit(Labeled(features, np.eye(3, dtype=np.int64)[labels]), None, n_classes=4)
    with pytest.raises(ValueError, match="labels from -1 to 1"):
        fit(Labeled(features, labels - 1), None)
    broken = features.copy()
    broken[2, 3] = np.inf
    with pytest.raises(ValueError, match="finite"):
        fit(Labeled(broken, labels), None)
    with pytest.raises(UsageError, match="17 bits"):
        fit(source, None, n_bits=17)


def test_devices_are_resolved_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == "cpu"
    with pytest.raises(MachineError, match="no cuda device"):
        resolve_device("cuda")
    with pytest.raises(UsageError, match="no device called 'gpu'"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == resolve_device("cuda") == "cuda"


def test_cublas_is_told_to_be_deterministic(keeper: type[Keeper], source: Labeled) -> None:
    fit(source, None)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_methods_that_need_captions_get_them_as_text_features_and_others_do_not(
    keeper: type[Keeper], source: Labeled, target: Unlabeled
) -> None:
    said = ["a red mug", "", *["two blue shoes"] * (N - 2)]
    captioned = replace(source, captions=said)
    assert fit(captioned, target).words is None
    assert keeper.given[0][0].source.text is None
    keeper.needs = frozenset({"captions"})
    fit(captioned, target)
    given = keeper.given[-1][0].source
    assert given.captions == tuple(said) and given.text is not None and given.text.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(given.text, axis=1), [5**0.5, 0, *[5**0.5] * (N - 2)], rtol=1e-3)
    with pytest.raises(UsageError, match="with captions, and there are none"):
        fit(source, target)
    with pytest.raises(ValueError, match="1 captions do not fit"):
        fit(replace(source, captions=["one"]), target)
