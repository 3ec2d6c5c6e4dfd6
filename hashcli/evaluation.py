"""How good are the codes: methods compared from scratch on held-out photos, or the hasher in use on given ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hashcli.errors import HashcliError, UsageError
from hashcli.eval_report import EvalReport, EvalRow, Protocol
from hashcli.fitting import SOURCE, TARGET, FittedHasher, Labeled, Unlabeled, fit_method
from hashcli.metrics import Levels, count_levels, measure
from hashcli.progress import Progress
from hashcli.word_rankings import word_rankings

Ints = NDArray[np.int64]
Raw = NDArray[np.float16]
Packed = NDArray[np.uint8]


@dataclass(frozen=True)
class Coded:
    """Photos as codes: packed (n, n_bits / 8), labels as in `metrics.count_levels`, content digests."""

    codes: Packed
    labels: Ints
    digests: Sequence[bytes]

    def __post_init__(self) -> None:
        if not len(self.codes) == len(self.labels) == len(self.digests):
            raise ValueError(
                f"codes {self.codes.shape}, labels {self.labels.shape} and {len(self.digests)} digests do not fit"
            )

    def take(self, rows: Ints) -> Coded:
        """The photos at `rows` only."""
        return Coded(self.codes[rows], self.labels[rows], [self.digests[i] for i in rows])


@dataclass(frozen=True)
class Trial:
    """Target photos to train on, and others to ask with, that no training sees; raw features (n, d).

    target_labels score the single-domain protocol, which is left out without them; no method sees any of them, or of
    the query_captions, which serve to search by words and to be compared with.
    Every photo must be here once (`unique_rows`): a query with a copy among the targets is not held out.
    """

    seed: int
    target_features: Raw
    target_labels: Ints | None
    query_features: Raw
    query_labels: Ints
    query_captions: Sequence[str] = ()


Observer = Callable[[str, Trial, FittedHasher], None]


def split_trials(
    features: Raw, labels: Ints, share: float, seeds: Iterable[int], captions: Sequence[str] = ()
) -> list[Trial]:
    """One trial per seed: a random `share` of the target photos (n, d), drawn by the seed, is held out as queries."""
    trials = []
    for seed in seeds:
        held, rest = hold_out(len(features), share, seed)
        said = [captions[i] for i in held] if captions else []
        trials.append(Trial(seed, features[rest], labels[rest], features[held], labels[held], said))
    return trials


def compare_methods(
    source: Labeled,
    trials: Sequence[Trial],
    methods: Sequence[tuple[str, Sequence[str]]],
    *,
    n_bits: int,
    n_classes: int,
    progress: Progress,
    k: int = 100,
    paper_counting: bool = False,
    device: str = "cpu",
    skip_refused: bool = False,
    observe: Observer | None = None,
) -> EvalReport:
    """Train each method, given by name and settings words, with each trial's seed, and measure it on its queries.

    Labels of source, targets and queries are class numbers (n,), the source's below `n_classes`, or 0/1 rows
    (n, n_classes). A method that cannot learn from these photos is an error, or with `skip_refused` a note.
    `observe` is given each fitted hasher. Raises UsageError when there is nothing to measure.
    """
    for trial in trials:
        _require_shared_labels(trial.query_labels, source.labels, "cross-domain")
        if trial.target_labels is not None:
            _require_shared_labels(trial.query_labels, trial.target_labels, "single-domain")
    report = EvalReport([])
    refused: set[str] = set()
    with progress.task("comparing methods", len(trials) * len(methods)) as task:
        for trial, (name, words) in itertools.product(trials, methods):
            if name not in refused:
                try:
                    hasher = fit_method(
                        name,
                        words,
                        source,
                        Unlabeled(trial.target_features),
                        n_classes=n_classes,
                        n_bits=n_bits,
                        seed=trial.seed,
                        progress=progress,
                        device=device,
                        check_export=False,
                    )
                except HashcliError as error:
                    if not skip_refused:
                        raise
                    refused.add(name)  # rows of other seeds would be a mean over fewer of them
                    report.rows[:] = [row for row in report.rows if row.method != name]
                    report.notes.append(f"{name} is left out: {error}")
                else:
                    if observe is not None:
                        observe(name, trial, hasher)
                    for protocol, levels in _rankings(hasher, source, trial):
                        measures = measure(levels, k, paper_counting)
                        report.rows.append(EvalRow(name, trial.seed, n_bits, protocol, measures))
            task.advance()
    if not report.rows:
        raise UsageError("no method can learn from these photos", "; ".join(report.notes) or None)
    return report


def evaluate_current(
    method: str,
    seed: int,
    queries: Coded,
    gallery: Coded,
    seen: Collection[bytes],
    *,
    k: int = 100,
    allow_seen: bool = False,
    paper_counting: bool = False,
) -> EvalReport:
    """Measure the hasher in use (made by `method` with `seed`) on photos that the user named.

    Query photos whose digest is in `seen`, those that took part in training, are left out and counted in the notes,
    or with `allow_seen` kept, and the notes say so. A photo given twice counts once, and a query never meets itself.
    Raises UsageError when no query is left or none has a photo with its label in the gallery.
    """
    report = EvalReport([])
    queries, gallery = (_each_once(photos, what, report) for photos, what in ((queries, "query"), (gallery, "gallery")))
    known = set(seen)
    fresh = np.array([digest not in known for digest in queries.digests], bool)
    if not fresh.all():
        trained = f"{(~fresh).sum()} of {len(fresh)} query photos took part in training"
        if allow_seen:
            report.notes.append(f"{trained} and are counted all the same: new photos will be found less well")
        elif not fresh.any():
            raise UsageError(
                "all query photos took part in training, so they say nothing about new ones",
                "give other photos, or see what --allow-seen says",
            )
        else:
            report.notes.append(f"{trained} and are left out")
            queries = queries.take(np.flatnonzero(fresh))
    _require_shared_labels(queries.labels, gallery.labels, "given")
    number: dict[bytes, int] = {}
    ids = [np.array([number.setdefault(d, len(number)) for d in part.digests]) for part in (queries, gallery)]
    levels = count_levels(queries.codes, queries.labels, gallery.codes, gallery.labels, *ids)
    n_bits = 8 * queries.codes.shape[1]
    report.rows.append(EvalRow(method, seed, n_bits, "given", measure(levels, k, paper_counting)))
    return report


def hold_out(n: int, share: float, seed: int) -> tuple[Ints, Ints]:
    """Rows of n photos held out as queries, drawn by the seed, and the rows left, both ascending.

    Raises UsageError when either part would be empty.
    """
    n_held = round(n * share)
    if not 0 < n_held < n:
        raise UsageError(
            f"--split {share:g} of {n} photos holds out {n_held}, which leaves nothing to compare",
            "use a share like 0.1, and at least 10 photos",
        )
    rows = np.random.default_rng(seed).permutation(n)
    return np.sort(rows[:n_held]), np.sort(rows[n_held:])


def unique_rows(digests: Sequence[bytes], others: Iterable[bytes] = ()) -> Ints:
    """Rows of the first photo with each digest, leaving out those of `others`: what `compare_methods` wants."""
    known = set(others)
    first = {digest: row for row, digest in reversed(list(enumerate(digests))) if digest not in known}
    return np.array(sorted(first.values()), np.int64)


def _each_once(photos: Coded, what: str, report: EvalReport) -> Coded:
    rows = unique_rows(photos.digests)
    if len(rows) < len(photos.digests):
        report.notes.append(f"{len(photos.digests) - len(rows)} {what} photos are copies of others and count once")
    return photos.take(rows)


def _rankings(hasher: FittedHasher, source: Labeled, trial: Trial) -> Iterator[tuple[Protocol, Levels]]:
    queries = hasher.codes(trial.query_features, TARGET)
    gallery = hasher.codes(source.features, SOURCE)
    yield "cross-domain", count_levels(queries, trial.query_labels, gallery, source.labels)
    if trial.target_labels is not None:
        gallery = hasher.codes(trial.target_features, TARGET)
        yield "single-domain", count_levels(queries, trial.query_labels, gallery, trial.target_labels)
    if any(trial.query_captions):
        yield from word_rankings(hasher, source, trial.query_features, trial.query_labels, trial.query_captions)


def _require_shared_labels(queries: Ints, gallery: Ints, protocol: Protocol) -> None:
    if _classes(queries).isdisjoint(_classes(gallery)):
        raise UsageError(
            f"none of the {len(queries)} query photos has a photo with its label in the {protocol} gallery",
            "queries and gallery need labels spelled the same: subfolders, or --labels FILE.csv",
        )


def _classes(labels: Ints) -> set[int]:
    return set((labels[labels >= 0] if labels.ndim == 1 else np.flatnonzero(labels.any(0))).tolist())
