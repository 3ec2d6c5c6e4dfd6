"""`hashcli adapt` and `hashcli train`: photos -> a hasher and its gallery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hashcli import cli_options as opt
from hashcli import cli_output as output

if TYPE_CHECKING:
    from hashcli.publishing import TrainReport
    from hashcli.talk import Talk


def adapt(
    src: Annotated[Path, typer.Option("--src", metavar="DIR", help="Labeled photos, each class in its own subfolder.")],
    tgt: Annotated[Path, typer.Option("--tgt", metavar="DIR", help="Your own photos, without labels.")],
    method: opt.Method = "couple",
    bits: opt.Bits = 64,
    backbone: opt.Backbone = None,
    settings: opt.Settings = None,
    labels: opt.Labels = None,
    captions_file: opt.CaptionsFile = None,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    finetune: opt.Finetune = "none",
    include: opt.Include = None,
    exclude: opt.Exclude = None,
    hidden: opt.Hidden = False,
    follow_symlinks: opt.FollowSymlinks = False,
    workers: opt.Workers = None,
    no_index: opt.NoIndex = False,
    replace: opt.Replace = False,
    force: opt.Force = False,
    no_hold_out: opt.NoHoldOut = False,
    restart: opt.Restart = False,
    report: opt.Report = None,
    library: opt.Library = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Learn from labeled photos how to search your own.

    What the labels of --src teach is carried over to the photos of --tgt, which need no labels. Both folders are
    indexed: go on with `hashcli query PHOTO`.
    """
    from hashcli import backbones, training
    from hashcli.walking import WalkOptions

    output.check_report(report)
    options = training.TrainOptions(
        method=method,
        n_bits=bits,
        backbone=backbone or backbones.DEFAULT,
        settings=tuple(settings or ()),
        device=device,
        seed=seed,
        finetune=finetune,
        labels=labels,
        captions=captions_file,
        workers=workers,
        no_index=no_index,
        replace=replace,
        force=force,
        hold_out=not no_hold_out,
        restart=restart,
        walk=WalkOptions(tuple(include or ()), tuple(exclude or ()), hidden, follow_symlinks),
        confirm=output.confirmation(),
    )
    talk = output.talk(quiet, verbose)
    with output.reporting(report):
        learned = training.adapt(output.writable(library), src, tgt, options, talk)
    _summarize(learned, library, talk)
    output.finish(learned.failures, report, talk)


def train(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The photos to learn from and to index.")],
    method: opt.OptionalMethod = None,
    bits: opt.Bits = 64,
    backbone: opt.Backbone = None,
    settings: opt.Settings = None,
    labels: opt.Labels = None,
    captions_file: opt.CaptionsFile = None,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    finetune: opt.Finetune = "none",
    include: opt.Include = None,
    exclude: opt.Exclude = None,
    hidden: opt.Hidden = False,
    follow_symlinks: opt.FollowSymlinks = False,
    workers: opt.Workers = None,
    no_index: opt.NoIndex = False,
    replace: opt.Replace = False,
    force: opt.Force = False,
    no_hold_out: opt.NoHoldOut = False,
    restart: opt.Restart = False,
    report: opt.Report = None,
    library: opt.Library = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Learn from one collection, and index it.

    Captions let words find photos: a text file beside each photo (photo.jpg.txt), a table, or keywords inside.
    """
    from hashcli import backbones, training
    from hashcli.walking import WalkOptions

    output.check_report(report)
    options = training.TrainOptions(
        method=method or "",
        n_bits=bits,
        backbone=backbone or backbones.DEFAULT,
        settings=tuple(settings or ()),
        device=device,
        seed=seed,
        finetune=finetune,
        labels=labels,
        captions=captions_file,
        workers=workers,
        no_index=no_index,
        replace=replace,
        force=force,
        hold_out=not no_hold_out,
        restart=restart,
        walk=WalkOptions(tuple(include or ()), tuple(exclude or ()), hidden, follow_symlinks),
        confirm=output.confirmation(),
    )
    talk = output.talk(quiet, verbose)
    with output.reporting(report):
        learned = training.train(output.writable(library), folder, options, talk)
    _summarize(learned, library, talk)
    output.finish(learned.failures, report, talk)


def _summarize(learned: TrainReport, library: Path | None, talk: Talk) -> None:
    """Say what was learned, what is indexed, and what to type next."""
    from hashcli.talk import duration

    photos = []
    held = f" ({learned.n_held_out:,} more held out)" if learned.n_held_out else ""
    if learned.n_source:
        photos.append(f"{learned.n_source:,} labeled photos of {learned.n_classes:,} classes{held}")
    if learned.n_target:
        photos.append(f"{learned.n_target:,} photos without labels")
    talk.say(
        f"{learned.method} learned codes of {learned.n_bits} bits from {' and '.join(photos)} "
        f"in {duration(learned.seconds)}"
    )
    if learned.staged:
        talk.say(f"put aside as {learned.generation}; `hashcli index` completes it and takes it into use")
        return
    carried = f", {learned.n_carried:,} of them from before" if learned.n_carried else ""
    talk.say(f"{learned.n_indexed + learned.n_carried:,} photos can be searched{carried}")
    talk.say(f"next: {output.query_command(library)}")
