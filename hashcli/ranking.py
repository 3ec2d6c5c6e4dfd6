"""From found slots to results in their final order.

Order: Hamming distance; then, among the nearest that were compared closely, cosine, because learned codes collapse
to few per class and ties are the rule; then path bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hashcli.errors import DamagedError
from hashcli.features import DamagedRows
from hashcli.progress import Progress
from hashcli.records import Domain, Record
from hashcli.seals import REPAIR

if TYPE_CHECKING:
    from hashcli.features import FeatureCache


@dataclass(frozen=True)
class Match:
    """One found photo.

    query       path of the photo, or the text, that was looked for
    rank        from 1 within its query
    distance    Hamming distance of the codes, in bits
    cosine      None where the photo was not compared closely, or its feature is not cached. Photos are compared by
                their features, with a text by their relaxed codes.
    similarity  the cosine where there is one, else that of the codes as vectors of -1 and 1
    path        absolute
    confidence  probability that the labels match, by distance (`calibration`); None where none was fitted
    """

    query: bytes
    rank: int
    distance: int
    similarity: float
    cosine: float | None
    path: bytes
    label: str | None
    domain: Domain
    confidence: float | None = None

    @property
    def file(self) -> Path:
        """`path` as Python's own libraries take it."""
        return Path(os.fsdecode(self.path))


def in_order(
    query: bytes,
    records: Sequence[Record],
    paths: Sequence[bytes],
    distances: NDArray[np.int64],
    cosines: Mapping[int, float | None],
    *,
    n_bits: int,
    top: int | None,
) -> list[Match]:
    """The first `top` matches of those whose places in `records`, `paths`, `distances` are the keys of `cosines`."""

    def order(i: int) -> tuple[int, bool, float, bytes]:
        cosine = cosines[i]
        return int(distances[i]), cosine is None, -(cosine or 0.0), paths[i]

    matches = []
    for rank, i in enumerate(sorted(cosines, key=order)[:top], 1):
        distance, cosine = int(distances[i]), cosines[i]
        similarity = 1 - 2 * distance / n_bits if cosine is None else cosine
        label, domain = records[i].label, records[i].domain
        matches.append(Match(query, rank, distance, similarity, cosine, paths[i], label, domain))
    return matches


def cosines_to(wanted: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines (n,) of rows (n, d) to `wanted` (d,)."""
    lengths = np.sqrt((rows**2).sum(1) * (wanted**2).sum())
    # row by row, not as a matrix product: equal photos must get equal cosines wherever they stand
    cosines: NDArray[np.float32] = (rows * wanted).sum(1) / np.maximum(lengths, 1e-12)
    return cosines


def cached_features(
    cache: FeatureCache | None, digests: Sequence[bytes], progress: Progress
) -> list[NDArray[np.float16] | None]:
    """The features that are cached, None for the others. Damaged ones cost the order, not the search.

    A cache that was dropped since it was opened has none.
    """
    found: list[NDArray[np.float16] | None] = [None] * len(digests)
    if cache is None or not digests:
        return found
    try:
        rows = cache.rows(digests)
    except DamagedError as error:
        progress.say(f"{error}; {REPAIR}")
        return found
    known = np.flatnonzero(rows >= 0)
    try:
        features = cache.take(rows[known])
    except DamagedRows as error:
        if not cache.folder.exists():
            return found
        progress.say(f"{error}; {REPAIR}")
        known = np.array([i for i in known if rows[i] not in error.rows], np.int64)
        features = cache.take(rows[known])
    for i, feature in zip(known, features, strict=True):
        found[i] = feature
    return found
