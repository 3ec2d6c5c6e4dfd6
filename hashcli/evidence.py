"""What a report's figures are drawn from: the query photos, the photos searched, and each method's codes of both."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hashcli import codes
from hashcli.codes import Packed
from hashcli.metrics import Levels, count_levels, expected_found, share_label
from hashcli.scan import TopK

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Raw = NDArray[np.float16]

DENSE = "dense features"
MOST_QUERIES = 1000
BLOCK = 64  # queries that are compared by dense features at once
RESULTS = 10  # of an example, and of "the first photos"
TIMED_PHOTOS, TIMED_QUERIES = 20_000, 20


@dataclass(frozen=True)
class Side:
    """Photos on one side of a search: paths (n,), digests (n,), raw features (n, d), labels as in `metrics`."""

    paths: Sequence[bytes]
    digests: Sequence[bytes]
    features: Raw
    labels: Ints

    def take(self, rows: Ints) -> Side:
        """The photos at `rows` only."""
        return Side(
            [self.paths[i] for i in rows], [self.digests[i] for i in rows], self.features[rows], self.labels[rows]
        )


@dataclass(frozen=True)
class Curve:
    """Means over the queries of precision and recall of the first `cuts` photos, all (c,); ties by expectation."""

    cuts: Ints
    precision: Floats
    recall: Floats


@dataclass(frozen=True)
class Example:
    """A query photo (its row), the rows of the first photos found, their Hamming distances, and which are right."""

    query: int
    found: Ints
    distances: Ints
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class Times:
    """Seconds of one query among `n_photos` by code and by dense vectors, and bytes of memory per photo of either."""

    n_photos: int
    code: float
    dense: float
    code_bytes: int
    dense_bytes: int


@dataclass
class Evidence:
    """One protocol: `queries` look for photos of their classes in `gallery`; packed codes of both by method."""

    queries: Side
    gallery: Side
    classes: list[str]
    codes: dict[str, tuple[Packed, Packed]] = field(default_factory=dict)

    def add(self, method: str, query_codes: Packed, gallery_codes: Packed) -> None:
        """Keep a method's codes of all queries and of the gallery."""
        self.codes[method] = (query_codes, gallery_codes)

    def levels(self, method: str) -> Levels:
        """Gallery photos by distance from each of the queries that figures use."""
        asked, given = self.codes[method]
        rows = self._asked
        own = (self._ids[0][rows], self._ids[1])
        return count_levels(asked[rows], self.queries.labels[rows], given, self.gallery.labels, *own)

    def curve(self, method: str) -> Curve:
        """Of a method, or of DENSE: ranking by cosine of the raw features."""
        if method == DENSE:
            found, relevant = self._dense_found()
        else:
            levels = self.levels(method)
            found, relevant = expected_found(levels, self.cuts.tolist()), levels.relevant.sum(1)
        answerable = relevant > 0
        found, relevant = found[answerable], relevant[answerable]
        return Curve(self.cuts, (found / self.cuts).mean(0), (found / relevant[:, None]).mean(0))

    def right_of_first(self, method: str) -> Floats:
        """Share of right photos among the first RESULTS, for each query that figures use; nan without any right one."""
        levels, k = self.levels(method), min(RESULTS, len(self.gallery.paths))
        shares: Floats = np.where(levels.relevant.sum(1) > 0, expected_found(levels, [k])[:, 0] / k, np.nan)
        return shares

    def by_class(self, method: str) -> dict[str, float]:
        """Mean of `right_of_first` over the queries of each class that has any."""
        shares, labels = self.right_of_first(method), self.queries.labels[self._asked]
        member = labels if labels.ndim == 2 else labels[:, None] == np.arange(len(self.classes))
        rows = {name: shares[(member[:, i] > 0) & ~np.isnan(shares)] for i, name in enumerate(self.classes)}
        return {name: float(own.mean()) for name, own in rows.items() if len(own)}

    @cached_property
    def cuts(self) -> Ints:
        """Numbers of first photos, evenly spread on a logarithmic scale up to all of them."""
        n = len(self.gallery.paths)
        cuts = [*np.round(np.geomspace(1, n, 60)), min(RESULTS, n)]
        return np.unique(np.array(cuts, np.int64))

    def examples(self, method: str, n: int) -> list[Example]:
        """Queries from the one answered best to the one answered worst, evenly spread; results in `query`'s order."""
        asked, given = self.codes[method]
        rows = self._asked
        order = np.empty((len(rows), min(RESULTS, len(given))), np.int64)
        right = np.zeros(order.shape, bool)
        far = codes.distances(asked[rows], given).astype(np.int64)
        for block, cosines in self._cosines():
            for i, place in enumerate(block):
                itself = np.isneginf(cosines[i])  # comes last
                order[place] = np.lexsort((-cosines[i], far[place], itself))[: order.shape[1]]
                label = self.queries.labels[rows[place] : rows[place] + 1]
                right[place] = share_label(label, self.gallery.labels[order[place]])[0]
        best_first = np.argsort(-right.sum(1), kind="stable")
        chosen = best_first[np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(int))]
        return [Example(int(rows[i]), order[i], far[i, order[i]], right[i]) for i in chosen]

    def pair_shares(self, method: str) -> tuple[Floats, Floats]:
        """Shares (n_bits + 1,) of matching and of other pairs at each distance."""
        levels = self.levels(method)
        matching = levels.relevant.sum(0).astype(np.float64)
        others = levels.total.sum(0) - matching
        return matching / max(1.0, matching.sum()), others / max(1.0, others.sum())

    def bit_correlation(self, method: str) -> Floats:
        """Correlation (n_bits, n_bits) of the bits over all photos; nan where a bit is constant."""
        bits = codes.unpack(np.concatenate(self.codes[method]), 8 * self.codes[method][0].shape[1]).astype(np.float64)
        bits -= bits.mean(0)
        lengths = np.sqrt((bits**2).sum(0))
        products = np.outer(lengths, lengths)
        correlation: Floats = np.divide(
            bits.T @ bits, products, out=np.full(products.shape, np.nan), where=products > 0
        )
        return correlation

    def times(self, method: str) -> Times:
        """Median of timed searches for the first photos, among the gallery repeated to at least TIMED_PHOTOS."""
        asked, given = self.codes[method]
        again = -(-TIMED_PHOTOS // len(given))
        words, planes = codes.to_words(asked), codes.to_words(np.tile(given, (again, 1))).tobytes()
        rows = np.tile(_normalized(self.gallery.features), (again, 1))
        looked_for = _normalized(self.queries.features)
        by_code, by_feature = [], []
        for i in range(min(TIMED_QUERIES, len(asked))):
            started = time.perf_counter()
            top = TopK(np.ascontiguousarray(words[:, i : i + 1]), RESULTS)
            top.block(0, planes)
            top.result()
            middle = time.perf_counter()
            scores = rows @ looked_for[i]
            np.argpartition(-scores, RESULTS)[:RESULTS]
            by_code.append(middle - started)
            by_feature.append(time.perf_counter() - middle)
        return Times(
            len(rows), float(np.median(by_code)), float(np.median(by_feature)), given.shape[1], 4 * rows.shape[1]
        )

    @cached_property
    def _asked(self) -> Ints:
        """The queries that figures use: all, or MOST_QUERIES evenly spread."""
        n = len(self.queries.paths)
        return np.unique(np.linspace(0, n - 1, min(n, MOST_QUERIES)).round().astype(np.int64))

    @cached_property
    def _ids(self) -> tuple[Ints, Ints]:
        number: dict[bytes, int] = {}
        sides = (self.queries.digests, self.gallery.digests)
        ids = [np.array([number.setdefault(digest, len(number)) for digest in side], np.int64) for side in sides]
        return ids[0], ids[1]

    def _cosines(self) -> Iterator[tuple[Ints, NDArray[np.float32]]]:
        """Blocks of the queries (their places among `_asked`) and their cosines to the gallery; -inf to themselves."""
        gallery = _normalized(self.gallery.features)
        for start in range(0, len(self._asked), BLOCK):
            rows = self._asked[start : start + BLOCK]
            cosines: NDArray[np.float32] = _normalized(self.queries.features[rows]) @ gallery.T
            cosines[self._ids[0][rows][:, None] == self._ids[1]] = -np.inf
            yield np.arange(start, start + len(rows)), cosines

    def _dense_found(self) -> tuple[Floats, Ints]:
        found = np.empty((len(self._asked), len(self.cuts)))
        relevant = np.empty(len(self._asked), np.int64)
        for places, cosines in self._cosines():
            match = share_label(self.queries.labels[self._asked[places]], self.gallery.labels) & np.isfinite(cosines)
            ranked = np.take_along_axis(match, np.argsort(-cosines, axis=1, kind="stable"), 1).cumsum(1)
            found[places], relevant[places] = ranked[:, self.cuts - 1], ranked[:, -1]
        return found, relevant


def _normalized(features: Raw) -> NDArray[np.float32]:
    x = features.astype(np.float32)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return x
