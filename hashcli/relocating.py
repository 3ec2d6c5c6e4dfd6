"""relocate(): folders that were moved as a whole keep their photos' codes, and no photo is read again."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hashcli.collection import real_folder
from hashcli.errors import UsageError
from hashcli.photos import PhotoError, PhotoFile, escape, stat_photo
from hashcli.progress import Progress
from hashcli.roots import inside

if TYPE_CHECKING:
    from hashcli.generation import Generation
    from hashcli.library import Library
    from hashcli.records import Root


@dataclass(frozen=True)
class Relocated:
    """How many folders moved, how many photos they hold, and how many of these are in the new place as they were."""

    n_folders: int
    n_photos: int
    n_as_before: int


def relocate(library: Library, old: Path, new: Path, progress: Progress) -> Relocated:
    """Tell the library that the folder `old`, with all indexed folders in it, now lies at `new`.

    Photos that have size and time of change as before are taken for the same; `index` reads the others again. All
    generations follow, so that `rollback` still works. Raises UsageError when `old` is no indexed folder, `new` is
    one already or holds none of the photos, NoLibraryError, LockedError.
    """
    before, now = os.path.abspath(os.fsencode(old.expanduser())), real_folder(new.expanduser(), "NEW")
    with library.writing():
        current = library.require()
        with current.gallery() as gallery:
            roots = gallery.roots()
        moved = [root for root in roots if root.path == before or inside(root.path, before)]
        _check(roots, moved, before, now)
        n_photos, there = _photos(current, {root.id: _moved(root, before, now) for root in moved}, progress)
        if n_photos and not there:
            raise UsageError(
                f"none of the {n_photos:,} photos of {escape(before)} is in {escape(now)}",
                "name the folder that the photos lie in as they did before",
            )
        for generation in library.generations():
            if generation.has_gallery:
                with generation.gallery(write=True) as gallery:
                    for root in gallery.roots():
                        if root.path == before or inside(root.path, before):
                            gallery.set_root(replace(root, path=_moved(root, before, now)))
        with library.identity() as identity:
            identity.put(there)
    return Relocated(len(moved), n_photos, len(there))


def _check(roots: list[Root], moved: list[Root], before: bytes, now: bytes) -> None:
    if not moved:
        around = [root for root in roots if inside(before, root.path)]
        known = ", ".join(escape(root.path) for root in roots)
        raise UsageError(
            f"{escape(before)} is no folder that was indexed",
            f"`hashcli index` finds photos that moved inside {escape(around[0].path)}" if around else f"known: {known}",
        )
    taken = {root.path for root in roots} - {root.path for root in moved}
    for root in moved:
        if _moved(root, before, now) in taken:
            forget = f"hashcli index {shlex.quote(escape(before))} --prune --yes"
            raise UsageError(
                f"{escape(_moved(root, before, now))} is indexed already",
                "`hashcli index` looks there"
                if os.path.isdir(before)
                else f"to forget {escape(before)}: make an empty folder there, then {forget}",
            )


def _moved(root: Root, before: bytes, now: bytes) -> bytes:
    return now + root.path[len(before) :]


def _photos(
    generation: Generation, roots: dict[int, bytes], progress: Progress
) -> tuple[int, list[tuple[PhotoFile, bytes]]]:
    """How many photos the moved roots have, and those that lie in the new place as they were, with their digests."""
    n_photos, there = 0, []
    with generation.gallery() as gallery, progress.task("looking at photos", gallery.count()) as task:
        for _, record in gallery.scan():
            task.advance()
            if record.root not in roots:
                continue
            n_photos += 1
            folder = roots[record.root]
            try:
                file = stat_photo(os.path.join(folder, record.path), folder)
            except PhotoError:
                continue
            if (file.size, file.mtime_ns) == (record.size, record.mtime_ns):
                there.append((file, record.digest))
    return n_photos, there
