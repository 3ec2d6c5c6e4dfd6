"""How sound a hasher's codes are, without one label of the target: what can be told before anyone searches.

Classes of target photos are guessed from the source's: a class is the likelier, the nearer its photos' codes lie
(`class_shares`). Photos are samples, so that it takes seconds for collections of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hashcli.codes import Packed, distances, unpack
from hashcli.metrics import Levels, count_levels, expected_found, measure

Ints = NDArray[np.int64]
Raw = NDArray[np.float16]
Floats = NDArray[np.float32]

SOURCE, TARGET = 0, 1
MOST_HELD, MOST_SOURCE, MOST_TARGET = 1000, 5000, 2000
NEIGHBORS = 10


@dataclass(frozen=True)
class Photos:
    """Photos of one kind: raw features (n, d), content digests (n,), labels (n, n_classes) 0/1 rows or none."""

    features: Raw
    digests: Sequence[bytes]
    labels: Ints | None = None

    def __len__(self) -> int:
        return len(self.digests)

    def sample(self, most: int) -> Photos:
        """At most that many of them, the same for the same photos."""
        order = sorted(range(len(self)), key=lambda i: self.digests[i])[:most]
        return self.take(order)

    def take(self, rows: Sequence[int]) -> Photos:
        """The photos at `rows` only."""
        at = np.asarray(rows, np.int64)
        labels = None if self.labels is None else self.labels[at]
        return Photos(self.features[at], [self.digests[i] for i in rows], labels)


Encode = Callable[[Photos, int], Packed]


@dataclass(frozen=True)
class Probe:
    """What a hasher is tried on. `source` trained it and `held` are labeled photos that did not; either may be absent.

    own      the photos that search is for: the target, or where there is none, those that it learned from
    domain   of `own`: 0 source, 1 target
    """

    own: Photos
    domain: int
    source: Photos | None = None
    held: Photos | None = None

    def sampled(self) -> Probe:
        """Of each kind no more photos than a look in a few seconds takes."""
        source = self.source.sample(MOST_SOURCE) if self.source else None
        held = self.held.sample(MOST_HELD) if self.held else None
        return Probe(self.own.sample(MOST_TARGET), self.domain, source, held)


@dataclass(frozen=True)
class Health:
    """Measures from 0 to 1; None where the photos do not allow one.

    held_out_map        mAP of held-out source photos that look for their class among the source
    neighbor_agreement  share of the 10 photos nearest by look that are guessed to be of the same class
    look_alikes_found   share of the 10 nearest by look among the 10 nearest by code (without classes only)
    entropy             of the guessed classes, mean over photos; 0: sure, 1: any class as likely as any other
    domain_distance     mean over bits of how much oftener one domain sets the bit than the other
    stability           share of photos that both halves of the bits put into the same class
    bit_balance         mean over bits of twice the rarer value's share; 1: each bit halves the photos
    distinct_codes      codes per photo
    constant_bits       share of bits that are the same for all photos of both domains
    commonest_code      share of photos that have the commonest code
    """

    bit_balance: float
    distinct_codes: float
    constant_bits: float
    commonest_code: float
    held_out_map: float | None = None
    neighbor_agreement: float | None = None
    look_alikes_found: float | None = None
    entropy: float | None = None
    domain_distance: float | None = None
    stability: float | None = None


def examine(probe: Probe, encode: Encode) -> Health:
    """Measure the hash function `encode` (photos, their domain -> packed codes) on those of `probe`."""
    own = encode(probe.own, probe.domain)
    bits = unpack(own, 8 * own.shape[1])
    _, counts = np.unique(own, axis=0, return_counts=True)
    ones = bits.mean(0)
    source = encode(probe.source, SOURCE) if probe.source else None
    least, most = bits.min(0), bits.max(0)
    held_map = entropy = stability = agreement = domain_distance = found = None
    if source is not None and probe.source is not None and probe.source.labels is not None:
        source_bits = unpack(source, bits.shape[1])
        least, most = np.minimum(least, source_bits.min(0)), np.maximum(most, source_bits.max(0))
        labels = probe.source.labels
        if probe.held is not None and probe.held.labels is not None:
            levels = count_levels(encode(probe.held, SOURCE), probe.held.labels, source, labels)
            held_map = measure(levels).map
        if probe.domain == TARGET:
            shares = class_shares(own, source, labels)
            guessed = shares.argmax(1)
            entropy = _entropy(shares)
            stability = _share(
                _guess(own[:, ::2], source[:, ::2], labels) == _guess(own[:, 1::2], source[:, 1::2], labels)
            )
            neighbors = nearest_by_look(probe.own.features)
            agreement = _share(guessed[neighbors] == guessed[:, None]) if neighbors.size else None
            domain_distance = float(np.abs(ones - source_bits.mean(0)).mean())
    elif len(own) > 1:
        found = _look_alikes_found(own, nearest_by_look(probe.own.features))
    return Health(
        bit_balance=float(2 * np.minimum(ones, 1 - ones).mean()),
        distinct_codes=len(counts) / len(own),
        constant_bits=_share(least == most),
        commonest_code=float(counts.max() / len(own)),
        held_out_map=held_map,
        neighbor_agreement=agreement,
        look_alikes_found=found,
        entropy=entropy,
        domain_distance=domain_distance,
        stability=stability,
    )


def class_shares(own: Packed, source: Packed, labels: Ints) -> Floats:
    """How likely each photo (n, n_bits / 8) is of each class (n, n_classes), judged by labeled codes; rows sum to 1.

    Each photo of a class counts exp(-16 d / n_bits) at distance d; classes of any size count alike.
    """
    n_bits = 8 * own.shape[1]
    weight = np.exp(-16 / n_bits * np.arange(n_bits + 1)).astype(np.float32)
    members = labels.astype(np.float32) / np.maximum(labels.sum(0), 1)
    shares: Floats = weight[distances(own, source)] @ members
    shares /= np.maximum(shares.sum(1, keepdims=True), np.finfo(np.float32).tiny)
    return shares


def nearest_by_look(features: Raw) -> Ints:
    """Rows (n, NEIGHBORS) of the other photos with the largest cosine of centered features (n, d), for each photo."""
    x = features.astype(np.float32)
    x -= x.mean(0)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    cosines = x @ x.T
    np.fill_diagonal(cosines, -np.inf)
    k = min(NEIGHBORS, len(x) - 1)
    nearest = np.empty((len(x), k), np.int64)
    nearest[:] = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return nearest


def _guess(own: Packed, source: Packed, labels: Ints) -> Ints:
    guessed: Ints = class_shares(own, source, labels).argmax(1)
    return guessed


def _entropy(shares: Floats) -> float | None:
    n_classes = shares.shape[1]
    if n_classes < 2:
        return None
    terms = np.where(shares > 0, -shares * np.log(np.maximum(shares, 1e-30)), 0)
    return float(terms.sum(1).mean() / np.log(n_classes))


def _look_alikes_found(own: Packed, neighbors: Ints) -> float:
    """Expectation over random order within equal distances, as all measures are."""
    n, n_levels = len(own), 8 * own.shape[1] + 1
    far = distances(own, own).astype(np.int64)
    total, relevant = np.zeros((n, n_levels), np.int64), np.zeros((n, n_levels), np.int64)
    for row in range(n):
        others = np.delete(far[row], row)
        total[row] = np.bincount(others, minlength=n_levels)
        relevant[row] = np.bincount(far[row, neighbors[row]], minlength=n_levels)
    k = neighbors.shape[1]
    return float(expected_found(Levels(total, relevant), [k]).mean() / k)


def _share(true: NDArray[np.bool_]) -> float:
    return float(np.mean(true))
