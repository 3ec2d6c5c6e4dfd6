"""Search where the last distance is shared by more photos than fit: those with the smallest paths are taken.

The gallery itself would take those in the lowest slots, and slots tell of the order of indexing alone.
"""

from __future__ import annotations

import heapq
import os
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hashcli.codes import Packed
    from hashcli.roots import Roots
    from hashcli.scan import Ints
    from hashcli.store import Store

PATHS_AT_ONCE = 4096
ENTRIES_PER_PATH = 4  # the index of paths is read for as many slots before their own paths are, entry by entry


def nearest_by_path(
    gallery: Store, roots: Roots, packed: Packed, k: int | None, radius: int | None, places: int | None = None
) -> list[tuple[Ints, Ints]]:
    """As `Store.search`, but of equally distant photos the first in the order of path bytes; call it in a snapshot.

    places   how many of the `k` are wanted in the end, nearest first: all that are farther than so many are left out

    A query whose `k`-th distance is shared costs one more pass over the codes, and at worst a look at the paths of
    all photos at that distance, once for all queries that share these photos.
    """
    if k is None:
        return gallery.search(packed, None, radius)
    known: dict[tuple[bytes, int], Ints] = {}
    results = []
    for code, (slots, distances) in zip(packed, gallery.search(packed, k + 1, radius), strict=True):
        if places is not None and len(slots) > places:
            n = int(np.searchsorted(distances, distances[places - 1], "right"))
            slots, distances = slots[:n], distances[:n]
        if len(slots) > k and distances[k] == distances[k - 1]:
            last = int(distances[k])
            nearer = int(np.searchsorted(distances, last))
            ((within, how_far),) = gallery.search(code[None], None, last)
            tied = within[how_far == last]
            tie = blake2b(tied.tobytes()).digest(), k - nearer
            if tie not in known:
                known[tie] = _first_by_path(gallery, roots, tied, k - nearer)
            slots = np.concatenate([slots[:nearer], known[tie]])
        results.append((slots[:k], distances[:k]))
    return results


def _first_by_path(gallery: Store, roots: Roots, slots: Ints, n: int) -> Ints:
    """The `n` slots with the smallest paths, in no order; never many more than `n` paths are held at once.

    Where the first in the index of paths are the ones, as among photos that are all alike, nothing else is read;
    else the paths of all the slots.
    """
    candidates = _first_in_index(gallery, roots, slots, n)
    if len(candidates) == n:
        return candidates
    folders = {root.id: os.path.join(root.path, b"") for root in roots}
    first: list[tuple[bytes, int]] = []
    for start in range(0, len(candidates), PATHS_AT_ONCE):
        some = candidates[start : start + PATHS_AT_ONCE]
        paths = [folders[root] + path for root, path in gallery.paths(some)]
        first = heapq.nsmallest(n, [*first, *zip(paths, some.tolist(), strict=True)])
    return np.array([slot for _, slot in first], np.int64)


def _first_in_index(gallery: Store, roots: Roots, slots: Ints, n: int) -> Ints:
    """Those of the slots that are among the first `n` of their root; all, where finding out would cost more."""
    wanted = bytearray(int(slots[-1]) + 1)
    np.frombuffer(wanted, np.uint8)[slots] = 1
    found: list[int] = []
    most = len(slots) // ENTRIES_PER_PATH
    for root in roots:
        of_root = 0
        for slot in gallery.slots_by_path(root.id):
            most -= 1
            if most < 0:
                return slots
            if slot < len(wanted) and wanted[slot]:
                found.append(slot)
                of_root += 1
                if of_root == n:
                    break
    return np.array(found, np.int64) if len(found) >= n else slots
