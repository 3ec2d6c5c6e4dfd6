"""One block of the gallery: fixed header, then one plane of little-endian 64-bit words per 64 bits of code.

0   4   magic b"HCBK"
4   4   CRC-32 of the key, of bytes 8 to 148, and, where slots were removed, of the rest of the header
8   2   version, 1
10  2   number of planes
12  4   slots in use, removed ones included (each plane has as many words)
16  4   slots removed; where it is 0, the rest of the header is zeros
20  128 per plane the checksum of its words (`checksums.plane_sums`); 16 places, the unused ones zero
148 ... tombstones, one bit per slot of a full block, least significant bit first
...     zeros, until the planes start at a multiple of 64 bytes behind LMDB's page header

`_scan.c` knows this layout, too: what it finds to be a sound block without tombstones it searches at once.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashcli.checksums import plane_sums
from hashcli.codes import Words
from hashcli.errors import DamagedError, NewerFormatError
from hashcli.seals import damaged

VERSION = 1
_PREFIX = struct.Struct("<4sIHHII")
_SUMS = 16 * 8
_TOMBSTONES = _PREFIX.size + _SUMS
_PAGE_HEADER = 16
_WORD = np.dtype("<u8")
_MAGIC = b"HCBK"


def key(number: int) -> bytes:
    """LMDB key of block `number`."""
    return number.to_bytes(8, "big")


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


def header_size(capacity: int) -> int:
    """Bytes before the planes, for blocks of `capacity` slots."""
    return _rest(capacity)[0]


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
    removed = int.from_bytes(block.tombstones, "little").bit_count()
    fields = struct.pack("<HHII", VERSION, len(block.sums) // 8, block.slots, removed)
    body = fields + block.sums.ljust(_SUMS, b"\0") + block.tombstones
    header = _MAGIC + bytes(4) + body.ljust(header_size(block.capacity) - 8, b"\0")
    return b"".join((_MAGIC, struct.pack("<I", _crc(block.number, header, removed)), header[8:], block.planes))


def decode(number: int, value: memoryview | bytes, capacity: int, n_words: int) -> Block:
    """Read a value's header and look at its words in place, unread (`Block.verified` reads them).

    Raises DamagedError naming the block, NewerFormatError for a later version of the layout.
    """
    size, nothing = _rest(capacity)
    header = bytes(value[:size])
    if len(header) < size:
        raise _damaged(number, f"it has {len(value)} bytes, fewer than its header")
    magic, crc, version, planes, count, removed = _PREFIX.unpack_from(header)
    if magic != _MAGIC or crc != _crc(number, header, removed) or not (removed or header.endswith(nothing)):
        raise _damaged(number, "its header is not what was written")
    if version > VERSION:
        raise NewerFormatError(f"block {number} has layout {version}; this hashcli reads up to {VERSION}")
    if planes != n_words or count > capacity or len(value) != size + 8 * planes * count:
        raise _damaged(number, f"{planes} planes of {count} words do not fit its {len(value)} bytes")
    tombstones = header[_TOMBSTONES : _TOMBSTONES + capacity // 8] if removed else b""
    planes_at = memoryview(value)[size:]
    return Block(number, capacity, count, planes_at, tombstones, header[_PREFIX.size : _PREFIX.size + 8 * planes])


def lost(number: int) -> DamagedError:
    """What is wrong with a block whose words do not have its sums."""
    return _damaged(number, "its codes are not what was written")


def _crc(number: int, header: bytes, removed: int) -> int:
    """Of tombstones only where there are any: comparing two kilobytes with zeros is much quicker."""
    return zlib.crc32(key(number) + header[8 : None if removed else _TOMBSTONES])


def _damaged(number: int, why: str) -> DamagedError:
    return damaged(f"block {number} of the gallery", why)


@cache
def _rest(capacity: int) -> tuple[int, bytes]:
    """Size of the header, and what is in it behind the checksums where no slot was removed."""
    used = _TOMBSTONES + capacity // 8
    size = used + (-used - _PAGE_HEADER) % 64
    return size, bytes(size - _TOMBSTONES)
