"""One block of the gallery: fixed header, then one plane of little-endian 64-bit words per 64 bits of code.

0   4   magic b"HCBK"
4   4   CRC-32 of the key and of the header from byte 8 on
8   2   version, 1
10  2   number of planes
12  4   slots in use (each plane has as many words)
16  256 per plane two 64-bit sums of its words (`scan.plane_sums`); 16 places, the unused ones zero
272 ... tombstones, one bit per slot of a full block, least significant bit first
...     zeros, until the planes start at a multiple of 64 bytes behind LMDB's page header
"""

from __future__ import annotations

import struct
import zlib
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashcli.codes import Words
from hashcli.errors import DamagedError, NewerFormatError
from hashcli.scan import plane_sums
from hashcli.seals import damaged

VERSION = 1
_PREFIX = struct.Struct("<4sIHHI")
_SUMS = 16 * 16
_TOMBSTONES = _PREFIX.size + _SUMS
_PAGE_HEADER = 16
_WORD = np.dtype("<u8")
_MAGIC = b"HCBK"


def key(number: int) -> bytes:
    """LMDB key of block `number`."""
    return struct.pack(">Q", number)


class Block(NamedTuple):
    """A block as it lies in the map: `planes` is a view that dies with its transaction."""

    number: int
    capacity: int
    slots: int  # in use, removed ones included
    planes: memoryview | bytes  # of `words`
    tombstones: bytes  # one bit per slot
    sums: bytes  # `plane_sums`, as recorded

    @property
    def words(self) -> Words:
        """The codes as planar words (n_words, slots), in place."""
        return np.ndarray((len(self.sums) // 16, self.slots), _WORD, self.planes)

    @property
    def first_slot(self) -> int:
        """The gallery slot of the first word."""
        return self.number * self.capacity

    def live(self) -> NDArray[np.bool_] | None:
        """False (count,) where a slot was removed; None when none was."""
        if self.tombstones == bytes(len(self.tombstones)):
            return None
        removed = np.frombuffer(self.tombstones, np.uint8)
        return np.logical_not(np.unpackbits(removed, count=self.slots, bitorder="little"))

    def check(self, sums: bytes) -> None:
        """Compare the sums computed while the words were read. Raises DamagedError."""
        if sums != self.sums:
            raise _damaged(self.number, "its codes are not what was written")

    def verified(self) -> Block:
        """This block, after its words were read and compared. Raises DamagedError."""
        self.check(plane_sums(self.words))
        return self


def empty(number: int, capacity: int, n_words: int) -> Block:
    """A block without slots."""
    return Block(number, capacity, 0, b"", bytes(capacity // 8), plane_sums(np.empty((n_words, 0), np.uint64)))


def extended(block: Block, words: Words) -> Block:
    """The block with `words` (n_words, n) behind its own, which are verified first."""
    joined = np.concatenate([block.verified().words, words], axis=1)
    planes = joined.astype(_WORD).tobytes()
    return block._replace(slots=joined.shape[1], planes=planes, sums=plane_sums(joined))


def without(block: Block, slots: NDArray[np.int64]) -> Block:
    """The block with these gallery slots marked as removed."""
    bits = np.unpackbits(np.frombuffer(block.tombstones, np.uint8), bitorder="little")
    bits[slots - block.first_slot] = 1
    return block._replace(tombstones=np.packbits(bits, bitorder="little").tobytes())


def encode(block: Block) -> bytes:
    """The block as one LMDB value."""
    body = block.sums.ljust(_SUMS, b"\0") + block.tombstones
    padding = bytes(_header_size(block.capacity) - _PREFIX.size - len(body))
    fields = struct.pack("<HHI", VERSION, len(block.sums) // 16, block.slots)
    header = fields + body + padding
    crc = zlib.crc32(header, zlib.crc32(key(block.number)))
    return b"".join((_MAGIC, struct.pack("<I", crc), header, block.planes))


def decode(number: int, value: memoryview | bytes, capacity: int, n_words: int) -> Block:
    """Read a value's header and look at its words in place, unread (`Block.check` compares them).

    Raises DamagedError naming the block, NewerFormatError for a later version of the layout.
    """
    view = memoryview(value)
    size = _header_size(capacity)
    if len(view) < size:
        raise _damaged(number, f"it has {len(view)} bytes, fewer than its header")
    header = view[:size]
    magic, crc, version, planes, count = _PREFIX.unpack_from(header)
    if magic != _MAGIC or zlib.crc32(header[8:], zlib.crc32(key(number))) != crc:
        raise _damaged(number, "its header is not what was written")
    if version > VERSION:
        raise NewerFormatError(f"block {number} has layout {version}; this hashcli reads up to {VERSION}")
    if planes != n_words or count > capacity or len(view) != size + 8 * planes * count:
        raise _damaged(number, f"{planes} planes of {count} words do not fit its {len(view)} bytes")
    tombstones = bytes(header[_TOMBSTONES : _TOMBSTONES + capacity // 8])
    sums = bytes(header[_PREFIX.size : _PREFIX.size + 16 * planes])
    return Block(number, capacity, count, view[size:], tombstones, sums)


def _damaged(number: int, why: str) -> DamagedError:
    return damaged(f"block {number} of the gallery", why)


@cache
def _header_size(capacity: int) -> int:
    used = _TOMBSTONES + capacity // 8
    return used + (-used - _PAGE_HEADER) % 64
