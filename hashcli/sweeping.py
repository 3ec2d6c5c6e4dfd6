"""Which photos of the gallery have no file any more, and which only seem so."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hashcli.roots import Roots
from hashcli.targets import Target, nearest

if TYPE_CHECKING:
    from hashcli.gallery import Gallery

VANISHED = 0.3  # share of a root's photos beyond which pruning them needs a second word


def all_met(gallery: Gallery, roots: Roots, targets: Sequence[Target], n_met: int) -> bool:
    """Whether the photos met are as many as the gallery holds of the targets: then none is gone.

    False where counting them would take as long as looking at each.
    """
    if n_met == gallery.count():
        return True
    if any(target.path != target.root.path for target in targets):
        return False  # a part of a root
    looked_through = [root for root in roots if nearest(targets, os.path.join(root.path, b"*"))]
    return n_met == sum(1 for root in looked_through for _ in gallery.slots_by_path(root.id))


def gone(
    gallery: Gallery, roots: Roots, targets: Sequence[Target], met: Sequence[int]
) -> tuple[Counter[bytes], dict[bytes, list[int]]]:
    """How many photos each place has, and the slots there whose files are gone.

    A place is a target or a root below one, because these may be disks of their own; a root that is missing is left
    out. `met`: by slot, whether this run met the photo; slots beyond are its own.
    """
    there = {root.id: os.path.isdir(root.path) for root in roots}
    total: Counter[bytes] = Counter()
    found: dict[bytes, list[int]] = {}
    for slot, record in gallery.scan():
        full = roots.full(record)
        target = nearest(targets, full)
        if target is None or not there[record.root]:
            continue
        where = max(target.path, roots[record.root].path, key=len)
        total[where] += 1
        if slot < len(met) and not met[slot] and is_gone(full):
            found.setdefault(where, []).append(slot)
    return total, found


def is_gone(full: bytes) -> bool:
    """Whether there is surely no file; one that may not be looked at is not gone."""
    try:
        os.lstat(full)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def is_filled(folder: bytes) -> bool:
    """Whether the folder is there with something in it: an unplugged disk may leave an empty one."""
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False
