"""The one place where a method is fitted: raw features -> normalized training data -> hash functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hashcli import codes, registry, settings
from hashcli.data import SourceData, TargetData, TrainingData
from hashcli.errors import UsageError
from hashcli.method import Fitted, GradientMethod, HashMethod, Run, Task, Tuning
from hashcli.progress import Progress
from hashcli.vocabulary import Vocabulary, Words

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Raw = NDArray[np.float16]
Pixels = NDArray[np.uint8]
Images = Callable[[Ints], Pixels]

SOURCE, TARGET = 0, 1
BLOCK_ROWS = 8192
MOST_THREADS = 4


@dataclass(frozen=True)
class Labeled:
    """Source photos: raw features (n, d), labels (n,) class numbers or (n, n_classes) 0/1 rows, pixels by rows.

    captions (n,), "" where there is none, are what methods that need them learn words from; tower gives the text
    tower that belongs to the backbone, if it has one.
    """

    features: Raw
    labels: Ints
    images: Images | None = None
    captions: Sequence[str] | None = None
    tower: Callable[[], Words | None] | None = None


@dataclass(frozen=True)
class Unlabeled:
    """Target photos: raw features (n, d), pixels by rows; there is no place for labels."""

    features: Raw
    images: Images | None = None


@dataclass(frozen=True)
class FittedHasher:
    """A fitted method, with the means (2, d) of its input normalization, rows source and target.

    threads: how many torch computed with, on which the last digits of sums depend. words: what made captions features.
    """

    means: Floats
    fitted: Fitted
    method: HashMethod
    threads: int
    words: Words | None = None

    def relaxed(self, features: Raw, domain: int) -> Floats:
        """Relaxed codes (n, n_bits) of raw features (n, d), all of domain 0 (source) or 1 (target)."""
        import torch

        head = self.fitted.image.eval()
        x = torch.from_numpy(normalized(features, self.means, domain))
        with torch.inference_mode():
            relaxed: Floats = torch.cat([head(block) for block in torch.split(x, BLOCK_ROWS)]).numpy()
        return relaxed

    def codes(self, features: Raw, domain: int) -> NDArray[np.uint8]:
        """Packed codes (n, n_bits / 8) of raw features (n, d), as `relaxed`."""
        return codes.from_relaxed(self.relaxed(features, domain))


def fit_method(
    name: str,
    words: Sequence[str],
    source: Labeled | None,
    target: Unlabeled | None,
    *,
    n_classes: int,
    n_bits: int,
    seed: int,
    progress: Progress,
    device: str = "cpu",
    checkpoint: Path | None = None,
    encode: Callable[[Pixels], Raw] | None = None,
    check_export: bool = True,
    tune: Callable[[Floats], Tuning] | None = None,
) -> FittedHasher:
    """Fit the method called `name`, with settings `words` ("name=value"), on photos of one or two domains.

    `encode` (pixels (n, s, s, 3) -> raw features (n, d)) is the backbone that made the features; methods that mix
    photos need it and the domains' `images`. `check_export` tries the ONNX export of an untrained head first, so
    that a head that could not be saved fails before it is trained. `tune` makes of the means what trains the backbone
    too (`finetuning.Tuning`); its caller then has new features, and owes the hasher their means. The same arguments
    give the same hasher on the same kind of machine. Raises UsageError for names, settings, code lengths and data that
    cannot work, MachineError when training or the export fails.
    """
    import torch

    from hashcli.network import check_exportable, fit_input_norm

    codes.check_n_bits(n_bits)
    cls = registry.load(name)
    dim = _check_rows(source, target, n_classes)
    method = cls(Task(n_bits, dim, n_classes, seed, name), settings.parse(cls.Settings, words, name))
    if method.wants_pixels and encode is None:
        raise UsageError(f"{name} mixes photos with these settings, and here are only their features")
    if method.wants_pixels and tune:
        raise UsageError(
            f"{name} mixes photos with these settings, and fine-tuning does not", "leave pixel_mixup off, or --finetune"
        )
    means = fit_input_norm(source.features if source else None, target.features if target else None, method.centering)
    reader = None
    if "captions" in method.needs and source is not None and source.captions is not None:
        reader = _words(method, source.captions, source.tower)
    text = _text(reader, source, progress)
    data = _training_data(source, target, n_classes, means, encode if method.wants_pixels else None, text)
    method.check(data)
    with _reproducible(seed, device):
        if check_export and isinstance(method, GradientMethod):
            check_exportable(method.build_head(), dim, n_bits)
        run = Run(seed, device, progress, checkpoint, tune(means) if tune else None)
        fitted, threads = method.fit(data, run), torch.get_num_threads()
    return FittedHasher(means, fitted, method, threads, reader if fitted.text is not None else None)


def normalized(features: Raw, means: Floats, domain: int) -> Floats:
    """What heads see of raw features (n, d), all of one domain: (n, d) float32 (`network.InputNorm`)."""
    import torch

    from hashcli.network import InputNorm

    norm = InputNorm(means)
    out = np.empty(features.shape, np.float32)
    with torch.inference_mode():
        for start in range(0, len(features), BLOCK_ROWS):
            block = torch.tensor(features[start : start + BLOCK_ROWS])
            out[start : start + BLOCK_ROWS] = norm(block, torch.full((len(block),), domain)).numpy()
    return out


def _training_data(
    source: Labeled | None,
    target: Unlabeled | None,
    n_classes: int,
    means: Floats,
    encode: Callable[[Pixels], Raw] | None,
    text: Floats | None,
) -> TrainingData:
    return TrainingData(
        source=_source_data(source, means, text) if source else None,
        target=TargetData(normalized(target.features, means, TARGET), images=target.images) if target else None,
        n_classes=n_classes,
        multi_label=source is not None and source.labels.ndim == 2,
        encode=partial(_encoded_mixture, encode, means) if encode else None,
    )


def _source_data(source: Labeled, means: Floats, text: Floats | None) -> SourceData:
    captions = tuple(source.captions) if text is not None and source.captions is not None else None
    return SourceData(normalized(source.features, means, SOURCE), source.labels, captions, text, source.images)


def _words(method: HashMethod, captions: Sequence[str], tower: Callable[[], Words | None] | None) -> Words:
    """What makes captions features, as the method's setting `text` has it."""
    choice = method.text_features
    found = tower() if tower and choice != "words" else None
    if found is None and choice == "tower":
        raise UsageError(
            "text=tower needs a backbone with a text tower that reads words as CLIP does",
            "--backbone open_clip:ViT-B-32/laion2b_s34b_b79k, or --set text=words",
        )
    return Vocabulary.fit(captions) if found is None else found


