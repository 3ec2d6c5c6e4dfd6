"""`hashcli library ...`: look at the library, check and mend it, go back, take its hasher elsewhere, drop caches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hashcli import cli_options as opt
from hashcli import cli_output as output
from hashcli.errors import DamagedError, UsageError
from hashcli.seals import REPAIR

if TYPE_CHECKING:
    from hashcli.formats import Row

app = typer.Typer(help="Look at the library, mend it, go back, move it, clean up.", no_args_is_help=True)


@app.command()
def info(
    library: opt.Library = None,
    form: opt.TableFormat = None,
    header: opt.Header = False,
) -> None:
    """Show what the library holds, and what searches it.

    Sizes are in bytes. The kernel is the fastest that this processor runs (`c-...`), or numpy where none was built.
    """
    import os

    from hashcli import inventory, scan

    found = inventory.take(output.opened(library))
    missing = {root.id for root in found.missing}
    blank = (None,) * 6
    rows: list[Row] = [("library", os.fsencode(found.folder), None, *blank, found.size)]
    for g in found.generations:
        state = "in use" if g.current else g.state
        about = (g.photos, g.method, g.n_bits, g.backbone, g.seed, g.created)
        rows.append(("generation", g.name, state, *about, g.size))
    for root in found.roots:
        state = f"{root.domain}, missing" if root.id in missing else root.domain
        rows.append(("folder", root.path, state, *blank, None))
    rows.append(("cached features", None, None, *blank, found.feature_size))
    rows.append(("stopped runs", None, None, *blank, found.work_size))
    rows.append(("search kernel", scan.kernel(), None, *blank, None))
    columns = ("item", "name", "state", "photos", "method", "bits", "backbone", "seed", "created", "bytes")
    output.show(columns, rows, form, header=header)


@app.command()
def rollback(library: opt.Library = None, quiet: opt.Quiet = False) -> None:
    """Search with the previous hasher and gallery again.

    A second rollback undoes the first.
    """
    from hashcli.talk import Talk

    opened = output.opened(library)
    with opened.writing():
        current = opened.rollback()
    Talk(quiet).say(f"{current.name}, made {current.created}, is in use again")


@app.command()
def verify(
    library: opt.Library = None,
    form: opt.TableFormat = None,
    header: opt.Header = False,
    quiet: opt.Quiet = False,
) -> None:
    """Read every byte, and list what is damaged.

    Of hashers, galleries and caches. Exits with 4 when something is. Nothing is changed.
    """
    from hashcli import verifying

    talk = output.talk(quiet, verbose=False)
    found = verifying.verify(output.opened(library), talk)
    if not found:
        talk.say("all is as it was written")
        return
    rows: list[Row] = [(finding.item, finding.path, finding.problem) for finding in found]
    output.show(("item", "path", "problem"), rows, form, header=header)
    raise DamagedError(f"the library is damaged: {len(found)} problems found", REPAIR)


@app.command()
def repair(library: opt.Library = None, report: opt.Report = None, quiet: opt.Quiet = False) -> None:
    """Rebuild what is damaged from what can still be read.

    Photos that are lost to search come back with `hashcli index`.
    """
    from hashcli import repairing

    output.check_report(report)
    talk = output.talk(quiet, verbose=False)
    repaired = repairing.repair(output.located(library), talk)
    for line in repaired.done or ([] if repaired.left else ["nothing is damaged"]):
        talk.say(line)
    lost = len(repaired.lost) + repaired.nameless
    if lost:
        talk.say(f"up to {lost:,} photos are no longer found; `hashcli index` reads those that are still there")
    if repaired.left:
        raise DamagedError("; ".join(repaired.left), "`hashcli library rollback` goes back, or train a new hasher")
    output.finish(repaired.lost, report, talk)


@app.command()
def relocate(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Where a folder of photos was when it was indexed.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Where it is now.")],
    library: opt.Library = None,
    quiet: opt.Quiet = False,
) -> None:
    """Tell the library that a folder of photos has moved.

    Codes are kept, and photos that are as before in the new place are not read again.
    """
    from hashcli import relocating

    talk = output.talk(quiet, verbose=False)
    done = relocating.relocate(output.opened(library), old, new, talk)
    talk.say(f"{done.n_photos:,} photos are now looked for in {output.shown(new)}")
    if others := done.n_photos - done.n_as_before:
        talk.say(f"{others:,} of them are not there as they were; next: hashcli index")


@app.command("export")
def export_hasher(
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="Where to write it.")],
    library: opt.Library = None,
    quiet: opt.Quiet = False,
) -> None:
    """Write the hasher in use to a file, for another machine.

    No photo goes with it, and no gallery.
    """
    from hashcli import hasher_transfer
    from hashcli.talk import Talk

    if file.exists():
        raise UsageError(f"{output.shown(file)} exists already", "name a file that does not exist yet")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {output.shown(file.parent)} to write to")
    hasher_transfer.export(output.opened(library).require().hasher, file)
    Talk(quiet).say(f"written; on the other machine: hashcli library import {output.shown(file)}")


@app.command("import")
def import_hasher(
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="What `hashcli library export` wrote.")],
    library: opt.Library = None,
    quiet: opt.Quiet = False,
) -> None:
    """Take a hasher from another machine.

    Search stays as it is until `hashcli index` has indexed your photos with the new hasher.
    """
    from hashcli import hasher_transfer
    from hashcli.gallery import Gallery
    from hashcli.talk import Talk

    if not file.is_file():
        raise UsageError(f"there is no file {output.shown(file)}", "name what `hashcli library export` wrote")
    opened = output.writable(library)
    with opened.writing(), opened.new_generation() as building:
        hasher = hasher_transfer.import_from(file, building.hasher_folder)
        Gallery.create(building.gallery_folder, hasher.n_bits, hasher.digest).close()
        opened.publish(building, "staged", Talk(quiet))
    folders = "" if opened.current() else " DIR"
    Talk(quiet).say(f"imported a {hasher.method} hasher of {hasher.n_bits} bits; next: hashcli index{folders}")


@app.command()
def clean(
    features: Annotated[
        bool, typer.Option("--features", help="Drop cached features; photos are then read again when needed.")
    ] = False,
    work: Annotated[bool, typer.Option("--work", help="Drop what stopped runs left to go on from.")] = False,
    library: opt.Library = None,
    quiet: opt.Quiet = False,
) -> None:
    """Drop caches. Hashers, galleries and photos are never touched."""
    import shutil

    from hashcli.durable import disk_usage
    from hashcli.talk import Talk

    chosen = [name for name, wanted in (("features", features), ("work", work)) if wanted]
    if not chosen:
        raise UsageError("nothing was chosen to be dropped", "hashcli library clean --features, or --work, or both")
    opened = output.opened(library)
    with opened.writing():
        folders = [opened.folder / name for name in chosen if (opened.folder / name).exists()]
        freed = sum(disk_usage(folder) for folder in folders)
        if features:
            opened.drop_features()
        if work and (opened.folder / "work").exists():
            shutil.rmtree(opened.folder / "work")
    Talk(quiet).say(f"{_megabytes(freed)} freed")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
