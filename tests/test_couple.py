"""COUPLE and source-only on small shifted clouds: every switch, every edge, and what adapting is for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hashcli_plugins.couple import COUPLE
from hashcli_plugins.source_only import SourceOnly
from numpy.testing import assert_array_equal

from hashcli.data import SourceData, TargetData, TrainingData
from hashcli.errors import UsageError
from hashcli.method import Run, Task
from hashcli.progress import Silent

DIM, BITS, CLASSES = 24, 16, 4
SHORT = {"epochs": 4, "steps_per_epoch": 4, "batch_size": 16, "hidden": 32, "walks": 200}


def clouds(seed=0, n_source=64, n_target=48, shift=1.2, spread=1.0):
    """Two domains of the same classes; the target is moved and turned. Gives the data and the target's labels."""
    rng = np.random.default_rng(seed)
    centers = 2 * rng.normal(size=(CLASSES, DIM))
    moved = centers + shift * rng.normal(size=(CLASSES, DIM))
    labels, hidden = np.arange(n_source) % CLASSES, np.arange(n_target) % CLASSES
    source = centers[labels] + spread * rng.normal(size=(n_source, DIM))
    target = moved[hidden] + spread * rng.normal(size=(n_target, DIM))

    def scaled(x):
        return (x / np.linalg.norm(x, axis=1, keepdims=True) * np.sqrt(DIM)).astype(np.float32)

    return TrainingData(SourceData(scaled(source), labels), TargetData(scaled(target)), CLASSES), hidden


def fitted(data, method=COUPLE, *, seed=3, **settings):
    """Relaxed codes of source and target after a short fit, and the log."""
    chosen = method.Settings(**(settings if method is SourceOnly else SHORT | settings))
    run = Run(seed, progress=Silent())
    made = method(Task(BITS, DIM, data.n_classes, seed), chosen)
    made.check(data)
    head = made.fit(data, run).image
    with torch.no_grad():
        codes = [head(torch.from_numpy(d.features)).numpy() for d in (data.source, data.target)]
    return *codes, run.progress.events


def with_images(data, calls):
    """The same data with photos of 6 x 6 pixels, and an encoder that notes what it was asked."""

    def images(name, n):
        def read(rows):
            calls.append((name, rows))
            return np.stack([np.full((6, 6, 3), (3 if name == "source" else 7) * (r % 30), np.uint8) for r in rows])

        return read

    def encode(pixels, share):
        calls.append(("encode", (pixels, share)))
        return np.random.default_rng(int(pixels.sum()) % 1000).normal(size=(len(pixels), DIM)).astype(np.float32)

    source = dataclasses.replace(data.source, images=images("source", len(data.source.features)))
    target = dataclasses.replace(data.target, images=images("target", len(data.target.features)))
    return dataclasses.replace(data, source=source, target=target, encode=encode)


OTHERWISE = {
    "epochs": 3,
    "hidden": 40,
    "dropout": 0.3,
    "label_codes": "learned",
    "scale": 12.0,
    "margin": 0.2,
    "quantization": 0.5,
    "warmup": 2,
    "neighbors": 3,
    "source_neighbors": 2,
    "code_share": 0.0,
    "whitening": 0.0,
    "sharpness": 1.0,
    "selector": "all",
    "alpha": 0.1,
    "alpha_end": 0.4,
    "source_capacity": "same",
    "pseudo_labels": "head",
    "reach": 0.3,
    "certainty": 1.0,
    "soft_labels": False,
    "target_weight": 0.0,
    "consistency": 0.0,
    "walks": 100,
    "walk_length": 1,
    "manifold_mixup": 0.0,
    "least_mix": 0.1,
    "mean_teacher": 0.9,
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_every_part_that_is_set_otherwise_changes_the_codes(name):
    data, _ = clouds(shift=2.0)

    usual = fitted(data)[1]
    other = fitted(data, **{name: OTHERWISE[name]})[1]

    assert np.abs(usual - other).max() > 1e-6


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({"label_codes": "learned"}, {"separation": 5.0}),
        ({"source_capacity": "same"}, {"capacity": "rho"}),
        ({"source_capacity": "same", "capacity": "rho", "rho": 0.3}, {"rho": 0.9}),
        ({}, {"temperature": 0.1}),
        ({"least_mix": 0.0}, {"most_mix": 0.01}),
        ({"alpha_end": 0.4, "selector": "margin"}, {"quota": True}),
        ({"alpha_end": 0.4}, {"selector": "margin"}),
        ({"alpha_end": 0.4}, {"selector": "pagerank"}),
        ({"epochs": 6}, {"progressive": 1.0}),  # in the last epoch all are reliable, and no pair leads further
    ],
)
def test_parts_that_depend_on_another_change_the_codes_beside_it(base, change):
    data, _ = clouds(shift=2.0)

    assert np.abs(fitted(data, **base)[1] - fitted(data, **(base | change))[1]).max() > 1e-6


