"""The end of fine-tuning: the backbone becomes a file of its own, and everything is read anew with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from hashcli import backbones
from hashcli.parts import read_part

if TYPE_CHECKING:
    from pathlib import Path

    from hashcli.architectures import Backbone
    from hashcli.backbones import ExportedBackbone
    from hashcli.fitting import FittedHasher
    from hashcli.jobs import Means, TrainingJob
    from hashcli.library import Library
    from hashcli.method import Tuning
    from hashcli.progress import Progress


def fit(
    job: TrainingJob,
    library: Library,
    device: str,
    folder: Path,
    workers: int | None,
    progress: Progress,
    log: Progress,
) -> tuple[TrainingJob, FittedHasher]:
    """Train backbone and head; the job as it would have been with that backbone, and what was fitted.

    `folder` keeps the checkpoint and the backbone; `log` takes the events of training. Raises what
    `fitting.fit_method` raises, and MachineError when the backbone cannot be exported.
    """
    from hashcli.architectures import build
    from hashcli.network import fit_input_norm

    backbone = build(job.backbone.spec.name, progress)
    fitted = job.fit(log, device, folder, _tune(job, backbone))
    spec = job.backbone.spec
    exported = backbones.export(backbone, f"{backbones.TUNED}:{spec.name}", spec.fit, folder / "backbone")
    job = again(job, exported, library, workers, progress)
    source = job.labeled.features if "src" in job.parts else None
    target = job.parts["tgt"].features if "tgt" in job.parts else None
    return job, replace(fitted, means=fit_input_norm(source, target, fitted.method.centering))


def again(
    job: TrainingJob, backbone: ExportedBackbone, library: Library, workers: int | None, progress: Progress
) -> TrainingJob:
    """The job with the backbone that came of it, and its photos as that one sees them."""
    progress.say("reading the photos again with the fine-tuned backbone")
    parts = {d: read_part(part.collection, backbone, library, workers, progress) for d, part in job.parts.items()}
    return replace(job, backbone=backbone, parts=parts, pretrained=job.backbone)


def _tune(job: TrainingJob, backbone: Backbone) -> Callable[[Means], Tuning]:
    from hashcli.finetuning import Tuning

    return partial(Tuning, job.finetune, backbone, job.photos)
