"""`hashcli index`: keep the gallery current, once or for as long as it runs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hashcli import cli_options as opt
from hashcli import cli_output as output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hashcli.indexing import IndexReport
    from hashcli.talk import Talk


def index(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="DIR", help="Folders to look at. Default: all that are indexed.")
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Forget photos that are gone from these folders.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --prune: also where a large part of a folder is gone.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until Ctrl-C: index again whenever something changes there.")
    ] = False,
    domain: opt.Domain = None,
    labels: opt.Labels = None,
    include: opt.Include = None,
    exclude: opt.Exclude = None,
    hidden: opt.Hidden = False,
    follow_symlinks: opt.FollowSymlinks = False,
    device: opt.Device = "auto",
    workers: opt.Workers = None,
    report: opt.Report = None,
    library: opt.Library = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Index new, changed and moved photos.

    What is known already is not read again. Photos that are gone stay in the index until --prune.
    """
    from hashcli import indexing, watching
    from hashcli.walking import WalkOptions

    output.check_report(report)
    talk = output.talk(quiet, verbose)
    opened = output.opened(library)

    named = folders or ()

    def run(some: Sequence[Path]) -> None:
        done = indexing.index(
            opened,
            some,
            domain=domain if some == named else None,  # a folder that changed has one already
            prune=prune,
            yes=yes,
            labels=labels,
            options=WalkOptions(tuple(include or ()), tuple(exclude or ()), hidden, follow_symlinks),
            workers=workers,
            device=device,
            progress=talk,
        )
        _summarize(done, prune, talk)
        output.finish([*done.failed, *done.lost], report, talk)

    def run_again(some: Sequence[Path]) -> None:
        with suppress(typer.Exit):  # photos that failed end no watch
            run(named if labels or include or exclude else some)  # which are about the folders that were named

    if watch:
        watching.watch(opened, named, run_again, talk, hidden)
    run(named)
    talk.say(f"next: {output.query_command(library)}")


def _summarize(done: IndexReport, prune: bool, talk: Talk) -> None:
    """Say what became of the photos, and what can be done about those that are gone."""
    from hashcli.photos import escape

    counts = [(done.added, "added"), (done.changed, "changed"), (done.moved, "moved"), (done.pruned, "pruned")]
    counts += [(done.carried, "carried over"), (done.unchanged, "as before")]
    talk.say(f"photos: {', '.join(f'{n:,} {what}' for n, what in counts if n) or 'none found'}")
    if done.gone > done.pruned and not prune:
        talk.say(f"{done.gone:,} are gone; `hashcli index --prune` forgets them")
    for path, vanished, total in done.held_back:
        talk.say(
            f"{vanished:,} of {total:,} photos in {escape(path)} are gone, too many to forget unasked: --prune --yes"
        )
