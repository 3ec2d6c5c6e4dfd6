"""What methods train on: input-normalized features by domain, and the batches drawn from them.

Target labels do not exist here: `TargetData` has no field for them, so none can reach a method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class SourceData:
    """The labeled domain.

    features (n, d) float32, already centered and scaled by the host (`network.InputNorm`);
    labels   (n,) int64 class numbers, or (n, n_classes) int64 0/1 rows when a photo may have several;
    captions what is said about each photo, "" where nothing is; for methods that need them, together with
    text     (n, d_t) float32, the captions' features as `vocabulary` makes them, zeros where no word is known;
    images   rows -> (len(rows), s, s, 3) uint8, for methods that mix pixels.
    """

    features: Floats
    labels: Ints | None = None
    captions: tuple[str, ...] | None = None
    text: Floats | None = None
    images: Callable[[Ints], Pixels] | None = None


@dataclass(frozen=True)
class TargetData:
    """The unlabeled domain: as `SourceData`, and by its type without labels."""

    features: Floats
    images: Callable[[Ints], Pixels] | None = None


@dataclass(frozen=True)
class TrainingData:
    """Everything a method may see.

    `encode(pixels uint8 (n, s, s, 3), source_share float32 (n,))` runs the real backbone and normalizes with
    the two domains' statistics mixed in that share: (n, d) float32. None where no method asked for pixels.
    """

    source: SourceData | None
    target: TargetData | None
    n_classes: int = 0
    multi_label: bool = False
    encode: Callable[[Pixels, Floats], Floats] | None = None

    @property
    def feature_dim(self) -> int:
        """d, the width of the features."""
        domain = self.source or self.target
        assert domain is not None
        return int(domain.features.shape[1])


@dataclass(frozen=True)
class DomainBatch:
    """Rows drawn from one domain: features (b, d), rows (b,), labels as in SourceData (source only)."""

    features: Tensor
    rows: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """One step's rows of both domains; a domain that the collection lacks is None."""

    source: DomainBatch | None
    target: DomainBatch | None


@dataclass(frozen=True)
class Bank:
    """All training rows as the network sees them at the start of an epoch, without gradients.

    features (n, d) and relaxed codes (n, n_bits) per domain, on the training device.
    """

    source_features: Tensor | None
    source_relaxed: Tensor | None
    target_features: Tensor | None
    target_relaxed: Tensor | None
    source_labels: Tensor | None


class RowSampler:
    """Draws batches of row numbers without replacement, reshuffled whenever the rows run out.

    `labels` makes batches class-balanced: classes in turn, a row of each. The draw depends on `seed` alone.
    """

    def __init__(self, n: int, batch_size: int, seed: int, labels: Ints | None = None) -> None:
        self._n, self.size = n, min(batch_size, n)
        self._rng = np.random.default_rng(seed)
        self._queue: Ints = np.empty(0, np.int64)
        self._pools = None if labels is None else [np.flatnonzero(labels == c) for c in np.unique(labels)]

    def draw(self) -> Ints:
        """The next batch of row numbers (b,) int64."""
        while len(self._queue) < self.size:
            self._queue = np.concatenate([self._queue, self._shuffled()])
        rows, self._queue = self._queue[: self.size], self._queue[self.size :]
        return rows

    def halve(self) -> int:
        """Draw batches of half the size from now on; that size, 0 when one row cannot be halved."""
        self.size //= 2
        return self.size

    def _shuffled(self) -> Ints:
        if self._pools is None:
            return self._rng.permutation(self._n)
        longest = max(len(p) for p in self._pools)
        # each class is repeated to the longest one's length, so that every round has one row of each
        columns = [np.resize(self._rng.permutation(p), longest) for p in self._pools]
        rounds = np.stack(columns, 1)
        return np.concatenate([self._rng.permutation(r) for r in rounds])

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on from here, as JSON-able values."""
        return {"rng": self._rng.bit_generator.state, "queue": self._queue.tolist(), "size": self.size}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state()` was taken."""
        self._rng.bit_generator.state = state["rng"]
        self._queue = np.asarray(state["queue"], np.int64)
        self.size = int(state["size"])