VARIANTS = {
    "V1": {"selector": "all", "pseudo_labels": "head", "soft_labels": False, "manifold_mixup": 0.0},
    "V2": {"pseudo_labels": "head", "soft_labels": False, "manifold_mixup": 0.0},
    "V3": {"selector": "all", "manifold_mixup": 0.0, "pixel_mixup": "pool"},
    "V4": {"manifold_mixup": 0.0, "pixel_mixup": "pool"},
    "V5": {"selector": "all"},
    "V6": {},
    "V7": {"selector": "all", "manifold_mixup": 0.0, "mean_teacher": 0.9},
    "full": {"pixel_mixup": "pool"},
    "full, online": {"pixel_mixup": "online"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_papers_variants_differ_from_one_another_and_run(variant):
    data, _ = clouds()

    _, codes, events = fitted(with_images(data, []), **VARIANTS[variant])

    assert np.isfinite(codes).all()
    terms = [counts for event, counts in events if event == "losses"][-1]
    assert ("pixel" in terms) == ("pixel_mixup" in VARIANTS[variant])
    assert ("manifold" in terms) == (VARIANTS[variant].get("manifold_mixup") is None)
    assert "target" in terms


def test_selection_logs_what_would_show_an_empty_set_or_a_weight_that_never_binds():
    data, _ = clouds()

    events = fitted(data, epochs=6, warmup=2, progressive=0.5, alpha=0.2, alpha_end=0.5)[2]

    selections = [counts for event, counts in events if event == "selection"]
    assert [c["epoch"] for c in selections] == [2, 3, 4, 5]
    assert [c["wanted"] for c in selections] == [9, 14, 19, 24]
    for c in selections:
        assert 0 < c["selected"] <= min(c["wanted"], c["reached"])
        assert c["reached"] <= 48
        assert c["saturated"] <= c["reached"]
        assert c["residual"] <= 1e-3
        assert 0 < c["covered"] <= 48
        assert c["mixed"] == c["intra"] + (c["inter"] if c["epoch"] >= 4 else 0)


def test_one_epoch_of_selection_takes_the_share_of_the_first():
    data, _ = clouds()

    events = fitted(data, epochs=2, warmup=1, alpha=0.25, alpha_end=1.0)[2]

    assert [counts["wanted"] for event, counts in events if event == "selection"] == [12]


def test_no_target_takes_part_before_the_warm_up_ends():
    data, _ = clouds()

    events = fitted(data, epochs=3, warmup=3)[2]

    assert [event for event, _ in events] == ["losses"] * 3
    assert set(events[0][1]) == {"epoch", "source", "separation", "quantization"}


def test_pool_mixes_the_pixels_of_both_photos_in_the_share_it_encodes():
    data, _ = clouds()
    calls = []

    fitted(with_images(data, calls), pixel_mixup="pool", pixel_pool=20, epochs=2)

    names = [name for name, _ in calls]
    assert names == ["source", "target", "encode"]
    (_, sources), (_, targets), (_, (pixels, share)) = calls
    assert pixels.shape == (len(sources), 6, 6, 3)
    assert 0 < len(sources) <= 20
    assert pixels.dtype == np.uint8
    for p, i, j, lam in zip(pixels, sources, targets, share, strict=True):
        assert 0.5 <= lam <= 0.95
        assert abs(int(p[0, 0, 0]) - (lam * 3 * (i % 30) + (1 - lam) * 7 * (j % 30))) <= 0.51


def test_online_mixes_new_photos_at_every_step():
    data, _ = clouds()
    calls = []

    steps = fitted(with_images(data, calls), pixel_mixup="online", pixel_pool=20, steps_per_epoch=4, epochs=3)[2]

    assert [len(rows) for name, rows in calls if name == "source"] == [5] * 8  # 4 steps of 2 epochs after the warm-up
    assert len({tuple(rows) for name, rows in calls if name == "source"}) == 8
    assert [counts["photos"] for event, counts in steps if event == "pixel mixup"] == [20, 20]


def test_photos_are_read_only_when_pixels_are_mixed():
    data, _ = clouds()
    calls = []

    fitted(with_images(data, calls))

    assert calls == []
    assert not COUPLE(Task(BITS, DIM, CLASSES, 0), COUPLE.Settings()).wants_pixels
    assert COUPLE(Task(BITS, DIM, CLASSES, 0), COUPLE.Settings(pixel_mixup="pool")).wants_pixels


@pytest.mark.parametrize("n_target", [1, 2, 5])
def test_a_target_of_few_photos_is_adapted_to(n_target):
    data, _ = clouds(n_target=n_target)

    assert np.isfinite(fitted(data)[1]).all()
    assert np.isfinite(fitted(data, capacity="rho", quota=True)[1]).all()


def test_one_class_in_the_source_leaves_finite_codes():
    data, _ = clouds()
    data = dataclasses.replace(data, source=SourceData(data.source.features, np.zeros(64, np.int64)))

    assert np.isfinite(fitted(data, label_codes="learned", selector="margin")[1]).all()


def test_duplicates_within_and_across_domains_leave_finite_codes():
    data, _ = clouds()
    x = np.repeat(data.source.features[:4], 16, axis=0)
    data = dataclasses.replace(
        data, source=SourceData(x, np.repeat(np.arange(4), 16)), target=TargetData(np.tile(x[:4], (12, 1)))
    )

    source, target, _ = fitted(data)

    assert np.isfinite(source).all()
    assert_array_equal(target, np.tile(source[:4], (12, 1)))


def test_the_same_seed_gives_the_same_codes_and_another_seed_others():
    data, _ = clouds()

    assert_array_equal(fitted(data)[1], fitted(data)[1])
    assert np.abs(fitted(data)[1] - fitted(data, seed=4)[1]).max() > 1e-3


def test_among_many_photos_candidates_are_found_once_and_for_new_features_again(monkeypatch):
    data, _ = clouds(n_source=300)
    few = fitted(data)
    assert ("neighbors", {"candidates": 300}) in few[2]
    monkeypatch.setattr("hashcli.nearest.EXACT_ROWS", 0)

    many = fitted(data)

    assert [counts for event, counts in many[2] if event == "neighbors"] == [{"candidates": 120}]
    assert_array_equal(many[1], fitted(data)[1])
    assert (np.sign(many[1]) == np.sign(few[1])).mean() > 0.97
    whole = fitted(data, code_share=0.5)
    assert ("neighbors", {"candidates": 300}) in whole[2]

    class Tuned(COUPLE):
        def begin_epoch(self, epoch, bank, run):
            self.renew(data, run)
            super().begin_epoch(epoch, bank, run)

    run = Run(3, progress=Silent())
    Tuned(Task(BITS, DIM, CLASSES, 3), COUPLE.Settings(**SHORT)).fit(data, run)
    assert [event for event, _ in run.progress.events].count("neighbors") == 3


@pytest.mark.parametrize("exact_rows", [20_000, 0])
def test_a_run_that_was_stopped_goes_on_to_the_same_codes(tmp_path, monkeypatch, exact_rows):
    data, _ = clouds(n_source=200)
    monkeypatch.setattr("hashcli.nearest.EXACT_ROWS", exact_rows)
    settings = COUPLE.Settings(**(SHORT | {"mean_teacher": 0.9}))
    monkeypatch.setattr("hashcli.optimization.CHECKPOINT_SECONDS", 0.0)

    class Stopped(Exception):
        pass

    class Fails(COUPLE):
        def begin_epoch(self, epoch, bank, run):
            if epoch == 3:
                raise Stopped
            super().begin_epoch(epoch, bank, run)

    task = Task(BITS, DIM, CLASSES, 3)
    with pytest.raises(Stopped):
        Fails(task, settings).fit(data, Run(3, checkpoint=tmp_path))
    resumed = COUPLE(task, settings).fit(data, Run(3, checkpoint=tmp_path)).image
    whole = COUPLE(task, settings).fit(data, Run(3)).image

    for a, b in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert_array_equal(a.detach().numpy(), b.detach().numpy())


def test_adapting_labels_more_of_a_shifted_target_rightly_than_the_source_alone():
    gains = []
    for seed in range(3):
        data, hidden = clouds(seed, 120, 120, shift=4.0, spread=1.5)
        right = {}
        for method in (SourceOnly, COUPLE):
            source, target, _ = fitted(data, method, seed=seed, epochs=5, steps_per_epoch=20, batch_size=32, hidden=64)
            means = np.stack([source[data.source.labels == c].mean(0) for c in range(CLASSES)])
            right[method] = ((target @ means.T).argmax(1) == hidden).mean()
        gains.append(right[COUPLE] - right[SourceOnly])

    assert np.mean(gains) > 0.02


def test_a_source_without_labels_or_a_missing_target_is_refused():
    data, _ = clouds()
    method = COUPLE(Task(BITS, DIM, CLASSES, 0), COUPLE.Settings())

    with pytest.raises(UsageError, match="labels"):
        method.check(dataclasses.replace(data, source=SourceData(data.source.features)))
    with pytest.raises(UsageError, match="second, unlabeled folder"):
        method.check(dataclasses.replace(data, target=None))


def test_source_only_needs_no_target():
    data, _ = clouds()
    method = SourceOnly(Task(BITS, DIM, CLASSES, 0), SourceOnly.Settings(epochs=1, steps_per_epoch=2, hidden=8))
    alone = dataclasses.replace(data, target=None)
    method.check(alone)

    relaxed = method.fit(alone, Run(0)).image(torch.from_numpy(data.source.features))

    assert relaxed.shape == (64, BITS)
