"""Which folders `index` looks through, and the roots that they are or lie in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hashcli.collection import real_folder
from hashcli.errors import UsageError
from hashcli.roots import Roots, inside

if TYPE_CHECKING:
    from hashcli.collection import LabelTable
    from hashcli.gallery import Gallery
    from hashcli.records import Domain, Root
    from hashcli.walking import WalkOptions


@dataclass(frozen=True)
class Target:
    """A folder to look through, and the root that it is or lies in."""

    path: bytes
    root: Root


def choose(
    gallery: Gallery,
    folders: Sequence[Path],
    domain: Domain | None,
    table: LabelTable | None,
    options: WalkOptions,
) -> tuple[list[Target], list[bytes]]:
    """The folders to look through, deepest first, and the known ones that are not there now.

    folders    none: all known roots. New ones are added to the gallery's roots
    domain     of the folders (default: what it was; for new ones that of the root around them, else `tgt`)
    table      gives the labels of their photos, and not their subfolders
    options    which of their photos the table has to fit

    Raises UsageError for folders that cannot be, or when there is none, and for a table that fits none of their photos;
    nothing is then added.
    """
    known = {root.path: root for root in gallery.roots()}
    if not folders and not known:
        raise UsageError("the library knows no folders yet", "name one: hashcli index DIR")
    paths = [os.path.realpath(os.fsencode(folder)) for folder in folders]
    for path, folder in zip(paths, folders, strict=True):
        if path not in known:
            real_folder(folder, "index")
    # one that is not there and whose photos were all forgotten is no news
    paths = paths or [path for path, root in known.items() if os.path.isdir(path) or _has_photos(gallery, root)]
    missing = [path for path in dict.fromkeys(paths) if path in known and not os.path.isdir(path)]
    wanted = [path for path in dict.fromkeys(paths) if path not in missing]
    if table and wanted:
        table.check_fits(wanted, options)
    roots = Roots(gallery)
    for path in wanted:
        root = roots.of_folder(path)
        if root is None or domain not in (None, root.domain):
            gallery.add_root(path, domain or "tgt", not table and (path not in known or known[path].by_folder))
        elif table and path == root.path:
            gallery.set_root(replace(root, by_folder=False))
    roots = Roots(gallery)
    targets = [Target(path, root) for path in wanted if (root := roots.of_folder(path))]
    return sorted(targets, key=lambda target: len(target.path), reverse=True), missing


def _has_photos(gallery: Gallery, root: Root) -> bool:
    return any(True for _ in gallery.slots_by_path(root.id))


def nearest(targets: Sequence[Target], full: bytes) -> Target | None:
    """Of the targets, deepest first, the one that an absolute path belongs to; None outside all."""
    return next((target for target in targets if inside(full, target.path)), None)
