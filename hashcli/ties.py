"""Search where the last distance is shared by more photos than fit: those with the smallest paths are taken.

The gallery itself would take those in the lowest slots, and slots tell of the order of indexing alone.
"""

from __future__ import annotations

import heapq
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hashcli.codes import Packed
    from hashcli.roots import Roots
    from hashcli.scan import Ints
    from hashcli.store import Store

RECORDS_AT_ONCE = 4096
PATHS_PER_RECORD = 6  # entries of the index of paths that are read in the time of one record


def nearest_by_path(
    gallery: Store, roots: Roots, packed: Packed, k: int | None, radius: int | None
) -> list[tuple[Ints, Ints]]:
    """As `Store.search`, but of equally distant photos the first in the order of path bytes; call it in a snapshot.

    A query whose `k`-th distance is shared costs one more pass over the codes, and a look at the paths of all
    photos at that distance (once for queries with equal codes).
    """
    if k is None:
        return gallery.search(packed, None, radius)
    ties: dict[tuple[bytes, int], Ints] = {}
    results = []
    for code, (slots, distances) in zip(packed, gallery.search(packed, k + 1, radius), strict=True):
        if len(slots) > k and distances[k] == distances[k - 1]:
            last = int(distances[k])
            nearer = int(np.searchsorted(distances, last))
            tie = (code.tobytes(), last)
            if tie not in ties:
                ((within, how_far),) = gallery.search(code[None], None, last)
                ties[tie] = _first_by_path(gallery, roots, within[how_far == last], k - nearer)
            slots = np.concatenate([slots[:nearer], ties[tie]])
        results.append((slots[:k], distances[:k]))
    return results


def _first_by_path(gallery: Store, roots: Roots, slots: Ints, n: int) -> Ints:
    """The `n` slots with the smallest paths; only a block of records, and `n` paths, are held at once.

    Never much more work than to go over the paths of the whole gallery once, a second per million photos or two.
    """
    if len(slots) * PATHS_PER_RECORD > gallery.count():
        slots = _candidates(gallery, roots, slots, n)
    first: list[tuple[bytes, int]] = []
    for start in range(0, len(slots), RECORDS_AT_ONCE):
        some = slots[start : start + RECORDS_AT_ONCE]
        paths = map(roots.full, gallery.records(some))
        first = heapq.nsmallest(n, [*first, *zip(paths, some.tolist(), strict=True)])
    return np.array([slot for _, slot in first], np.int64)


def _candidates(gallery: Store, roots: Roots, slots: Ints, n: int) -> Ints:
    """Those of the slots that are among the first `n` of their root."""
    wanted = np.zeros(int(slots[-1]) + 1, bool)
    wanted[slots] = True
    found: list[int] = []
    for root in roots:
        here = (slot for slot in gallery.slots_by_path(root.id) if slot < len(wanted) and wanted[slot])
        found += islice(here, n)
    return np.array(sorted(found), np.int64)
