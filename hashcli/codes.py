"""Binary codes in memory: bits, packed bytes, planar words, and the Hamming distances between them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashcli.errors import UsageError

Bits = NDArray[np.uint8]
Packed = NDArray[np.uint8]
Words = NDArray[np.uint64]

MIN_BITS, MAX_BITS = 16, 1024
_PAIRS_AT_ONCE = 1 << 20  # keeps the temporaries of `distances` within some 10 MiB


def check_n_bits(n_bits: int) -> None:
    """Raise UsageError unless `n_bits` is a multiple of 8 from 16 to 1024."""
    if n_bits % 8 or not MIN_BITS <= n_bits <= MAX_BITS:
        raise UsageError(
            f"a code cannot have {n_bits} bits",
            f"--bits takes a multiple of 8 from {MIN_BITS} to {MAX_BITS}, for example 64",
        )


def n_words(n_bits: int) -> int:
    """How many 64-bit words one code fills."""
    return -(-n_bits // 64)


def pack(bits: NDArray[Any]) -> Packed:
    """Bits (n, n_bits), each 0 or 1 -> packed codes (n, n_bits // 8), least significant bit first."""
    if bits.ndim != 2 or bits.shape[1] % 8:
        raise ValueError(f"bits must be (n, a multiple of 8), not {bits.shape}")
    if bits.size and (bits.min() < 0 or bits.max() > 1):
        raise ValueError(f"bits must be 0 or 1, not {bits.min()} to {bits.max()}")
    return np.packbits(bits.astype(bool), axis=1, bitorder="little")


def unpack(packed: Packed, n_bits: int) -> Bits:
    """Packed codes (n, n_bits // 8) -> bits (n, n_bits), each 0 or 1."""
    check_packed(packed, n_bits)
    return np.unpackbits(packed, axis=1, bitorder="little")


def from_relaxed(relaxed: NDArray[np.floating[Any]]) -> Packed:
    """Relaxed codes (n, n_bits) -> packed codes (n, n_bits // 8); a bit is 1 where the value is >= 0.

    Raises ValueError for NaN: it has no sign.
    """
    if np.isnan(relaxed).any():
        raise ValueError(f"{int(np.isnan(relaxed).any(1).sum())} of {len(relaxed)} relaxed codes hold NaN")
    return pack(relaxed >= 0)


def to_words(packed: Packed) -> Words:
    """Packed codes (n, n_bytes) -> planar words (n_words, n): row w holds bits 64 w to 64 w + 63, zero-padded."""
    if packed.ndim != 2 or packed.dtype != np.uint8:
        raise ValueError(f"packed codes must be uint8 (n, n_bytes), not {packed.dtype} {packed.shape}")
    n, n_bytes = packed.shape
    padded = np.zeros((n, 8 * n_words(8 * n_bytes)), np.uint8)
    padded[:, :n_bytes] = packed
    return np.ascontiguousarray(padded.view("<u8").T, np.uint64)


def from_words(words: Words, n_bits: int) -> Packed:
    """Planar words (n_words, n) -> packed codes (n, n_bits // 8)."""
    if words.ndim != 2 or len(words) != n_words(n_bits):
        raise ValueError(f"{n_bits} bits are ({n_words(n_bits)}, n) words, not {words.shape}")
    rows = np.ascontiguousarray(words.T, "<u8").view(np.uint8)
    return np.ascontiguousarray(rows[:, : n_bits // 8])


def distances(queries: Packed, gallery: Packed) -> NDArray[np.uint16]:
    """Hamming distances (q, n) between packed codes (q, n_bytes) and (n, n_bytes)."""
    if queries.ndim != 2 or queries.shape[1:] != gallery.shape[1:]:
        raise ValueError(f"packed codes of different widths: {queries.shape} and {gallery.shape}")
    mine, theirs = to_words(queries), to_words(gallery)
    result = np.zeros((len(queries), len(gallery)), np.uint16)
    step = max(1, _PAIRS_AT_ONCE // max(1, len(gallery)))
    for start in range(0, len(queries), step):
        for left, right in zip(mine[:, start : start + step], theirs, strict=True):
            result[start : start + step] += np.bitwise_count(left[:, None] ^ right)
    return result


def check_packed(packed: Packed, n_bits: int) -> None:
    """Raise ValueError unless `packed` is uint8 (n, n_bits // 8)."""
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] * 8 != n_bits:
        wanted = f"uint8 (n, {n_bits // 8})"
        raise ValueError(f"packed codes of {n_bits} bits are {wanted}, not {packed.dtype} {packed.shape}")
