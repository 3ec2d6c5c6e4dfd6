"""`eval` on folders: photos and their classes from disk, through the caches, to the measures of `evaluation`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hashcli import backbones, registry, settings, towers
from hashcli.captions import with_captions
from hashcli.collection import (
    Collection,
    check_apart,
    collect,
    labeled_by_csv,
    labeled_by_folder,
    real_folder,
    with_classes,
)
from hashcli.errors import LibraryError, MachineError, UsageError
from hashcli.extraction import PhotoFailure
from hashcli.jobs import checked_method
from hashcli.library import Library
from hashcli.parts import Part, label_array, read_part
from hashcli.photos import escape
from hashcli.progress import Progress
from hashcli.records import DOMAINS
from hashcli.roots import domain_of
from hashcli.walking import WalkOptions

if TYPE_CHECKING:
    from hashcli.eval_report import EvalReport, EvalRow
    from hashcli.evaluation import Coded, Observer, Trial
    from hashcli.evidence import Evidence, Side
    from hashcli.fitting import FittedHasher
    from hashcli.hasher import Hasher
    from hashcli.records import Root
    from hashcli.training import TrainOptions


@dataclass(frozen=True)
class Measured:
    """Measures, what the reader must know about them, and the photos that could not be read."""

    rows: list[EvalRow]
    notes: list[str]
    failures: list[PhotoFailure] = field(default_factory=list)
    evidence: Evidence | None = None
    by_length: list[EvalRow] = field(default_factory=list)


def evaluate_library(
    library: Library,
    queries: Path,
    database: Path,
    *,
    allow_seen: bool,
    paper_counting: bool,
    walk: WalkOptions,
    workers: int | None,
    progress: Progress,
    gather: bool = False,
) -> Measured:
    """Measure the library's hasher: photos of `queries` looked up among those of `database`.

    Classes are subfolders of either. `gather` also keeps the evidence for a report. Raises UsageError for folders
    without classes, NoLibraryError, and what `evaluation.evaluate_current` raises.
    """
    from hashcli.backbones import ExportedBackbone
    from hashcli.evaluation import evaluate_current, unique_rows
    from hashcli.evidence import Evidence

    generation = library.require()
    hasher = generation.hasher
    with generation.gallery() as gallery:
        roots = gallery.roots()
    backbone = ExportedBackbone(hasher.backbone_folder, hasher.spec)
    asked, given = (
        _classes_of(collect(folder, option, walk), option)
        for folder, option in ((queries, "--queries"), (database, "--database"))
    )
    classes = sorted({*asked.classes, *given.classes})
    coded: list[Coded] = []
    failures: list[PhotoFailure] = []
    with _caches(library, progress) as caches:
        parts = [read_part(collection, backbone, caches, workers, progress) for collection in (asked, given)]
    for part in parts:
        failures += part.failures
        coded.append(_coded(part, hasher, roots, classes))
    report = evaluate_current(
        hasher.method,
        hasher.seed,
        coded[0],
        coded[1],
        hasher.seen,
        allow_seen=allow_seen,
        paper_counting=paper_counting,
    )
    if not gather:
        return Measured(report.rows, report.notes, failures)
    kept = [unique_rows(coded[0].digests, () if allow_seen else hasher.seen), unique_rows(coded[1].digests)]
    sides = [_side(part, own.labels).take(rows) for part, own, rows in zip(parts, coded, kept, strict=True)]
    evidence = Evidence(sides[0], sides[1], classes)
    evidence.add(hasher.method, *(own.codes[rows] for own, rows in zip(coded, kept, strict=True)))
    return Measured(report.rows, report.notes, failures, evidence)


def _side(part: Part, labels: NDArray[np.int64]) -> Side:
    from hashcli.evidence import Side

    return Side([file.full for file in part.files], part.digests, part.features, labels)


def _coded(part: Part, hasher: Hasher, roots: Sequence[Root], classes: Sequence[str]) -> Coded:
    from hashcli.encoder import Encoder
    from hashcli.evaluation import Coded

    domains = np.array([DOMAINS.index(domain_of(roots, file.full)) for file in part.files], np.int64)
    labels = label_array(part.labels, classes, part.collection.multi_label)
    return Coded(Encoder(hasher).codes(part.features, domains), labels, part.digests)


def compare_folders(
    library: Library | None,
    src: Path,
    tgt: Path,
    *,
    queries: Path | None,
    truth: Path | None,
    methods: list[str],
    all_methods: bool,
    split: float,
    seeds: int,
    paper_counting: bool,
    options: TrainOptions,
    progress: Progress,
    gather: bool = False,
    lengths: Sequence[int] = (),
) -> Measured:
    """Train methods on `src` and `tgt` apart from any library, and measure them on photos that none of them saw.

    The query photos are a share `split` of the target, whose classes (subfolders, or the table `truth`) serve for
    scoring alone; or all of `queries`, and then the target needs no classes. `library` lends its feature cache.
    `gather` also keeps the evidence of the first seed's cross-domain search for a report, and with that seed trains
    for the code `lengths` as well. Raises UsageError for folders, classes, methods and settings that cannot work.
    """
    from hashcli.devices import resolve_device
    from hashcli.evaluation import compare_methods
    from hashcli.evidence import Evidence
    from hashcli.fitting import SOURCE, TARGET, Labeled
    from hashcli.trials import Arrays

    chosen, notes = _methods(methods, all_methods, options)
    folders = [(src, "--src"), (tgt, "--tgt"), *([(queries, "--queries")] if queries else [])]
    real = [(real_folder(folder, option), option) for folder, option in folders]
    for i, (one, first) in enumerate(real):
        for other, second in real[i + 1 :]:
            check_apart(one, other, f"{first} and {second}")
    source = with_classes(collect(src, "--src", options.walk), options.labels, "--src", progress)
    target = _truth(collect(tgt, "--tgt", options.walk), truth, progress, needed=queries is None)
    asked = _classes_of(collect(queries, "--queries", options.walk), "--queries") if queries else None
    if any("captions" in registry.load(name).needs for name, _ in chosen):
        source = with_captions(source, options.captions, progress)
        target = with_captions(target, None, progress)
        asked = with_captions(asked, None, progress) if asked else None
    device = resolve_device(options.device)
    backbone = backbones.exported(options.backbone, progress)
    with _caches(library, progress) as caches:
        given = [collection for collection in (source, target, asked) if collection]
        parts = [read_part(c, backbone, caches, options.workers, progress, device) for c in given]
    failures = [failure for part in parts for failure in part.failures]
    labeled = parts[0].take([i for i, labels in enumerate(parts[0].labels) if labels])
    arrays = Arrays(source.classes, any(part.collection.multi_label for part in parts))
    trials, asked_part = arrays.trials(labeled, parts[1], parts[2] if asked else None, split, seeds, options.seed)
    tower = partial(towers.of, backbone, progress)
    learned = Labeled(labeled.features, arrays.labels(labeled), captions=labeled.captions or None, tower=tower)
    evidence = Evidence(_side(asked_part, trials[0].query_labels), _side(labeled, learned.labels), source.classes)

    def keep(name: str, trial: Trial, hasher: FittedHasher) -> None:
        if trial is trials[0]:
            evidence.add(name, hasher.codes(trial.query_features, TARGET), hasher.codes(learned.features, SOURCE))

    def compared(trials: Sequence[Trial], n_bits: int, observe: Observer | None = None) -> EvalReport:
        return compare_methods(
            learned,
            trials,
            chosen,
            n_bits=n_bits,
            n_classes=len(source.classes),
            progress=progress,
            paper_counting=paper_counting,
            device=device,
            skip_refused=all_methods or n_bits != options.n_bits,
            observe=observe,
        )

    found = compared(trials, options.n_bits, keep if gather else None)
    by_length = [row for n_bits in lengths if n_bits != options.n_bits for row in compared(trials[:1], n_bits).rows]
    return Measured(found.rows, notes + arrays.notes + found.notes, failures, evidence if gather else None, by_length)


def _methods(
    names: list[str], all_methods: bool, options: TrainOptions
) -> tuple[list[tuple[str, Sequence[str]]], list[str]]:
    """Names with the settings words that each knows; a word that none knows is a mistake (UsageError)."""
    chosen: list[tuple[str, Sequence[str]]] = []
    notes: list[str] = []
    strange = set(options.settings)
    for name in registry.installed() if all_methods else names:
        try:
            known = {setting.name for setting in settings.declared(registry.load(name).Settings)}
        except MachineError as error:
            if not all_methods:
                raise
            notes.append(f"{name} is left out: {error}")
            continue
        words = [word for word in options.settings if word.partition("=")[0].strip() in known]
        strange -= set(words)
        checked_method(name, words, options.n_bits, options.backbone)
        chosen.append((name, words))
    if strange and chosen:
        checked_method(chosen[-1][0], sorted(strange), options.n_bits, options.backbone)
    return chosen, notes


def _classes_of(collection: Collection, option: str) -> Collection:
    """The collection with its subfolders as classes; one class is enough to score with."""
    labeled = labeled_by_folder(collection)
    if not labeled.classes:
        raise UsageError(
            f"{option}: {escape(collection.root)} has no class subfolders, and without classes nothing can be scored",
            f"put each class in its own subfolder: {option} DIR/mug/1.jpg, DIR/shoe/2.jpg ...",
        )
    return labeled


def _truth(collection: Collection, table: Path | None, progress: Progress, *, needed: bool) -> Collection:
    """The target with the classes that score it, where there are any."""
    if table:
        return labeled_by_csv(collection, table, "--truth", progress)
    labeled = labeled_by_folder(collection)
    if needed and not labeled.classes:
        raise UsageError(
            f"--tgt: {escape(collection.root)} has no class subfolders, so held-out photos of it cannot be scored",
            "give --truth FILE.csv (path,labels), used for scoring only, or --queries DIR with class subfolders",
        )
    return labeled


@contextmanager
def _caches(library: Library | None, progress: Progress) -> Iterator[Library]:
    """The library's caches, locked against other writers; or caches that last as long as this run.

    The latter where there is no library, or it is being written or may not be.
    """
    with ExitStack() as stack:
        if library is not None:
            try:
                stack.enter_context(library.writing())
            except LibraryError as error:
                progress.say(f"{error}; features that are computed now are not kept")
                library = None
        yield library or Library.create(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hashcli-"))))
