"""Checksums of small values: CRC-32 over key and payload, so neither flipped bits nor misplaced values pass."""

from __future__ import annotations

import zlib

from hashcli.errors import DamagedError, LibraryError

SOUND = 0x2144DF1C  # CRC-32 of anything that has its own CRC-32 behind it, least significant byte first
LARGEST = 1 << 18  # bytes; a damaged page may claim that a value has gigabytes
REPAIR = "`hashcli library repair` saves what can be read"


def seal(key: bytes, payload: bytes) -> bytes:
    """The payload with its checksum behind it."""
    return payload + zlib.crc32(key + payload).to_bytes(4, "little")


def unseal(key: bytes, value: bytes | memoryview, what: str) -> bytes:
    """The payload of a sealed value. Raises DamagedError naming `what`."""
    if not 4 <= len(value) <= LARGEST:
        raise damaged(what, f"it has {len(value)} bytes")
    if zlib.crc32(value, zlib.crc32(key)) != SOUND:
        raise damaged(what, "it is not what was written")
    return bytes(value[:-4])


def unreadable(what: str, error: OSError, hint: str = REPAIR) -> LibraryError:
    """The error for a file that the system does not give: one that is only forbidden must not be repaired."""
    if isinstance(error, PermissionError):
        return LibraryError(f"{what} cannot be read: {error.strerror}", "check the permissions there")
    return DamagedError(f"{what} is damaged: it cannot be read: {error.strerror}", hint)


def damaged(what: str, why: str) -> DamagedError:
    """The error for one damaged part of a file."""
    return DamagedError(f"{what} is damaged: {why}", REPAIR)
