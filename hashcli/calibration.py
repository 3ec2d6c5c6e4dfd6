"""Match probability by Hamming distance, learned from labeled photos that took no part in training.

For every pair of a held-out photo and one of the others, codes give a distance and labels say whether they match.
Isotonic regression (Zadrozny and Elkan, KDD 2002) turns the share of matches at each distance into probabilities
that never rise with the distance. One photo more is counted as if distances said nothing about it, so that a dozen
photos that were all found right are no certainty. The probabilities hold for collections like the source: as many
classes, photos like its own. For other photos they may be far off, and nothing without labels tells how far.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hashcli.codes import Packed
    from hashcli.metrics import Ints

MIN_MATCHING = 100  # matching pairs below which a probability would be a guess
MOST_PHOTOS = 2000  # held-out photos beyond which more pairs change nothing


@dataclass(frozen=True)
class Calibration:
    """probability[d]: that two photos whose codes differ in d bits match; n_bits + 1 values, never rising.

    n_photos were held out and compared with others in n_pairs pairs.
    """

    probability: tuple[float, ...]
    n_photos: int
    n_pairs: int

    def radius(self, confidence: float) -> int:
        """The largest distance at which a match is at least this probable; -1 when none is."""
        return sum(p >= confidence for p in self.probability) - 1

    def record(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"probability": list(self.probability), "n_photos": self.n_photos, "n_pairs": self.n_pairs}

    @classmethod
    def from_record(cls, record: dict[str, Any], n_bits: int) -> Calibration:
        """What `record()` wrote. Raises ValueError for anything that is not a calibration of `n_bits` bits."""
        values, n_photos, n_pairs = record.get("probability"), record.get("n_photos"), record.get("n_pairs")
        if not isinstance(values, list) or len(values) != n_bits + 1:
            raise ValueError(f"a calibration of {n_bits} bits has {n_bits + 1} probabilities")
        if not all(type(p) in (int, float) and math.isfinite(p) and 0 <= p <= 1 for p in values):
            raise ValueError("probabilities are numbers from 0 to 1")
        if any(near < far for near, far in itertools.pairwise(values)):
            raise ValueError("probabilities of a calibration never rise with the distance")
        if type(n_photos) is not int or type(n_pairs) is not int:
            raise ValueError("a calibration says how many photos and pairs it comes from")
        return cls(tuple(map(float, values)), n_photos, n_pairs)


def fit(held: Packed, held_labels: Ints, others: Packed, other_labels: Ints) -> Calibration | None:
    """Calibrate on held-out photos' packed codes (q, n_bits // 8) against the others' (n, n_bits // 8).

    Labels are class numbers (q,), (n,) or 0/1 rows (q, c), (n, c); photos match that share one. None when there are
    too few pairs to learn from. Raises ValueError for shapes that do not fit.
    """
    from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]

    from hashcli.metrics import count_levels

    if len(held) == 0 or len(others) == 0:
        return None
    asked = np.arange(0, len(held), math.ceil(len(held) / MOST_PHOTOS))
    levels = count_levels(held[asked], held_labels[asked], others, other_labels)
    pairs, matching = levels.total.sum(0), levels.relevant.sum(0)  # (n_bits + 1,) each
    if matching.sum() < MIN_MATCHING or matching.sum() == pairs.sum():
        return None
    seen = np.flatnonzero(pairs)
    fitted = isotonic_regression(matching[seen] / pairs[seen], weights=pairs[seen], increasing=False).x
    # a distance that no pair had takes the probability of the next larger one that some had: the cautious side
    at: NDArray[np.intp] = np.minimum(np.searchsorted(seen, np.arange(len(pairs))), len(seen) - 1)
    fitted = (len(asked) * fitted + matching.sum() / pairs.sum()) / (len(asked) + 1)
    probability = np.round(np.clip(fitted, 0, 1), 4)[at]
    return Calibration(tuple(probability.tolist()), len(asked), int(pairs.sum()))
