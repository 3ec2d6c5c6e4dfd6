"""nearest_captions(): what is said about indexed photos, nearest first to photos that are looked for.

Order: Hamming distance of the codes; then, among the `rerank` nearest, cosine of the relaxed codes; then the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hashcli import caption_store, codes
from hashcli.encoder import Encoder
from hashcli.errors import LibraryError
from hashcli.progress import Progress, Silent
from hashcli.ranking import cosines_to
from hashcli.records import DOMAINS, Domain
from hashcli.search import Looking, Query
from hashcli.text_encoder import TextEncoder

if TYPE_CHECKING:
    from hashcli.caption_store import Captions
    from hashcli.gallery import Gallery
    from hashcli.library import Library


@dataclass(frozen=True)
class CaptionMatch:
    """One found caption: rank from 1, Hamming distance in bits, and the first photo by path that has it (absolute).

    similarity  cosine of the relaxed codes where they were compared, else that of the codes as vectors of -1 and 1
    """

    rank: int
    distance: int
    similarity: float
    caption: str
    path: bytes


@dataclass(frozen=True)
class CaptionResult:
    """The captions found for the photo at `path` (as it was given); `error` says why it could not be looked for."""

    path: bytes
    matches: list[CaptionMatch]
    error: str | None = None
    folded: int = 0  # captions of near-duplicates that `unique` left out


@dataclass(frozen=True)
class _Found:
    distance: int
    cosine: float | None
    caption: str
    path: bytes


def nearest_captions(
    library: Library,
    photos: Sequence[bytes],
    *,
    top: int | None = 10,
    radius: int | None = None,
    rerank: int = 1000,
    include_self: bool = False,
    unique: bool = False,
    domain: Domain | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[CaptionResult]:
    """The nearest captions of indexed photos for each of `photos`, in their order; the arguments are as in `nearest`.

    A caption that only the photo itself has is among its results with `include_self` alone. With `unique`, of captions
    whose photos show the same picture only the nearest is kept. Raises NoLibraryError,
    LibraryError when the hasher knows no words or no caption is kept, DamagedError, and ValueError without `top`
    and `radius`.
    """
    if top is None and radius is None:
        raise ValueError("one of top and radius must be given")
    generation = library.require()
    hasher = generation.hasher
    text = TextEncoder(hasher)
    captions = caption_store.read(generation.folder, hasher)
    if captions is None or not captions.texts:
        raise LibraryError(
            "no indexed photo has a caption with a word that is known",
            "put a text file beside each photo (photo.jpg.txt), then: hashcli index",
        )
    results = []
    with generation.gallery() as gallery, gallery.snapshot(), ExitStack() as stack:
        features = library.kept_features(hasher.spec)
        cache = stack.enter_context(features) if features else None
        looking = Looking(library, hasher, gallery, cache, progress or Silent())
        queries = looking.prepared(photos, domain, need_features=rerank > 0)
        looking.encode(queries, workers)
        most = None if top is None else max(top, rerank)
        head = Encoder(hasher).head
        for query in queries:
            found = list(_nearest(query, captions, gallery, looking, most, radius, include_self))
            if query.feature is not None and rerank:
                relaxed = head.relaxed(query.feature[None], np.array([DOMAINS.index(query.domain)], np.int64))[0]
                found[:rerank] = _compared(found[:rerank], relaxed, text)
            found, folded = sorted(found, key=_order), 0
            if unique:
                kept, folded = looking.different([f.path for f in found], top, rerank)
                found = [found[i] for i in kept]
            matches = [
                CaptionMatch(
                    rank,
                    f.distance,
                    1 - 2 * f.distance / hasher.n_bits if f.cosine is None else f.cosine,
                    f.caption,
                    f.path,
                )
                for rank, f in enumerate(found[:top], 1)
            ]
            results.append(CaptionResult(query.path, matches, query.error, folded))
    return results


def _nearest(
    query: Query,
    captions: Captions,
    gallery: Gallery,
    looking: Looking,
    most: int | None,
    radius: int | None,
    include_self: bool,
) -> Iterator[_Found]:
    """The `most` nearest captions of photos that are in the gallery, by distance, then text."""
    if query.code is None:
        return
    distances = codes.distances(query.code[None], captions.codes)[0]
    for i in np.argsort(distances, kind="stable"):
        distance = int(distances[i])
        if most == 0 or (radius is not None and distance > radius):
            return
        slots = [slot for digest in captions.photos[i] for slot in gallery.slots_of_digest(digest)]
        paths = {looking.roots.full(record) for record in gallery.records(slots)}
        if not include_self:
            paths -= query.names
        if paths:
            most = None if most is None else most - 1
            yield _Found(distance, None, captions.texts[i], min(paths))


def _compared(found: Sequence[_Found], relaxed: NDArray[np.float32], text: TextEncoder) -> list[_Found]:
    if not found:
        return []
    cosines = cosines_to(relaxed, text.relaxed([f.caption for f in found]))
    return [_Found(f.distance, float(c), f.caption, f.path) for f, c in zip(found, cosines, strict=True)]


def _order(found: _Found) -> tuple[int, bool, float, str]:
    return found.distance, found.cosine is None, -(found.cosine or 0.0), found.caption
