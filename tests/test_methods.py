"""What every installed method must keep to, whoever wrote it."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from hashcli import codes, registry, settings
from hashcli.errors import UsageError
from hashcli.fitting import SOURCE, TARGET, FittedHasher, Labeled, Unlabeled, fit_method
from hashcli.method import Fitted, HashMethod
from hashcli.network import export_head
from hashcli.progress import Silent

METHODS = list(registry.installed())
UNSEEDED = {"sh"}  # nothing in it is drawn at random
N_SOURCE, N_TARGET, DIM, N_CLASSES = 80, 50, 72, 3
NEEDS = {"source_labels", "target_images", "captions"}
QUICK = {"epochs": 2, "steps_per_epoch": 5, "batch_size": 32}

every_method = pytest.mark.parametrize("name", METHODS)


@functools.cache
def domains() -> tuple[Labeled, Unlabeled]:
    """Three classes around centers that both domains share, the target shifted."""
    rng = np.random.default_rng(7)
    centers = rng.standard_normal((N_CLASSES, DIM))
    shift = 0.7 * rng.standard_normal(DIM)
    labels, hidden = rng.permutation(np.resize(np.arange(N_CLASSES), N_SOURCE)), rng.integers(0, N_CLASSES, N_TARGET)
    source = centers[labels] + 0.8 * rng.standard_normal((N_SOURCE, DIM))
    target = centers[hidden] + shift + 0.8 * rng.standard_normal((N_TARGET, DIM))
    captions = [f"{('red', 'green', 'blue')[label]} thing {i % 7 * 11}" for i, label in enumerate(labels)]
    return Labeled(source.astype(np.float16), labels, captions=captions), Unlabeled(target.astype(np.float16))


def quick(name: str) -> list[str]:
    declared = {s.name for s in settings.declared(registry.load(name).Settings)}
    return [f"{setting}={value}" for setting, value in QUICK.items() if setting in declared]


def fit(
    name: str,
    source: Labeled | None,
    target: Unlabeled | None,
    *,
    n_bits: int = 16,
    seed: int = 0,
    n_classes: int = N_CLASSES,
) -> FittedHasher:
    return fit_method(
        name,
        quick(name),
        source,
        target,
        n_classes=n_classes,
        n_bits=n_bits,
        seed=seed,
        progress=Silent(),
        check_export=False,
    )


@functools.cache
def fitted(name: str, n_bits: int = 16) -> FittedHasher:
    return fit(name, *domains(), n_bits=n_bits)


def both_codes(hasher: FittedHasher) -> np.ndarray:
    source, target = domains()
    return np.concatenate([hasher.codes(source.features, SOURCE), hasher.codes(target.features, TARGET)])


def test_plugins_are_imported_without_torch() -> None:
    program = (
        f"import sys; from hashcli import registry\nfor n in {METHODS}: registry.load(n)\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@every_method
def test_a_method_says_what_it_is_and_needs(name: str) -> None:
    method = registry.load(name)
    assert method.summary.strip() and "\n" not in method.summary
    assert method.paper.strip()
    assert method.needs <= NEEDS
    assert registry.find(name).summary, "the plugin module needs a docstring: lists show its first line"


@every_method
def test_settings_are_declared_with_help_and_defaults_that_are_allowed(name: str) -> None:
    declared = settings.declared(registry.load(name).Settings)
    for setting in declared:
        assert isinstance(setting.default, setting.type), setting.name
        assert setting.param.help.strip(), setting.name
    cls = registry.load(name).Settings
    assert settings.from_record(cls, settings.record(cls()), name) == cls()


@every_method
def test_data_that_a_method_cannot_learn_from_are_refused_in_words(name: str) -> None:
    source, target = domains()
    method = registry.load(name)
    if "source_labels" in method.needs:
        with pytest.raises(UsageError, match=r"learns from labels, and there are none"):
            fit(name, None, target, n_classes=0)
        one_class = Labeled(source.features, np.zeros_like(source.labels), captions=source.captions)
        with pytest.raises(UsageError, match=r"at least 2 classes, found 1"):
            fit(name, one_class, target, n_classes=1)
    if "target_images" in method.needs:
        with pytest.raises(UsageError, match=r"second, unlabell?ed folder"):
            fit(name, source, None)
    if "captions" in method.needs:
        with pytest.raises(UsageError, match=r"photos with captions, and there are none"):
            fit(name, Labeled(source.features, source.labels), target)


@every_method
def test_several_labels_per_photo_are_learned_from_or_refused_in_words(name: str) -> None:
    source, target = domains()
    several = np.eye(N_CLASSES, dtype=np.int64)[source.labels]
    several[::4, 0] = 1
    photos = Labeled(source.features, several, captions=source.captions)
    if registry.load(name).multi_label:
        assert both_codes(fit(name, photos, target)).shape == (N_SOURCE + N_TARGET, 2)
    else:
        with pytest.raises(UsageError, match=r"one label per photo, and some have several"):
            fit(name, photos, target)


@every_method
def test_the_seed_and_nothing_else_decides_the_codes(name: str) -> None:
    first = both_codes(fitted(name))
    np.random.rand(3)
    np.testing.assert_array_equal(both_codes(fit(name, *domains())), first)
    assert (both_codes(fit(name, *domains(), seed=1)) != first).any() == (name not in UNSEEDED)


@every_method
@pytest.mark.parametrize("n_bits", [16, 64])
def test_codes_are_of_the_length_asked_for_and_tell_photos_apart(name: str, n_bits: int) -> None:
    hasher = fitted(name, n_bits)
    source, _ = domains()
    relaxed = hasher.relaxed(source.features, SOURCE)
    assert relaxed.dtype == np.float32 and relaxed.shape == (N_SOURCE, n_bits) and np.isfinite(relaxed).all()
    assert hasher.means.shape == (2, DIM)
    packed = both_codes(hasher)
    assert packed.shape == (N_SOURCE + N_TARGET, n_bits // 8)
    assert len(np.unique(packed, axis=0)) > 1
    assert isinstance(hasher.method, HashMethod) and isinstance(hasher.fitted, Fitted)
    assert not hasher.fitted.image.training


@every_method
def test_a_photo_has_one_code_whatever_it_is_encoded_with(name: str) -> None:
    hasher = fitted(name)
    _, target = domains()
    together = hasher.relaxed(target.features, TARGET)
    order = np.random.default_rng(0).permutation(N_TARGET)
    shuffled = hasher.relaxed(target.features[order], TARGET)
    np.testing.assert_allclose(shuffled, together[order], rtol=1e-4, atol=1e-5)
    alone = np.concatenate([hasher.relaxed(row[None], TARGET) for row in target.features])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)


@every_method
@pytest.mark.parametrize("n_bits", [16, 64])
def test_the_exported_head_gives_the_codes_of_the_fitted_one(name: str, n_bits: int, tmp_path: Path) -> None:
    hasher = fitted(name, n_bits)
    source, target = domains()
    path = tmp_path / "head.onnx"
    export_head(hasher.means, hasher.fitted.image, path, DIM, n_bits)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    features = np.concatenate([source.features, target.features])
    domain = np.repeat([SOURCE, TARGET], [N_SOURCE, N_TARGET])
    wanted = np.concatenate([hasher.relaxed(source.features, SOURCE), hasher.relaxed(target.features, TARGET)])
    for n in (1, 7, 64):
        rows = np.linspace(0, len(features) - 1, n).astype(int)
        (relaxed,) = session.run(None, {"feature": features[rows], "domain": domain[rows]})
        np.testing.assert_allclose(relaxed, wanted[rows], rtol=1e-4, atol=1e-4)
        sure = np.abs(wanted[rows]) > 1e-4
        np.testing.assert_array_equal((relaxed >= 0)[sure], (wanted[rows] >= 0)[sure])
        assert sure.mean() > 0.99
    assert codes.from_relaxed(relaxed).shape == (64, n_bits // 8)
