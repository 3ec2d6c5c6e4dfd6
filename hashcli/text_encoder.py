"""Words -> codes, with the graph that a hasher learned and what makes texts features; without torch, scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hashcli.bpe import Tokenizer
from hashcli.encoder import HeadSession
from hashcli.errors import DamagedError, LibraryError
from hashcli.text_tower import TextTower
from hashcli.vocabulary import Vocabulary, Words

if TYPE_CHECKING:
    from hashcli.hasher import Hasher


class TextEncoder:
    """The part of a hasher that turns words into codes."""

    def __init__(self, hasher: Hasher) -> None:
        """Raises LibraryError when the hasher learned from no captions, DamagedError."""
        record = hasher.vocabulary
        if hasher.text_head_path is None or record is None:
            raise LibraryError(
                f"this library knows no words: {hasher.method} learned from photos alone",
                "learn from photos with captions: hashcli train DIR --method dcgh",
            )
        self.words = _words(hasher, record)
        self._head = HeadSession(hasher.text_head_path)
        if self._head.dim != len(self.words) or self._head.n_bits != hasher.n_bits:
            raise DamagedError(f"vocabulary and text head in {hasher.folder} do not fit each other")

    def understands(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the texts have a word that is known: (n,)."""
        return self.words.knows(texts)

    def relaxed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Relaxed codes (n, n_bits) of texts; they say nothing of one without a word that is known."""
        return self._head.relaxed(self.words.features(texts), np.zeros(len(texts), np.int64))


def _words(hasher: Hasher, record: dict[str, Any]) -> Words:
    what = str(hasher.folder / "vocabulary.json")
    if hasher.tower is None:
        return Vocabulary.from_record(record, what)
    return TextTower(*hasher.tower, hasher.record["text_dim"], Tokenizer.from_record(record, what))
