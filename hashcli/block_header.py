"""The header of a block of the gallery, sealed with its key.

0   4   magic b"HCBK"
4   4   CRC-32 of the key, of bytes 8 to 148, and, where slots were removed, of the rest of the header
8   2   version, 1
10  2   number of planes
12  4   slots in use, removed ones included (each plane has as many words)
16  4   slots removed; where it is 0, the rest of the header is zeros
20  128 per plane the checksum of its words (`checksums.plane_sums`); 16 places, the unused ones zero
148 ... tombstones, one bit per slot of a full block, least significant bit first
...     zeros, until the planes start at a multiple of 64 bytes behind LMDB's page header

`_scan.c` knows it, too.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache
from typing import NamedTuple

VERSION = 1
_MAGIC = b"HCBK"
_PREFIX = struct.Struct("<4sIHHII")
_SEALED = 8  # from here on
_TOMBSTONES = _PREFIX.size + 16 * 8
_PAGE_HEADER = 16


class Header(NamedTuple):
    """What it says. `sums`, 8 bytes per plane; `tombstones`, empty where no slot was removed."""

    version: int
    planes: int
    slots: int
    sums: bytes
    tombstones: bytes


def key(number: int) -> bytes:
    """LMDB key of block `number`."""
    return number.to_bytes(8, "big")


@cache
def header_size(capacity: int) -> int:
    """Bytes before the planes, for blocks of `capacity` slots."""
    used = _TOMBSTONES + capacity // 8
    return used + (-used - _PAGE_HEADER) % 64


def pack(number: int, size: int, slots: int, sums: bytes, tombstones: bytes) -> bytes:
    """The header of block `number`, `size` bytes long."""
    removed = int.from_bytes(tombstones, "little").bit_count()
    fields = _PREFIX.pack(_MAGIC, 0, VERSION, len(sums) // 8, slots, removed) + sums
    header = (fields.ljust(_TOMBSTONES, b"\0") + tombstones).ljust(size, b"\0")
    return b"".join((_MAGIC, _crc(number, header, removed).to_bytes(4, "little"), header[_SEALED:]))


def unpack(number: int, header: bytes, capacity: int) -> Header | None:
    """The header of block `number`; None where it is not what was written."""
    magic, crc, version, planes, slots, removed = _PREFIX.unpack_from(header)
    if magic != _MAGIC or crc != _crc(number, header, removed) or not (removed or header.endswith(_zeros(len(header)))):
        return None
    tombstones = header[_TOMBSTONES : _TOMBSTONES + capacity // 8] if removed else b""
    return Header(version, planes, slots, header[_PREFIX.size : _PREFIX.size + 8 * planes], tombstones)


def usual_sums(number: int, header: bytes, planes: int, slots: int) -> bytes | None:
    """The sums of block `number` if this is its header, of so many planes and slots, and no slot was removed.

    A search needs to know no more of nearly every block, and asks it of each.
    """
    prefix = _PREFIX.pack(_MAGIC, _crc(number, header, 0), VERSION, planes, slots, 0)
    if header.startswith(prefix) and header.endswith(_zeros(len(header))):
        return header[_PREFIX.size : _PREFIX.size + 8 * planes]
    return None


def _crc(number: int, header: bytes, removed: int) -> int:
    """Of tombstones only where there are any: comparing two kilobytes with zeros is much quicker."""
    return zlib.crc32(key(number) + header[_SEALED : None if removed else _TOMBSTONES])


@cache
def _zeros(size: int) -> bytes:
    """What a header of this size ends with where no slot was removed."""
    return bytes(max(size - _TOMBSTONES, 0))
