"""nearest(): the indexed photos that are most like the given ones.

Order of results: Hamming distance; then, among the `rerank` nearest, cosine of the cached features; then path bytes.
A photo that is indexed and has not changed is searched by its stored code, without opening it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hashcli.duplicates import different
from hashcli.errors import LibraryError
from hashcli.photos import PhotoError, PhotoFile, stat_photo
from hashcli.progress import Progress, Silent
from hashcli.ranking import Match, cached_features, cosines_to, in_order
from hashcli.records import DOMAINS, Domain, Record
from hashcli.roots import Roots, domain_of
from hashcli.ties import nearest_by_path

if TYPE_CHECKING:
    from hashcli.decoding import Decoded
    from hashcli.encoder import Encoder
    from hashcli.features import FeatureCache
    from hashcli.gallery import Gallery
    from hashcli.hasher import Hasher
    from hashcli.library import Library

QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class QueryResult:
    """What was found for the photo at `path` (as it was given); `error` says why it could not be looked for."""

    path: bytes
    matches: list[Match]
    error: str | None = None
    folded: int = 0  # near-duplicates of matches that `unique` left out


@dataclass
class Query:
    """A photo that is looked for, on its way to a code (n_bits // 8,) and a feature (d,)."""

    path: bytes
    names: frozenset[bytes]  # absolute paths that mean this very file
    file: PhotoFile | None = None
    slot: int | None = None
    domain: Domain = "tgt"
    code: NDArray[np.uint8] | None = None
    feature: NDArray[np.float16] | None = None
    error: str | None = None


def nearest(
    library: Library,
    photos: Sequence[bytes],
    *,
    top: int | None = 10,
    radius: int | None = None,
    rerank: int = 1000,
    include_self: bool = False,
    unique: bool = False,
    min_confidence: float | None = None,
    domain: Domain | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[QueryResult]:
    """The nearest indexed photos of each of `photos`, in their order.

    top, radius   how many at most (None: all within the radius), and within which Hamming distance
    rerank        how many of the nearest are put in order of cosine within equal distance; 0: none
    include_self  a photo is among its own results; other files with the same contents always are
    unique        of photos that show the same picture only the nearest is kept (`duplicates.fold`), among the `rerank`
    min_confidence  only matches that are at least this probable
    domain        of the queries; default: as they are indexed, else that of the root around them, else `tgt`

    Where photos at the same distance do not all fit among the nearest `rerank` and `top`, the first by path
    are taken. Raises NoLibraryError, DamagedError, LibraryError when `min_confidence` is asked of a hasher that was
    not calibrated, and ValueError without `top` and `radius`.
    """
    if top is None and radius is None:
        raise ValueError("one of top and radius must be given")
    generation = library.require()
    hasher = generation.hasher
    if min_confidence is not None and hasher.calibration is None:
        raise uncalibrated(hasher)
    with generation.gallery() as gallery, gallery.snapshot(), ExitStack() as stack:
        features = library.kept_features(hasher.spec)
        cache = stack.enter_context(features) if features else None
        looking = Looking(library, hasher, gallery, cache, progress or Silent())
        queries = looking.prepared(photos, domain, need_features=rerank > 0)
        looking.encode(queries, workers)
        k = None if top is None else max(top, rerank) + 2  # a photo itself may be among them, under two names
        places = None if top is None or unique else top + 2  # nobody farther comes into the results by its look
        results = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            some = queries[start : start + QUERIES_AT_ONCE]
            coded = [query.code for query in some if query.code is not None]
            found = iter(nearest_by_path(gallery, looking.roots, np.stack(coded), k, radius, places) if coded else [])
            for query in some:
                if query.code is None:
                    results.append(QueryResult(query.path, [], query.error))
                else:
                    slots, distances = next(found)
                    ranked = looking.ranked(
                        query,
                        slots,
                        distances,
                        top=None if unique else top,
                        rerank=rerank,
                        include_self=include_self,
                    )
                    matches, folded = looking.unique(ranked, top, rerank) if unique else (ranked, 0)
                    matches = [m for m in matches if min_confidence is None or (m.confidence or 0) >= min_confidence]
                    results.append(QueryResult(query.path, matches, folded=folded))
        return results


def uncalibrated(hasher: Hasher) -> LibraryError:
    """Why this hasher gives no match probabilities."""
    n_held = hasher.training.get("held_out", {}).get("photos", 0)
    few = (
        f"the {n_held:,} labeled photos that were held out are too few" if n_held else "no labeled photos were held out"
    )
    return LibraryError(
        f"the hasher in use gives no match probabilities: when {hasher.method} learned, {few}",
        f"learn from {'more' if n_held else 'at least 10'} labeled photos of each class, with a share held out; "
        "or use --radius",
    )


class Looking:
    """Queries by photos in one open gallery."""

    def __init__(
        self, library: Library, hasher: Hasher, gallery: Gallery, cache: FeatureCache | None, progress: Progress
    ) -> None:
        self._library, self._hasher, self._gallery, self._cache = library, hasher, gallery, cache
        self._progress = progress
        self.roots = Roots(gallery)

    @cached_property
    def _encoder(self) -> Encoder:
        from hashcli.encoder import Encoder

        return Encoder(self._hasher)

    def prepared(self, photos: Sequence[bytes], domain: Domain | None, need_features: bool) -> list[Query]:
        """The queries, with code and feature where no photo has to be opened for them."""
        queries = [self._query(path, domain) for path in photos]
        files = [query.file for query in queries if query.file is not None]
        digests = iter(self._digests(files))
        for query in queries:
            digest = next(digests) if query.file is not None else None
            if digest is not None:
                self._recall(query, digest, need_features)
        return queries

    def encode(self, queries: Sequence[Query], workers: int | None) -> None:
        """Give all other queries code and feature, or the reason why not."""
        waiting = [query for query in queries if query.code is None and query.file is not None]
        if not waiting:
            return
        with self._progress.task("reading photos", len(waiting)) as task:
            for query, decoded in zip(waiting, self._decoded(waiting, workers), strict=True):
                if decoded.pixels is not None:
                    query.feature = self._encoder.features(decoded.pixels[None])[0]
                    query.code = self._code(query.feature, query.domain)
                query.error = decoded.reason
                task.advance()

    def ranked(
        self,
        query: Query,
        slots: NDArray[np.int64],
        distances: NDArray[np.int64],
        *,
        top: int | None,
        rerank: int,
        include_self: bool,
    ) -> list[Match]:
        """The found slots, which come by distance, as matches in their final order."""
        records = self._gallery.records(slots)
        paths = [self.roots.full(record) for record in records]
        others = [i for i, path in enumerate(paths) if include_self or path not in query.names]
        others.sort(key=lambda i: (distances[i], paths[i]))
        compared = others[:rerank]
        cosines = dict(zip(compared, self._cosines(query, [records[i] for i in compared]), strict=True))
        cosines |= dict.fromkeys(others[rerank:])
        matches = in_order(query.path, records, paths, distances, cosines, n_bits=self._hasher.n_bits, top=top)
        calibration = self._hasher.calibration
        if calibration is None:
            return matches
        return [replace(match, confidence=calibration.probability[match.distance]) for match in matches]

    def unique(self, matches: Sequence[Match], top: int | None, rerank: int) -> tuple[list[Match], int]:
        """The first `top` matches that show different pictures, ranked anew, and how many near-duplicates went."""
        kept, folded = self.different([match.path for match in matches], top, rerank)
        return [replace(matches[i], rank=rank) for rank, i in enumerate(kept, 1)], folded

    def different(self, paths: Sequence[bytes], top: int | None, rerank: int) -> tuple[list[int], int]:
        """Which of the found photos show different pictures: `duplicates.different`."""
        return different(paths, self._gallery, self.roots, self._cache, self._progress, top=top, compared=rerank)

    def _query(self, path: bytes, domain: Domain | None) -> Query:
        real = os.path.realpath(path)
        folder, name = os.path.split(os.path.abspath(path))
        named = os.path.join(os.path.realpath(folder), name)
        query = Query(path, frozenset((named, real)))
        full = real if self.roots.slot_of(named) is None else named
        query.slot = self.roots.slot_of(full)
        indexed = None if query.slot is None else self._gallery.records([query.slot])[0].domain
        query.domain = domain or indexed or domain_of(self.roots, full)
        owner = self.roots.owner(full)
        try:
            query.file = stat_photo(full, owner.path if owner else b"")
        except PhotoError as error:
            query.error = error.reason
        return query

    def _digests(self, files: Sequence[PhotoFile]) -> list[bytes | None]:
        """What the photos contain, where that is known without opening them."""
        identity = self._library.kept_identity()
        if identity is None:
            return [None] * len(files)
        with identity:
            return identity.get(files)

    def _recall(self, query: Query, digest: bytes, need_feature: bool) -> None:
        """Code and feature of a photo whose contents were seen before; nothing if one of them is missing."""
        feature = self._cached([digest])[0]
        if feature is None and need_feature:
            return
        if query.slot is not None:
            record = self._gallery.records([query.slot])[0]
            if (record.digest, record.domain) == (digest, query.domain):
                query.code, query.feature = self._gallery.codes([query.slot])[0], feature
                return
        if feature is not None:
            query.code, query.feature = self._code(feature, query.domain), feature

    def _decoded(self, queries: Sequence[Query], workers: int | None) -> Iterator[Decoded]:
        from hashcli.decoding import decode_all, decode_one

        files = [query.file for query in queries if query.file is not None]
        spec = self._hasher.spec
        if len(files) == 1:
            return iter([decode_one(files[0], spec.size, spec.fit)])
        return decode_all(files, spec.size, spec.fit, workers)

    def _code(self, feature: NDArray[np.float16], domain: Domain) -> NDArray[np.uint8]:
        code: NDArray[np.uint8] = self._encoder.codes(feature[None], np.array([DOMAINS.index(domain)], np.int64))[0]
        return code

    def _cached(self, digests: Sequence[bytes]) -> list[NDArray[np.float16] | None]:
        return cached_features(self._cache, digests, self._progress)

    def _cosines(self, query: Query, records: Sequence[Record]) -> list[float | None]:
        cosines: list[float | None] = [None] * len(records)
        if query.feature is None:
            return cosines
        cached = self._cached([record.digest for record in records])
        known = [i for i, feature in enumerate(cached) if feature is not None]
        if known:
            features = np.array([cached[i] for i in known], np.float32)
            for i, cosine in zip(known, cosines_to(query.feature.astype(np.float32), features), strict=True):
                cosines[i] = float(cosine)
        return cosines
