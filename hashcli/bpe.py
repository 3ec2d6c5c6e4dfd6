"""CLIP's tokenizer: texts as numbers of byte pairs, as open_clip's SimpleTokenizer gives them, without torch.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021; Sennrich, Haddow and
Birch, Neural Machine Translation of Rare Words with Subword Units, ACL 2016.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashcli import versions
from hashcli.errors import DamagedError, MachineError

FORMAT, VERSION = "hashcli-tokenizer", 1
MAX_MERGES, MAX_PART, MAX_CONTEXT = 1 << 17, 256, 1024
# Joining pairs takes quadratic time in a word's length, and a text is cut at `context` tokens anyway.
MAX_WORD, MAX_TEXT = 256, 1 << 14
_WORDS = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_SPECIAL = ("<start_of_text>", "<end_of_text>")
_END = "</w>"


@dataclass(frozen=True)
class Tokenizer:
    """merges: pairs of parts that become one, the first first; context: tokens of a text, with those of its ends."""

    merges: tuple[tuple[str, str], ...]
    context: int

    @classmethod
    def from_record(cls, record: dict[str, Any], what: str) -> Tokenizer:
        """Read what `record` gave, which may come from a stranger. Raises DamagedError that names `what` (the file)."""
        versions.check(record, FORMAT, VERSION, what, "a tokenizer")
        merges, context = record.get("merges"), record.get("context")
        if not isinstance(merges, list) or len(merges) > MAX_MERGES or not all(isinstance(m, str) for m in merges):
            raise DamagedError(f"{what} does not have at most {MAX_MERGES} pairs of parts")
        pairs = [tuple(merge.split(" ")) for merge in merges]
        if not all(len(pair) == 2 and all(0 < len(part) <= MAX_PART for part in pair) for pair in pairs):
            raise DamagedError(f"{what} has pairs that are none")
        if type(context) is not int or not 3 <= context <= MAX_CONTEXT:
            raise DamagedError(f"{what} does not say how many tokens a text has")
        return cls(tuple((first, second) for first, second in pairs), context)

    def record(self) -> dict[str, Any]:
        """As JSON-able values."""
        merges = [f"{first} {second}" for first, second in self.merges]
        return {"format": FORMAT, "version": VERSION, "context": self.context, "merges": merges}

    def tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Texts -> (n, context): start, the text's parts as many as fit, end, zeros.

        Raises MachineError without the packages that read texts as CLIP did.
        """
        out = np.zeros((len(texts), self.context), np.int64)
        start, end = (self._number[special] for special in _SPECIAL)
        for row, text in zip(out, texts, strict=True):
            parts = [start, *self._parts(text)][: self.context - 1]
            row[: len(parts) + 1] = [*parts, end]
        return out

    def _parts(self, text: str) -> Iterator[int]:
        import html

        try:
            import ftfy
            import regex  # type: ignore[import-untyped]
        except ImportError as error:
            raise MachineError(f"reading words as CLIP needs {error.name}", "pip install 'hashcli[text]'") from None
        cleaned = html.unescape(html.unescape(ftfy.fix_text(text[:MAX_TEXT])))
        for word in regex.findall(_WORDS, " ".join(cleaned.split()).lower(), regex.IGNORECASE):
            if word in _SPECIAL:
                yield self._number[word]
            else:
                letters = [_BYTES[byte] for byte in word[:MAX_WORD].encode("utf-8", "surrogatepass")]
                yield from (self._number[part] for part in self._joined(letters))

    def _joined(self, letters: list[str]) -> list[str]:
        """The parts of a word (letters stand for its bytes): the pair of lowest rank is joined until none is known."""
        parts = [*letters[:-1], letters[-1] + _END]
        while len(parts) > 1:
            ranks = [self._rank.get(pair, MAX_MERGES) for pair in itertools.pairwise(parts)]
            lowest = min(ranks)
            if lowest == MAX_MERGES:
                break
            pair, joined, i = self.merges[lowest], [], 0
            while i < len(parts):
                both = (parts[i], parts[i + 1]) == pair if i + 1 < len(parts) else False
                joined.append("".join(pair) if both else parts[i])
                i += 2 if both else 1
            parts = joined
        return parts

    @cached_property
    def _rank(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def _number(self) -> dict[str, int]:
        letters = list(_BYTES.values())
        parts = [*letters, *(letter + _END for letter in letters), *("".join(pair) for pair in self.merges), *_SPECIAL]
        return {part: i for i, part in enumerate(parts)}


def _letters() -> dict[int, str]:
    """A visible letter for each byte, in the order of their tokens: those that are visible stand for themselves."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


_BYTES = _letters()