def _text(words: Words | None, source: Labeled | None, progress: Progress) -> Floats | None:
    if words is None or source is None or source.captions is None:
        return None
    return normalized(words.features(source.captions, progress), text_means(len(words)), SOURCE)


def text_means(dim: int) -> Floats:
    """Means (2, dim) of the text features' input normalization: their zeros mean something, so nothing is taken off."""
    return np.zeros((2, dim), np.float32)


def _encoded_mixture(encode: Callable[[Pixels], Raw], means: Floats, pixels: Pixels, source_share: Floats) -> Floats:
    import torch

    from hashcli.network import InputNorm

    with torch.inference_mode():
        mixed: Floats = InputNorm(means).mixed(torch.tensor(encode(pixels)), torch.tensor(source_share)).numpy()
    return mixed


def _check_rows(source: Labeled | None, target: Unlabeled | None, n_classes: int) -> int:
    """The feature width of data whose shapes fit; else ValueError, or UsageError when a domain has no photo."""
    given = [domain.features for domain in (source, target) if domain is not None]
    if not given or any(len(features) == 0 for features in given):
        raise UsageError("there is no photo to learn from")
    if any(f.ndim != 2 or f.shape[1] != given[0].shape[1] for f in given):
        raise ValueError(f"features must have one width, not {[f.shape for f in given]}")
    if not all(np.isfinite(f).all() for f in given):
        raise ValueError("features must be finite")
    if source is not None:
        labels = source.labels
        if labels.shape not in ((len(given[0]),), (len(given[0]), n_classes)):
            raise ValueError(f"labels {labels.shape} do not fit features {given[0].shape} and {n_classes} classes")
        if labels.ndim == 1 and (labels.min() < 0 or labels.max() >= n_classes):
            raise ValueError(f"labels from {labels.min()} to {labels.max()} are not of {n_classes} classes")
        if source.captions is not None and len(source.captions) != len(labels):
            raise ValueError(f"{len(source.captions)} captions do not fit features {given[0].shape}")
    return int(given[0].shape[1])


@contextmanager
def _reproducible(seed: int, device: str) -> Iterator[None]:
    """torch seeded, kept to deterministic kernels and few threads; its own state comes back afterwards.

    The order of sums, and with it the last digits, depends on the number of threads: capped, it is the same on all
    but the smallest machines.
    """
    import torch

    # cuBLAS reads this when it starts; without it the order of its sums depends on which stream came first
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    kernels, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        torch.manual_seed(seed)
        # use_deterministic_algorithms() does the same and imports torch's compiler for it, which takes seconds
        torch.set_deterministic_debug_mode("warn")
        torch.set_num_threads(min(threads, MOST_THREADS))
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(kernels)
            torch.set_num_threads(threads)
