"""nearest_to_text(): the indexed photos that words describe. No torch, and no scikit-learn."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hashcli.duplicates import different
from hashcli.encoder import Encoder
from hashcli.progress import Progress, Silent
from hashcli.ranking import Match, cached_features, cosines_to, in_order
from hashcli.records import DOMAINS, Record
from hashcli.roots import Roots
from hashcli.text_encoder import TextEncoder
from hashcli.ties import nearest_by_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hashcli.features import FeatureCache
    from hashcli.hasher import Hasher
    from hashcli.library import Library


@dataclass(frozen=True)
class TextResult:
    """What was found for a text.

    unknown   words of the text that no caption had when the hasher was trained, each with known ones spelled alike
    understood  whether any word was known; where none is, nothing is looked for
    frequent  some words that are known
    folded    near-duplicates of matches that `unique` left out
    """

    matches: list[Match]
    understood: bool
    unknown: dict[str, list[str]] = field(default_factory=dict)
    frequent: list[str] = field(default_factory=list)
    folded: int = 0


def nearest_to_text(
    library: Library,
    text: str,
    *,
    top: int | None = 10,
    radius: int | None = None,
    rerank: int = 1000,
    unique: bool = False,
    progress: Progress | None = None,
) -> TextResult:
    """The indexed photos whose codes are nearest to that of `text`.

    top, radius   how many at most (None: all within the radius), and within which Hamming distance
    rerank        how many of the nearest are put in order of the cosine of relaxed codes within equal distance
    unique        of photos that show the same picture only the nearest is kept, as in `search.nearest`

    Raises NoLibraryError, LibraryError when the hasher knows no words, DamagedError, and ValueError without `top`
    and `radius`.
    """
    if top is None and radius is None:
        raise ValueError("one of top and radius must be given")
    generation = library.require()
    hasher = generation.hasher
    encoder = TextEncoder(hasher)
    known = encoder.words
    unknown = {word: known.nearest(word) for word in known.unknown(text)}
    if not encoder.understands([text]).any():
        return TextResult([], False, unknown, known.frequent())
    relaxed = encoder.relaxed([text])[0]
    code = np.packbits(relaxed >= 0, bitorder="little")
    with generation.gallery() as gallery, gallery.snapshot(), ExitStack() as stack:
        features = library.kept_features(hasher.spec)
        cache = stack.enter_context(features) if features else None
        roots = Roots(gallery)
        most = None if top is None else max(top, rerank)
        places = None if unique else top
        ((slots, distances),) = nearest_by_path(gallery, roots, code[None], most, radius, places)
        records = gallery.records(slots)
        cosines: dict[int, float | None] = dict.fromkeys(range(len(records)))
        cosines |= _cosines(relaxed, records[:rerank], hasher, cache, progress or Silent())
        paths = [roots.full(record) for record in records]
        matches = in_order(
            os.fsencode(text), records, paths, distances, cosines, n_bits=hasher.n_bits, top=None if unique else top
        )
        folded = 0
        if unique:
            found = [match.path for match in matches]
            kept, folded = different(found, gallery, roots, cache, progress or Silent(), top=top, compared=rerank)
            matches = [replace(matches[i], rank=rank) for rank, i in enumerate(kept, 1)]
    return TextResult(matches, True, unknown, folded=folded)


def _cosines(
    relaxed: NDArray[np.float32],
    records: Sequence[Record],
    hasher: Hasher,
    cache: FeatureCache | None,
    progress: Progress,
) -> dict[int, float]:
    """Cosine of the photos' relaxed codes with the text's, by place, where features are cached."""
    found = cached_features(cache, [record.digest for record in records], progress)
    known = [i for i, feature in enumerate(found) if feature is not None]
    if not known:
        return {}
    features = np.stack([feature for feature in found if feature is not None])
    domains = np.array([DOMAINS.index(records[i].domain) for i in known], np.int64)
    rows = Encoder(hasher).head.relaxed(features, domains)
    return dict(zip(known, cosines_to(relaxed, rows).tolist(), strict=True))
