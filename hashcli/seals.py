"""Checksums of small values: CRC-32 over key and payload, so neither flipped bits nor misplaced values pass."""

from __future__ import annotations

import zlib

from hashcli.errors import DamagedError

_LARGEST = 1 << 18  # bytes; a damaged page may claim that a value has gigabytes
REPAIR = "`hashcli library repair` saves what can be read"


def seal(key: bytes, payload: bytes) -> bytes:
    """The payload with its checksum behind it."""
    return payload + zlib.crc32(key + payload).to_bytes(4, "little")


def unseal(key: bytes, value: bytes | memoryview, what: str) -> bytes:
    """The payload of a sealed value. Raises DamagedError naming `what`."""
    if not 4 <= len(value) <= _LARGEST:
        raise damaged(what, f"it has {len(value)} bytes")
    payload = bytes(value[:-4])
    if value[-4:] != zlib.crc32(key + payload).to_bytes(4, "little"):
        raise damaged(what, "it is not what was written")
    return payload


def damaged(what: str, why: str) -> DamagedError:
    """The error for one damaged part of a file."""
    return DamagedError(f"{what} is damaged: {why}", REPAIR)
