"""The end of training: a fitted job becomes a generation in use, a staged one, or a refused one."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hashcli import carrying
from hashcli.errors import RefusedError
from hashcli.extraction import PhotoFailure
from hashcli.judging import judge

if TYPE_CHECKING:
    from pathlib import Path

    from hashcli.carrying import Filled
    from hashcli.fitting import FittedHasher
    from hashcli.generation import Generation
    from hashcli.jobs import TrainingJob
    from hashcli.library import Library
    from hashcli.progress import Event, Progress
    from hashcli.training import TrainOptions


@dataclass(frozen=True)
class TrainReport:
    """What adapt or train did."""

    generation: str
    method: str
    n_bits: int
    n_source: int
    n_target: int
    n_classes: int
    n_held_out: int
    n_indexed: int
    n_carried: int
    staged: bool
    seconds: float
    failures: list[PhotoFailure] = field(default_factory=list)


def publish(
    library: Library,
    job: TrainingJob,
    fitted: FittedHasher,
    events: list[Event],
    device: str,
    options: TrainOptions,
    progress: Progress,
    started: float,
) -> TrainReport:
    """Say whether it helped, write the hasher, fill its gallery, take it into use.

    Raises RefusedError when it has collapsed and nobody insists on it: it is staged then.
    """
    helped = judge(job, fitted, library)
    for line in helped.lines():
        progress.say(line)
    refused = bool(helped.collapsed) and not options.force
    staged = options.no_index or refused
    with library.new_generation() as building:
        job.write_hasher(fitted, building.hasher_folder, events, device, helped)
        old = None if staged else library.current()
        filled = _filled(library, building.folder, job, old, options, progress)
        generation = library.publish(building, "staged" if staged else "complete", progress, refused)
    if refused:
        library.drop_work(job.key)
        raise _refusal(generation.name, helped.collapsed)
    return _report(job, generation, filled, options, started)


def refused_before(library: Library, job: TrainingJob, options: TrainOptions) -> Generation | None:
    """What this very job left when it was refused, if it is insisted on now; None where it has to be done.

    Raises RefusedError where nothing has changed since.
    """
    staged, current = library.staged(), library.current()
    if staged is None or not staged.refused or staged.hasher.training.get("job") != job.key:
        return None
    if options.force:
        return None if options.no_index else staged
    if staged.parent == (current.name if current else None):
        raise _refusal(staged.name, staged.hasher.training["helped"]["collapsed"])
    return None


def take(
    library: Library, refused: Generation, job: TrainingJob, options: TrainOptions, progress: Progress, started: float
) -> TrainReport:
    """Take into use what was refused, without training again."""
    progress.say(f"taking {refused.name}, which was refused, into use")
    if refused.has_gallery:
        shutil.rmtree(refused.folder / "gallery")  # photos may have moved since
    filled = _filled(library, refused.folder, job, library.current(), options, progress)
    return _report(job, library.complete(refused), filled, options, started)


def _refusal(name: str, reasons: list[str]) -> RefusedError:
    return RefusedError(
        f"the new hasher is refused: {'; '.join(reasons)}; it is put aside as {name}, and search stays as it was",
        "give it more or other photos, or another method; the same command with --force takes it as it is",
    )


def _filled(
    library: Library,
    folder: Path,
    job: TrainingJob,
    old: Generation | None,
    options: TrainOptions,
    progress: Progress,
) -> Filled:
    return carrying.fill(
        library,
        folder,
        job.backbone,
        job.given(library),
        roots=[(part.collection.root, domain) for domain, part in job.parts.items()],
        old=old,
        workers=options.workers,
        progress=progress,
    )


def _report(
    job: TrainingJob, generation: Generation, filled: Filled, options: TrainOptions, started: float
) -> TrainReport:
    return TrainReport(
        generation=generation.name,
        method=options.method,
        n_bits=options.n_bits,
        n_held_out=len(job.held) if job.held_out else 0,
        n_source=len(job.labeled) if "src" in job.parts else 0,
        n_target=len(job.parts["tgt"]) if "tgt" in job.parts else 0,
        n_classes=len(job.classes),
        n_indexed=filled.n_given,
        n_carried=filled.n_carried,
        staged=generation.state == "staged",
        seconds=time.monotonic() - started,
        failures=[failure for part in job.parts.values() for failure in part.failures] + filled.lost,
    )
