"""One block of the gallery: header (`block_header`), then one plane of little-endian 64-bit words per 64 bits of code.

`_scan.c` knows this layout, too: what it finds to be a sound block without tombstones it searches at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashcli import block_header
from hashcli.block_header import header_size, key
from hashcli.checksums import plane_sums
from hashcli.codes import Words
from hashcli.errors import DamagedError, NewerFormatError
from hashcli.seals import damaged

__all__ = ["Block", "decode", "empty", "encode", "extended", "header_size", "key", "lost", "without"]

_WORD = np.dtype("<u8")


class Block(NamedTuple):
    """A block as it lies in the map: `planes` is a view that dies with its transaction."""

    number: int
    capacity: int
    slots: int  # in use, removed ones included
    planes: memoryview | bytes  # of `words`
    tombstones: bytes  # one bit per slot; empty where none was removed
    sums: bytes  # `plane_sums`, as recorded

    @property
    def words(self) -> Words:
        """The codes as planar words (n_words, slots), in place."""
        return np.ndarray((len(self.sums) // 8, self.slots), _WORD, self.planes)

    @property
    def first_slot(self) -> int:
        """The gallery slot of the first word."""
        return self.number * self.capacity

    def live(self) -> NDArray[np.bool_] | None:
        """False (count,) where a slot was removed; None when none was."""
        if not self.tombstones:
            return None
        removed = np.frombuffer(self.tombstones, np.uint8)
        return np.logical_not(np.unpackbits(removed, count=self.slots, bitorder="little"))

    def verified(self) -> Block:
        """This block, after its words were read and compared. Raises DamagedError."""
        if plane_sums(self.words) != self.sums:
            raise lost(self.number)
        return self


def empty(number: int, capacity: int, n_words: int) -> Block:
    """A block without slots."""
    return Block(number, capacity, 0, b"", b"", plane_sums(np.empty((n_words, 0), np.uint64)))


def extended(block: Block, words: Words) -> Block:
    """The block with `words` (n_words, n) behind its own, which are verified first."""
    joined = np.concatenate([block.verified().words, words], axis=1)
    planes = joined.astype(_WORD).tobytes()
    return block._replace(slots=joined.shape[1], planes=planes, sums=plane_sums(joined))


def without(block: Block, slots: NDArray[np.int64]) -> Block:
    """The block with these gallery slots marked as removed."""
    tombstones = block.tombstones or bytes(block.capacity // 8)
    bits = np.unpackbits(np.frombuffer(tombstones, np.uint8), bitorder="little")
    bits[slots - block.first_slot] = 1
    return block._replace(tombstones=np.packbits(bits, bitorder="little").tobytes())


def encode(block: Block) -> bytes:
    """The block as one LMDB value."""
    size = header_size(block.capacity)
    header = block_header.pack(block.number, size, block.slots, block.sums, block.tombstones)
    return b"".join((header, block.planes))


def decode(number: int, value: memoryview | bytes, capacity: int, n_words: int) -> Block:
    """Read a value's header and look at its words in place, unread (`Block.verified` reads them).

    Raises DamagedError naming the block, NewerFormatError for a later version of the layout.
    """
    size = header_size(capacity)
    if len(value) < size:
        raise _damaged(number, f"it has {len(value)} bytes, fewer than its header")
    header = block_header.unpack(number, bytes(value[:size]), capacity)
    if header is None:
        raise _damaged(number, "its header is not what was written")
    version, planes, count, sums, tombstones = header
    if version > block_header.VERSION:
        raise NewerFormatError(f"block {number} has layout {version}; this hashcli reads up to {block_header.VERSION}")
    if planes != n_words or count > capacity or len(value) != size + 8 * planes * count:
        raise _damaged(number, f"{planes} planes of {count} words do not fit its {len(value)} bytes")
    return Block(number, capacity, count, memoryview(value)[size:], tombstones, sums)


def lost(number: int) -> DamagedError:
    """What is wrong with a block whose words do not have its sums."""
    return _damaged(number, "its codes are not what was written")


def _damaged(number: int, why: str) -> DamagedError:
    return damaged(f"block {number} of the gallery", why)
