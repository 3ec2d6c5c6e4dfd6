"""How well photos find captions and captions photos, for methods that learn from both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from hashcli import codes
from hashcli.fitting import SOURCE, TARGET, normalized, text_means
from hashcli.metrics import Levels, count_levels

if TYPE_CHECKING:
    from hashcli.fitting import FittedHasher, Labeled

WordProtocol = Literal["image-to-text", "text-to-image"]


def word_rankings(
    hasher: FittedHasher,
    source: Labeled,
    query_features: NDArray[np.float16],
    query_labels: NDArray[np.int64],
    query_captions: Sequence[str],
) -> Iterator[tuple[WordProtocol, Levels]]:
    """Target photos (n, d) searching the source's captions, and their captions (n,) searching the source's photos.

    Nothing where the hasher knows no words. Captions without a word that is known take no part.
    """
    if hasher.fitted.text is None or source.captions is None:
        return
    said, asking = text_codes(hasher, source.captions), text_codes(hasher, query_captions)
    queries = hasher.codes(query_features, TARGET)
    yield "image-to-text", count_levels(queries, query_labels, said[0], source.labels[said[1]])
    gallery = hasher.codes(source.features, SOURCE)
    yield "text-to-image", count_levels(asking[0], query_labels[asking[1]], gallery, source.labels)


def text_codes(hasher: FittedHasher, captions: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Packed codes (m, n_bits / 8) of the captions that have a word that is known, and their places (m,)."""
    import torch

    assert hasher.fitted.text is not None and hasher.words is not None
    features = hasher.words.features(captions)
    rows = np.flatnonzero(features.any(1))
    x = normalized(features[rows], text_means(len(hasher.words)), SOURCE)
    with torch.inference_mode():
        relaxed = hasher.fitted.text.eval()(torch.from_numpy(x)).numpy()
    return codes.from_relaxed(relaxed), rows
