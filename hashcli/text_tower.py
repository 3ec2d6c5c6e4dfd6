"""Words as open_clip's text tower sees them, with ONNX Runtime and without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashcli.bpe import Tokenizer
from hashcli.encoder import TowerSession
from hashcli.progress import Progress, Silent


class TextTower:
    """tower.onnx with its tokenizer; it knows every word, as it learned from texts of all kinds."""

    def __init__(self, path: Path, digest: str, dim: int, tokenizer: Tokenizer) -> None:
        """Load `path`, whose SHA-256 must be `digest`, and which gives features of width `dim`. Raises DamagedError."""
        self.path, self.digest, self.tokenizer, self._dim = path, digest, tokenizer, dim
        self._session = TowerSession(path, digest, tokenizer.context, dim)

    def __len__(self) -> int:
        return self._dim

    def record(self) -> dict[str, Any]:
        """The tokenizer as JSON-able values."""
        return self.tokenizer.record()

    def features(self, texts: Sequence[str], progress: Progress | None = None) -> NDArray[np.float16]:
        """Texts -> (n, len(self)) float16; zeros for a blank one. Each distinct text is computed once."""
        out = np.zeros((len(texts), self._dim), np.float16)
        places: dict[str, list[int]] = {}
        for place, known in enumerate(self.knows(texts)):
            if known:
                places.setdefault(texts[place], []).append(place)
        with (progress or Silent()).task("reading words", len(places)) as task:
            for text, rows in places.items():
                out[rows] = self._session.feature(self.tokenizer.tokens([text])[0])
                task.advance()
        return out

    def knows(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the texts (n,) say anything."""
        return np.array([bool(text.strip()) for text in texts], bool)

    def unknown(self, text: str) -> list[str]:
        """No word is unknown."""
        return []

    def nearest(self, word: str, n: int = 3) -> list[str]:
        """There is no list of words to look in."""
        return []

    def frequent(self, n: int = 5) -> list[str]:
        """There is no list of words to choose from."""
        return []
