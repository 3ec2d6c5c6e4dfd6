"""Words as numbers: TF-IDF features of captions, fitted by scikit-learn, kept as JSON, applied with numpy alone."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hashcli import versions
from hashcli.errors import DamagedError, MachineError, UsageError

if TYPE_CHECKING:
    from hashcli.progress import Progress

FORMAT, VERSION = "hashcli-vocabulary", 1
MAX_WORDS, MAX_WORD = 2048, 64
# The rule belongs to the format: a pattern read from a stranger's file could keep `re` busy for years.
_WORD = re.compile(rf"\b\w{{2,{MAX_WORD}}}\b")


def words_of(text: str) -> list[str]:
    """The words of a text in their order, lower case; a word has 2 to 64 letters or digits."""
    return _WORD.findall(text.lower())


class Words(Protocol):
    """What makes texts features: a `Vocabulary`, or a `text_tower.TextTower`. Its length is the features' width."""

    def __len__(self) -> int: ...

    def record(self) -> dict[str, Any]:
        """As JSON-able values, which the hasher keeps."""

    def features(self, texts: Sequence[str], progress: Progress | None = None) -> NDArray[np.float16]:
        """Texts -> (n, len(self)); zeros for what says nothing that is known."""

    def knows(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the texts (n,) say anything that is known."""

    def unknown(self, text: str) -> list[str]:
        """The text's words that are not known."""

    def nearest(self, word: str, n: int = 3) -> list[str]:
        """Known words spelled most like `word`."""

    def frequent(self, n: int = 5) -> list[str]:
        """Some words that are known."""


@dataclass(frozen=True)
class Vocabulary:
    """Words in alphabetical order, each with its weight (inverse document frequency)."""

    words: tuple[str, ...]
    idf: tuple[float, ...]

    @classmethod
    def fit(cls, captions: Sequence[str]) -> Vocabulary:
        """The words of the captions, the 2048 most frequent of them at most; empty captions do not count.

        Raises UsageError when there is no word, MachineError without scikit-learn.
        """
        texts = [caption for caption in captions if words_of(caption)]
        if not texts:
            raise UsageError(
                f"there is no word in the captions of {len(captions)} photos",
                "put a text file beside each photo (photo.jpg.txt), or give --captions-file FILE.csv",
            )
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
        except ImportError:
            raise MachineError(
                "learning from captions needs scikit-learn, which is not installed", "pip install 'hashcli[text]'"
            ) from None
        fitted = TfidfVectorizer(analyzer=words_of, max_features=MAX_WORDS, sublinear_tf=True).fit(texts)
        words = tuple(str(word) for word in fitted.get_feature_names_out())
        return cls(words, tuple(float(weight) for weight in fitted.idf_))

    @classmethod
    def from_record(cls, record: dict[str, Any], what: str) -> Vocabulary:
        """Read what `record` gave, which may come from a stranger. Raises DamagedError that names `what` (the file)."""
        versions.check(record, FORMAT, VERSION, what, "a vocabulary")
        words, idf = record.get("words"), record.get("idf")
        if not (isinstance(words, list) and isinstance(idf, list) and 0 < len(words) == len(idf) <= MAX_WORDS):
            raise DamagedError(f"{what} does not have 1 to {MAX_WORDS} words with a weight each")
        if not all(isinstance(word, str) and 0 < len(word) <= MAX_WORD for word in words) or words != sorted({*words}):
            raise DamagedError(f"{what} has words that are none, or not in order")
        if not all(type(weight) is float and 0 < weight < 1e3 for weight in idf):
            raise DamagedError(f"{what} has weights that cannot be")
        return cls(tuple(words), tuple(idf))

    def record(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {"format": FORMAT, "version": VERSION, "words": list(self.words), "idf": list(self.idf)}

    def __len__(self) -> int:
        return len(self.words)

    def features(self, texts: Sequence[str], progress: Progress | None = None) -> NDArray[np.float16]:
        """Texts -> (n, len(self)) float16: (1 + ln count) * idf, rows of length 1; zeros where no word is known."""
        out = np.zeros((len(texts), len(self)), np.float16)
        for row, text in zip(out, texts, strict=True):
            counts = Counter(word for word in words_of(text) if word in self._number)
            if counts:
                columns = [self._number[word] for word in counts]
                weights = np.array(
                    [(1 + math.log(n)) * self.idf[i] for n, i in zip(counts.values(), columns, strict=True)]
                )
                row[columns] = weights / np.linalg.norm(weights)
        return out

    def knows(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the texts (n,) have a word that is known."""
        return np.array([any(word in self._number for word in words_of(text)) for text in texts], bool)

    def unknown(self, text: str) -> list[str]:
        """The text's words that are not in the vocabulary, each once."""
        return [word for word in dict.fromkeys(words_of(text)) if word not in self._number]

    def nearest(self, word: str, n: int = 3) -> list[str]:
        """Known words spelled most like `word`, best first; none if none is near."""
        return difflib.get_close_matches(word.lower(), self.words, n=n, cutoff=0.6)

    def frequent(self, n: int = 5) -> list[str]:
        """The words that most captions have."""
        return [self.words[i] for i in sorted(range(len(self)), key=lambda i: self.idf[i])[:n]]

    @cached_property
    def _number(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}
