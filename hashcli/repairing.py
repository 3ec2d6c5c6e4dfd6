"""Rebuilding what can be rebuilt of a damaged library, from what can still be read of it.

A damaged gallery stays beside the one made from it until its generation is dropped, so nothing is lost by trying.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hashcli import caption_store, codes
from hashcli.carrying import Codes
from hashcli.durable import replace_file, sync, sync_tree
from hashcli.errors import DamagedError
from hashcli.extraction import PhotoFailure
from hashcli.features import FeatureCache
from hashcli.gallery import Gallery
from hashcli.generation import read_generation, write_json
from hashcli.generations import current_file
from hashcli.library import FORMAT, VERSION, Library
from hashcli.pages import structure
from hashcli.progress import Progress
from hashcli.verifying import feature_folders

if TYPE_CHECKING:
    from hashcli.generation import Generation
    from hashcli.hasher import Hasher

REBUILT, DAMAGED = "gallery.rebuilt", "gallery.damaged"


@dataclass
class Repaired:
    """What was done and what is left damaged, in words.

    lost      photos that search no longer finds
    nameless  slots of the galleries whose photos, if they held any, are not even known by name
    """

    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    lost: list[PhotoFailure] = field(default_factory=list)
    nameless: int = 0


def repair(folder: Path, progress: Progress) -> Repaired:
    """Mend the library in `folder`. Photos that are lost come back with `index`, if their files are there.

    A damaged hasher is left as it is: only training makes one. Raises NoLibraryError, NewerFormatError,
    LockedError, MachineError.
    """
    report = Repaired()
    library = _opened(folder, report)
    with library.writing():
        _mend_current(library, report)
        _mend_caches(library, report)
        generations = list(_with_hashers(library, report))
        with progress.task("checking galleries", len(generations)) as task:
            for generation in generations:
                problems = _gallery_problems(generation)
                if problems:
                    progress.say(f"the gallery of {generation.name} is damaged: {problems[0]}")
                    _rebuild(library, generation, report)
                _mend_captions(generation, report)
                task.advance()
    return report


def _mend_captions(generation: Generation, report: Repaired) -> None:
    try:
        caption_store.read(generation.folder, generation.hasher)
    except DamagedError:
        (generation.folder / caption_store.FILE).unlink()
        report.done.append(f"dropped the damaged captions of {generation.name}; `hashcli index` reads them again")


def _opened(folder: Path, report: Repaired) -> Library:
    try:
        return Library.open(folder)
    except DamagedError:
        if not (folder / "generations").is_dir():
            raise
        write_json(folder / "library.json", {"format": FORMAT, "version": VERSION})
        report.done.append("wrote library.json anew")
        return Library.open(folder)


def _mend_current(library: Library, report: Repaired) -> None:
    """See that `current` names a generation that is there, and set aside those that cannot be told."""
    for folder in sorted((library.folder / "generations").glob("g*")):
        try:
            read_generation(folder)
        except (DamagedError, FileNotFoundError):
            _set_aside(library, folder, report)
    try:
        if library.current() is not None:
            return
    except DamagedError:
        (library.folder / "current").unlink()
    complete = [g.name for g in library.generations() if g.state == "complete"]
    if complete:
        replace_file(library.folder / "current", current_file(complete[-1]))
        report.done.append(f"took {complete[-1]} into use")


def _with_hashers(library: Library, report: Repaired) -> Iterator[Generation]:
    """The generations whose hasher is whole. Of the others the one in use is left, as only the user can replace it."""
    current = library.current()
    for generation in library.generations():
        try:
            generation.hasher.verify()
        except DamagedError as error:
            if current is not None and generation.name == current.name:
                report.left.append(f"the hasher in use: {error}")
            else:
                _set_aside(library, generation.folder, report)
        else:
            yield generation


def _set_aside(library: Library, folder: Path, report: Repaired) -> None:
    aside = library.work(f"damaged-{folder.name}")
    shutil.rmtree(aside)
    os.rename(folder, aside)
    report.done.append(f"set {folder.name} aside as {aside}; `hashcli library clean --work` drops it")


def _mend_caches(library: Library, report: Repaired) -> None:
    """What is damaged in a cache is dropped: it is made again from the photos when it is needed."""
    for folder in feature_folders(library.folder):
        try:
            if structure(folder / "index" / "data.mdb"):
                raise DamagedError("its index is damaged")
            with FeatureCache.kept(folder, write=True) as cache:
                damaged = cache.verify()
                if damaged:
                    cache.forget(damaged)
                    report.done.append(f"dropped {len(damaged)} damaged features")
        except DamagedError:
            shutil.rmtree(folder)
            report.done.append(f"dropped the damaged cache of features {folder.name}")
    identity = library.folder / "identity"
    if (identity / "data.mdb").exists() and structure(identity / "data.mdb"):
        shutil.rmtree(identity)
        report.done.append("dropped the damaged cache of what is known of files")


def _gallery_problems(generation: Generation) -> list[str]:
    if not generation.has_gallery:
        return [] if generation.state == "staged" else ["it is missing"]
    try:
        with generation.gallery() as gallery:
            return gallery.verify()
    except DamagedError as error:
        return [str(error)]


def _rebuild(library: Library, generation: Generation, report: Repaired) -> None:
    """Put a gallery in place of the damaged one that holds what can be read of it.

    Where it cannot even be opened, the photos of the newest other generation are taken, whose codes are made anew.
    """
    made = generation.folder / REBUILT
    shutil.rmtree(made, ignore_errors=True)
    others = [g for g in reversed(library.generations()) if g.name != generation.name]
    with Gallery.create(made, generation.hasher.n_bits, generation.hasher.digest) as fresh:
        for source in (generation, *others):
            try:
                with Gallery.open(source.folder / "gallery", older=True) as old:
                    _copy(library, old, fresh, generation.hasher, report)
                break
            except DamagedError as error:
                report.done.append(f"found nothing in the gallery of {source.name}: {error}")
        n_photos, n_roots = fresh.count(), len(fresh.roots())
    sync_tree(made)
    gallery, damaged = generation.folder / "gallery", generation.folder / DAMAGED
    if gallery.exists():
        shutil.rmtree(damaged, ignore_errors=True)
        os.rename(gallery, damaged)
    os.rename(made, gallery)
    sync(generation.folder)
    report.done.append(f"rebuilt the gallery of {generation.name}: {n_photos} photos saved")
    if not n_roots:
        report.done.append("its folders are not known any more: `hashcli index DIR` adds them again")


def _copy(library: Library, old: Gallery, fresh: Gallery, hasher: Hasher, report: Repaired) -> None:
    for root in old.readable_roots():
        fresh.set_root(root)
    paths = {root.id: root.path for root in fresh.roots()}
    encode = Codes(library, hasher)
    for part in old.salvage():
        report.nameless += part.unreadable + sum(r.root not in paths for r in (*part.records, *part.codeless))
        kept = [i for i, record in enumerate(part.records) if record.root in paths]
        records = [part.records[i] for i in kept]
        codeless = [record for record in part.codeless if record.root in paths]
        if old.hasher_digest == hasher.digest and records:
            fresh.append(records, codes.from_words(part.words[:, kept], hasher.n_bits))
        else:
            codeless += records
        with library.features(hasher.spec) as cache:
            rows = cache.rows([record.digest for record in codeless])
        found = np.flatnonzero(rows >= 0).tolist()
        if found:
            again = [codeless[i] for i in found]
            fresh.append(again, encode(rows[found].tolist(), [record.domain for record in again]))
        report.lost += [
            PhotoFailure(os.path.join(paths[r.root], r.path), "its code and its feature are lost")
            for r, row in zip(codeless, rows, strict=True)
            if row < 0
        ]
