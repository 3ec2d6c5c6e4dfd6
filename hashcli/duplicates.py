"""Near-duplicates among results: of photos that show the same picture, only the first is kept.

Codes alone do not tell copies from look-alikes, because learned codes collapse to few per class; features alone
cost more to compare. A resized, recompressed, brightened or slightly cropped copy keeps a feature cosine above 0.97
as a rule, different pictures stay below it (measured on 256-pixel drawings and on scanned digits).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hashcli import codes
from hashcli.codes import Packed
from hashcli.progress import Progress
from hashcli.ranking import cached_features, cosines_to
from hashcli.roots import Roots

if TYPE_CHECKING:
    from hashcli.features import FeatureCache
    from hashcli.gallery import Gallery

MIN_COSINE = 0.97
DISTANCE_SHARE = 8  # codes of near-duplicates differ in at most an eighth of their bits


def different(
    paths: Sequence[bytes],
    gallery: Gallery,
    roots: Roots,
    cache: FeatureCache | None,
    progress: Progress,
    *,
    top: int | None,
    compared: int,
) -> tuple[list[int], int]:
    """Which of the found photos at `paths`, all of them indexed, are kept, and how many are folded, as by `fold`.

    Only the first `compared` are compared by look, as in the search that found them; the others are kept.
    """
    slots = [slot for path in paths if (slot := roots.slot_of(path)) is not None]
    features = cached_features(cache, [record.digest for record in gallery.records(slots[:compared])], progress)
    return fold(gallery.codes(slots), features + [None] * len(slots[compared:]), top)


def fold(packed: Packed, features: Sequence[NDArray[np.float16] | None], top: int | None) -> tuple[list[int], int]:
    """Which of the results, in their order, are kept, at most `top`, and how many before the last of them are folded.

    packed (n, n_bits // 8) and features, each (d,), are the results'; one whose feature is not known is kept. A
    result is folded that is near an earlier kept one: both code distance and feature cosine must say so.
    """
    reach = 8 * packed.shape[1] // DISTANCE_SHARE
    kept: list[int] = []
    for i, feature in enumerate(features):
        if top is not None and len(kept) == top:
            return kept, kept[-1] + 1 - len(kept)
        if feature is None or not _is_near(packed[i], feature, packed, features, kept, reach):
            kept.append(i)
    return kept, len(features) - len(kept)


def _is_near(
    code: NDArray[np.uint8],
    feature: NDArray[np.float16],
    packed: Packed,
    features: Sequence[NDArray[np.float16] | None],
    kept: Sequence[int],
    reach: int,
) -> bool:
    if not kept:
        return False
    near = np.flatnonzero(codes.distances(code[None], packed[kept])[0] <= reach).tolist()
    others = [other for i in near if (other := features[kept[i]]) is not None]
    if not others:
        return False
    return bool((cosines_to(feature.astype(np.float32), np.array(others, np.float32)) >= MIN_COSINE).any())
