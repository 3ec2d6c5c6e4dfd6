"""adapt() and train(): photos of one or two folders -> a hasher and its gallery, as a new generation of the library."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hashcli import backbones, captions, publishing, retrained, trimming
from hashcli.collection import (
    Collection,
    check_apart,
    collect,
    labeled_by_folder,
    real_folder,
    with_classes,
)
from hashcli.errors import UsageError
from hashcli.holding import held_out
from hashcli.jobs import TrainingJob, checked_method
from hashcli.parts import read_part
from hashcli.photos import escape
from hashcli.progress import Progress, Recorded
from hashcli.publishing import TrainReport
from hashcli.walking import WalkOptions

if TYPE_CHECKING:
    from hashcli.library import Library
    from hashcli.method import HashMethod
    from hashcli.parts import Part
    from hashcli.records import Domain

Confirm = Callable[[str], bool]


@dataclass(frozen=True)
class TrainOptions:
    """How to train, as the command line says it; `settings` are its raw `name=value` words.

    For `train`, a method of "" is the one that the photos call for.
    """

    method: str
    n_bits: int = 64
    backbone: str = backbones.DEFAULT
    settings: tuple[str, ...] = ()
    device: str = "auto"
    seed: int = 0
    labels: Path | None = None
    captions: Path | None = None
    workers: int | None = None
    no_index: bool = False
    replace: bool = False
    force: bool = False
    hold_out: bool = True
    finetune: str = "none"
    restart: bool = False
    walk: WalkOptions = field(default_factory=WalkOptions)
    confirm: Confirm | None = None


def adapt(library: Library, src: Path, tgt: Path, options: TrainOptions, progress: Progress) -> TrainReport:
    """Learn from the labeled photos of `src` and the unlabeled ones of `tgt`; index both.

    A tenth of the labeled photos is held out of training (`holding`), to tell whether it helped. Raises UsageError for
    folders, labels, settings or numbers of photos that cannot work, LockedError while another process writes,
    MachineError for what this machine lacks, RefusedError when the new hasher has collapsed: it stays staged.
    """
    started = time.monotonic()
    method = checked_method(options.method, options.settings, options.n_bits, options.backbone, options.finetune)
    check_apart(real_folder(src, "--src"), real_folder(tgt, "--tgt"), "--src and --tgt")
    source = with_classes(collect(src, "--src", options.walk), options.labels, "--src", progress)
    target = collect(tgt, "--tgt", options.walk)
    return _make(library, method, source, target, options, progress, started)


def train(library: Library, folder: Path, options: TrainOptions, progress: Progress) -> TrainReport:
    """Learn from one collection, with its labels if the method needs them, and index it. Raises what `adapt` raises."""
    started = time.monotonic()
    if not options.method:
        options = replace(options, method=_called_for(folder, options, progress))
    method = checked_method(options.method, options.settings, options.n_bits, options.backbone, options.finetune)
    if "target_images" in method.needs:
        raise UsageError(
            f"{options.method} adapts one folder to another, and train has only one",
            "hashcli adapt --src LABELED --tgt UNLABELED, or train with --method source-only",
        )
    collection = collect(folder, "DIR", options.walk)
    if "source_labels" in method.needs:
        source = with_classes(collection, options.labels, "DIR", progress)
        return _make(library, method, source, None, options, progress, started)
    return _make(library, method, None, collection, options, progress, started)


def _called_for(folder: Path, options: TrainOptions, progress: Progress) -> str:
    """The method for a collection: by its captions, else its labels, else its looks alone."""
    if options.captions:
        return "dcgh"
    otherwise = "source-only" if options.labels else "dsah"
    collection = collect(folder, "DIR", options.walk)
    if len(collection.files) <= options.n_bits or not captions.are_common(collection):
        return otherwise
    if options.labels or len(labeled_by_folder(collection).classes) > 1:
        progress.say(f"the photos have captions: dcgh learns from them, --method {otherwise} would not")
        return "dcgh"
    progress.say("the photos have captions, but no classes: with subfolders or --labels, dcgh would learn from both")
    return otherwise


def _make(
    library: Library,
    method: type[HashMethod],
    source: Collection | None,
    target: Collection | None,
    options: TrainOptions,
    progress: Progress,
    started: float,
) -> TrainReport:
    from hashcli.devices import resolve_device

    if options.captions and "captions" not in method.needs:
        raise UsageError(f"--captions-file: {options.method} learns nothing from captions", "use --method dcgh")
    given: dict[Domain, Collection] = {}
    if source:
        given["src"] = source
    if target:
        given["tgt"] = target
    trimming.limit()
    device = resolve_device(options.device)
    if source and "captions" in method.needs:
        given["src"] = captions.with_captions(source, options.captions, progress)
    with library.writing():
        _ask_before_replacing(library, list(given.values()), options)
        backbone = backbones.exported(options.backbone, progress)
        parts = {d: read_part(c, backbone, library, options.workers, progress, device) for d, c in given.items()}
        held = _held_out(parts, options.n_bits) if options.hold_out else frozenset()
        plan = (options.method, options.settings, options.n_bits, options.seed)
        job = TrainingJob(*plan, backbone, parts, held, options.finetune)
        if options.restart:
            library.drop_work(job.key)
        elif refused := publishing.refused_before(library, job, options):
            if options.finetune != "none":
                job = retrained.again(job, refused.hasher.backbone, library, options.workers, progress)
            return publishing.take(library, refused, job, options, progress, started)
        log, key = Recorded(progress), job.key
        if options.finetune == "none":
            fitted = job.fit(log, device, library.work(key))
        else:
            job, fitted = retrained.fit(job, library, device, library.work(key), options.workers, progress, log)
        report = publishing.publish(library, job, fitted, log.events, device, options, progress, started)
        library.drop_work(key)
        trimming.trim(library, progress)
    return report


def _held_out(parts: dict[Domain, Part], n_bits: int) -> frozenset[bytes]:
    source, target = parts.get("src"), parts.get("tgt")
    return held_out(source.digests, source.labels, n_bits, target.digests if target else ()) if source else frozenset()


def _ask_before_replacing(library: Library, given: list[Collection], options: TrainOptions) -> None:
    """A library is about some folders; learning from quite other ones is refused unless the user means it."""
    current = library.current()
    if current is None or options.replace or options.no_index:
        return
    with current.gallery() as gallery:
        roots, n_photos = [root.path for root in gallery.roots()], gallery.count()
    if not roots or any(os.path.commonpath([c.root, root]) in (c.root, root) for c in given for root in roots):
        return
    text = (
        f"the library's hasher was learned from other folders ({', '.join(map(escape, roots[:3]))}); "
        f"one learned from {' and '.join(escape(c.root) for c in given)} would replace it "
        f"(its {n_photos:,} photos stay searchable, `hashcli library rollback` goes back)"
    )
    if options.confirm is None or not options.confirm(f"{text}. Replace it?"):
        raise UsageError(text, "say --replace, or name another library: --library DIR")
