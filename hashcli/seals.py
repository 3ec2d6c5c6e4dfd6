"""Checksums of small values: CRC-32 over key and payload, so neither flipped bits nor misplaced values pass."""

from __future__ import annotations

import struct
import zlib

from hashcli.errors import DamagedError

_CRC = struct.Struct("<I")
REPAIR = "`hashcli library repair` saves what can be read"


def seal(key: bytes, payload: bytes) -> bytes:
    """The payload with its checksum behind it."""
    return payload + _CRC.pack(zlib.crc32(payload, zlib.crc32(key)))


def unseal(key: bytes, value: bytes | memoryview, what: str) -> bytes:
    """The payload of a sealed value. Raises DamagedError naming `what`."""
    payload = bytes(value[:-4])
    if len(value) < 4 or _CRC.unpack(value[-4:])[0] != zlib.crc32(payload, zlib.crc32(key)):
        raise damaged(what, "it is not what was written")
    return payload


def damaged(what: str, why: str) -> DamagedError:
    """The error for one damaged part of a file."""
    return DamagedError(f"{what} is damaged: {why}", REPAIR)
