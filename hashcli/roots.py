"""Which folder a photo belongs to, where indexed folders lie in one another: the deepest that contains it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from hashcli.seals import damaged

if TYPE_CHECKING:
    from hashcli.gallery import Gallery
    from hashcli.records import Domain, Record, Root


def inside(full: bytes, folder: bytes) -> bool:
    """Whether the absolute path lies below the folder."""
    return full.startswith(folder.rstrip(b"/") + b"/") and full != folder


def deepest(roots: Iterable[Root], full: bytes) -> Root | None:
    """Of the roots around an absolute path the deepest: the one that a photo there belongs to; None outside all."""
    around = [root for root in roots if inside(full, root.path)]
    return max(around, key=lambda root: len(root.path), default=None)


def domain_of(roots: Iterable[Root], full: bytes) -> Domain:
    """The domain of a photo at an absolute path: that of the root it belongs to, `tgt` outside all."""
    root = deepest(roots, full)
    return root.domain if root else "tgt"


def relative(full: bytes, folder: bytes) -> bytes:
    """The path below the folder, which must contain it."""
    return full[len(folder.rstrip(b"/")) + 1 :]


class Roots:
    """The roots of an open gallery, deepest first, and its photos by absolute path."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._roots: list[Root] = sorted(gallery.roots(), key=lambda root: len(root.path), reverse=True)
        self._by_id = {root.id: root for root in self._roots}

    def __iter__(self) -> Iterator[Root]:
        return iter(self._roots)

    def __getitem__(self, number: int) -> Root:
        """The root of a record. Raises DamagedError for one that the gallery does not know."""
        if number not in self._by_id:
            raise damaged("the list of roots", f"photos belong to root {number}, which is not known")
        return self._by_id[number]

    def owner(self, full: bytes) -> Root | None:
        """The root that a photo at this path belongs to; None outside all roots."""
        return deepest(self._roots, full)

    def of_folder(self, folder: bytes) -> Root | None:
        """The root that a folder is or lies in; None outside all roots."""
        return next((root for root in self._roots if root.path == folder), None) or self.owner(folder)

    def slot_of(self, full: bytes) -> int | None:
        """The slot of the photo at this path, under whichever root it was indexed."""
        for root in self._roots:
            if inside(full, root.path):
                slot = self._gallery.slot_of(root.id, relative(full, root.path))
                if slot is not None:
                    return slot
        return None

    def full(self, record: Record) -> bytes:
        """The record's absolute path."""
        return os.path.join(self[record.root].path, record.path)
