"""One run: train a variant on a task's photos with one seed, and measure its codes."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from runs import Run
from tasks import Photos
from variants import ORACLE, Variant

from hashcli import __version__
from hashcli.evaluation import hold_out
from hashcli.fitting import MOST_THREADS, SOURCE, TARGET, FittedHasher, Labeled, fit_method, normalized
from hashcli.jobs import TrainingJob
from hashcli.metrics import count_levels, measure
from hashcli.network import fit_input_norm
from hashcli.progress import Progress, Recorded, Silent

QUERIES = 0.1

Ints = NDArray[np.int64]


def one_run(variant: Variant, photos: Photos, bits: int, seed: int) -> Run:
    """Train and measure. Raises what `fitting.fit_method` raises."""
    held, rest = hold_out(len(photos.target), QUERIES, seed)
    log = Recorded(Silent())
    start = time.perf_counter()
    hasher = (_oracle if variant.method == ORACLE else _fitted)(variant, photos, rest, bits, seed, log)
    measures = dict(_measures(hasher, photos, held, rest))
    return Run(
        variant.method,
        list(variant.words),
        bits,
        seed,
        measures,
        round(time.perf_counter() - start, 2),
        variant.settings(),
        {**_made_by(), "code": variant.code()},
        _selection(log, len(rest)),
    )


def _selection(log: Recorded, targets: int) -> dict[str, Any]:
    last = next((dict(counts) for event, counts in reversed(log.events) if event == "selection"), None)
    return {} if last is None else {"targets": targets, **last}


def _fitted(variant: Variant, photos: Photos, rest: Ints, bits: int, seed: int, progress: Progress) -> FittedHasher:
    """As `hashcli adapt` fits: by the very job it runs, which has no place for target labels."""
    parts = {"src": photos.source, "tgt": photos.target.take(rest)}
    job = TrainingJob(variant.method, variant.words, bits, seed, photos.backbone, parts)
    with tempfile.TemporaryDirectory(prefix="hashcli-") as scratch:
        return job.fit(progress, "cpu", Path(scratch))


def _oracle(variant: Variant, photos: Photos, rest: Ints, bits: int, seed: int, progress: Progress) -> FittedHasher:
    """Source-only on source and target, with the labels of both: what no method that adapts can be told.

    Both are centered beforehand, each by its own mean; the fit then sees one collection.
    """
    features = (photos.source.features, photos.target.features[rest])
    means = fit_input_norm(*features, "per_domain")
    together = np.concatenate([normalized(x, means, domain) for domain, x in enumerate(features)])
    hasher = fit_method(
        "source-only",
        [*variant.words, "centering=none"],
        Labeled(together, np.concatenate([photos.source_labels, photos.target_labels[rest]])),
        None,
        n_classes=len(photos.source.collection.classes),
        n_bits=bits,
        seed=seed,
        progress=progress,
        check_export=False,
    )
    return replace(hasher, means=means)


def _measures(hasher: FittedHasher, photos: Photos, held: Ints, rest: Ints) -> Iterator[tuple[str, dict[str, float]]]:
    source, target = photos.source.features, photos.target.features
    queries = hasher.codes(target[held], TARGET)
    galleries = {
        "cross-domain": (hasher.codes(source, SOURCE), photos.source_labels),
        "single-domain": (hasher.codes(target[rest], TARGET), photos.target_labels[rest]),
    }
    for protocol, (gallery, labels) in galleries.items():
        measures = measure(count_levels(queries, photos.target_labels[held], gallery, labels))
        yield protocol, {name: round(value, 6) for name, value in asdict(measures).items()}


@cache
def _made_by() -> dict[str, Any]:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = "+" if git("status", "--porcelain", "--", "../hashcli", "../plugins") else ""
    threads = min(torch.get_num_threads(), MOST_THREADS)
    return {
        "hashcli": __version__,
        "commit": git("rev-parse", "--short", "HEAD") + changed,
        "torch": torch.__version__,
        "threads": threads,
    }
